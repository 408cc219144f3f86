//! UID reservations a second, for docs/figures/tikv.md:
//! `PRICKLE_TIKV=$(e2e/tikv/build.sh) cargo test --release -p directory-tikv --test figures -- --ignored --nocapture`.

mod support;

use cluster::mailbox::Reservation;
use cluster::{FolderId, UserId};
use directory::{AccountError, Accounts, Credentials};
use directory_tikv::Tikv;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;
use support::server::Server;
use support::suite::AT;

const MANAGERS: usize = 8;
const EACH: usize = 250;

/// First UIDs of `EACH` blocks, and how often somebody else was faster too often.
async fn reserve(accounts: Arc<Accounts<Tikv>>, user: UserId) -> (Vec<u32>, usize) {
    let (mut firsts, mut refused) = (Vec::new(), 0);
    while firsts.len() < EACH {
        match accounts.reserve_uids(user, FolderId::INBOX, &Reservation::new(10, AT)).await {
            Ok((_, Some(block))) => firsts.push(block.first),
            Err(AccountError::Temporary(_)) if refused < 100 * EACH => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    (firsts, refused)
}

/// What managers with a connection of their own reserve, each for the user of its number.
async fn all_reserve(server: &Server, users: &[UserId]) {
    let managers: Vec<_> =
        users.iter().map(|_| Arc::new(Accounts::new(server.client(), rand::random))).collect();
    for (accounts, &user) in managers.iter().zip(users) {
        // Connects.
        accounts.profile(user).await.unwrap();
    }
    let begun = Instant::now();
    let tasks: Vec<_> = managers
        .into_iter()
        .zip(users)
        .map(|(accounts, &user)| (user, tokio::spawn(reserve(accounts, user))))
        .collect();
    let (mut blocks, mut refused) = (BTreeSet::new(), 0);
    for (user, task) in tasks {
        let (firsts, more) = task.await.unwrap();
        refused += more;
        for first in firsts {
            assert!(blocks.insert((user, first)), "UID {first} is given twice");
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (managers, rate) = (users.len(), blocks.len() as f64 / seconds);
    let users = users.iter().collect::<BTreeSet<_>>().len();
    println!(
        "{managers} managers, {users} users: {rate:.0} reservations a second, {refused} to be tried again"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn uid_reservations_a_second() {
    let server = Server::start();
    let accounts = Accounts::new(server.client(), rand::random);
    accounts.add_domain("example.org").await.unwrap();
    let mut users = Vec::new();
    for n in 0..MANAGERS {
        let address = format!("u{n}@example.org");
        users.push(accounts.add_user(&address, Credentials::Locked, 0, AT).await.unwrap().id);
    }
    all_reserve(&server, &users[..1]).await;
    all_reserve(&server, &users).await;
    // After a division two nodes may take themselves for the manager of one mailbox.
    all_reserve(&server, &[users[0]; 2]).await;
}
