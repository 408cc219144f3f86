//! The contract of [`directory::Records`], for the embedded database and for TiKV.

mod support;

use support::embedded::OneNode;
use support::server::Server;
use support::suite;

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_database_keeps_the_contract() {
    suite::all(OneNode::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn tikv_keeps_the_contract() {
    let server = Server::start();
    suite::all(server.client()).await;
}
