//! Reports to senders, who are our own users: built by `outbound::report`, delivered like any mail, with the null return
//! path (RFC 5321 4.5.5).

use super::Held;
use crate::clock::{new_entry_id, wall_seconds};
use crate::delivery::{self, Recipient};
use crate::lists::LIST;
use crate::node::Node;
use crate::retrieval;
use crate::wire::{Failure, RecipientState};
use bytes::Bytes;
use cluster::{FolderId, MailMap};
use outbound::report::{self, Report};
use outbound::{Envelope, Problem};
use smtp::date::date;
use std::sync::Arc;

/// Tells the sender of recipients that will not get the message: index, why, and whether it was given up. False if it
/// has to be tried again; then they must not count as done.
pub async fn failed(node: &Arc<Node>, held: &Held, failed: &[(usize, Problem, bool)]) -> bool {
    report(node, held, failed, None).await
}

/// Tells the sender of recipients that have not got the message yet. False if it has to be tried again.
pub async fn delayed(node: &Arc<Node>, held: &Held, late: Vec<(usize, Problem)>) -> bool {
    let late: Vec<_> = late.into_iter().map(|(index, last)| (index, last, false)).collect();
    let expiry = node.outbound.settings.schedule.expiry.as_secs();
    let until = held.entry.internal_date.saturating_add(i64::try_from(expiry).unwrap_or(i64::MAX));
    report(node, held, &late, Some(&date(until))).await
}

async fn report(
    node: &Arc<Node>,
    held: &Held,
    failed: &[(usize, Problem, bool)],
    delayed_until: Option<&str>,
) -> bool {
    let envelope = &held.envelope;
    let Some(sender) = &envelope.sender else {
        tracing::info!(id = envelope.id, "nobody is told: the return path is null");
        return true;
    };
    match deliver(node, held, sender, failed, delayed_until).await {
        Ok(()) => {
            node.metrics.queue.reports.inc();
            true
        }
        Err(Failure::NotFound | Failure::Invalid(_)) => {
            tracing::warn!(id = envelope.id, sender, "nobody is told: the sender is gone");
            true
        }
        Err(failure) => {
            tracing::warn!(id = envelope.id, sender, %failure, "the report waits");
            false
        }
    }
}

async fn deliver(
    node: &Arc<Node>,
    held: &Held,
    sender: &str,
    failed: &[(usize, Problem, bool)],
    delayed_until: Option<&str>,
) -> Result<(), Failure> {
    let recipients = recipients(node, sender).await?;
    let envelope = &held.envelope;
    let body = retrieval::body(node, &held.entry.blob, &held.entry.replicas.value, None).await;
    let message = match body.map(Envelope::open) {
        Ok(Ok((_, message))) => message,
        // What cannot be read until it is too old is reported without its header.
        _ if failed.iter().all(|(_, _, expired)| *expired) => Bytes::new(),
        Ok(Err(error)) => return Err(Failure::Temporary(error.to_string())),
        Err(failure) => return Err(failure),
    };
    let failures = failed.iter().filter_map(|(index, problem, expired)| {
        let recipient = envelope.recipients.get(*index)?;
        let recipient = recipient.strip_prefix(LIST).unwrap_or(recipient);
        Some(report::Failure { recipient, problem, expired: *expired })
    });
    let failures: Vec<report::Failure<'_>> = failures.collect();
    let report = Report {
        host_name: &node.settings.host_name,
        to: sender,
        id: &format!("{}.report", new_entry_id()),
        date: &date(wall_seconds()),
        arrived: &date(envelope.arrived),
        queue_id: &envelope.id,
        failures: &failures,
        delayed_until,
        message: &message,
    };
    let mut whole = b"Return-Path: <>\r\n".to_vec();
    whole.extend_from_slice(&report.message());
    let outcomes = delivery::deliver(node, recipients, &whole).await;
    outcomes.into_iter().try_for_each(|outcome| outcome.map(|_| ()))
}

/// The users behind the sender's address. A full mailbox is no reason not to tell.
async fn recipients(node: &Arc<Node>, sender: &str) -> Result<Vec<Recipient>, Failure> {
    let users = node.users.resolve(sender).await?.users;
    let mut recipients = Vec::with_capacity(users.len());
    for (user, state) in node.verify(&users).await {
        let (mail_map, seal_to) = match state? {
            RecipientState::Accepts { mail_map, seal_to, .. } => (mail_map, seal_to),
            // If it has to be for the user alone, their manager seals it as soon as it hears of it.
            RecipientState::OverQuota => (MailMap::default(), None),
            RecipientState::Unknown | RecipientState::Disabled => continue,
        };
        recipients.push(Recipient {
            user,
            mail_map,
            folder: FolderId::INBOX,
            flags: Vec::new(),
            internal_date: None,
            seal_to,
            fixed: None,
        });
    }
    if recipients.is_empty() { Err(Failure::NotFound) } else { Ok(recipients) }
}
