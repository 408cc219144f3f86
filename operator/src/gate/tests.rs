use super::*;

/// `count` nodes that are all well.
fn well(count: i32) -> Situation {
    let pods = (0..count).map(|ordinal| Pod {
        name: format!("mail-{ordinal}"),
        uid: format!("uid-{ordinal}"),
        ordinal,
        current: true,
        ready: true,
        terminating: false,
        trouble: None,
    });
    let members = (0..count).map(|ordinal| Member {
        name: format!("mail-{ordinal}"),
        state: MemberState::Active,
        reachable: true,
        drain: Some(Drain::No),
        log: Some(Log::Good),
    });
    Situation {
        wanted: count,
        replicas: count,
        pods: pods.collect(),
        report: Ok(Report { epoch: 1, under_replicated: 0, members: members.collect() }),
        draining: None,
        drained: Vec::new(),
    }
}

fn member(situation: &mut Situation, at: usize) -> &mut Member {
    &mut situation.report.as_mut().unwrap().members[at]
}

fn under_replicated(situation: &mut Situation, entries: u64) {
    situation.report.as_mut().unwrap().under_replicated = entries;
}

fn restart(ordinal: i32) -> Step {
    Step::Restart { pod: format!("mail-{ordinal}"), uid: format!("uid-{ordinal}") }
}

fn reason(situation: &Situation) -> Option<&'static str> {
    next(situation).waiting.as_ref().map(Waiting::reason)
}

#[test]
fn nothing_happens_when_all_is_as_it_should_be() {
    assert_eq!(next(&well(3)), Decision::act(Step::Nothing));
}

#[test]
fn nodes_are_added_at_once_even_while_others_are_broken() {
    let mut situation = Situation { wanted: 5, ..well(3) };
    situation.pods[1].ready = false;
    under_replicated(&mut situation, 7);
    assert_eq!(next(&situation).step, Step::ScaleTo(5));
}

#[test]
fn a_node_is_drained_before_it_goes_and_one_goes_at_a_time() {
    let mut situation = Situation { wanted: 3, ..well(5) };
    assert_eq!(next(&situation).step, Step::Drain("mail-4".into()));
    member(&mut situation, 4).state = MemberState::Draining;
    member(&mut situation, 4).drain = Some(Drain::Moving(12));
    assert_eq!(next(&situation), Decision::wait(Waiting::MailMoves { node: "mail-4".into(), entries: 12 }));
    member(&mut situation, 4).drain = Some(Drain::Done);
    assert_eq!(next(&situation).step, Step::ScaleTo(4));
    // The StatefulSet has been told; its pod is still there.
    situation.replicas = 4;
    situation.pods[4].terminating = true;
    assert_eq!(next(&situation), Decision::wait(Waiting::PodTerminating("mail-4".into())));
    situation.pods.pop();
    situation.report.as_mut().unwrap().members.pop();
    assert_eq!(next(&situation).step, Step::Drain("mail-3".into()));
}

#[test]
fn nothing_is_drained_or_restarted_while_an_entry_lacks_a_copy() {
    let mut situation = Situation { wanted: 2, ..well(3) };
    under_replicated(&mut situation, 1);
    assert_eq!(next(&situation), Decision::wait(Waiting::UnderReplicated(1)));
    let mut situation = well(3);
    situation.pods[2].current = false;
    under_replicated(&mut situation, 1);
    assert_eq!(next(&situation), Decision::wait(Waiting::UnderReplicated(1)));
}

#[test]
fn without_a_nodes_word_nothing_is_disturbed() {
    let mut situation = Situation { wanted: 2, report: Err("time-out".into()), ..well(3) };
    assert_eq!(reason(&situation), Some("NoNodeAnswers"));
    situation.wanted = 3;
    situation.pods[2].current = false;
    assert_eq!(reason(&situation), Some("NoNodeAnswers"));
    assert_eq!(next(&situation).step, Step::Nothing);
}

