//! What people read: conditions with reason, message and generation, and what the operator waits for. Pure.

use crate::children::names;
use crate::crd::{Condition, ConditionStatus, MailCluster, MailClusterStatus, Quarantine};
use crate::gate::{Decision, Log, Member, Situation, Step, Waiting};

/// What a pass found out, beside the situation.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Image that all pods run.
    pub image: Option<String>,
    /// What failed or is missing; the pass ended there.
    pub problem: Option<String>,
}

/// Longer reasons are cut: there may be one for each of 500 nodes, and an object has its limit.
const REASON_CHARACTERS: usize = 300;

/// The new status. `now`: RFC 3339.
pub fn status(
    cluster: &MailCluster,
    situation: &Situation,
    decision: &Decision,
    findings: &Findings,
    now: &str,
) -> MailClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation.unwrap_or_default();
    let report = situation.report.as_ref().ok();
    let count = |counts: fn(&crate::gate::Pod) -> bool| {
        situation.pods.iter().filter(|pod| counts(pod)).count() as i32
    };
    let draining = match &decision.step {
        Step::Drain(node) => Some(node.clone()),
        Step::CancelDrain(_) => None,
        _ => old.draining.clone().filter(|node| situation.pods.iter().any(|pod| pod.name == *node)),
    };
    let waiting = findings.problem.clone().or_else(|| decision.waiting.as_ref().map(Waiting::to_string));
    let quarantined = quarantined(&old.quarantined, report.map(|report| report.members.as_slice()));
    let conditions = [
        ready(situation, findings),
        progressing(cluster, situation, decision, findings),
        degraded(situation, decision),
        scaling_down(situation, decision),
        quarantine(cluster, &quarantined),
    ];
    MailClusterStatus {
        observed_generation: generation,
        nodes: situation.pods.len() as i32,
        ready_nodes: count(|pod| pod.ready),
        updated_nodes: count(|pod| pod.current),
        selector: names::selector_text(cluster),
        version: findings.image.clone(),
        epoch: report.map(|report| report.epoch as i64),
        under_replicated_entries: report.map(|report| report.under_replicated as i64),
        draining,
        quarantined,
        waiting_for: waiting,
        conditions: conditions
            .into_iter()
            .map(|draft| draft.finish(&old.conditions, generation, now))
            .collect(),
    }
}

/// Of each member what it says now; of one that is silent, what it said before.
fn quarantined(old: &[Quarantine], members: Option<&[Member]>) -> Vec<Quarantine> {
    let Some(members) = members else { return old.to_vec() };
    let said = |member: &Member| match &member.log {
        Some(Log::Good) => None,
        Some(Log::Replaced { reason, at }) => Some(Quarantine {
            node: member.name.clone(),
            at: *at,
            reason: reason.chars().take(REASON_CHARACTERS).collect(),
        }),
        None => old.iter().find(|old| old.node == member.name).cloned(),
    };
    members.iter().filter_map(said).collect()
}

/// True until a person says that it was looked at: the disk, or who has access to it, may be bad.
fn quarantine(cluster: &MailCluster, quarantined: &[Quarantine]) -> Draft {
    let seen =
        cluster.metadata.annotations.as_ref().and_then(|all| all.get(names::QUARANTINE_SEEN_ANNOTATION));
    let seen: i64 = seen.and_then(|seen| seen.parse().ok()).unwrap_or_default();
    let unseen = quarantined.iter().filter(|quarantine| quarantine.at > seen);
    let Some(newest) = unseen.clone().max_by_key(|quarantine| quarantine.at) else {
        return Draft::new(
            "Quarantined",
            false,
            "NoNewOne",
            "no log was put aside that was not looked at".into(),
        );
    };
    let nodes: Vec<&str> = unseen.take(10).map(|quarantine| quarantine.node.as_str()).collect();
    let message = format!(
        "{}: the log was put aside and the node refilled ({}). Look at the disk and at quarantined-* there, then: \
         kubectl annotate --overwrite mailcluster {} {}={}",
        nodes.join(", "),
        newest.reason,
        names::of(cluster),
        names::QUARANTINE_SEEN_ANNOTATION,
        newest.at,
    );
    Draft::new("Quarantined", true, "LogQuarantined", message)
}

struct Draft {
    kind: &'static str,
    status: ConditionStatus,
    reason: &'static str,
    message: String,
}

impl Draft {
    fn new(
        kind: &'static str,
        status: impl Into<ConditionStatus>,
        reason: &'static str,
        message: String,
    ) -> Self {
        Self { kind, status: status.into(), reason, message }
    }

    /// The time of transition changes with the status only.
    fn finish(self, old: &[Condition], generation: i64, now: &str) -> Condition {
        let since = old.iter().find(|old| old.kind == self.kind && old.status == self.status);
        Condition {
            kind: self.kind.into(),
            status: self.status,
            reason: self.reason.into(),
            message: self.message,
            observed_generation: generation,
            last_transition_time: since
                .map_or_else(|| now.to_owned(), |since| since.last_transition_time.clone()),
        }
    }
}

