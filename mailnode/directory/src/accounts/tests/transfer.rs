use super::super::transfer::{AliasLine, Cursor, DomainLine, Header, Imported, Line, Problem};
use super::*;

const OVERTAKEN: UserId = UserId(u128::MAX);

/// All lines, each written as JSON and read again, and each cursor as text.
fn export(accounts: &Accounts<MemoryRecords>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut from = Some(Cursor::START);
    while let Some(cursor) = from {
        assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
        let page = now(accounts.export(cursor)).unwrap();
        lines.extend(page.lines);
        from = page.next;
    }
    let json = |line: &Line| serde_json::from_str(&serde_json::to_string(line).unwrap()).unwrap();
    let read: Vec<Line> = lines.iter().map(json).collect();
    assert_eq!(read, lines);
    lines
}

fn import(accounts: &Accounts<MemoryRecords>, lines: &[Line]) -> Vec<Result<Imported, AccountError>> {
    lines.iter().map(|line| now(accounts.import(line.clone()))).collect()
}

fn problems(accounts: &Accounts<MemoryRecords>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut from = Some(Cursor::START);
    while let Some(cursor) = from {
        let page = now(accounts.inspect(cursor)).unwrap();
        let text = |Problem { record, problem }| format!("{record}: {problem}");
        problems.extend(page.problems.into_iter().map(text));
        from = page.next;
    }
    problems
}

fn empty() -> Accounts<MemoryRecords> {
    Accounts::new(MemoryRecords::default(), random)
}

/// Two users with folders and UIDs, an alias, a second domain, and half-made things.
fn busy_place() -> Accounts<MemoryRecords> {
    let accounts = accounts();
    let alice = accounts.add("Alice@example.org").unwrap();
    accounts.add("\"b o@b\"@example.org").unwrap_err();
    accounts.add("\"bo@b\"@example.org").unwrap();
    now(accounts.add_domain("Bücher.example")).unwrap();
    now(accounts.add_alias("all@bücher.example", &["alice@example.org".into()])).unwrap();
    let (owners, members) =
        (["alice@example.org".into()], ["alice@example.org".into(), "x@example.net".into()]);
    now(accounts.add_list("team@example.org", &owners, Posting::Anyone, "The team".into())).unwrap();
    now(accounts.subscribe("team@example.org", &members)).unwrap();
    now(accounts.update_profile(alice, |profile| profile.create_folder("Work/2026", None, AT))).unwrap();
    now(accounts.set_credentials(alice, Credentials::new("correct horse").unwrap())).unwrap();
    now(accounts.reserve_uids(alice, FolderId::INBOX, &Reservation::new(1_000, AT))).unwrap();
    accounts.die_after(Some(1));
    accounts.add("half@example.org").unwrap_err();
    accounts.die_after(None);
    // An account whose making was overtaken: its address is Alice's.
    let address = Address::parse("alice@example.org").unwrap();
    let overtaken = Profile::new(OVERTAKEN, address, Credentials::Locked, 0, AT);
    now(accounts.set(&Key::profile(OVERTAKEN), 0, Some(overtaken.encode().into()))).unwrap();
    accounts
}

#[test]
fn accounts_go_from_one_database_to_another_and_the_half_made_stay_behind() {
    let (here, there) = (busy_place(), empty());
    let lines = export(&here);
    let is_members = |line: &&Line| matches!(line, Line::Members(_));
    assert_eq!(lines.iter().filter(is_members).count(), 2, "one a shard");
    let names: Vec<String> = lines.iter().filter(|line| !is_members(line)).map(Line::name).collect();
    assert_eq!(
        names,
        [
            "domain example.org",
            "domain xn--bcher-kva.example",
            "alias all@xn--bcher-kva.example",
            "list team@example.org",
            "account Alice@example.org",
            "account \"bo@b\"@example.org",
        ]
    );
    assert!(import(&there, &lines).iter().all(|outcome| *outcome == Ok(Imported::Made)));
    for line in &lines {
        assert_eq!(now(there.difference(line)), Ok(None), "{}", line.name());
    }
    assert_eq!(problems(&there), Vec::<String>::new());
    assert!(import(&there, &lines).iter().all(|outcome| *outcome == Ok(Imported::Present)));
    let alice = now(here.resolve("alice+x@example.org")).unwrap();
    for address in ["ALICE@example.org", "all@bücher.example", "postmaster@example.org"] {
        assert_eq!(now(there.resolve(address)), Ok(alice.clone()), "{address}");
    }
    let profile = now(there.profile(alice.users[0])).unwrap();
    assert!(profile.verify_password("correct horse") && profile.folder_named("Work/2026").is_some());
    assert_eq!(now(there.resolve("half@example.org")), Err(AccountError::NotFound));
    // On the way back they are there already, however many UIDs were reserved meanwhile.
    now(there.reserve_uids(alice.users[0], FolderId::INBOX, &Reservation::new(10, AT))).unwrap();
    assert!(import(&here, &export(&there)).iter().all(|outcome| *outcome == Ok(Imported::Present)));
}

