use super::*;
use cluster::NodeId;
use zeroize::Zeroizing;

const ALICE: UserId = UserId(7);
const AT: Timestamp = Timestamp { ticks: 1_700_000_000_000 << 16, node: NodeId(1) };

/// Seeds that never repeat.
fn seeds() -> impl FnMut() -> Seed {
    let mut next = 0_u64;
    move || {
        next += 1;
        Zeroizing::new(*blake3::hash(&next.to_le_bytes()).as_bytes())
    }
}

fn lock(password: &str) -> PasswordLock {
    PasswordLock::new(password, &Zeroizing::new(*blake3::hash(password.as_bytes()).as_bytes())).unwrap().0
}

fn turned_on() -> (Encryption, impl FnMut() -> Seed) {
    let mut seed = seeds();
    let mut encryption = Encryption::default();
    encryption.turn_on(ALICE, &lock("first"), &mut seed).unwrap();
    (encryption, seed)
}

#[test]
fn the_password_opens_the_key_and_neither_another_password_nor_another_account_does() {
    let (encryption, _) = turned_on();
    assert_eq!(encryption.check(), Ok(()));
    let key = encryption.sealing_key().unwrap();
    assert_eq!(encryption.unlock(ALICE, "first").key(key).unwrap().public(), key);
    assert!(encryption.unlock(ALICE, "second").is_empty());
    assert!(encryption.unlock(UserId(8), "first").is_empty(), "copied into another account");
}

#[test]
fn a_public_key_that_was_put_in_the_place_of_ours_is_noticed() {
    let (mut encryption, mut seed) = turned_on();
    encryption.pairs[0].public = PrivateKey::derive(&seed()[..]).public();
    assert!(encryption.unlock(ALICE, "first").is_empty());
}

#[test]
fn a_new_password_opens_the_same_key_and_the_old_one_opens_nothing() {
    let (mut encryption, mut seed) = turned_on();
    let key = encryption.sealing_key();
    let opened = encryption.unlock(ALICE, "first");
    let nothing = Unlocked::default();
    let refused = encryption.change_password(ALICE, &lock("second"), &nothing, &mut seed);
    assert_eq!(refused, Err(EncryptionError::WouldLose));
    encryption.change_password(ALICE, &lock("second"), &opened, &mut seed).unwrap();
    assert_eq!(encryption.sealing_key(), key);
    assert!(encryption.unlock(ALICE, "first").is_empty());
    assert!(encryption.unlock(ALICE, "second").key(key.unwrap()).is_some());
}

#[test]
fn an_app_password_opens_the_key_until_it_is_revoked_and_survives_a_change_of_the_password() {
    let (mut encryption, mut seed) = turned_on();
    let made = opener::generate(Purpose::AppPassword, ALICE, &seed());
    let app = ("phone", made.opener.public());
    let refused = encryption.add_app_password(ALICE, app, AT, &Unlocked::default(), &mut seed);
    assert_eq!(refused, Err(EncryptionError::Opens));
    let opened = encryption.unlock(ALICE, "first");
    let id = encryption.add_app_password(ALICE, app, AT, &opened, &mut seed).unwrap();
    assert!(encryption.is_app_password(ALICE, &made.text));
    assert!(!encryption.is_app_password(ALICE, "first"));
    // The app password is enough to set another password.
    let opened = encryption.unlock(ALICE, &made.text);
    encryption.change_password(ALICE, &lock("second"), &opened, &mut seed).unwrap();
    assert!(!encryption.unlock(ALICE, "second").is_empty());
    assert!(!encryption.unlock(ALICE, &made.text).is_empty());
    assert_eq!(encryption.revoke_app_password(id), Ok(true));
    assert_eq!(encryption.revoke_app_password(id), Ok(false));
    assert!(encryption.unlock(ALICE, &made.text).is_empty());
    assert!(!encryption.is_app_password(ALICE, &made.text));
    assert_eq!(encryption.check(), Ok(()));
}

#[test]
fn after_a_reset_without_the_keys_new_mail_is_readable_and_the_recovery_key_brings_back_the_old() {
    let (mut encryption, mut seed) = turned_on();
    let made = opener::generate(Purpose::Recovery, ALICE, &seed());
    let opened = encryption.unlock(ALICE, "first");
    encryption.set_recovery(ALICE, made.opener.public(), &opened, &mut seed).unwrap();
    let old = encryption.sealing_key().unwrap();

    encryption.reset(ALICE, &lock("second"), &mut seed).unwrap();
    let new = encryption.sealing_key().unwrap();
    assert_ne!(old, new);
    assert_eq!(encryption.locked_pairs(), 1);
    let second = encryption.unlock(ALICE, "second");
    assert!(second.key(new).is_some() && second.key(old).is_none());
    assert!(encryption.unlock(ALICE, "first").is_empty());
    assert_eq!(encryption.check(), Ok(()));

    let recovered = encryption.unlock(ALICE, &made.text);
    assert!(recovered.key(new).is_some() && recovered.key(old).is_some());
    encryption.adopt(ALICE, &recovered, &mut seed).unwrap();
    assert_eq!(encryption.locked_pairs(), 0);
    let second = encryption.unlock(ALICE, "second");
    assert!(second.key(new).is_some() && second.key(old).is_some());
}

