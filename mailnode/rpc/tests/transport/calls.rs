//! Calls that go well.

use super::support::*;
use bytes::Bytes;
use rpc::{Options, Pool, SMALL_MESSAGE, trace};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_of_all_sizes_come_back_as_they_went() {
    let options = || Options {
        max_head: 1 << 20,
        max_body: 8 << 20,
        window: (1 << 20) + (8 << 20),
        ..Options::default()
    };
    let server = Server::start_with("b", options()).await;
    let pool = Pool::new(endpoint("a", options()));
    let peer = pool.peer(server.address());
    let frame = 64 * 1024;
    let sizes = [
        (0, 0),
        (1, 0),
        (0, 1),
        (8, SMALL_MESSAGE - 8),
        (8, SMALL_MESSAGE - 7),
        (0, frame - 35),
        (0, frame),
        (frame + 1, frame * 2 + 1),
        (1 << 20, 1),
        (1 << 20, 8 << 20),
    ];
    for (head, body) in sizes {
        let (head, body) = (pattern(head), pattern(body));
        let response = peer.call(ECHO, head.clone(), body.clone(), LONG).await.unwrap();
        assert_eq!(response.status, 200);
        assert!(response.head == head && response.body == body, "{} {}", head.len(), body.len());
    }
    let metrics = pool.endpoint().metrics().snapshot();
    assert_eq!((metrics.connections_opened, metrics.calls_in_flight), (1, 0));
    assert_eq!(metrics.protocol_errors, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_concurrent_calls_share_one_connection_and_each_gets_its_own_answer() {
    let (server, pool, peer) = pair().await;
    let mut calls = JoinSet::new();
    for i in 0..1000_u64 {
        let peer = peer.clone();
        calls.spawn(async move {
            let body = pattern(if i % 50 == 0 { 40_000 } else { i as usize });
            let response = peer.call(ECHO, head(i), body.clone(), LONG).await.unwrap();
            assert!(response.head == head(i) && response.body == body);
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    assert_eq!(pool.endpoint().metrics().snapshot().connections_opened, 1);
    assert_eq!(server.endpoint.metrics().snapshot().requests, 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_call_overtakes_a_long_one_in_both_directions() {
    let (_server, _pool, peer) = pair().await;
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    for (method, number, body) in [(SLEEP, 0, 32 << 20), (BODY, 16 << 20, 0)] {
        let body = pattern(body);
        let long = {
            let peer = peer.clone();
            tokio::spawn(async move { peer.call(method, head(number), body, LONG).await })
        };
        let begun = Instant::now();
        let mut overtook = 0;
        while !long.is_finished() && begun.elapsed() < LONG {
            peer.call(ECHO, head(1), Bytes::new(), LONG).await.unwrap();
            overtook += 1;
        }
        long.await.unwrap().unwrap();
        assert!(overtook >= 10, "{overtook} small calls during a long one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_connections_keep_long_messages_apart() {
    let server = Server::start("b").await;
    let pool = Pool::new(endpoint("a", Options { connections: 2, ..Options::default() }));
    let peer = pool.peer(server.address());
    for size in [10, SMALL_MESSAGE + 1] {
        peer.call(ECHO, Bytes::new(), pattern(size), LONG).await.unwrap();
    }
    assert_eq!(pool.endpoint().metrics().snapshot().connections_opened, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_id_the_deadline_and_the_callers_name_arrive_at_the_handler() {
    let (_server, _pool, peer) = pair().await;
    let about = peer.call(ABOUT, Bytes::new(), Bytes::new(), Duration::from_secs(5));
    let answer = trace::scope(0xfeed, about).await.unwrap();
    let text = String::from_utf8(answer.head.to_vec()).unwrap();
    let fields: Vec<&str> = text.split('/').collect();
    assert_eq!((fields[0], fields[1], fields[3], fields[4]), ("65261", "false", "a", "1"));
    assert!((4000..=5000).contains(&fields[2].parse().unwrap()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn load_reports_ride_on_requests_and_responses() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let on_load = |who: &'static str| {
        let heard = heard.clone();
        Arc::new(move |node: u64, load: u64| heard.lock().unwrap().push((who, node, load)))
    };
    let server = Server::start_at(endpoint_with_load("b", on_load("b")), "127.0.0.1:0").await;
    server.endpoint.set_load(u64::MAX);
    let pool = Pool::new(endpoint_with_load("a", on_load("a")));
    pool.set_load(5);
    let peer = pool.peer(server.address());
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    let expected = [("b", node_id("a"), 5), ("a", node_id("b"), u64::MAX)];
    assert_eq!(*heard.lock().unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_way_requests_are_handled_and_give_their_places_back() {
    let options = Options { max_calls: 4, ..Options::default() };
    let server = Server::start_with("b", options).await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    for _ in 0..50 {
        peer.notify(ECHO, Bytes::new(), pattern(100_000), LONG).await.unwrap();
    }
    eventually("all are handled", || server.handler.handled.load(SeqCst) == 50).await;
}
