//! Sessions over streams, driven as a node drives them: memory, latency, pipelining, patience.

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::Client;
use common::driver::drive;
use common::store::{MemoryBackend, Store};
use imap::{Config, FLUSH_AT, Next, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

fn session(store: &Arc<Store>) -> Session<MemoryBackend> {
    Session::new(Arc::new(MemoryBackend(store.clone())), Arc::new(Config::default()), true)
}

/// Connects a client; the other end is driven by a task, which ends with the most bytes that waited.
fn connect(store: &Arc<Store>) -> (DuplexStream, tokio::task::JoinHandle<std::io::Result<usize>>) {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let (reader, writer) = tokio::io::split(far);
    (near, tokio::spawn(drive(session(store), reader, writer)))
}

async fn read_until(stream: &mut DuplexStream, end: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(end) {
        let mut chunk = [0; 4096];
        let length = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut chunk)).await;
        let length = length.expect("the server is silent").unwrap();
        assert!(length > 0, "closed before {end}: {}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&chunk[..length]);
    }
    String::from_utf8(read).unwrap()
}

#[tokio::test]
async fn an_idling_client_hears_of_a_delivery_in_less_than_100_milliseconds() {
    let store = Store::new();
    let (mut client, _) = connect(&store);
    client.write_all(b"a LOGIN joe secret\r\nb SELECT INBOX\r\nc IDLE\r\n").await.unwrap();
    read_until(&mut client, "+ idling").await;
    for count in 1..=20 {
        let delivered = Instant::now();
        store.deliver("INBOX", "Subject: x\r\n\r\ny\r\n");
        read_until(&mut client, &format!("* {count} EXISTS\r\n")).await;
        assert!(delivered.elapsed() < Duration::from_millis(100), "{:?}", delivered.elapsed());
    }
    client.write_all(b"DONE\r\nd LOGOUT\r\n").await.unwrap();
    read_until(&mut client, "c OK IDLE completed\r\n* BYE Goodbye\r\nd OK").await;
}

#[tokio::test]
async fn a_fetch_of_many_messages_needs_little_memory_and_reads_few_bodies_at_once() {
    let store = Store::new();
    let body = Bytes::from(format!("Subject: x\r\n\r\n{}", "0123456789abcdef".repeat(100 * 1024 / 16)));
    for _ in 0..200 {
        store.deliver("INBOX", body.clone());
    }
    let (mut client, task) = connect(&store);
    client
        .write_all(b"a LOGIN joe secret\r\nb SELECT INBOX\r\nc FETCH 1:* BODY[]\r\nd LOGOUT\r\n")
        .await
        .unwrap();
    let mut all = Vec::new();
    client.read_to_end(&mut all).await.unwrap();
    let text = String::from_utf8_lossy(&all);
    assert_eq!(text.matches(&format!("BODY[] {{{}}}", body.len())).count(), 200);
    assert_eq!(text.matches("0123456789abcdef)").count(), 200);
    assert!(text.contains("c OK FETCH completed"));
    let most_waiting = task.await.unwrap().unwrap();
    assert!(most_waiting < FLUSH_AT + body.len() + 4096, "{most_waiting} bytes waited");
    let at_once = store.reading.lock().unwrap().1;
    assert!((2..=16).contains(&at_once), "{at_once} bodies at once");
}