#[test]
fn an_import_that_died_at_any_write_is_completed_by_repeating_it() {
    let lines = export(&busy_place());
    let mut died = 0;
    for writes in 0..20 {
        let there = empty();
        there.die_after(Some(writes));
        let first = import(&there, &lines);
        there.die_after(None);
        died += usize::from(first.iter().any(Result::is_err));
        assert!(import(&there, &lines).iter().all(Result::is_ok), "{writes}");
        assert_eq!(problems(&there), Vec::<String>::new(), "{writes}");
        for line in &lines {
            assert_eq!(now(there.difference(line)), Ok(None), "{writes} {}", line.name());
        }
    }
    // Two domains, an alias, a list with members in two shards, two accounts of two records each.
    assert_eq!(died, 10);
}

#[test]
fn what_is_there_and_different_is_refused_and_stays() {
    let here = busy_place();
    let lines = export(&here);
    let there = accounts();
    // Another account has the address.
    let other = there.add("alice@example.org").unwrap();
    now(there.add_alias("bo@example.org", &["alice@example.org".into()])).unwrap();
    let refused = |outcome: Result<Imported, AccountError>| match outcome {
        Err(AccountError::Invalid(text)) => text,
        other => panic!("{other:?}"),
    };
    let alice = lines.iter().find(|line| line.name().contains("Alice")).unwrap();
    assert!(refused(now(there.import(alice.clone()))).contains("leads elsewhere"));
    assert_eq!(now(there.difference(alice)), Ok(Some("is missing".into())));
    assert_eq!(now(there.resolve("alice@example.org")), Ok(vec![other].into()));
    // The same account, changed since.
    let id = now(here.login_name("alice@example.org")).unwrap();
    now(here.set_credentials(id, Credentials::Locked)).unwrap();
    assert!(refused(now(here.import(alice.clone()))).contains("credentials"));
    assert_eq!(now(here.difference(alice)), Ok(Some("has other credentials".into())));
    assert_eq!(now(here.profile(id)).unwrap().credentials, Credentials::Locked);
    // An alias that leads elsewhere; a domain that is not there; what is no record.
    let address = |text: &str| Address::parse(text).unwrap();
    let alias = |name: &str| AliasLine { address: address(name), targets: vec![address("x@example.org")] };
    assert!(refused(now(there.import(Line::Alias(alias("bo@example.org"))))).contains("elsewhere"));
    assert!(refused(now(there.import(Line::Alias(alias("a@nowhere.example"))))).contains("domain"));
    assert!(refused(now(there.import(Line::Header(Header { format: 1 })))).contains("no records"));
    let domain = DomainLine { name: "no domain".into(), postmaster: None, encryption: Mode::Cluster };
    assert!(matches!(now(there.import(Line::Domain(domain))), Err(AccountError::Address(_))));
}

#[test]
fn what_does_not_fit_together_is_named() {
    let accounts = busy_place();
    assert_eq!(
        problems(&accounts),
        [
            "address half@example.org: half-made: it leads to no account".to_owned(),
            format!("account {OVERTAKEN}: its address alice@example.org does not lead to it"),
            format!("account {OVERTAKEN}: half-made: none of its addresses leads to it"),
        ]
    );
    accounts.repair_fully();
    assert_eq!(problems(&accounts), Vec::<String>::new());
    // Removed by somebody who died before the last of the steps.
    accounts.die_after(Some(2));
    now(accounts.remove_user("alice@example.org")).unwrap();
    accounts.die_after(None);
    let damaged = Key::address(&Address::parse("damaged@gone.example").unwrap());
    now(accounts.set(&damaged, 0, Some(Bytes::from_static(b"?")))).unwrap();
    assert_eq!(
        problems(&accounts),
        [
            "domain example.org: its postmaster is an account that is gone",
            "address all@xn--bcher-kva.example: the alias leads to nobody",
            "address damaged@gone.example: its domain is not there",
            "address damaged@gone.example: record of a newer format (63); update this node",
        ]
    );
    // An export that left it out would lose it.
    let exported = now(accounts.export("a".parse().unwrap()));
    assert!(matches!(exported, Err(AccountError::Invalid(text)) if text.contains("damaged@gone.example")));
}

#[test]
fn large_databases_are_exported_and_inspected_in_pages() {
    let here = accounts();
    for n in 0..1_200 {
        now(here.add_domain(&format!("d{n:04}.example"))).unwrap();
    }
    let lines = export(&here);
    assert_eq!(lines.len(), 1_201);
    assert!(lines.is_sorted_by(|one, next| one.name() < next.name()));
    assert_eq!(problems(&here), Vec::<String>::new());
    for bad in ["", "x00", "d0", "dxy", "p\u{e4}", &format!("d{}", "00".repeat(600))] {
        assert!(bad.parse::<Cursor>().is_err(), "{bad:?}");
    }
}

#[test]
fn an_account_cannot_take_the_place_of_the_outbound_queue() {
    let there = accounts();
    let address = Address::parse("eve@example.org").unwrap();
    let id = cluster::queue_user(cluster::Bucket(7));
    let profile = Profile::new(id, address, Credentials::Locked, 0, AT);
    let refused = now(there.import(Line::User(Box::new(profile)))).unwrap_err();
    assert!(refused.to_string().contains("outbound queue"), "{refused}");
}
