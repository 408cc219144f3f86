//! The operator: turns a `MailCluster` into a running mail service and keeps it one (DESIGN 9).
//!
//! ```text
//! crd        what people write
//! children   spec -> Kubernetes objects              pure
//! gate       which disruptive step may be next       pure
//! certificates  CAs and certificates over time       pure
//! status     what people read                        pure
//! observe, credentials, volumes, node_api            look and touch
//! reconcile  one pass over one cluster
//! controller, leader, http, metrics                  the process
//! check      whether one works here
//! ```
//!
//! What holds: only the fields that we decide are written (server-side apply), and nothing is written while the
//! cluster is `paused`; no step that disturbs a node is taken without the gate; secrets are never logged; a pass
//! that fails is repeated with growing pauses.

pub mod certificates;
pub mod check;
pub mod children;
pub mod controller;
pub mod crd;
pub mod error;
pub mod gate;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod node_api;
pub mod reconcile;
pub mod status;

mod credentials;
mod kubernetes;
mod observe;
mod volumes;

pub use error::Error;