#[tokio::test]
async fn it_does_not_matter_how_the_stream_is_cut() {
    let store = Store::new();
    let commands = b"a LOGIN {3+}\r\njoe secret\r\nb SELECT INBOX\r\nc SEARCH SUBJECT {1+}\r\nx\r\n\
        d IDLE\r\nDONE\r\ne LIST \"\" *\r\nf APPEND nowhere {3+}\r\nx\r\n\r\ng LOGOUT\r\n";
    let mut whole = Client::new(&store, Config::default(), true);
    let expected = whole.send(commands).await;
    assert!(expected.contains("f NO [TRYCREATE]") && expected.ends_with("g OK LOGOUT completed\r\n"));
    let mut cut = Client::new(&store, Config::default(), true);
    let mut answer = String::new();
    for byte in commands {
        answer += &cut.send([*byte]).await;
    }
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_client_that_announces_too_much_is_refused_or_cut_off() {
    let store = Store::new();
    let mut client = Client::new(&store, Config::default(), true);
    // Before login little is skipped.
    let answer = client.send("a LOGIN {2000000000+}\r\n").await;
    assert!(answer.contains("* BYE") && client.next == Next::Close, "{answer}");

    let mut client = Client::new(&store, Config::default(), true);
    let answer = client.send(format!("a NOOP {}\r\nb NOOP\r\n", "x".repeat(200_000))).await;
    assert_eq!(answer, "a BAD The command is too long\r\nb OK NOOP completed\r\n");

    let config = Config { max_message: 1000, ..Config::default() };
    let mut client = Client::logged_in_with(&store, config).await;
    let answer = client.send(format!("a APPEND INBOX {{1001+}}\r\n{}\r\nb NOOP\r\n", "x".repeat(1001))).await;
    assert_eq!(answer, "a NO [TOOBIG] The literal is too large\r\nb OK NOOP completed\r\n");
    let answer = client.send(format!("c APPEND INBOX {{1000+}}\r\n{}\r\n", "x".repeat(1000))).await;
    assert!(answer.starts_with("c OK"), "{answer}");
    // Endless text without a line's end is not kept.
    for _ in 0..100 {
        client.feed("x".repeat(100_000).as_bytes()).await;
    }
    assert!(client.session.wait().0.capacity() < 1024 * 1024);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_log_in_is_sent_away() {
    let store = Store::new();
    let (mut client, task) = connect(&store);
    client.write_all(b"a NOOP\r\nb NO").await.unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    assert!(all.ends_with("* BYE Logged out because of inactivity\r\n"), "{all}");
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn patience_is_short_before_login_and_long_after_it() {
    let store = Store::new();
    let mut client = Client::new(&store, Config::default(), true);
    let before = client.session.patience();
    assert!(before <= Duration::from_secs(60));
    std::thread::sleep(Duration::from_millis(20));
    client.send("a NOOP\r\n").await;
    assert!(client.session.patience() < before, "commands do not buy time without login");
    client.send("b LOGIN joe secret\r\nc SELECT INBOX\r\nd IDLE\r\n").await;
    let idle = client.session.patience();
    assert!(idle > Duration::from_secs(30 * 60));
    std::thread::sleep(Duration::from_millis(20));
    store.deliver("INBOX", "x: y\r\n\r\n");
    assert!(client.wait_for_news().await.contains("1 EXISTS"));
    client.send("").await;
    assert!(client.session.patience() < idle, "news are not a sign of life of the client");
}

#[tokio::test]
async fn a_failed_login_is_answered_late() {
    let store = Store::new();
    let mut client = Client::new(&store, Config::default(), true);
    client.session.wait().0.extend_from_slice(b"a LOGIN joe wrong\r\nb LOGIN joe worse\r\nc NOOP\r\n");
    for expected in [1, 2] {
        let next = client.session.process(&mut client.output).await.unwrap();
        assert_eq!(next, Next::Pause(Duration::from_secs(expected)));
    }
    assert!(!client.take().contains("c OK"), "what comes behind waits too");
    assert_eq!(client.session.process(&mut client.output).await.unwrap(), Next::Read);
    assert_eq!(client.take(), "c OK NOOP completed\r\n");
}

#[tokio::test]
async fn every_command_is_recorded_with_its_outcome() {
    use imap::backend::Outcome;
    let store = Store::new();
    let mut client = Client::logged_in(&store).await;
    client.send("a SELECT nowhere\r\nb FETCH 1 FLAGS\r\nc IDLE\r\nDONE\r\nd FOO\r\n").await;
    assert_eq!(
        *store.recorded.lock().unwrap(),
        [
            ("LOGIN", Outcome::Ok),
            ("SELECT", Outcome::No),
            ("FETCH", Outcome::Bad),
            ("IDLE", Outcome::Ok),
            ("INVALID", Outcome::Bad)
        ]
    );
}
