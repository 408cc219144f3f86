use super::*;
use crate::entry::Flag;
use crate::entry::tests::{entry, stamp};

const INBOX: FolderId = FolderId::INBOX;
const WORK: FolderId = FolderId(2);

fn folders() -> FolderTable {
    FolderTable { live: [INBOX, WORK].into(), deleted: BTreeMap::new() }
}

/// An index with a block for INBOX and messages 1..=count, numbered.
fn index(count: u128) -> MailboxIndex {
    let mut index = MailboxIndex::new(UserId(7));
    for id in 1..=count {
        index.learn(entry(id, stamp(id as u64, 1)));
    }
    index.add_block(INBOX, UidBlock { first: 1, last: 1000, reserved: stamp(100, 1) });
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
    let mut index = MailboxIndex::new(UserId(7));
    index.learn(entry(2, stamp(2, 1)));
    index.learn(entry(1, stamp(1, 1)));
    assert!(number(&mut index, 50).is_empty());
    assert_eq!(index.uids_wanted(&folders()), [(INBOX, 2)].into());
    index.add_block(INBOX, UidBlock { first: 11, last: 20, reserved: stamp(60, 1) });
    assert_eq!(number(&mut index, 61).len(), 2);
    assert_eq!(uids(&index, INBOX), [(1, 11), (2, 12)]);
    assert_eq!(index.view(INBOX).uid_next, 13);
    assert!(!index.has_unsettled(&folders()));
}

#[test]
fn a_rebuilt_index_keeps_every_uid_and_starts_above_them() {
    let first = index(3);
    let mut second = MailboxIndex::new(UserId(7));
    for message in first.view(INBOX).messages {
        second.learn(message.clone());
    }
    let block = UidBlock { first: 1, last: 1000, reserved: stamp(100, 1) };
    second.set_reservations(INBOX, &[block], 1001);
    assert_eq!(uids(&second, INBOX), uids(&first, INBOX));
    assert_eq!(second.view(INBOX).uid_next, 1001);
    second.learn(entry(9, stamp(200, 1)));
    second.add_block(INBOX, UidBlock { first: 1001, last: 2000, reserved: stamp(201, 2) });
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
fn a_late_message_in_a_folder_nobody_was_shown_keeps_its_uid() {
    let mut index = index(1);
    let mut late = entry(99, stamp(1, 1));
    late.location.uid = Some(Uid { number: 7, assigned: stamp(90, 1) });
    index.learn(late);
    assert_eq!(uids(&index, INBOX), [(1, 1), (99, 7)]);
}

#[test]
fn of_two_managers_the_one_with_the_lower_block_is_renumbered() {
    // We hold 1..=1000 and gave UID 4 at 250, but another manager had reserved 1001..=2000 at 240.
    let mut index = index(3);
    index.open(INBOX);
    index.learn(entry(4, stamp(245, 1)));
    number(&mut index, 250);
    let theirs = UidBlock { first: 1001, last: 2000, reserved: stamp(240, 2) };
    let ours = UidBlock { first: 1, last: 1000, reserved: stamp(100, 1) };
    index.set_reservations(INBOX, &[ours, theirs], 2001);
    assert_eq!(uids(&index, INBOX), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!(index.uids_wanted(&folders()), [(INBOX, 1)].into(), "our own block is spent");
    index.add_block(INBOX, UidBlock { first: 2001, last: 3000, reserved: stamp(300, 1) });
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
    let known = index.open(INBOX).highest_modseq;
    let plan = index.plan_store(INBOX, &[2], &FlagChange::Add(vec![Flag::Seen]), None, stamp(200, 1));
    index.commit(plan.entries);
    let gone = index.plan_expunge(INBOX, &[1, 77], stamp(201, 1));
    assert_eq!(gone.len(), 1, "an unknown UID is no error");
    index.commit(gone);
    let Changes::Delta { upserts, vanished } = index.changes_since(INBOX, known) else { panic!("delta") };
    assert_eq!(upserts.iter().map(|entry| entry.id.0).collect::<Vec<_>>(), [2]);
    assert_eq!(vanished, [1]);
    let now = index.view(INBOX).highest_modseq;
    assert_eq!(index.changes_since(INBOX, now), Changes::Delta { upserts: vec![], vanished: vec![] });
}

#[test]
fn a_session_from_before_the_rebuild_compares_with_everything() {
    let mut index = index(2);
    index.open(INBOX);
    assert!(matches!(index.changes_since(INBOX, 5), Changes::Everything { messages } if messages.len() == 2));
}

#[test]
fn a_change_merged_from_elsewhere_gets_a_modseq_that_sessions_notice() {
    let mut index = index(2);
    let known = index.open(INBOX).highest_modseq;
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
    let known = index.open(INBOX).highest_modseq;
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
    let plan = index.plan_store(INBOX, &[1], &change, Some(at - 1), stamp(300, 1));
    assert_eq!((plan.entries.len(), plan.modified), (0, vec![1]));
    let plan = index.plan_store(INBOX, &[1], &change, Some(at), stamp(300, 1));
    index.commit(plan.entries);
    assert_eq!(index.entry(EntryId(1)).unwrap().flags_set().collect::<Vec<_>>(), [&Flag::Draft]);
}

#[test]
fn copy_and_move_number_the_target_and_a_move_leaves_the_source() {
    let mut index = index(2);
    let known = index.open(INBOX).highest_modseq;
    assert_eq!(
        index.plan_move(INBOX, &[1], WORK, stamp(200, 1)),
        Err(UidsExhausted { folder: WORK, wanted: 1 })
    );
    index.add_block(WORK, UidBlock { first: 1, last: 10, reserved: stamp(201, 1) });
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
    index.add_block(WORK, UidBlock { first: 1, last: 10, reserved: stamp(201, 1) });
    let moved = index.plan_move(INBOX, &[1], WORK, stamp(203, 1)).unwrap();
    index.commit(moved.entries);
    let table = FolderTable { live: [INBOX].into(), deleted: [(WORK, stamp(300, 1))].into() };
    assert!(index.has_unsettled(&table));
    let plan = index.number(stamp(301, 1), &table);
    index.commit(plan);
    assert!(!index.entry(EntryId(1)).unwrap().is_live());
    assert!(!index.has_unsettled(&table));
}
