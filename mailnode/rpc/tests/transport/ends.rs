//! Connections that end: killed, restarted, moved, silent, or with a goodbye.

use super::support::*;
use bytes::Bytes;
use rpc::{Error, Options, PeerAddress, Pool};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_peer_fails_all_calls_at_once_and_is_called_again_when_it_is_back() {
    let (server, pool, peer) = pair().await;
    let (endpoint, address) = (server.endpoint.clone(), server.address.to_string());
    let mut calls = JoinSet::new();
    for _ in 0..20 {
        let peer = peer.clone();
        calls.spawn(async move { peer.call(SLEEP, head(60_000), Bytes::new(), LONG).await });
    }
    eventually("all run", || server.handler.running.load(SeqCst) == 20).await;
    let handler = server.handler.clone();
    let begun = Instant::now();
    server.kill().await;
    while let Some(done) = calls.join_next().await {
        assert!(matches!(done.unwrap(), Err(Error::ConnectionLost { .. })));
    }
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    eventually("all handlers ended", || handler.running.load(SeqCst) == 0).await;
    let error = peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");

    let server = Server::start_at(endpoint, &address).await;
    tokio::time::sleep(Duration::from_millis(11)).await;
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    assert_eq!(pool.endpoint().metrics().snapshot().calls_connection_lost, 20);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_at_a_new_address_is_called_there_while_calls_at_the_old_one_finish() {
    let (old, pool, peer) = pair().await;
    let slow = {
        let peer = peer.clone();
        tokio::spawn(async move { peer.call(SLEEP, head(200), Bytes::new(), LONG).await })
    };
    eventually("it runs", || old.handler.running.load(SeqCst) == 1).await;
    let new = Server::start("b").await;
    let peer = pool.peer(new.address());
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    assert_eq!(new.handler.handled.load(SeqCst), 1);
    slow.await.unwrap().unwrap();
    eventually("the old connection closes", || pool.endpoint().metrics().snapshot().connections == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_peer_is_not_tried_again_before_the_pause_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let options = Options { backoff_min: Duration::from_millis(300), ..Options::default() };
    let pool = Pool::new(endpoint("a", options));
    let peer = pool.peer(PeerAddress { node_id: 1, name: "b".into(), address });
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let peer = peer.clone();
        calls.spawn(async move { peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await });
    }
    while let Some(done) = calls.join_next().await {
        assert!(matches!(done.unwrap(), Err(Error::Unreachable { .. })));
    }
    assert_eq!(pool.endpoint().metrics().snapshot().connect_failures, 1);
    tokio::time::sleep(Duration::from_millis(310)).await;
    let _ = peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await;
    assert_eq!(pool.endpoint().metrics().snapshot().connect_failures, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_accepts_and_says_nothing_is_unreachable_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = Options { connect_timeout: Duration::from_millis(500), ..Options::default() };
    let pool = Pool::new(endpoint("a", options));
    let address = listener.local_addr().unwrap().to_string();
    let peer = pool.peer(PeerAddress { node_id: 1, name: "b".into(), address });
    let begun = Instant::now();
    let error = peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    // A caller with less time does not wait for the attempt.
    tokio::time::sleep(Duration::from_millis(15)).await;
    let begun = Instant::now();
    let error = peer.call(ECHO, Bytes::new(), Bytes::new(), Duration::from_millis(10)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(400));
}

/// Passes bytes on in both directions until told to swallow them.
async fn relay(to: String) -> (String, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (swallow, swallowing) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(to).await.unwrap();
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        for (mut from, mut to) in [(near_read, far_write), (far_read, near_write)] {
            let swallowing = swallowing.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = from.read(&mut buffer).await {
                    if !*swallowing.borrow() && to.write_all(&buffer[..read]).await.is_err() {
                        break;
                    }
                }
                if *swallowing.borrow() {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    (address, swallow)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_kept_and_one_that_fell_silent_is_lost_on_both_sides() {
    let options = || Options {
        ping_interval: Duration::from_millis(50),
        silence_limit: Duration::from_millis(200),
        ..Options::default()
    };
    let server = Server::start_with("b", options()).await;
    let (address, swallow) = relay(server.address.to_string()).await;
    let pool = Pool::new(endpoint("a", options()));
    let peer = pool.peer(PeerAddress { address, ..server.address() });
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(pool.endpoint().metrics().snapshot().connections, 1);
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();

    swallow.send(true).unwrap();
    let error = peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionLost { .. }), "{error}");
    assert_eq!(pool.endpoint().metrics().snapshot().silent_connections, 1);
    let metrics = server.endpoint.metrics();
    eventually("the server notices too", || metrics.snapshot().silent_connections == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_finishes_running_calls_and_takes_no_new_ones() {
    let (server, pool, peer) = pair().await;
    let slow = {
        let peer = peer.clone();
        tokio::spawn(async move { peer.call(SLEEP, head(300), Bytes::new(), LONG).await })
    };
    eventually("it runs", || server.handler.running.load(SeqCst) == 1).await;
    let begun = Instant::now();
    let stopped = server.stop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let error = peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    slow.await.unwrap().unwrap();
    stopped.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    eventually("the connection closes", || pool.endpoint().metrics().snapshot().connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_restart_with_goodbye_loses_no_call_that_was_begun() {
    let (server, _pool, peer) = pair().await;
    let mut callers = JoinSet::new();
    for _ in 0..16 {
        let peer = peer.clone();
        callers.spawn(async move {
            loop {
                match peer.call(ECHO, head(1), Bytes::new(), LONG).await {
                    Ok(_) => {}
                    Err(Error::Unreachable { .. }) => return,
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.stop().await.unwrap();
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_outlast_the_drain_limit_are_cut_off() {
    let options = Options { drain_limit: Duration::from_millis(100), ..Options::default() };
    let server = Server::start_with("b", options).await;
    let pool = pool("a");
    let peer = pool.peer(server.address());
    let slow = tokio::spawn(async move { peer.call(SLEEP, head(60_000), Bytes::new(), LONG).await });
    eventually("it runs", || server.handler.running.load(SeqCst) == 1).await;
    server.stop().await.unwrap();
    assert!(matches!(slow.await.unwrap(), Err(Error::ConnectionLost { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_dropped_closes_its_connections() {
    let (server, pool, peer) = pair().await;
    peer.call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    drop((pool, peer));
    let metrics = server.endpoint.metrics();
    eventually("the server has none", || metrics.snapshot().connections == 0).await;
}
