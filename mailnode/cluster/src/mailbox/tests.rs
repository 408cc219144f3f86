use super::*;
use crate::entry::Flag;
use crate::entry::tests::{entry, stamp};

const INBOX: FolderId = FolderId::INBOX;
const WORK: FolderId = FolderId(2);

fn folders() -> FolderTable {
    FolderTable { live: [INBOX, WORK].into(), deleted: BTreeMap::new() }
}

/// A block whose holder had seen all numbers below.
fn block(first: u32, last: u32, reserved: Timestamp) -> UidBlock {
    block_after(first - 1, first, last, reserved)
}

/// A block whose holder had seen the numbers up to `seen`.
fn block_after(seen: u32, first: u32, last: u32, reserved: Timestamp) -> UidBlock {
    let known = Known { seen: (1..=seen).collect(), ..Known::default() };
    UidBlock { first, last, reserved, known }
}

/// An index with a block for INBOX and messages 1..=count, numbered.
fn index(count: u128) -> MailboxIndex {
    let mut index = MailboxIndex::new(UserId(7), 5);
    for id in 1..=count {
        index.learn(entry(id, stamp(id as u64, 1)));
    }
    index.add_block(INBOX, block(1, 1000, stamp(100, 1)));
    number(&mut index, 101);
    index
}

fn number(index: &mut MailboxIndex, ticks: u64) -> Vec<Entry> {
    let plan = index.number(stamp(ticks, 1), &folders());
    index.commit(plan.clone());
    plan
}

fn uids(index: &MailboxIndex, folder: FolderId) -> Vec<(u128, u32)> {
    let view = index.view(folder);
    view.messages.iter().map(|entry| (entry.id.0, entry.location.uid.unwrap().number)).collect()
}

#[test]
fn messages_get_ascending_uids_in_order_of_arrival_and_none_before_a_block_is_reserved() {
    let mut index = MailboxIndex::new(UserId(7), 5);
    index.learn(entry(2, stamp(2, 1)));
    index.learn(entry(1, stamp(1, 1)));
    assert!(number(&mut index, 50).is_empty());
    assert_eq!(index.uids_wanted(&folders()), [(INBOX, 2)].into());
    index.add_block(INBOX, block(11, 20, stamp(60, 1)));
    assert_eq!(number(&mut index, 61).len(), 2);
    assert_eq!(uids(&index, INBOX), [(1, 11), (2, 12)]);
    assert_eq!(index.view(INBOX).marks.uid_next, 13);
    assert!(!index.has_unsettled(&folders()));
}

#[test]
fn a_rebuilt_index_keeps_every_uid_and_starts_above_them() {
    let first = index(3);
    let mut second = MailboxIndex::new(UserId(7), 5);
    for message in first.view(INBOX).messages {
        second.learn(message.clone());
    }
    let theirs = block(1, 1000, stamp(100, 1));
    second.set_reservations(INBOX, &[theirs], 1001);
    assert_eq!(uids(&second, INBOX), uids(&first, INBOX));
    assert_eq!(second.view(INBOX).marks.uid_next, 1001);
    second.learn(entry(9, stamp(200, 1)));
    second.add_block(INBOX, block(1001, 2000, stamp(201, 2)));
    number(&mut second, 202);
    assert_eq!(uids(&second, INBOX)[3], (9, 1001));
}

#[test]
fn a_late_message_below_a_shown_uid_gets_a_new_one() {
    let mut index = index(3);
    index.open(INBOX);
    let mut late = entry(99, stamp(1, 1));
    late.location.uid = Some(Uid { number: 2, assigned: stamp(90, 1) });
    index.learn(late.clone());
    assert_eq!(uids(&index, INBOX), [(1, 1), (2, 2), (3, 3)]);
    number(&mut index, 200);
    assert_eq!(uids(&index, INBOX)[3], (99, 4));
}