#[test]
fn nodes_that_cannot_drain_are_never_taken_away_but_are_updated() {
    let mut situation = Situation { wanted: 2, ..well(3) };
    for at in 0..3 {
        member(&mut situation, at).drain = None;
    }
    assert_eq!(next(&situation), Decision::wait(Waiting::DrainUnsupported { node: "mail-2".into() }));
    situation.pods[1].current = false;
    let decision = next(&situation);
    assert_eq!((decision.step, decision.waiting.unwrap().reason()), (restart(1), "DrainUnsupported"));
}

#[test]
fn a_scale_down_that_was_called_off_is_undone() {
    let mut situation = Situation { draining: Some("mail-4".into()), ..well(5) };
    assert_eq!(next(&situation).step, Step::CancelDrain("mail-4".into()));
    // Another node was drained by a person: that is not ours to undo.
    situation.draining = None;
    member(&mut situation, 1).state = MemberState::Draining;
    assert_eq!(next(&situation), Decision::act(Step::Nothing));
}

#[test]
fn a_node_that_comes_back_with_the_disk_of_one_that_was_drained_may_stay() {
    let mut situation = Situation { drained: vec!["mail-3".into(), "mail-4".into()], ..well(4) };
    assert_eq!(next(&situation), Decision::act(Step::Nothing));
    // It remembers the drain, and is not ready because of it.
    situation.pods[3].ready = false;
    member(&mut situation, 3).state = MemberState::Draining;
    assert_eq!(next(&situation).step, Step::CancelDrain("mail-3".into()));
    // On its way out it goes on.
    situation.wanted = 3;
    member(&mut situation, 3).drain = Some(Drain::Moving(1));
    assert_eq!(reason(&situation), Some("MailMoves"));
}

#[test]
fn a_dead_node_can_go_when_every_entry_has_its_copies_elsewhere() {
    let mut situation = Situation { wanted: 2, ..well(3) };
    situation.pods[2].ready = false;
    member(&mut situation, 2).state = MemberState::Dead;
    member(&mut situation, 2).reachable = false;
    under_replicated(&mut situation, 3);
    assert_eq!(reason(&situation), Some("UnderReplicated"));
    under_replicated(&mut situation, 0);
    assert_eq!(next(&situation).step, Step::ScaleTo(2));
}

#[test]
fn an_update_goes_from_the_highest_ordinal_down_one_at_a_time() {
    let mut situation = well(3);
    situation.pods.iter_mut().for_each(|pod| pod.current = false);
    assert_eq!(next(&situation).step, restart(2));
    situation.pods[2].terminating = true;
    assert_eq!(next(&situation), Decision::wait(Waiting::PodTerminating("mail-2".into())));
    situation.pods[2].terminating = false;
    situation.pods[2].current = true;
    situation.pods[2].ready = false;
    assert_eq!(reason(&situation), Some("PodNotReady"));
    situation.pods[2].ready = true;
    member(&mut situation, 2).state = MemberState::Joining;
    assert_eq!(reason(&situation), Some("MemberAway"));
    member(&mut situation, 2).state = MemberState::Active;
    assert_eq!(next(&situation).step, restart(1));
}

#[test]
fn a_bad_image_stops_at_the_first_pod_and_is_rolled_back() {
    let mut situation = well(3);
    situation.pods[0].current = false;
    situation.pods[1].current = false;
    situation.pods[2].ready = false;
    situation.pods[2].trouble = Some("ImagePullBackOff".into());
    member(&mut situation, 2).reachable = false;
    let decision = next(&situation);
    assert_eq!(decision.step, Step::Nothing);
    assert!(decision.waiting.unwrap().to_string().contains("ImagePullBackOff"));
    // The spec is set back: now the others are current and the broken pod is not.
    situation.pods[0].current = true;
    situation.pods[1].current = true;
    situation.pods[2].current = false;
    under_replicated(&mut situation, 9);
    assert_eq!(next(&situation).step, restart(2));
}

#[test]
fn a_missing_pod_is_waited_for() {
    let mut situation = well(3);
    situation.pods.remove(1);
    assert_eq!(next(&situation), Decision::wait(Waiting::PodMissing(1)));
}
