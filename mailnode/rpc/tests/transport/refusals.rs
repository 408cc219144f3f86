//! Connections that must not come about, and that both sides learn why.

use super::support::*;
use bytes::Bytes;
use rpc::pki::{Authority, DEFAULT_VALIDITY, NodeTls};
use rpc::{Endpoint, Error, Identity, Options, PeerAddress, Pool};

/// The client's reason, after checking that both sides counted a refusal and nothing was executed.
async fn refused(client: Endpoint, server: &Server, wanted: PeerAddress) -> String {
    let pool = Pool::new(client.clone());
    let error = pool.peer(wanted).call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap_err();
    assert!(error.certainly_not_executed());
    let Error::Refused { reason, .. } = error else { panic!("{error}") };
    assert_eq!(client.metrics().snapshot().refused_outgoing, 1);
    let metrics = server.endpoint.metrics();
    eventually("the server counts it", || metrics.snapshot().refused_incoming == 1).await;
    assert_eq!(metrics.snapshot().requests, 0);
    reason.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused() {
    let server = Server::start("b").await;
    let identity = Identity { cluster: "other".into(), ..identity("a") };
    let client = Endpoint::new(identity, node_tls("a"), Options::default()).unwrap();
    let reason = refused(client, &server, server.address()).await;
    assert!(reason.contains("\"other\"") && reason.contains("\"test\""), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_a_common_version_refuse_each_other() {
    let server = Server::start_with("b", Options { versions: 2..=3, ..Options::default() }).await;
    let client = endpoint("a", Options { versions: 4..=5, ..Options::default() });
    let reason = refused(client, &server, server.address()).await;
    assert!(reason.contains("2-3") && reason.contains("4-5"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_highest_common_version_is_what_the_handler_sees() {
    let server = Server::start_with("b", Options { versions: 2..=7, ..Options::default() }).await;
    let pool = Pool::new(endpoint("a", Options { versions: 1..=4, ..Options::default() }));
    let answer = pool.peer(server.address()).call(ABOUT, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    assert!(answer.head.ends_with(b"/4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_another_ca_is_refused_by_the_server_and_hears_so() {
    let server = Server::start("b").await;
    let other = Authority::generate("other", DEFAULT_VALIDITY).unwrap();
    // It trusts our CA, but its own certificate is of another.
    let tls = NodeTls::from_pem(AUTHORITY.certificate_pem(), &certificate(&other, "a")).unwrap();
    let client = Endpoint::new(identity("a"), tls, Options::default()).unwrap();
    let reason = refused(client, &server, server.address()).await;
    assert!(reason.contains("certificate"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_ca_is_refused_by_the_client() {
    let other = Authority::generate("other", DEFAULT_VALIDITY).unwrap();
    let tls = NodeTls::from_pem(AUTHORITY.certificate_pem(), &certificate(&other, "b")).unwrap();
    let server = Endpoint::new(identity("b"), tls, Options::default()).unwrap();
    let server = Server::start_at(server, "127.0.0.1:0").await;
    let reason = refused(endpoint("a", Options::default()), &server, server.address()).await;
    assert!(reason.contains("certificate"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_another_node_than_wanted_is_refused() {
    let server = Server::start("b").await;
    let wanted = PeerAddress { name: "c".into(), node_id: node_id("c"), ..server.address() };
    let reason = refused(endpoint("a", Options::default()), &server, wanted).await;
    assert!(reason.contains("certificate"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_the_right_name_and_another_id_is_refused() {
    let server = Server::start("b").await;
    let wanted = PeerAddress { node_id: 99, ..server.address() };
    let reason = refused(endpoint("a", Options::default()), &server, wanted).await;
    assert!(reason.contains("was wanted"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_another_name_than_its_certificate_is_refused() {
    let server = Server::start("b").await;
    let client = Endpoint::new(identity("c"), node_tls("a"), Options::default()).unwrap();
    let reason = refused(client, &server, server.address()).await;
    assert!(reason.contains("does not prove the name \"c\""), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_the_mail_ports_proves_no_node() {
    let server = Server::start("b").await;
    let mail = AUTHORITY.issue_server(&["mail.example.org".into()], &[], DEFAULT_VALIDITY).unwrap();
    let tls = NodeTls::from_pem(AUTHORITY.certificate_pem(), &mail).unwrap();
    let client = Endpoint::new(identity("a"), tls, Options::default()).unwrap();
    refused(client, &server, server.address()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_are_not_accepted() {
    let server = Server::start_with("b", Options { max_connections: 1, ..Options::default() }).await;
    let (first, second) = (pool("a"), pool("c"));
    first.peer(server.address()).call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap();
    let error = second.peer(server.address()).call(ECHO, Bytes::new(), Bytes::new(), LONG).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(server.endpoint.metrics().snapshot().refused_incoming, 1);
}