fn ready(situation: &Situation, findings: &Findings) -> Draft {
    let ready =
        situation.pods.iter().filter(|pod| pod.ready && pod.ordinal < situation.wanted).count() as i32;
    let counted = format!("{ready} of {} nodes are ready", situation.wanted);
    if let Some(problem) = &findings.problem {
        return Draft::new("Ready", ready >= situation.wanted, "Blocked", format!("{counted}; {problem}"));
    }
    if ready >= situation.wanted {
        return Draft::new("Ready", true, "AllNodesReady", counted);
    }
    let trouble =
        situation.pods.iter().find_map(|pod| Some(format!("; {} has {}", pod.name, pod.trouble.as_ref()?)));
    Draft::new("Ready", false, "NodesNotReady", counted + trouble.as_deref().unwrap_or_default())
}

fn progressing(
    cluster: &MailCluster,
    situation: &Situation,
    decision: &Decision,
    findings: &Findings,
) -> Draft {
    if cluster.spec.paused {
        return Draft::new("Progressing", false, "Paused", "paused: nothing is changed".into());
    }
    if let (Step::Nothing, Some(problem)) = (&decision.step, &findings.problem) {
        return Draft::new("Progressing", false, "Blocked", problem.clone());
    }
    let (reason, message) = match &decision.step {
        Step::ScaleTo(nodes) => ("Scaling", format!("going to {nodes} nodes")),
        Step::Drain(node) => ("Draining", format!("moving the mail of {node} to the others")),
        Step::CancelDrain(node) => ("Draining", format!("{node} stays")),
        Step::Restart { pod, .. } => ("Updating", format!("restarting {pod} with the newest template")),
        Step::Nothing => match &decision.waiting {
            Some(waiting) => (waiting.reason(), waiting.to_string()),
            None => {
                return Draft::new(
                    "Progressing",
                    false,
                    "UpToDate",
                    "all nodes are as the spec wants them".into(),
                );
            }
        },
    };
    let outdated = situation.pods.iter().any(|pod| !pod.current);
    let moving =
        decision.step != Step::Nothing || outdated || situation.wanted != situation.pods.len() as i32;
    Draft::new("Progressing", moving, reason, message)
}

fn degraded(situation: &Situation, decision: &Decision) -> Draft {
    let report = match &situation.report {
        Ok(report) => report,
        Err(why) => return Draft::new("Degraded", ConditionStatus::Unknown, "NoNodeAnswers", why.clone()),
    };
    if report.under_replicated > 0 {
        let message = format!("{} entries have fewer copies than they should", report.under_replicated);
        return Draft::new("Degraded", true, "UnderReplicated", message);
    }
    match &decision.waiting {
        Some(
            waiting @ (Waiting::MemberAway { .. } | Waiting::PodMissing(_) | Waiting::PodNotReady { .. }),
        ) => Draft::new("Degraded", true, waiting.reason(), waiting.to_string()),
        _ => Draft::new("Degraded", false, "AllCopiesThere", "every entry has its copies".into()),
    }
}