#[test]
fn a_tombstone_that_too_few_nodes_tell_of_is_in_doubt_while_it_is_young() {
    let mut index = index(3);
    let expunged = |id: u128, millis: u64| {
        let mut gone = entry(id, stamp(1, 1));
        gone.expunged = Some(Timestamp { ticks: millis << 16, node: NodeId(1) });
        gone
    };
    let ids = |entries: &[Entry]| entries.iter().map(|entry| entry.id.0).collect::<Vec<_>>();
    let told = vec![
        entry(1, stamp(1, 1)),
        expunged(1, 9_000),
        expunged(2, 9_000),
        expunged(2, 9_000),
        expunged(3, 1_000),
    ];
    let (certain, doubtful) = index.split_doubtful(told.clone(), 2, 5_000);
    assert_eq!(ids(&certain), [1, 2, 2, 3], "live, told of by two, old");
    assert_eq!(ids(&doubtful), [1]);
    assert!(certain[0].is_live());
    let (certain, doubtful) = index.split_doubtful(told.clone(), 1, 5_000);
    assert_eq!((certain.len(), doubtful.len()), (5, 0), "one copy is enough here");
    index.learn(told[1].clone());
    let (_, doubtful) = index.split_doubtful(told, usize::MAX, 5_000);
    assert_eq!(ids(&doubtful), [2], "the first is known to be gone");
}

#[test]
fn a_message_that_may_not_be_gone_does_not_count_as_seen() {
    let unread = [NodeId(2), NodeId(3)];
    let seen = |index: &MailboxIndex| index.reservation(INBOX, 1, stamp(20, 1), &unread).known.seen;
    let mut index = index(3);
    let admitted = |index: &mut MailboxIndex| {
        let known = index.reservation(INBOX, 1, stamp(20, 1), &unread).known;
        index.add_block(INBOX, UidBlock { first: 2_001, last: 3_000, reserved: stamp(20, 1), known });
    };
    admitted(&mut index);
    assert!(index.admits(INBOX, &unread));
    let mut gone = index.entry(EntryId(2)).unwrap().clone();
    gone.expunged = Some(stamp(9_000 << 16, 1));
    index.doubt(vec![gone.clone()]);
    assert_eq!(uids(&index, INBOX), [(1, 1), (3, 3)], "it is not shown");
    assert_eq!(seen(&index), [1, 3].into_iter().collect());
    assert!(!index.admits(INBOX, &unread), "the block says that 2 was seen");
    admitted(&mut index);
    assert!(index.admits(INBOX, &unread));
    let (_, doubtful) = index.split_doubtful(vec![gone.clone()], 2, 5_000);
    assert_eq!(doubtful.len(), 1, "it is still in doubt");
    index.learn(gone);
    assert_eq!(seen(&index), (1..=3).collect(), "now it is certain");
}

#[test]
fn a_late_message_in_a_folder_nobody_was_shown_keeps_its_uid() {
    let mut index = index(1);
    let mut late = entry(99, stamp(1, 1));
    late.location.uid = Some(Uid { number: 7, assigned: stamp(90, 1) });
    index.learn(late);
    assert_eq!(uids(&index, INBOX), [(1, 1), (99, 7)]);
}

