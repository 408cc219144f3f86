//! Accounts go from the embedded database into TiKV and back, through every line of an export.

mod support;

use cluster::mailbox::Reservation;
use cluster::{FolderId, UserId};
use directory::accounts::transfer::{Cursor, Imported, Line};
use directory::{AccountError, Accounts, Credentials, Records};
use support::embedded::OneNode;
use support::server::Server;
use support::suite::AT;

fn over<R: Records>(records: R) -> Accounts<R> {
    Accounts::new(records, rand::random)
}

async fn export<R: Records>(accounts: &Accounts<R>) -> Vec<Line> {
    let (mut lines, mut from) = (Vec::new(), Some(Cursor::START));
    while let Some(cursor) = from {
        let page = accounts.export(cursor).await.unwrap();
        lines.extend(page.lines);
        from = page.next;
    }
    lines
}

async fn import<R: Records>(accounts: &Accounts<R>, lines: &[Line]) -> Vec<Result<Imported, AccountError>> {
    let mut outcomes = Vec::new();
    for line in lines {
        outcomes.push(accounts.import(line.clone()).await);
    }
    outcomes
}

/// Everything is made, is as the lines say, and fits together.
async fn arrives<R: Records>(lines: &[Line], accounts: &Accounts<R>) {
    let outcomes = import(accounts, lines).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Ok(Imported::Made)), "{outcomes:?}");
    for line in lines {
        assert_eq!(accounts.difference(line).await, Ok(None), "{}", line.name());
    }
    let mut from = Some(Cursor::START);
    while let Some(cursor) = from {
        let page = accounts.inspect(cursor).await.unwrap();
        assert_eq!(page.problems, []);
        from = page.next;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PRICKLE_TIKV (make tikv-e2e)"]
async fn accounts_go_from_the_embedded_database_into_tikv_and_back() {
    let server = Server::start();
    let (first, tikv, last) = (over(OneNode::new()), over(server.client()), over(OneNode::new()));
    const USERS: usize = 150;
    first.add_domain("example.org").await.unwrap();
    let mut ids: Vec<UserId> = Vec::new();
    for n in 0..USERS {
        let address = format!("u{n:03}@example.org");
        let user = first.add_user(&address, Credentials::Locked, n as u64, AT).await.unwrap().id;
        first.reserve_uids(user, FolderId::INBOX, &Reservation::new(1_000, AT)).await.unwrap();
        let folder = |profile: &mut directory::Profile| profile.create_folder("Lists/Rust", None, AT);
        first.update_profile(user, folder).await.unwrap();
        first.add_alias(&format!("a{n:03}@example.org"), &[address]).await.unwrap();
        ids.push(user);
    }
    let lines = export(&first).await;
    assert_eq!(lines.len(), 1 + 2 * USERS);
    arrives(&lines, &tikv).await;
    arrives(&export(&tikv).await, &last).await;
    assert!(import(&tikv, &lines).await.iter().all(|outcome| *outcome == Ok(Imported::Present)));
    for (n, user) in ids.iter().enumerate() {
        assert_eq!(last.resolve(&format!("a{n:03}@example.org")).await, Ok(vec![*user].into()));
        let before = first.profile(*user).await.unwrap();
        let (_, block) = last.reserve_uids(*user, FolderId::INBOX, &Reservation::new(1, AT)).await.unwrap();
        let block = block.unwrap();
        assert!(block.first > before.folders[&FolderId::INBOX].next_uid);
    }
}