fn scaling_down(situation: &Situation, decision: &Decision) -> Draft {
    if situation.wanted >= situation.replicas {
        return Draft::new("ScalingDown", false, "NotWanted", "no node is to be taken away".into());
    }
    let (reason, why) = match (&decision.waiting, &decision.step) {
        (Some(waiting), _) => (waiting.reason(), waiting.to_string()),
        (None, Step::Drain(node)) => ("Draining", format!("moving the mail of {node} to the others")),
        (None, _) => ("Scaling", "taking a node away".into()),
    };
    let message = format!("from {} to {} nodes: {why}", situation.replicas, situation.wanted);
    Draft::new(
        "ScalingDown",
        !matches!(decision.waiting, Some(Waiting::DrainUnsupported { .. })),
        reason,
        message,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::{MemberState, Pod, Report};
    use serde_json::json;

    fn cluster() -> MailCluster {
        serde_json::from_value(json!({
            "apiVersion": "prickle.email/v1alpha1",
            "kind": "MailCluster",
            "metadata": { "name": "mail", "namespace": "post", "generation": 7 },
            "spec": { "image": "prickle:1" },
        }))
        .unwrap()
    }

    fn situation() -> Situation {
        let pods = (0..3).map(|ordinal| Pod {
            name: format!("mail-{ordinal}"),
            uid: "u".into(),
            ordinal,
            current: true,
            ready: true,
            terminating: false,
            trouble: None,
        });
        let member = |ordinal| crate::gate::Member {
            name: format!("mail-{ordinal}"),
            state: MemberState::Active,
            reachable: true,
            drain: None,
            log: Some(Log::Good),
        };
        let report = Report { epoch: 4, under_replicated: 0, members: (0..3).map(member).collect() };
        let (draining, drained) = (None, Vec::new());
        Situation { wanted: 3, replicas: 3, pods: pods.collect(), report: Ok(report), draining, drained }
    }

    fn of<'a>(status: &'a MailClusterStatus, kind: &str) -> &'a Condition {
        status.conditions.iter().find(|condition| condition.kind == kind).unwrap()
    }

    fn look(cluster: &MailCluster, situation: &Situation, now: &str) -> MailClusterStatus {
        status(cluster, situation, &crate::gate::next(situation), &Findings::default(), now)
    }

    #[test]
    fn all_conditions_carry_the_generation_and_all_is_well() {
        let status = look(&cluster(), &situation(), "2026-01-01T00:00:00Z");
        assert_eq!(status.conditions.len(), 5);
        assert!(status.conditions.iter().all(|condition| condition.observed_generation == 7));
        assert_eq!(of(&status, "Ready").status, ConditionStatus::True);
        assert_eq!(of(&status, "Degraded").status, ConditionStatus::False);
        assert_eq!((status.waiting_for, status.epoch), (None, Some(4)));
    }

    #[test]
    fn the_time_of_transition_changes_with_the_status_only() {
        let mut cluster = cluster();
        let mut situation = situation();
        cluster.status = Some(look(&cluster, &situation, "2026-01-01T00:00:00Z"));
        cluster.metadata.generation = Some(8);
        let later = look(&cluster, &situation, "2026-01-02T00:00:00Z");
        assert_eq!(of(&later, "Ready").last_transition_time, "2026-01-01T00:00:00Z");
        situation.pods[1].ready = false;
        situation.pods[1].trouble = Some("CrashLoopBackOff".into());
        let broken = look(&cluster, &situation, "2026-01-03T00:00:00Z");
        assert_eq!(of(&broken, "Ready").last_transition_time, "2026-01-03T00:00:00Z");
        assert!(of(&broken, "Ready").message.contains("mail-1 has CrashLoopBackOff"));
        assert!(broken.waiting_for.unwrap().contains("mail-1"));
    }

    #[test]
    fn a_scale_down_says_what_it_waits_for() {
        let mut situation = situation();
        situation.wanted = 2;
        let status = look(&cluster(), &situation, "2026-01-01T00:00:00Z");
        assert_eq!(of(&status, "ScalingDown").reason, "DrainUnsupported");
        assert!(of(&status, "ScalingDown").message.contains("update the image"));
    }

    #[test]
    fn the_node_that_drains_is_remembered_until_it_is_gone() {
        let mut cluster = cluster();
        let mut situation = Situation { wanted: 2, ..situation() };
        for member in &mut situation.report.as_mut().unwrap().members {
            member.drain = Some(crate::gate::Drain::No);
        }
        let status = look(&cluster, &situation, "2026-01-01T00:00:00Z");
        assert_eq!(status.draining.as_deref(), Some("mail-2"));
        cluster.status = Some(status);
        situation.pods.pop();
        assert_eq!(look(&cluster, &situation, "2026-01-01T00:00:00Z").draining, None);
    }

    #[test]
    fn a_log_that_was_put_aside_is_told_until_a_person_has_seen_it_also_while_its_node_is_silent() {
        let (mut cluster, mut situation) = (cluster(), situation());
        let now = "2026-01-01T00:00:00Z";
        assert_eq!(of(&look(&cluster, &situation, now), "Quarantined").status, ConditionStatus::False);
        let set = |situation: &mut Situation, log: Option<Log>| {
            situation.report.as_mut().unwrap().members[1].log = log;
        };
        set(&mut situation, Some(Log::Replaced { reason: "rolled back".into(), at: 1_700_000_000 }));
        let status = look(&cluster, &situation, now);
        let condition = of(&status, "Quarantined");
        assert_eq!((condition.status, condition.reason.as_str()), (ConditionStatus::True, "LogQuarantined"));
        assert!(condition.message.starts_with("mail-1: "), "{}", condition.message);
        assert!(condition.message.ends_with("mail prickle.email/quarantine-seen=1700000000"));

        cluster.status = Some(status.clone());
        set(&mut situation, None);
        assert_eq!(look(&cluster, &situation, now).quarantined, status.quarantined);
        let all_silent = Situation { report: Err("no node answers".into()), ..situation.clone() };
        assert_eq!(look(&cluster, &all_silent, now).quarantined, status.quarantined);

        cluster.metadata.annotations =
            Some([(names::QUARANTINE_SEEN_ANNOTATION.to_owned(), "1700000000".to_owned())].into());
        assert_eq!(of(&look(&cluster, &situation, now), "Quarantined").status, ConditionStatus::False);
        set(&mut situation, Some(Log::Replaced { reason: "cut".into(), at: 1_700_000_001 }));
        assert_eq!(of(&look(&cluster, &situation, now), "Quarantined").status, ConditionStatus::True);
        // Its disk was replaced by an empty one.
        set(&mut situation, Some(Log::Good));
        assert_eq!(look(&cluster, &situation, now).quarantined, []);
    }
}
