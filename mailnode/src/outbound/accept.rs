//! A message enters the queue: one entry for all its recipients at other servers, on `minCopies` disks before anybody
//! is told 250, like any mail.

use crate::clock::wall_seconds;
use crate::delivery;
use crate::environment;
use crate::node::Node;
use crate::wire::Failure;
use bytes::Bytes;
use cluster::{Bucket, Entry, FolderId, MailMap, queue_user};
use outbound::Envelope;
use outbound::envelope::RECIPIENTS;
pub use outbound::envelope::with_line_ends;
use std::sync::Arc;

/// A message for other servers.
pub struct Outgoing<'a> {
    pub sender: Option<String>,
    pub recipients: Vec<String>,
    pub utf8: bool,
    pub id: &'a str,
    /// Without a `Return-Path:`.
    pub message: &'a [u8],
}

/// Queues a message. It is one entry, or several if it has more recipients than an entry has room for.
///
/// # Errors
/// Nothing stays of it then.
pub async fn accept(node: &Arc<Node>, outgoing: Outgoing<'_>) -> Result<Vec<Entry>, Failure> {
    let message = sign(node, &outgoing, with_line_ends(outgoing.message));
    let mut entries = Vec::new();
    for recipients in outgoing.recipients.chunks(RECIPIENTS) {
        let envelope = Envelope {
            sender: outgoing.sender.clone(),
            recipients: recipients.to_vec(),
            utf8: outgoing.utf8,
            id: outgoing.id.to_owned(),
            arrived: wall_seconds(),
        };
        match queue(node, &envelope, &message).await {
            Ok(entry) => entries.push(entry),
            Err(failure) => {
                for entry in &entries {
                    delivery::take_back(node, entry).await;
                }
                return Err(failure);
            }
        }
    }
    node.metrics.queue.accepted.inc_by(entries.len() as u64);
    Ok(entries)
}

/// Signs what the sender's domain has a key for, once: every attempt sends the same bytes.
fn sign(node: &Node, outgoing: &Outgoing<'_>, message: Bytes) -> Bytes {
    let domain =
        outgoing.sender.as_ref().and_then(|sender| sender.rsplit_once('@')).map(|(_, domain)| domain);
    let signer = node.outbound.settings.signers.iter();
    let signer =
        signer.filter(|signer| domain.is_some_and(|domain| domain.eq_ignore_ascii_case(signer.domain())));
    match signer.filter_map(|signer| signer.sign(&message, wall_seconds())).next() {
        Some(field) => Bytes::from([field.as_bytes(), &message].concat()),
        None => message,
    }
}

/// Puts a message into the queue.
///
/// # Errors
/// Nothing stays of it then.
pub async fn queue(node: &Arc<Node>, envelope: &Envelope, message: &[u8]) -> Result<Entry, Failure> {
    let whole = envelope.seal(message).map_err(|error| Failure::Invalid(error.to_string()))?;
    // Any bucket will do: its manager sends the message.
    let bucket = Bucket((environment::random() % Bucket::COUNT as u64) as u16);
    let copy = delivery::Recipient {
        user: queue_user(bucket),
        // Queues need no spread: whoever asks for one asks all members.
        mail_map: MailMap::default(),
        folder: FolderId::INBOX,
        flags: Vec::new(),
        internal_date: Some(envelope.arrived),
        // Whoever holds the message has to send it.
        seal_to: None,
        fixed: None,
    };
    let outcome = delivery::deliver(node, vec![copy], &whole).await.pop();
    outcome.unwrap_or_else(|| Err(Failure::Temporary("the message could not be queued".into())))
}
