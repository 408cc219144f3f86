//! Deadlines, cancellation, back-pressure, limits of size.

use super::support::*;
use bytes::Bytes;
use rpc::{Error, Options, Pool};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_the_call_and_its_handler() {
    let (server, _pool, peer) = pair().await;
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    let begun = Instant::now();
    let error = peer.call(SLEEP, head(60_000), Bytes::new(), Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error, Error::DeadlineExceeded);
    assert!(begun.elapsed() < Duration::from_secs(1));
    eventually("the handler is dropped", || server.handler.dropped.load(SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_call_drops_its_handler_and_its_place() {
    let server = Server::start_with("b", Options { max_calls: 2, ..Options::default() }).await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    for round in 1..=6 {
        let call = peer.call(SLEEP, head(60_000), pattern(50_000), LONG);
        assert!(timeout(Duration::from_millis(30), call).await.is_err());
        eventually("the handler is dropped", || {
            server.handler.dropped.load(SeqCst) == round && server.handler.running.load(SeqCst) == 0
        })
        .await;
    }
    assert_eq!(pool.endpoint().metrics().snapshot().calls_dropped, 6);
    assert_eq!(server.endpoint.metrics().snapshot().requests_cancelled, 6);
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_cancelled_anywhere_in_a_long_exchange_leave_the_connection_whole() {
    let limits =
        Options { max_head: 1000, max_body: 1 << 20, window: (1 << 20) + 1000, ..Options::default() };
    let server = Server::start_with("b", limits).await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    let body = pattern(1 << 20);
    for i in 0..50 {
        let call = peer.call(ECHO, Bytes::new(), body.clone(), LONG);
        let _ = timeout(Duration::from_micros(i * 2000), call).await;
    }
    // All credit is back: the largest message fits.
    let response = peer.call(ECHO, pattern(1000), body.clone(), LONG).await.unwrap();
    assert!(response.body == body);
    let metrics = pool.endpoint().metrics().snapshot();
    assert_eq!((metrics.connections_opened, metrics.protocol_errors), (1, 0));
    assert_eq!(server.endpoint.metrics().snapshot().protocol_errors, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_beyond_max_handlers_wait_and_calls_beyond_max_calls_are_overloaded() {
    let options = Options { max_calls: 8, max_handlers: 3, ..Options::default() };
    let server = Server::start_with("b", options).await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let peer = peer.clone();
        calls.spawn(async move { peer.call(SLEEP, head(200), Bytes::new(), LONG).await });
    }
    eventually("three run", || server.handler.running.load(SeqCst) == 3).await;
    let error = peer.call(ECHO, Bytes::new(), Bytes::new(), Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error, Error::Overloaded);
    assert!(error.certainly_not_executed());
    while let Some(done) = calls.join_next().await {
        done.unwrap().unwrap();
    }
    assert_eq!(server.handler.peak.load(SeqCst), 3);
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn long_messages_beyond_the_window_wait_while_short_ones_pass() {
    let window =
        Options { max_head: 1000, max_body: 1 << 20, window: (1 << 20) + 1000, ..Options::default() };
    let server = Server::start_with("b", window).await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    let first = {
        let peer = peer.clone();
        tokio::spawn(async move { peer.call(SLEEP, head(1000), pattern(1 << 20), LONG).await })
    };
    eventually("the first runs", || server.handler.running.load(SeqCst) == 1).await;
    let brief = Duration::from_millis(20);
    let error = peer.call(ECHO, Bytes::new(), pattern(1 << 20), brief).await.unwrap_err();
    assert_eq!(error, Error::Overloaded);
    peer.call(ECHO, head(1), Bytes::new(), LONG).await.unwrap();
    assert_eq!(server.handler.running.load(SeqCst), 1);
    first.await.unwrap().unwrap();
    peer.call(ECHO, Bytes::new(), pattern(1 << 20), LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_long_answers_share_the_window_of_the_way_back() {
    let window =
        Options { max_head: 1000, max_body: 1 << 20, window: (1 << 20) + 1000, ..Options::default() };
    let server = Server::start_with("b", window).await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let peer = peer.clone();
        calls.spawn(async move { peer.call(BODY, head(700_000), Bytes::new(), LONG).await });
    }
    while let Some(done) = calls.join_next().await {
        assert_eq!(done.unwrap().unwrap().body.len(), 700_000);
    }
    assert_eq!(pool.endpoint().metrics().snapshot().protocol_errors, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_above_the_lower_limit_of_both_sides_do_not_leave() {
    let server =
        Server::start_with("b", Options { max_head: 1000, max_body: 70_000, ..Options::default() }).await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    let error = peer.call(ECHO, pattern(1001), Bytes::new(), LONG).await.unwrap_err();
    assert_eq!(error, Error::TooLarge { what: "head", size: 1001, limit: 1000 });
    let error = peer.call(ECHO, Bytes::new(), pattern(70_001), LONG).await.unwrap_err();
    assert_eq!(error, Error::TooLarge { what: "body", size: 70_001, limit: 70_000 });
    peer.call(ECHO, pattern(1000), pattern(70_000), LONG).await.unwrap();
    assert_eq!(server.endpoint.metrics().snapshot().requests, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_or_an_answer_too_large_fails_that_call_only() {
    let server = Server::start_with("b", Options { max_body: 100, ..Options::default() }).await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    let other = {
        let peer = peer.clone();
        tokio::spawn(async move { peer.call(SLEEP, head(100), Bytes::new(), LONG).await })
    };
    let error = peer.call(PANIC, Bytes::new(), Bytes::new(), LONG).await.unwrap_err();
    assert_eq!(error, Error::HandlerFailed);
    let error = peer.call(BODY, head(101), Bytes::new(), LONG).await.unwrap_err();
    assert_eq!(error, Error::HandlerFailed);
    other.await.unwrap().unwrap();
    assert_eq!(server.endpoint.metrics().snapshot().requests_failed, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_forgets_the_peer_that_was_not_used_for_longest() {
    let servers = [Server::start("b").await, Server::start("c").await, Server::start("d").await];
    let client = endpoint("a", Options { max_peers: 2, ..Options::default() });
    let pool = Pool::new(client.clone());
    for server in &servers {
        pool.peer(server.address()).call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    }
    eventually("two connections are left", || client.metrics().snapshot().connections == 2).await;
    pool.peer(servers[0].address()).call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    assert_eq!(client.metrics().snapshot().connections_opened, 4);
}