#[test]
fn a_second_reset_does_not_forget_what_the_recovery_key_opens_and_resets_are_bounded() {
    let (mut encryption, mut seed) = turned_on();
    let made = opener::generate(Purpose::Recovery, ALICE, &seed());
    let opened = encryption.unlock(ALICE, "first");
    encryption.set_recovery(ALICE, made.opener.public(), &opened, &mut seed).unwrap();
    for reset in 1..PAIRS {
        encryption.reset(ALICE, &lock(&format!("reset {reset}")), &mut seed).unwrap();
    }
    let before = encryption.clone();
    assert_eq!(encryption.reset(ALICE, &lock("last"), &mut seed), Err(EncryptionError::Pairs));
    assert_eq!(encryption, before);
    assert_eq!(encryption.unlock(ALICE, &made.text).keys().count(), PAIRS);
}

#[test]
fn without_a_recovery_key_a_reset_leaves_nothing_that_could_open_the_old_key() {
    let (mut encryption, mut seed) = turned_on();
    let old = encryption.sealing_key().unwrap();
    encryption.reset(ALICE, &lock("second"), &mut seed).unwrap();
    assert!(encryption.pairs.iter().all(|pair| pair.public != old));
}

#[test]
fn the_only_secret_that_opens_a_key_is_not_taken_away() {
    let (mut encryption, mut seed) = turned_on();
    let app = opener::generate(Purpose::AppPassword, ALICE, &seed());
    let opened = encryption.unlock(ALICE, "first");
    let id =
        encryption.add_app_password(ALICE, ("phone", app.opener.public()), AT, &opened, &mut seed).unwrap();
    encryption.reset(ALICE, &lock("second"), &mut seed).unwrap();
    assert_eq!(encryption.revoke_app_password(id), Err(EncryptionError::WouldLose));
    // Another recovery key may not drop what only the first one opens.
    let (mut encryption, mut seed) = turned_on();
    let recovery = opener::generate(Purpose::Recovery, ALICE, &seed());
    let opened = encryption.unlock(ALICE, "first");
    encryption.set_recovery(ALICE, recovery.opener.public(), &opened, &mut seed).unwrap();
    encryption.reset(ALICE, &lock("second"), &mut seed).unwrap();
    let other = opener::generate(Purpose::Recovery, ALICE, &seed()).opener.public();
    let second = encryption.unlock(ALICE, "second");
    assert_eq!(encryption.set_recovery(ALICE, other, &second, &mut seed), Err(EncryptionError::Opens));
}

#[test]
fn turning_off_and_on_again_keeps_the_key() {
    let (mut encryption, mut seed) = turned_on();
    let key = encryption.sealing_key();
    encryption.turn_off();
    assert_eq!(encryption.sealing_key(), None);
    assert!(!encryption.unlock(ALICE, "first").is_empty(), "late copies must stay readable");
    encryption.turn_on(ALICE, &lock("ignored"), &mut seed).unwrap();
    assert_eq!(encryption.sealing_key(), key);
    assert!(!encryption.unlock(ALICE, "first").is_empty());
}

#[test]
fn it_survives_both_codings_and_json_shows_hexadecimal() {
    let (encryption, _) = turned_on();
    let bytes = postcard::to_stdvec(&encryption).unwrap();
    assert_eq!(postcard::from_bytes::<Encryption>(&bytes).unwrap(), encryption);
    let json = serde_json::to_string(&encryption).unwrap();
    assert!(json.contains(&encryption.sealing_key().unwrap().to_string()));
    assert_eq!(serde_json::from_str::<Encryption>(&json).unwrap(), encryption);
}

#[test]
fn app_passwords_have_names_and_are_bounded() {
    let mut seed = seeds();
    let mut encryption = Encryption::default();
    let mut add = |name: &str| {
        let lock = opener::generate(Purpose::AppPassword, ALICE, &seed()).opener.public();
        encryption.add_app_password(ALICE, (name, lock), AT, &Unlocked::default(), &mut seed)
    };
    assert_eq!(add(""), Err(EncryptionError::Name));
    assert_eq!(add("two\nlines"), Err(EncryptionError::Name));
    for _ in 0..APP_PASSWORDS {
        add("phone").unwrap();
    }
    assert_eq!(add("phone"), Err(EncryptionError::AppPasswords(APP_PASSWORDS)));
}
