use super::*;
use directory::Encryption;
use directory::encryption::PasswordLock;

const SECRET: &[u8] = b"a cluster secret of thirty-two b";
const ALICE: UserId = UserId(1);

fn whole(opened: Result<Opened, CryptoError>) -> Bytes {
    match opened.unwrap() {
        Opened::Whole(body) => body,
        Opened::Manifest(_) => panic!("nothing was cut out of it"),
    }
}

fn keys() -> Keys {
    Keys::new(&Secrets::one(SECRET)).unwrap()
}

/// A message of Alice's: what is stored, and its entry's reference.
fn sealed(body: &[u8], seal_to: Option<PublicKey>) -> (Bytes, BlobRef) {
    let sealed = keys().seal(body).unwrap();
    let blob = sealed.blob(&keys(), ALICE, seal_to, Timestamp::ZERO).unwrap();
    (sealed.ciphertext, blob)
}

/// A user's public key, and all that their password opens.
fn user_with_keys(user: UserId) -> (PublicKey, Unlocked) {
    let (lock, _) = PasswordLock::new("password", &seed()).unwrap();
    let mut encryption = Encryption::default();
    encryption.turn_on(user, &lock, &mut seed).unwrap();
    (encryption.sealing_key().unwrap(), encryption.unlock(user, "password"))
}

fn with_key(blob: &BlobRef, key: WrappedKey) -> BlobRef {
    BlobRef { key: Register::new(key, Timestamp::ZERO), ..blob.clone() }
}

#[test]
fn a_body_comes_back_and_equal_bodies_are_one_blob() {
    let ((one, first), (two, second)) = (sealed(b"hello", None), sealed(b"hello", None));
    assert_eq!((first.id, first.size), (second.id, 5));
    assert_eq!(one, two);
    assert_ne!(first.key, second.key, "wrapped keys do not show which entries share a body");
    assert_eq!(&whole(keys().open(&first, two, None))[..], b"hello");
    assert!(!one.windows(5).any(|window| window == b"hello"));
    assert_eq!(sealed(b"", None).1.size, 0);
}

#[test]
fn another_clusters_secret_gives_another_name_so_that_guesses_cannot_be_confirmed() {
    let theirs = Keys::new(&Secrets::one(&[7; 32])).unwrap().seal(b"hello").unwrap();
    assert_ne!(sealed(b"hello", None).1.id, theirs.id);
}

#[test]
fn a_damaged_copy_or_a_key_of_another_blob_is_refused() {
    let (ciphertext, blob) = sealed(b"hello", None);
    let mut bad = ciphertext.to_vec();
    bad[3] ^= 1;
    assert_eq!(keys().open(&blob, bad.into(), None), Err(CryptoError::Damaged));
    let mixed = with_key(&blob, sealed(b"other", None).1.key.value);
    assert_eq!(keys().open(&mixed, ciphertext, None), Err(CryptoError::Key));
}

#[test]
fn a_short_secret_is_refused() {
    assert!(matches!(Keys::new(&Secrets::one(&[1; 31])), Err(CryptoError::ShortSecret)));
}

#[test]
fn what_is_sealed_to_a_user_opens_with_their_key_only() {
    let (public, unlocked) = user_with_keys(ALICE);
    let (ciphertext, blob) = sealed(b"hello", Some(public));
    assert_eq!(Wrapping::of(&blob.key.value), Some(Wrapping::User));
    let open = |blob: &BlobRef, reader| keys().open(blob, ciphertext.clone(), reader);
    assert_eq!(&whole(open(&blob, Some((ALICE, &unlocked))))[..], b"hello");
    assert_eq!(open(&blob, None), Err(CryptoError::Locked), "the cluster's secret alone does not do");
    let (_, others) = user_with_keys(UserId(2));
    assert_eq!(open(&blob, Some((UserId(2), &others))), Err(CryptoError::Locked));
    // Alice's key, on an entry that was put into another mailbox.
    assert_eq!(open(&blob, Some((UserId(2), &unlocked))), Err(CryptoError::Key));
}

