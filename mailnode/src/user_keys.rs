//! Users' public keys that the cluster's CA has signed ([`directory::encryption::signature`], docs/security.md). Where that is
//! required, mail is sealed to no others: who delivers checks the signature, whatever the manager and the user database say.

use crate::config::ClusterConfig;
use crate::running::StartError;
use crate::wire::{Failure, RecipientState};
use cluster::UserId;
use directory::encryption::{PublicKey, signature};
use rpc::pki::{Certificate, read_file};

/// Whose signatures count; none are asked for if it is absent.
#[derive(Default)]
pub struct UserKeys(Option<Vec<Certificate>>);

impl UserKeys {
    /// # Errors
    /// If the CA's certificates cannot be read.
    pub fn load(config: &ClusterConfig) -> Result<Self, StartError> {
        if !config.require_signed_user_keys {
            return Ok(Self(None));
        }
        let pem = read_file(&config.tls.ca).map_err(|error| StartError::new("cluster.tls.ca", error))?;
        let all =
            Certificate::all_from_pem(&pem).map_err(|error| StartError::new("cluster.tls.ca", error))?;
        Ok(Self(Some(all)))
    }

    /// May mail be sealed to this key?
    pub fn accepts(&self, user: UserId, public: PublicKey, signed: Option<&[u8]>) -> bool {
        let Some(certificates) = &self.0 else { return true };
        let message = signature::message(user, public);
        signed.is_some_and(|signed| certificates.iter().any(|ca| ca.has_signed(&message, signed)))
    }

    /// What a manager said of a recipient, unless the key in it is not to be used.
    ///
    /// # Errors
    /// [`Failure::Temporary`]: the mail waits where it is until the key is signed.
    pub fn check(&self, user: UserId, state: RecipientState) -> Result<RecipientState, Failure> {
        if let RecipientState::Accepts { seal_to: Some(public), signature, .. } = &state
            && !self.accepts(user, *public, signature.as_deref())
        {
            tracing::error!(%user, "no mail is sealed to this user's key: the cluster's CA has not signed it (`mailnode user sign`)");
            return Err(Failure::Temporary("the recipient's key is not signed".into()));
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
    fn a_key_is_used_only_as_it_was_signed_for_its_user() {
        let authority = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let other = Authority::generate("test", DEFAULT_VALIDITY).unwrap();
        let keys = UserKeys(Some(Certificate::all_from_pem(authority.certificate_pem()).unwrap()));
        let (user, public) = (UserId(1), PublicKey(Bytes32([7; 32])));
        let signed = authority.sign(&signature::message(user, public)).unwrap();
        let state = |signature| RecipientState::Accepts {
            mail_map: MailMap::default(),
            seal_to: Some(public),
            signature,
        };
        assert!(keys.check(user, state(Some(signed.clone()))).is_ok());
        assert!(keys.check(UserId(2), state(Some(signed.clone()))).is_err());
        assert!(keys.check(user, state(None)).is_err());
        assert!(keys.check(user, state(other.sign(&signature::message(user, public)))).is_err());
        assert!(!keys.accepts(user, PublicKey(Bytes32([8; 32])), Some(&signed)));
        assert!(UserKeys(None).check(user, state(None)).is_ok());
    }
}
