//! Each checker finds the bug that it is for, planted on the way between nodes.

use sim::faults::Kinds;
use sim::history::{Options, run};
use sim::tamper::Tamper;

fn assert_found(tamper: Tamper, invariant: &str) {
    assert_found_among(Kinds::None, tamper, invariant);
}

fn assert_found_among(kinds: Kinds, tamper: Tamper, invariant: &str) {
    let options = Options { kinds: Some(kinds), tamper, ..Options::default() };
    let found =
        (0..3).any(|seed| run(seed, options).violations.iter().any(|known| known.invariant == invariant));
    assert!(found, "{tamper:?} breaks '{invariant}', and nobody saw it");
}

#[test]
fn a_tombstone_that_was_acknowledged_and_not_stored_is_found() {
    // Who reads the mailbox anew shows the message.
    assert_found_among(Kinds::Gentle, Tamper::ForgetTombstones, "no resurrection");
}

#[test]
fn a_uid_that_names_two_messages_is_found() {
    assert_found(Tamper::ShiftUids(0), "IMAP order");
}

#[test]
fn a_modseq_that_goes_back_is_found() {
    assert_found(Tamper::OldModseq, "IMAP order");
}

#[test]
fn a_replica_that_never_learns_is_found() {
    assert_found(Tamper::DeafHost(1), "convergent");
}

#[test]
fn bodies_that_nobody_can_read_are_found() {
    assert_found(Tamper::NoBodies, "available");
}

#[test]
fn a_message_that_was_acknowledged_and_not_stored_is_found() {
    assert_found(Tamper::DropStores, "durable");
}

#[test]
fn a_part_of_a_message_that_was_acknowledged_and_not_stored_is_found() {
    assert_found(Tamper::DropParts, "available");
}

#[test]
fn updates_that_were_acknowledged_and_not_stored_are_found() {
    assert_found(Tamper::DropUpdates, "convergent");
}
