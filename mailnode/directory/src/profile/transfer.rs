//! Profiles that come from outside: what must hold of one before it is let in, and how two are compared.

use super::{DELETED_FOLDERS, FOLDERS, Profile, SUBSCRIPTIONS};
use crate::folder::{INBOX, normal_name};
use cluster::FolderId;
use std::collections::BTreeSet;

const ADDRESSES: usize = 100;
/// UIDs and folder ids left out at an import. Whoever managed the mailbox after the export may have given numbers
/// that the export does not know; they must not be given again (invariant 6).
const UIDS_SKIPPED: u32 = 100_000;
const FOLDERS_SKIPPED: u32 = 1_000;

impl Profile {
    /// What the operations on a profile keep true and the bytes of one cannot promise.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=ADDRESSES).contains(&self.addresses.len()) {
            return Err(format!("an account has 1 to {ADDRESSES} addresses"));
        }
        self.credentials.check()?;
        self.encryption.check()?;
        if self.folders.get(&FolderId::INBOX).is_none_or(|folder| folder.name != INBOX) {
            return Err("there is no INBOX".into());
        }
        if self.folders.len() > FOLDERS
            || self.deleted.len() > DELETED_FOLDERS
            || self.subscriptions.len() > SUBSCRIPTIONS
        {
            return Err("too many folders, deletions of folders or subscriptions".into());
        }
        self.check_folders()
    }

    fn check_folders(&self) -> Result<(), String> {
        let (mut names, mut validities) = (BTreeSet::new(), BTreeSet::new());
        for (id, folder) in &self.folders {
            let wrong = |what: &str| Err(format!("folder {:?}: {what}", folder.name));
            if *id != folder.id || id.0 >= self.next_folder || self.deleted.contains_key(id) {
                return wrong("its id is not its own");
            }
            if normal_name(&folder.name).as_ref() != Ok(&folder.name) || !names.insert(&folder.name) {
                return wrong("no such name, or another folder has it");
            }
            // RFC 9051 2.3.1.1
            if !(1..=self.last_uid_validity).contains(&folder.uid_validity)
                || !validities.insert(folder.uid_validity)
            {
                return wrong("its UIDVALIDITY is 0, another folder's, or above the last that was given");
            }
            let in_order = |first: u32, last: u32| (1..=last).contains(&first) && last < folder.next_uid;
            if folder.next_uid == 0
                || !folder.uid_blocks.iter().all(|block| in_order(block.first, block.last))
                || !folder.uid_blocks.is_sorted_by(|one, next| one.last < next.first)
            {
                return wrong("its reserved UIDs are not in order");
            }
        }
        if self.deleted.keys().any(|id| id.0 >= self.next_folder) {
            return Err("a deleted folder's id was never given".into());
        }
        Ok(())
    }

    /// Goes on above all UIDs and folder ids that may have been given since this was exported.
    pub fn skip_ahead(&mut self) {
        for folder in self.folders.values_mut() {
            folder.next_uid = folder.next_uid.checked_add(UIDS_SKIPPED).unwrap_or(folder.next_uid);
        }
        self.next_folder = self.next_folder.saturating_add(FOLDERS_SKIPPED);
    }

    /// In what two records are not the same account in the same state; reservations of UIDs, which go on, left out.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let folders = |profile: &Self| -> Vec<_> {
            let folders = profile.folders.values();
            folders
                .map(|folder| (folder.id, folder.name.clone(), folder.special_use, folder.uid_validity))
                .collect()
        };
        [
            ("id", self.id == other.id),
            ("addresses", self.addresses == other.addresses),
            ("credentials", self.credentials == other.credentials),
            ("encryption", self.encryption == other.encryption),
            ("quota", self.quota == other.quota),
            ("enabled", self.enabled == other.enabled),
            ("folders", folders(self) == folders(other)),
            ("subscriptions", self.subscriptions == other.subscriptions),
        ]
        .into_iter()
        .filter_map(|(what, same)| (!same).then_some(what))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::accounts::transfer::Line;
    use crate::encryption::{Mode, PasswordLock};
    use crate::{Address, Credentials, Profile};
    use cluster::mailbox::Reservation;
    use cluster::{FolderId, NodeId, Timestamp, UserId};

    const AT: Timestamp = Timestamp { ticks: 1_700_000_000_000 << 16, node: NodeId(1) };

    fn profile() -> Profile {
        let address = Address::parse("alice@example.org").unwrap();
        Profile::new(UserId(7), address, Credentials::Locked, 0, AT)
    }

    /// A change that no operation makes, and what is said of it.
    fn refused(change: impl FnOnce(&mut Profile)) -> String {
        let mut profile = profile();
        profile.reserve_uids(FolderId::INBOX, &Reservation::new(10, AT)).unwrap();
        assert_eq!(profile.check(), Ok(()));
        change(&mut profile);
        profile.check().unwrap_err()
    }

    #[test]
    fn what_no_operation_makes_is_refused() {
        assert!(refused(|profile| profile.addresses.clear()).contains("addresses"));
        assert!(refused(|profile| drop(profile.folders.remove(&FolderId::INBOX))).contains("INBOX"));
        assert!(refused(|profile| profile.next_folder = 1).contains("id"));
        assert!(refused(|profile| profile.last_uid_validity = 1).contains("UIDVALIDITY"));
        let inbox = |change: fn(&mut crate::Folder)| {
            refused(|profile| change(profile.folders.get_mut(&FolderId::INBOX).unwrap()))
        };
        assert!(inbox(|inbox| inbox.next_uid = 5).contains("reserved UIDs"));
        assert!(inbox(|inbox| inbox.uid_blocks[0].first = 0).contains("reserved UIDs"));
        assert!(inbox(|inbox| inbox.id = FolderId(77)).contains("id"));
        assert!(inbox(|inbox| inbox.name = "inbox".into()).contains("INBOX"));
        let costly = "$argon2id$v=19$m=4194304,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA";
        for hash in ["secret", "$1$x$y", costly] {
            let said = refused(|profile| profile.credentials = Credentials::Password(hash.into()));
            assert!(said.contains("Argon2") && !said.contains(hash), "{said}");
        }
    }

    #[test]
    fn an_account_with_keys_goes_through_a_file_and_the_same_password_opens_them() {
        let mut next = 0_u8;
        let mut seed = || {
            next += 1;
            zeroize::Zeroizing::new([next; 32])
        };
        let (lock, _) = PasswordLock::new("correct horse", &seed()).unwrap();
        let mut old = profile();
        old.encryption.turn_on(old.id, &lock, &mut seed).unwrap();
        let line = serde_json::to_string(&Line::User(Box::new(old.clone()))).unwrap();
        let Line::User(new) = serde_json::from_str(&line).unwrap() else { panic!("another line") };
        assert_eq!(new.check(), Ok(()));
        assert!(new.differences(&old).is_empty());
        let key = old.encryption.sealing_key().unwrap();
        assert!(new.encryption.unlock(new.id, "correct horse").key(key).is_some());
        // A record that says that it is encrypted, and has no key, is not let in.
        let said = refused(|profile| profile.encryption.mode = Mode::User);
        assert!(said.contains("no key"), "{said}");
    }

    #[test]
    fn an_imported_profile_gives_numbers_that_nobody_gave_since_the_export() {
        let mut old = profile();
        old.reserve_uids(FolderId::INBOX, &Reservation::new(1_000, AT)).unwrap().unwrap();
        let mut imported = old.clone();
        imported.skip_ahead();
        assert_eq!(imported.check(), Ok(()));
        assert!(imported.differences(&old).is_empty());
        let since = old.reserve_uids(FolderId::INBOX, &Reservation::new(1_000, AT)).unwrap().unwrap();
        let next = imported.reserve_uids(FolderId::INBOX, &Reservation::new(1_000, AT)).unwrap().unwrap();
        assert!(next.first > since.last);
        let folder = old.create_folder("Made since", None, AT).unwrap();
        assert!(imported.create_folder("Made here", None, AT).unwrap() > folder);
        assert_eq!(imported.differences(&old), ["folders"]);
    }
}
