use super::*;
use cluster::NodeId;

fn at(seconds: u64) -> Timestamp {
    Timestamp { ticks: (seconds * 1000) << 16, node: NodeId(1) }
}

fn profile() -> Profile {
    let address = Address::parse("alice@example.org").unwrap();
    Profile::new(UserId(7), address, Credentials::Locked, 0, at(1_700_000_000))
}

#[test]
fn a_new_account_has_inbox_and_special_use_folders_with_different_uid_validities() {
    let profile = profile();
    assert_eq!(profile.folder_named("inbox").unwrap().id, FolderId::INBOX);
    assert_eq!(profile.folder_named("Sent").unwrap().special_use, Some(SpecialUse::Sent));
    let validities: BTreeSet<u32> = profile.folders.values().map(|folder| folder.uid_validity).collect();
    assert_eq!(validities.len(), 6);
    assert!(!validities.contains(&0));
    assert!(profile.folders.values().all(|folder| profile.is_subscribed(&folder.name)));
}

#[test]
fn a_name_made_again_is_a_new_folder_with_a_higher_uid_validity() {
    let mut profile = profile();
    let first = profile.create_folder("Lists", None, at(1_700_000_001)).unwrap();
    let before = profile.folders[&first].uid_validity;
    profile.delete_folder("Lists", at(1_700_000_002)).unwrap();
    // The clock went back; numbers do not.
    let second = profile.create_folder("Lists", None, at(5)).unwrap();
    assert!(second > first);
    assert!(profile.folders[&second].uid_validity > before);
    assert_eq!(profile.folder_table().deleted.get(&first), Some(&at(1_700_000_002)));
    assert!(profile.folder_table().live.contains(&second));
}

#[test]
fn create_makes_the_folders_above() {
    let mut profile = profile();
    profile.create_folder("a/b/c", None, at(1)).unwrap();
    assert!(profile.folder_named("a").is_some() && profile.folder_named("a/b").is_some());
    assert_eq!(profile.create_folder("a/b", None, at(1)), Err(ProfileError::AlreadyExists));
    assert_eq!(profile.create_folder("INBOX", None, at(1)), Err(ProfileError::AlreadyExists));
}

#[test]
fn rename_takes_inferiors_along_and_keeps_ids() {
    let mut profile = profile();
    let deep = profile.create_folder("a/b", None, at(1)).unwrap();
    let top = profile.folder_named("a").unwrap().id;
    assert_eq!(profile.rename_folder("a", "x/y", at(2)), Ok(Renamed::Folder(top)));
    assert_eq!(profile.folder_named("x/y/b").unwrap().id, deep);
    assert!(profile.folder_named("a").is_none());
    assert_eq!(profile.rename_folder("x", "x/z", at(3)), Err(ProfileError::IntoItself));
    assert_eq!(profile.rename_folder("none", "x/z", at(3)), Err(ProfileError::NotFound));
    profile.create_folder("q/b", None, at(4)).unwrap();
    profile.delete_folder("q", at(4)).unwrap();
    let before = profile.clone();
    assert_eq!(profile.rename_folder("x/y", "q", at(5)), Err(ProfileError::AlreadyExists));
    assert_eq!(profile, before);
}

#[test]
fn inbox_stays_when_it_is_renamed_and_cannot_be_deleted() {
    let mut profile = profile();
    let Ok(Renamed::MoveInbox(target)) = profile.rename_folder("INBOX", "Old/2023", at(1)) else { panic!() };
    assert_eq!(profile.folders[&target].name, "Old/2023");
    assert!(profile.folder_named("INBOX").is_some());
    assert_eq!(profile.delete_folder("inbox", at(1)), Err(ProfileError::Inbox));
}

#[test]
fn folders_are_limited() {
    let mut profile = profile();
    let outcome =
        (0..FOLDERS).try_for_each(|n| profile.create_folder(&format!("f{n}"), None, at(1)).map(|_| ()));
    assert!(matches!(outcome, Err(ProfileError::Limit { .. })));
    assert_eq!(profile.folders.len(), FOLDERS);
}

#[test]
fn subscriptions_outlive_folders() {
    let mut profile = profile();
    profile.create_folder("Lists", None, at(1)).unwrap();
    profile.subscribe("Lists").unwrap();
    profile.delete_folder("Lists", at(1)).unwrap();
    assert!(profile.is_subscribed("Lists"));
    profile.unsubscribe("Lists").unwrap();
    assert!(!profile.is_subscribed("Lists"));
}

#[test]
fn a_profile_survives_its_record_and_other_formats_are_told_apart() {
    let mut profile = profile();
    profile.reserve_uids(FolderId::INBOX, &Reservation::new(1_000, at(9))).unwrap();
    profile.delete_folder("Junk", at(10)).unwrap();
    let bytes = profile.encode();
    assert_eq!(Profile::decode(&bytes), Ok(profile));
    let mut newer = bytes.clone();
    newer[0] = 9;
    assert_eq!(Profile::decode(&newer), Err(CodecError::Newer(9)));
    assert_eq!(Profile::decode(&bytes[..bytes.len() / 2]), Err(CodecError::Damaged));
    assert_eq!(Profile::decode(&[]), Err(CodecError::Damaged));
}

#[test]
fn credentials_are_not_printed() {
    let mut profile = profile();
    profile.credentials = Credentials::Password("$argon2id$secret".into());
    assert!(!format!("{profile:?}").contains("secret"));
}