#[test]
fn a_sealed_key_on_another_blob_or_tampered_with_is_refused() {
    let (public, unlocked) = user_with_keys(ALICE);
    let (ciphertext, blob) = sealed(b"hello", Some(public));
    let swapped = with_key(&blob, sealed(b"other", Some(public)).1.key.value);
    let reader = Some((ALICE, &unlocked));
    assert_eq!(keys().open(&swapped, ciphertext.clone(), reader), Err(CryptoError::Key));
    for at in 0..blob.key.value.0.len() {
        let mut bytes = blob.key.value.0.clone();
        bytes[at] ^= 1;
        let tampered = with_key(&blob, WrappedKey(bytes));
        assert!(keys().open(&tampered, ciphertext.clone(), reader).is_err(), "byte {at}");
    }
    for length in 0..blob.key.value.0.len() {
        let cut = with_key(&blob, WrappedKey(blob.key.value.0[..length].to_vec()));
        assert!(keys().open(&cut, ciphertext.clone(), reader).is_err(), "{length} bytes");
    }
}

#[test]
fn the_key_goes_from_the_cluster_to_the_user_and_back_and_the_body_stays() {
    let (public, unlocked) = user_with_keys(ALICE);
    let (ciphertext, first) = sealed(b"hello", None);
    assert!(keys().can_unwrap(&first.id, &first.key.value));
    let for_user = with_key(&first, keys().seal_to_user(&first, ALICE, public).unwrap());
    assert!(!keys().can_unwrap(&for_user.id, &for_user.key.value));
    let reader = Some((ALICE, &unlocked));
    assert_eq!(&whole(keys().open(&for_user, ciphertext.clone(), reader))[..], b"hello");
    assert_eq!(keys().wrap_for_cluster(&for_user, None), Err(CryptoError::Locked));
    let back = with_key(&first, keys().wrap_for_cluster(&for_user, reader).unwrap());
    assert_eq!(&whole(keys().open(&back, ciphertext, None))[..], b"hello");
}

#[test]
fn a_part_comes_back_by_its_key_alone_and_equal_parts_are_one_blob() {
    let (one, two) = (keys().seal_part(b"a part").unwrap(), keys().seal_part(b"a part").unwrap());
    assert_eq!((one.id, &one.ciphertext), (two.id, &two.ciphertext));
    assert_eq!(BlobKind::of(&one.ciphertext), BlobKind::Part);
    assert_eq!(&open_part(one.id, &one.key, one.ciphertext.clone()).unwrap()[..], b"a part");
    assert_ne!(Keys::new(&Secrets::one(&[7; 32])).unwrap().seal_part(b"a part").unwrap().id, one.id);
    let other = keys().seal_part(b"another").unwrap();
    assert_eq!(open_part(one.id, &other.key, one.ciphertext.clone()), Err(CryptoError::Damaged));
    assert_eq!(open_part(one.id, &one.key, other.ciphertext), Err(CryptoError::Damaged));
    // Bound to its head: it cannot be passed off as a body, even under a right name.
    let headless = one.ciphertext.slice(BlobKind::Part.to_head().len()..);
    assert_eq!(open_part(BlobId::of(&headless), &one.key, headless), Err(CryptoError::Damaged));
}

#[test]
fn a_manifest_names_its_parts_in_the_clear_and_opens_only_for_the_reader() {
    let (public, unlocked) = user_with_keys(ALICE);
    let names = vec![BlobId([3; 32]), BlobId([1; 32]), BlobId([3; 32])];
    let sealed = keys().seal_manifest(b"list and rest", names, 1_000).unwrap();
    assert_eq!(BlobKind::of(&sealed.ciphertext).references(), [BlobId([1; 32]), BlobId([3; 32])]);
    let blob = sealed.blob(&keys(), ALICE, Some(public), Timestamp::ZERO).unwrap();
    assert_eq!(blob.size, 1_000);
    assert_eq!(keys().open(&blob, sealed.ciphertext.clone(), None), Err(CryptoError::Locked));
    let opened = keys().open(&blob, sealed.ciphertext.clone(), Some((ALICE, &unlocked)));
    assert_eq!(opened, Ok(Opened::Manifest(Bytes::from_static(b"list and rest"))));
    // A body with the bytes of a manifest has another key: no key ever encrypts two plaintexts.
    let plain = keys().seal(&[&[2][..], b"list and rest"].concat()).unwrap();
    assert!(plain.key != sealed.key);
}
