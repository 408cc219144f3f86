//! Whose keys mail is encrypted with (docs/security.md). The cluster's own secret is `clusterSecretName`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whose keys mail is encrypted with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EncryptionSpec {
    /// True: only accounts whose mode and key the cluster's CA has signed (`mailnode user sign`) get mail, so that nobody who writes the
    /// user database, and no node that lies, can have new mail encrypted to a key of their own. Mail for other accounts is put
    /// off with an error in the nodes' logs until they are signed: sign all accounts before it is turned on, and each new one.
    /// A change restarts the nodes one by one.
    pub require_signed_accounts: bool,
}
