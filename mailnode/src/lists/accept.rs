//! A message for a list enters the queue.

use super::{LIST, list_id, owner_address};
use crate::clock::wall_seconds;
use crate::node::Node;
use crate::outbound::accept::{queue, with_line_ends};
use crate::wire::Failure;
use cluster::Entry;
use directory::Address;
use directory::accounts::Posting;
use outbound::Envelope;
use std::sync::Arc;

/// Whether the sender of an envelope may post to a list. The null sender may not: nobody wants bounces on a list.
///
/// # Errors
/// If that cannot be said now, or the list is gone.
pub async fn may_post(node: &Arc<Node>, list: &Address, sender: Option<&str>) -> Result<bool, Failure> {
    let known = node.users.list(&list.to_string()).await?;
    let Some(sender) = sender.and_then(|sender| Address::parse(sender).ok()) else { return Ok(false) };
    let sender = sender.without_detail().unwrap_or(sender);
    Ok(match known.posting {
        Posting::Anyone => true,
        _ if known.is_owner(&sender) => true,
        Posting::Members => node.users.is_member(&known, &sender).await?,
        Posting::Owners => false,
    })
}

/// Queues a message for a list. `message` has no `Return-Path:`.
///
/// # Errors
/// Nothing stays of it then.
pub async fn accept(
    node: &Arc<Node>,
    list: &Address,
    utf8: bool,
    id: &str,
    message: &[u8],
) -> Result<Entry, Failure> {
    let known = node.users.list(&list.to_string()).await?;
    let envelope = Envelope {
        sender: Some(owner_address(list)),
        recipients: vec![format!("{LIST}{list}")],
        utf8,
        id: id.to_owned(),
        arrived: wall_seconds(),
    };
    let head = head(list, &known.description);
    let entry = queue(node, &envelope, &[head.as_bytes(), &with_line_ends(message)].concat()).await?;
    node.metrics.lists.accepted.inc();
    Ok(entry)
}

/// RFC 2919 3 and RFC 2369 3.4, 3.5. The description is put in quotes, or left out if it cannot be without an encoding.
fn head(list: &Address, description: &str) -> String {
    let plain = !description.is_empty()
        && description.chars().all(|c| (' '..='~').contains(&c) && !matches!(c, '"' | '\\'));
    let phrase = if plain { format!("\"{description}\" ") } else { String::new() };
    let id = list_id(list);
    let owner = owner_address(list);
    format!(
        "List-Id: {phrase}{id}\r\nList-Post: <mailto:{list}>\r\nList-Owner: <mailto:{owner}>\r\nPrecedence: list\r\n"
    )
}

/// How often the message has been through the list (it has once, when it is brought to members).
pub fn passes(list: &Address, message: &[u8]) -> usize {
    let id = list_id(list);
    let mut passes = 0;
    for line in message.split(|&byte| byte == b'\n') {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        passes += usize::from(line.starts_with("list-id:") && line.contains(&id));
    }
    passes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_marked_and_known_again_when_it_comes_back() {
        let list = Address::parse("Dev.Team@example.org").unwrap();
        let head = head(&list, "The team");
        assert!(head.starts_with("List-Id: \"The team\" <dev-team.example.org>\r\n"), "{head}");
        assert!(head.contains("<mailto:Dev.Team+owner@example.org>"));
        let once = format!("{head}Subject: x\r\n\r\nList-Id: <dev-team.example.org>\r\n");
        assert_eq!(passes(&list, once.as_bytes()), 1);
        assert_eq!(passes(&list, format!("{head}Received: x\n{once}").as_bytes()), 2);
        let other = Address::parse("team@example.org").unwrap();
        assert_eq!(passes(&other, once.as_bytes()), 0);
        assert!(!super::head(&list, "quo\"te").contains("quo"));
    }
}
