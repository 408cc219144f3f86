use super::*;

const LIMITS: Limits = Limits { connections: 5, per_destination: 2, messages: 1_000 };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn queue() -> Queue<u32> {
    let schedule =
        Schedule { waits: vec![seconds(10), seconds(20)], warning: seconds(40), expiry: seconds(100) };
    Queue::new(LIMITS, schedule)
}

fn to(domain: &str) -> Destination {
    Destination::of(&format!("x@{domain}")).unwrap()
}

fn facts(recipients: &[(&str, &[usize])], now: Duration) -> Facts {
    let recipients = recipients.iter().map(|(domain, indexes)| (to(domain), indexes.to_vec())).collect();
    Facts { age_since: Duration::ZERO, learnt: now, warned: false, recipients }
}

fn later() -> Problem {
    Problem::temporary(0, 0, "later")
}

/// Takes, fails for now and settles a job.
fn defer(queue: &mut Queue<u32>, destination: &Destination, now: Duration) -> Work<u32> {
    let work = queue.take(destination, now).unwrap();
    queue.settle(&work, destination, Some(&later()), now, 100);
    work
}

#[test]
fn a_destination_gets_no_more_connections_than_it_may_have() {
    let mut queue = queue();
    for id in 0..10 {
        queue.insert(id, facts(&[("a.example", &[0])], seconds(0)), seconds(0));
    }
    assert_eq!(queue.connection(seconds(0)), Some(to("a.example")));
    assert_eq!(queue.connection(seconds(0)), Some(to("a.example")));
    assert_eq!(queue.connection(seconds(0)), None);
    queue.release(&to("a.example"));
    assert_eq!(queue.connection(seconds(0)), Some(to("a.example")));
}

#[test]
fn all_destinations_together_get_no_more_than_there_are() {
    let mut queue = queue();
    for id in 0..10 {
        queue.insert(id, facts(&[(&format!("d{id}.example"), &[0])], seconds(0)), seconds(0));
    }
    let count = std::iter::from_fn(|| queue.connection(seconds(0))).count();
    assert_eq!((count, queue.connections(), queue.next_event()), (5, 5, None));
}

#[test]
fn a_slow_destination_does_not_hold_up_others() {
    let mut queue = queue();
    for id in 0..10 {
        queue.insert(id, facts(&[("a.example", &[0])], seconds(0)), seconds(0));
    }
    queue.insert(10, facts(&[("b.example", &[0])], seconds(1)), seconds(1));
    let opened: Vec<_> = std::iter::from_fn(|| queue.connection(seconds(1))).collect();
    assert_eq!(opened, [to("a.example"), to("a.example"), to("b.example")]);
}

#[test]
fn a_job_is_taken_once() {
    let mut queue = queue();
    queue.insert(1, facts(&[("a.example", &[0, 2]), ("b.example", &[1])], seconds(0)), seconds(0));
    let work = queue.take(&to("a.example"), seconds(0)).unwrap();
    assert_eq!(work.recipients, [0, 2]);
    assert_eq!(queue.take(&to("a.example"), seconds(0)), None);
    assert_eq!(queue.take(&to("b.example"), seconds(0)).unwrap().recipients, [1]);
    queue.give_back(&work, &to("a.example"));
    assert_eq!(queue.take(&to("a.example"), seconds(0)), Some(work));
}

#[test]
fn what_failed_for_now_is_tried_again_when_the_schedule_says() {
    let mut queue = queue();
    queue.insert(1, facts(&[("a.example", &[0])], seconds(0)), seconds(0));
    defer(&mut queue, &to("a.example"), seconds(0));
    assert_eq!(queue.connection(seconds(9)), None);
    assert_eq!(queue.next_event(), Some(seconds(10)));
    assert_eq!(queue.connection(seconds(10)), Some(to("a.example")));
    defer(&mut queue, &to("a.example"), seconds(11));
    assert_eq!(queue.next_event(), None, "its connection is still open and idle");
    queue.release(&to("a.example"));
    assert_eq!(queue.next_event(), Some(seconds(31)));
}

#[test]
fn a_message_is_gone_when_all_its_recipients_are_done() {
    let mut queue = queue();
    queue.insert(1, facts(&[("a.example", &[0, 2]), ("b.example", &[1])], seconds(0)), seconds(0));
    let work = queue.take(&to("a.example"), seconds(0)).unwrap();
    let outcomes = vec![Outcome::Delivered("250 ok".into()), Outcome::Failed(later())];
    let judgement = queue.judge(&work, outcomes, seconds(0));
    assert_eq!((judgement.delivered.len(), judgement.deferred), (1, vec![2]));
    assert_eq!(queue.done(1, &[0]), Some(false));
    queue.settle(&work, &to("a.example"), None, seconds(0), 100);
    assert_eq!(queue.take(&to("a.example"), seconds(10)).unwrap().recipients, [2]);
    assert_eq!(queue.done(1, &[2]), Some(false));
    assert_eq!(queue.done(1, &[1]), Some(true), "also if somebody else did the rest");
    queue.remove(1);
    assert_eq!(queue.done(1, &[1]), None, "of what is not here nothing is known");
    assert!(queue.is_empty());
    assert_eq!(queue.connection(seconds(1_000)), None);
}

