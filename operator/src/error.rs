//! Why a pass over a cluster failed. Every error is retried; the reason is the label of the metric.

use crate::node_api::NodeError;
use kube::core::response::Status;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server is away, or refused: its message says what.
    #[error("{what}: {error}")]
    Kubernetes { what: String, error: Box<kube::Error> },
    #[error("the configuration cannot be written: {0}")]
    Config(#[from] serde_yaml::Error),
    #[error("certificates: {0}")]
    Certificates(#[from] rpc::pki::PkiError),
    #[error("node: {0}")]
    Node(#[from] NodeError),
    /// A person has to repair it; the text says how.
    #[error("{0}")]
    Refused(String),
    #[error("finalizer: {0}")]
    Finalizer(String),
}

impl Error {
    pub fn kubernetes(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |error| Self::Kubernetes { what, error: Box::new(error) }
    }

    /// The label in the metrics, and the reason of the event.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kubernetes { error, .. } => match status_of(error).map(|status| status.code) {
                Some(403) => "Forbidden",
                Some(409) => "Conflict",
                Some(422) => "Invalid",
                Some(_) => "ApiServer",
                None => "ApiServerUnreachable",
            },
            Self::Config(_) => "Config",
            Self::Certificates(_) => "Certificates",
            Self::Node(_) => "Node",
            Self::Refused(_) => "Refused",
            Self::Finalizer(_) => "Finalizer",
        }
    }
}

fn status_of(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// True if there is no such object.
pub fn is_not_found(error: &kube::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 404)
}

/// True if somebody else wrote in between.
pub fn is_conflict(error: &kube::Error) -> bool {
    status_of(error).is_some_and(|status| status.code == 409)
}
