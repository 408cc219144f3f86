//! Reading bodies: straight from the least loaded replica, and if that fails from another (DESIGN 2).

use crate::crypto::{CryptoError, Opened, Reader};
use crate::node::Node;
use crate::parts;
use crate::wire::{Failure, Request, Response};
use bytes::Bytes;
use cluster::{BlobRef, NodeId};
use std::sync::Arc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);

/// The whole raw message, with the keys of whoever reads it.
///
/// # Errors
/// [`Failure::Temporary`] if no replica that can be reached has a good copy; [`Failure::Locked`] if it is sealed to
/// a key that the reader does not have.
pub async fn body(
    node: &Arc<Node>,
    blob: &BlobRef,
    replicas: &[NodeId],
    reader: Reader<'_>,
) -> Result<Bytes, Failure> {
    let mut order = replicas.to_vec();
    order.sort_by_key(|&replica| {
        (node.topology.is_avoided(replica), replica != node.id, node.topology.load(replica).cost())
    });
    for (attempt, &replica) in order.iter().enumerate() {
        if attempt > 0 {
            node.metrics.blob_fallbacks.inc();
        }
        let answer = node.call_with(replica, Request::Blob { id: blob.id }, Bytes::new(), DEADLINE).await;
        let Ok((Response::Blob, ciphertext)) = answer else { continue };
        match node.keys.open(blob, ciphertext, reader) {
            Ok(Opened::Whole(body)) => return Ok(body),
            Ok(Opened::Manifest(coded)) => return parts::assemble(node, coded, blob.size).await,
            // The same with every copy.
            Err(CryptoError::Locked) => return Err(Failure::Locked),
            Err(error) => tracing::error!(blob = ?blob.id, %replica, %error, "bad copy of a body"),
        }
    }
    Err(Failure::Temporary("no node that holds this message answers; try again".into()))
}