#[test]
fn of_two_managers_the_one_with_the_lower_block_is_renumbered() {
    // We hold 1..=1000 and gave UID 4, but another manager had reserved 1001..=2000 and seen three messages.
    let mut index = index(3);
    index.open(INBOX);
    index.learn(entry(4, stamp(245, 1)));
    number(&mut index, 250);
    let theirs = block_after(3, 1001, 2000, stamp(240, 2));
    let ours = block(1, 1000, stamp(100, 1));
    index.set_reservations(INBOX, &[ours, theirs], 2001);
    assert_eq!(uids(&index, INBOX), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!(index.uids_wanted(&folders()), [(INBOX, 1)].into(), "our own block is spent");
    index.add_block(INBOX, block(2001, 3000, stamp(300, 1)));
    number(&mut index, 301);
    assert_eq!(uids(&index, INBOX)[3], (4, 2001));
}

#[test]
fn two_messages_with_one_uid_end_with_two_uids() {
    let mut index = index(1);
    let mut twin = entry(50, stamp(1, 1));
    twin.location.uid = Some(Uid { number: 1, assigned: stamp(200, 2) });
    index.learn(twin);
    number(&mut index, 300);
    assert_eq!(uids(&index, INBOX), [(1, 1), (50, 2)]);
}

#[test]
fn sessions_learn_of_flags_and_expunges_since_their_modseq() {
    let mut index = index(3);
    let known = index.open(INBOX).marks.mark;
    let plan = index.plan_store(INBOX, &[2], &FlagChange::Add(vec![Flag::Seen]), None, stamp(200, 1), true);
    index.commit(plan.entries);
    let gone = index.plan_expunge(INBOX, &[1, 77], stamp(201, 1));
    assert_eq!(gone.len(), 1, "an unknown UID is no error");
    index.commit(gone);
    let Changes::Delta { upserts, vanished } = index.changes_since(INBOX, known) else { panic!("delta") };
    assert_eq!(upserts.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [2]);
    assert_eq!(vanished, [1]);
    let now = index.view(INBOX).marks.mark;
    assert_eq!(index.changes_since(INBOX, now), Changes::Delta { upserts: vec![], vanished: vec![] });
}

#[test]
fn a_session_that_is_far_behind_compares_with_everything() {
    let mut index = index(2);
    let known = index.open(INBOX).marks.mark;
    for ticks in 200..5_000 {
        let flag = vec![Flag::Seen];
        let change = if ticks % 2 == 0 { FlagChange::Add(flag) } else { FlagChange::Remove(flag) };
        let plan = index.plan_store(INBOX, &[1], &change, None, stamp(ticks, 1), true);
        index.commit(plan.entries);
    }
    assert!(
        matches!(index.changes_since(INBOX, known), Changes::Everything { messages } if messages.len() == 2)
    );
}

#[test]
fn a_change_merged_from_elsewhere_gets_a_modseq_that_sessions_notice() {
    let mut index = index(2);
    let known = index.open(INBOX).marks.mark;
    let mut elsewhere = index.entry(EntryId(1)).unwrap().clone();
    elsewhere.set_flag(Flag::Flagged, true, stamp(90, 2));
    index.learn(elsewhere);
    number(&mut index, 200);
    let Changes::Delta { upserts, .. } = index.changes_since(INBOX, known) else { panic!("delta") };
    assert_eq!(upserts.len(), 1);
    assert!(upserts[0].has_flag(&Flag::Flagged) && upserts[0].modseq == 200);
}

#[test]
fn an_expunge_learned_from_elsewhere_is_reported() {
    let mut index = index(2);
    let known = index.open(INBOX).marks.mark;
    let mut elsewhere = index.entry(EntryId(1)).unwrap().clone();
    elsewhere.expunged = Some(stamp(90, 2));
    index.learn(elsewhere);
    let Changes::Delta { vanished, .. } = index.changes_since(INBOX, known) else { panic!("delta") };
    assert_eq!(vanished, [1]);
    assert_eq!(number(&mut index, 200)[0].modseq, 200);
}

#[test]
fn unchangedsince_protects_what_was_modified() {
    let mut index = index(1);
    let at = index.entry(EntryId(1)).unwrap().modseq;
    let change = FlagChange::Replace(vec![Flag::Draft]);
    let plan = index.plan_store(INBOX, &[1], &change, Some(at - 1), stamp(300, 1), true);
    assert_eq!((plan.entries.len(), plan.modified), (0, vec![1]));
    let plan = index.plan_store(INBOX, &[1], &change, Some(at), stamp(300, 1), true);
    index.commit(plan.entries);
    assert_eq!(index.entry(EntryId(1)).unwrap().flags_set().collect::<Vec<_>>(), [&Flag::Draft]);
}

#[test]
fn copy_and_move_number_the_target_and_a_move_leaves_the_source() {
    let mut index = index(2);
    let known = index.open(INBOX).marks.mark;
    assert_eq!(
        index.plan_move(INBOX, &[1], WORK, stamp(200, 1)),
        Err(UidsExhausted { folder: WORK, wanted: 1 })
    );
    index.add_block(WORK, block(1, 10, stamp(201, 1)));
    let copied = index.plan_copy(INBOX, &[2], WORK, stamp(202, 1), || EntryId(77)).unwrap();
    index.commit(copied.entries);
    let moved = index.plan_move(INBOX, &[1], WORK, stamp(203, 1)).unwrap();
    assert_eq!((&moved.from, &moved.to), (&vec![1], &vec![2]));
    index.commit(moved.entries);
    assert_eq!(uids(&index, INBOX), [(2, 2)]);
    assert_eq!(uids(&index, WORK), [(77, 1), (1, 2)]);
    let Changes::Delta { vanished, .. } = index.changes_since(INBOX, known) else { panic!("delta") };
    assert_eq!(vanished, [1]);
}

#[test]
fn mail_for_a_deleted_folder_goes_to_inbox_if_newer_and_away_if_older() {
    let mut index = index(0);
    let mut table = folders();
    table.deleted.insert(FolderId(9), stamp(50, 1));
    for (id, at) in [(1, 40), (2, 60)] {
        let mut message = entry(id, stamp(at, 1));
        message.location.folder = FolderId(9);
        index.learn(message);
    }
    let plan = index.number(stamp(300, 1), &table);
    index.commit(plan);
    assert!(!index.entry(EntryId(1)).unwrap().is_live());
    assert_eq!(uids(&index, INBOX), [(2, 1)]);
}

#[test]
fn an_abandoned_plan_is_planned_again() {
    let mut index = index(0);
    index.learn(entry(1, stamp(1, 1)));
    let plan = index.number(stamp(200, 1), &folders());
    index.abandon(&plan);
    assert!(index.has_unsettled(&folders()));
    assert_eq!(number(&mut index, 201).len(), 1);
    assert_eq!(uids(&index, INBOX).len(), 1);
}

#[test]
fn deleting_a_folder_expunges_what_was_in_it() {
    let mut index = index(1);
    index.add_block(WORK, block(1, 10, stamp(201, 1)));
    let moved = index.plan_move(INBOX, &[1], WORK, stamp(203, 1)).unwrap();
    index.commit(moved.entries);
    let table = FolderTable { live: [INBOX].into(), deleted: [(WORK, stamp(300, 1))].into() };
    assert!(index.has_unsettled(&table));
    let plan = index.number(stamp(301, 1), &table);
    index.commit(plan);
    assert!(!index.entry(EntryId(1)).unwrap().is_live());
    assert!(!index.has_unsettled(&table));
}

#[test]
fn a_session_that_another_index_served_must_say_what_it_shows() {
    let mut index = index(2);
    assert_eq!(index.changes_since(INBOX, Mark { index: 4, sequence: 0 }), Changes::Unknown);
}

#[test]
fn a_session_is_shown_nothing_new_below_what_another_index_showed_it() {
    let mut index = index(3);
    let known = index.open(INBOX).marks.mark;
    // It knows 1 and 3; 2 was not there. It was also shown 5, which is gone.
    index.reconcile(INBOX, &Shown::new([1, 3].into_iter(), 5, 700));
    assert_eq!(uids(&index, INBOX), [(1, 1), (3, 3)]);
    number(&mut index, 800);
    assert_eq!(uids(&index, INBOX), [(1, 1), (3, 3), (2, 6)]);
    assert!(index.view(INBOX).marks.highest_modseq >= 800);
    let Changes::Delta { upserts, vanished } = index.changes_since(INBOX, known) else { panic!("delta") };
    assert_eq!((upserts[0].id, vanished), (EntryId(2), vec![2]), "sessions of this index are told");
}

#[test]
fn a_message_that_the_holder_of_a_higher_block_could_not_read_is_renumbered() {
    let mut index = MailboxIndex::new(UserId(7), 5);
    let known = Known { seen: (20..=30).collect(), from: 20, unread: vec![NodeId(1), NodeId(2)] };
    let partial = UidBlock { known, ..block(1001, 2000, stamp(500, 3)) };
    index.set_reservations(INBOX, &[block(1, 1000, stamp(100, 1)), partial], 2001);
    let with = |id: u128, uid: u32, replicas: &[u64]| {
        let mut message = entry(id, stamp(id as u64, 1));
        message.location.uid = Some(Uid { number: uid, assigned: stamp(200, 1) });
        message.replicas.value = replicas.iter().map(|&node| NodeId(node)).collect();
        message
    };
    index.learn(with(1, 7, &[1, 2]));
    index.learn(with(2, 8, &[2, 3]));
    assert_eq!(uids(&index, INBOX), [(2, 8)], "the other was readable on node 3");
    index.add_block(INBOX, block(2001, 3000, stamp(600, 1)));
    number(&mut index, 601);
    assert_eq!(uids(&index, INBOX), [(2, 8), (1, 2001)]);
}

#[test]
fn a_reservation_tells_of_messages_and_tombstones_and_of_the_newest_if_there_are_many() {
    let mut index = index(100);
    let plan = index.plan_expunge(INBOX, &[3], stamp(500, 1));
    index.commit(plan);
    let asked = index.reservation(INBOX, 7, stamp(600, 1), &[NodeId(9)]);
    assert_eq!((asked.known.seen, asked.known.from), ((1..=100).collect(), 0));
    assert_eq!((asked.count, asked.after, asked.known.unread), (7, Some(1001), vec![NodeId(9)]));

    // Every other number, as if their tombstones had been forgotten.
    let mut gaps = MailboxIndex::new(UserId(7), 6);
    for uid in (2..=200).step_by(2) {
        let mut message = entry(u128::from(uid), stamp(uid.into(), 1));
        message.location.uid = Some(Uid { number: uid, assigned: stamp(200, 1) });
        gaps.learn(message);
    }
    let known = gaps.reservation(INBOX, 1, stamp(600, 1), &[]).known;
    assert!(known.seen.iter().count() == 32 && known.seen.has(200) && !known.seen.has(199));
    assert_eq!(known.from, 137);
}

#[test]
fn modseqs_of_all_folders_begin_at_the_newest_change_of_the_mailbox() {
    let mut index = index(2);
    let plan = index.plan_expunge(INBOX, &[1], stamp(5_000, 1));
    index.commit(plan);
    let mut next = MailboxIndex::new(UserId(7), 6);
    for id in 1..=2 {
        next.learn(index.entry(EntryId(id)).unwrap().clone());
    }
    assert_eq!((next.marks(INBOX).highest_modseq, next.marks(WORK).highest_modseq), (5_000, 5_000));
}

#[test]
fn a_uid_whose_write_failed_is_never_shown_by_anybody() {
    let mut index = index(1);
    index.open(INBOX);
    for id in 2..=4 {
        index.learn(entry(id, stamp(id as u64, 1)));
    }
    // UIDs 2, 3, 4; the write of 3 failed, that of 4 was done.
    let plan = index.number(stamp(200, 1), &folders());
    index.give_up(&plan[1..2]);
    index.abandon(&plan[1..2]);
    assert!(!index.is_given_up(&plan[0]) && index.is_given_up(&plan[2]));
    index.commit(plan[..1].to_vec());
    index.learn(plan[2].clone());
    assert_eq!(uids(&index, INBOX), [(1, 1), (2, 2)]);
    assert_eq!(index.uids_wanted(&folders()), [(INBOX, 2)].into(), "the rest of the block is given up");
    let known = index.reservation(INBOX, 2, stamp(300, 1), &[]).known;
    assert_eq!(known.seen, (1..=2).collect());
    index.add_block(INBOX, UidBlock { known: known.clone(), ..block(1001, 2000, stamp(300, 1)) });
    number(&mut index, 301);
    assert_eq!(uids(&index, INBOX), [(1, 1), (2, 2), (3, 1001), (4, 1002)]);
    // The next manager finds the failed write on a disk.
    let mut next = MailboxIndex::new(UserId(7), 6);
    let reserved = [block(1, 1000, stamp(100, 1)), UidBlock { known, ..block(1001, 2000, stamp(300, 1)) }];
    next.set_reservations(INBOX, &reserved, 2001);
    next.learn(plan[1].clone());
    assert_eq!(uids(&next, INBOX), []);
}

#[test]
fn a_uid_that_nobody_had_reserved_shows_that_the_profile_is_old() {
    let mut index = index(1);
    index.set_reservations(INBOX, &[block(1, 1000, stamp(100, 1))], 1001);
    assert!(!index.is_behind());
    let mut elsewhere = entry(2, stamp(150, 2));
    elsewhere.location.uid = Some(Uid { number: 1001, assigned: stamp(160, 2) });
    index.learn(elsewhere);
    assert!(index.is_behind());
    index.set_reservations(INBOX, &[block(1, 1000, stamp(100, 1)), block(1001, 2000, stamp(155, 2))], 2001);
    assert!(!index.is_behind());
}

#[test]
fn a_change_that_seems_to_be_none_is_written_if_newer_versions_may_be_elsewhere() {
    let index = index(1);
    let unset = FlagChange::Remove(vec![Flag::Seen]);
    assert_eq!(index.plan_store(INBOX, &[1], &unset, None, stamp(200, 1), true).entries, []);

    let plan = index.plan_store(INBOX, &[1], &unset, None, stamp(200, 1), false);
    let mut elsewhere = plan.entries[0].clone();
    elsewhere.flags.clear();
    elsewhere.set_flag(Flag::Seen, true, stamp(150, 2));
    elsewhere.merge(&plan.entries[0]);
    assert!(!elsewhere.has_flag(&Flag::Seen));
}

#[test]
fn a_folder_is_incomplete_while_a_message_waits_for_another_uid_unless_its_body_is_lost() {
    let mut index = index(1);
    index.learn(entry(2, stamp(2, 1)));
    assert!(!index.is_incomplete(INBOX, false), "nobody was shown a message that never had a UID");
    assert!(index.is_incomplete(INBOX, true), "the manager may be numbering it");
    number(&mut index, 150);
    let ours = block(1, 1000, stamp(100, 1));
    let news = index.set_reservations(INBOX, &[ours, block_after(1, 1001, 2000, stamp(120, 2))], 2001);
    assert!(news, "another manager's block");
    assert!(index.is_incomplete(INBOX, false), "its holder had not seen the second message");

    index.add_block(INBOX, block(2001, 3000, stamp(160, 1)));
    let plan = index.number(stamp(170, 1), &folders());
    index.set_aside(&plan);
    assert!(!index.is_incomplete(INBOX, false));
    index.commit(plan);
    assert_eq!(uids(&index, INBOX), [(1, 1), (2, 2001)]);
}

#[test]
fn a_client_that_heard_of_changes_in_a_division_is_told_again_of_what_others_may_have_changed() {
    let minutes = |minutes: u64| (minutes * 60_000) << 16;
    let whole = |first: u32, reserved: u64| block(first, first, stamp(minutes(reserved), 1));
    let divided = |first: u32, reserved: u64| {
        let mut block = whole(first, reserved);
        block.known.unread = vec![NodeId(4), NodeId(5)];
        block
    };
    let told = |blocks: &[UidBlock], at: u64| certainly_told(blocks, minutes(at)) / minutes(1);
    let mut blocks = vec![whole(1, 100), whole(2, 200), divided(3, 300), divided(4, 400)];
    // Half a minute before the last reservation of somebody who had read everything.
    for (at, then) in [(0, 0), (150, 150), (250, 199), (350, 199), (9_999, 199)] {
        assert_eq!(told(&blocks, at), then, "{at}, and it is divided still");
    }
    blocks.extend([whole(5, 500), whole(6, 600)]);
    for (at, then) in [(150, 150), (499, 199), (501, 501), (9_999, 9_999)] {
        assert_eq!(told(&blocks, at), then, "{at}, whole again at 500");
    }
    assert_eq!(told(&blocks[2..], 450), 0, "what was before is not known");
    assert_eq!(certainly_told(&[], 7), 7);
}

#[test]
fn a_client_that_heard_of_changes_around_a_reservation_is_told_again_of_what_another_manager_may_have_changed()
 {
    let seconds = |seconds: u64| (seconds * 1_000) << 16;
    let blocks = [block(1, 1, stamp(seconds(1_000), 1)), block(2, 2, stamp(seconds(1_040), 2))];
    for (at, then) in [(969, 969), (970, 970), (1_000, 970), (1_020, 970), (1_069, 970), (1_070, 1_070)] {
        assert_eq!(certainly_told(&blocks, seconds(at)), seconds(then), "{at}");
    }
}