#[test]
fn a_destination_that_fails_rests_and_is_then_tried_by_one_connection() {
    let mut queue = queue();
    for id in 0..10 {
        queue.insert(id, facts(&[("a.example", &[0])], seconds(0)), seconds(0));
    }
    let a = to("a.example");
    queue.connection(seconds(0));
    queue.connection(seconds(0));
    for _ in 0..2 {
        queue.destination_failed(&a, &later(), seconds(1), 100);
        queue.release(&a);
    }
    assert_eq!(queue.connection(seconds(10)), None);
    assert_eq!(queue.next_event(), Some(seconds(11)));
    assert_eq!(queue.connection(seconds(11)), Some(a.clone()));
    assert_eq!(queue.connection(seconds(11)), None, "one to see whether it works");
    queue.destination_works(&a);
    assert_eq!(queue.connection(seconds(11)), Some(a.clone()));
    queue.destination_failed(&a, &later(), seconds(12), 100);
    queue.destination_failed(&a, &later(), seconds(12), 100);
    assert_eq!(queue.view(1, seconds(12)).unwrap().jobs[0].next, seconds(10), "two at once are one failure");
}

#[test]
fn a_message_that_is_too_old_is_given_up_with_its_last_error() {
    let mut queue = queue();
    queue.insert(1, facts(&[("a.example", &[0])], seconds(0)), seconds(0));
    queue.destination_failed(&to("a.example"), &Problem::temporary(4, 1, "no answer"), seconds(0), 100);
    assert!(queue.expired(seconds(99), 10).is_empty());
    let expired = queue.expired(seconds(100), 10);
    assert_eq!(expired.len(), 1);
    assert_eq!(expired[0].2.text, "no answer");
    assert!(queue.expired(seconds(100), 10).is_empty(), "it is being seen to");
    let judgement = queue.judge(&expired[0].0, vec![Outcome::Failed(expired[0].2.clone())], seconds(100));
    assert!(matches!(&judgement.failed[..], [(0, _, true)]));
}

#[test]
fn the_age_is_kept_when_another_takes_over() {
    let mut queue = queue();
    let mut old = facts(&[("a.example", &[0])], seconds(7));
    old.age_since = seconds(95);
    queue.insert(1, old, seconds(7));
    assert!(queue.expired(seconds(11), 10).is_empty());
    defer(&mut queue, &to("a.example"), seconds(8));
    assert_eq!(queue.next_event(), Some(seconds(12)), "the last attempt is at the expiry");
    assert_eq!(queue.expired(seconds(12), 10).len(), 1);
}

#[test]
fn retry_and_remove_do_as_they_say() {
    let mut queue = queue();
    queue.insert(1, facts(&[("a.example", &[0])], seconds(0)), seconds(0));
    defer(&mut queue, &to("a.example"), seconds(0));
    queue.destination_failed(&to("a.example"), &later(), seconds(0), 100);
    assert!(queue.retry(1, seconds(1)) && !queue.retry(2, seconds(1)));
    assert_eq!(queue.connection(seconds(1)), Some(to("a.example")));
    let work = queue.take(&to("a.example"), seconds(1)).unwrap();
    queue.remove(1);
    queue.settle(&work, &to("a.example"), None, seconds(1), 100);
    queue.release(&to("a.example"));
    assert!(queue.is_empty() && queue.connections() == 0);
}

#[test]
fn a_full_queue_takes_no_more() {
    let schedule = Schedule::default();
    let mut queue = Queue::new(Limits { messages: 1, ..LIMITS }, schedule);
    assert!(queue.insert(1, facts(&[("a.example", &[0])], seconds(0)), seconds(0)));
    assert!(!queue.insert(1, facts(&[("a.example", &[0])], seconds(0)), seconds(0)));
    assert!(!queue.insert(2, facts(&[("a.example", &[0])], seconds(0)), seconds(0)));
}

#[test]
fn a_late_message_is_told_of_once_with_the_last_error_of_each_recipient_that_is_left() {
    let mut queue = queue();
    queue.insert(1, facts(&[("a.example", &[0, 1]), ("b.example", &[2])], seconds(0)), seconds(0));
    queue.insert(2, Facts { warned: true, ..facts(&[("a.example", &[0])], seconds(0)) }, seconds(0));
    let list = BTreeMap::from([(Destination::lists(), vec![0])]);
    queue.insert(3, Facts { recipients: list, ..facts(&[], seconds(0)) }, seconds(0));
    queue.connection(seconds(0)).unwrap();
    defer(&mut queue, &to("a.example"), seconds(1));
    queue.done(1, &[1]);
    assert_eq!(queue.late(seconds(39), 10), []);
    let late = queue.late(seconds(40), 10);
    let [Late { id: 1, recipients }] = &late[..] else { panic!("{late:?}") };
    let texts: Vec<(usize, &str)> =
        recipients.iter().map(|(index, problem)| (*index, problem.text.as_str())).collect();
    assert_eq!(texts, [(0, later().to_string().as_str()), (2, "it could not be tried yet")]);
    assert_eq!(queue.late(seconds(50), 10), []);
    queue.warn_again(1);
    assert_eq!(queue.late(seconds(50), 10).len(), 1);
}
