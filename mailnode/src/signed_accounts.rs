//! Accounts whose mode and public key the cluster's CA has signed ([`directory::encryption::signature`], docs/security.md). Where that is
//! required, no others get mail: who delivers checks the signature, whatever the manager and the user database say.

use crate::config::ClusterConfig;
use crate::running::StartError;
use crate::wire::{Failure, RecipientState};
use cluster::UserId;
use directory::encryption::{PublicKey, signature};
use rpc::pki::{Certificate, read_file};

/// Whose signatures count; none are asked for if it is absent.
#[derive(Default)]
pub struct SignedAccounts(Option<Vec<Certificate>>);

impl SignedAccounts {
    /// # Errors
    /// If the CA's certificates cannot be read.
    pub fn load(config: &ClusterConfig) -> Result<Self, StartError> {
        if !config.require_signed_accounts {
            return Ok(Self(None));
        }
        let pem = read_file(&config.tls.ca).map_err(|error| StartError::new("cluster.tls.ca", error))?;
        let all =
            Certificate::all_from_pem(&pem).map_err(|error| StartError::new("cluster.tls.ca", error))?;
        Ok(Self(Some(all)))
    }

    /// May mail be sealed to this key, or without one to the cluster?
    pub fn accepts(&self, user: UserId, sealing_key: Option<PublicKey>, signed: Option<&[u8]>) -> bool {
        let Some(certificates) = &self.0 else { return true };
        let message = signature::message(user, sealing_key);
        signed.is_some_and(|signed| certificates.iter().any(|ca| ca.has_signed(&message, signed)))
    }

    /// What a manager said of a recipient, unless the account's mode and key are not to be relied on.
    ///
    /// # Errors
    /// [`Failure::Temporary`]: the mail waits where it is until the account is signed.
    pub fn check(&self, user: UserId, state: RecipientState) -> Result<RecipientState, Failure> {
        if let RecipientState::Accepts { seal_to, signature, .. } = &state
            && !self.accepts(user, *seal_to, signature.as_deref())
        {
            tracing::error!(%user, "this account gets no mail: the cluster's CA has not signed its mode and key (`mailnode user sign`)");
            return Err(Failure::Temporary("the recipient's account is not signed".into()));
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::MailMap;
    use directory::encryption::Bytes32;
    use rpc::pki::{Authority, DEFAULT_VALIDITY};

    #[test]
    fn an_account_is_used_only_as_it_was_signed() {
        let authority = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let other = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let accounts = SignedAccounts(Some(Certificate::all_from_pem(authority.certificate_pem()).unwrap()));
        let (user, public) = (UserId(1), PublicKey(Bytes32([7; 32])));
        let state =
            |seal_to, signature| RecipientState::Accepts { mail_map: MailMap::default(), seal_to, signature };
        for key in [Some(public), None] {
            let signed = authority.sign(&signature::message(user, key)).unwrap();
            assert!(accounts.check(user, state(key, Some(signed.clone()))).is_ok());
            assert!(accounts.check(UserId(2), state(key, Some(signed.clone()))).is_err());
            assert!(accounts.check(user, state(key, None)).is_err());
            assert!(accounts.check(user, state(key, other.sign(&signature::message(user, key)))).is_err());
            let otherwise = if key.is_some() { None } else { Some(public) };
            assert!(!accounts.accepts(user, otherwise, Some(&signed)), "another mode");
            assert!(!accounts.accepts(user, Some(PublicKey(Bytes32([8; 32]))), Some(&signed)), "another key");
            assert!(SignedAccounts(None).check(user, state(key, None)).is_ok());
        }
    }
}
