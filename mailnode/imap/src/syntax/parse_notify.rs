//! NOTIFY (RFC 5465 3.1, grammar in 8).

use super::command::{Attribute, EventGroup, Events, Filter, MailboxName, Notify, SelectedGroup};
use super::lexer::{Lexer, SyntaxError};
use super::parse::mailbox;
use super::parse_fetch::attribute;

/// The most event groups, and the most mailboxes of one: each is compared with every folder.
const MAX_GROUPS: usize = 100;
const MAX_NAMES: usize = 1_000;

/// None: NOTIFY NONE.
pub fn notify(lexer: &mut Lexer<'_>) -> Result<Option<Notify>, SyntaxError> {
    lexer.space()?;
    match lexer.keyword()?.as_str() {
        "NONE" => return Ok(None),
        "SET" => {}
        _ => return Err(SyntaxError::new("expected SET or NONE")),
    }
    lexer.space()?;
    let mut notify = Notify::default();
    if lexer.peek() != Some(b'(') {
        if lexer.keyword()? != "STATUS" {
            return Err(SyntaxError::new("expected STATUS or an event group"));
        }
        notify.status = true;
        lexer.space()?;
    }
    loop {
        group(lexer, &mut notify)?;
        if notify.others.len() > MAX_GROUPS {
            return Err(SyntaxError::new("too many event groups"));
        }
        if !lexer.accept(b' ') {
            return Ok(Some(notify));
        }
    }
}

fn group(lexer: &mut Lexer<'_>, notify: &mut Notify) -> Result<(), SyntaxError> {
    lexer.expect(b'(')?;
    let filter = lexer.keyword()?;
    let filter = match filter.as_str() {
        "SELECTED" | "SELECTED-DELAYED" => {
            let delayed = filter != "SELECTED";
            lexer.space()?;
            let (events, attributes) = events(lexer, true)?;
            lexer.expect(b')')?;
            // RFC 5465 6.1.
            if notify.selected.is_some() {
                return Err(SyntaxError::new("the selected mailbox is named twice"));
            }
            if events.names || events.subscriptions {
                return Err(SyntaxError::new("only message events are of the selected mailbox"));
            }
            notify.selected = Some(SelectedGroup { delayed, events, attributes });
            return Ok(());
        }
        "INBOXES" => Filter::Inboxes,
        "PERSONAL" => Filter::Personal,
        "SUBSCRIBED" => Filter::Subscribed,
        "SUBTREE" => Filter::Subtree(names(lexer)?),
        "MAILBOXES" => Filter::Mailboxes(names(lexer)?),
        _ => return Err(SyntaxError::new("unknown mailbox filter")),
    };
    lexer.space()?;
    let (events, _) = events(lexer, false)?;
    lexer.expect(b')')?;
    notify.others.push(EventGroup { filter, events });
    Ok(())
}

/// `one-or-more-mailbox`, behind a space. What is no name matches nothing.
fn names(lexer: &mut Lexer<'_>) -> Result<Vec<String>, SyntaxError> {
    lexer.space()?;
    let all = if lexer.peek() == Some(b'(') { lexer.list(mailbox)? } else { vec![mailbox(lexer)?] };
    if all.len() > MAX_NAMES {
        return Err(SyntaxError::new("too many mailboxes"));
    }
    let valid = |name| match name {
        MailboxName::Valid(name) => Some(name),
        MailboxName::Invalid => None,
    };
    Ok(all.into_iter().filter_map(valid).collect())
}

/// The events, and what of new messages is to be fetched.
fn events(lexer: &mut Lexer<'_>, selected: bool) -> Result<(Events, Vec<Attribute>), SyntaxError> {
    let (mut events, mut attributes) = (Events::default(), Vec::new());
    if lexer.peek() != Some(b'(') {
        return match lexer.keyword()?.as_str() {
            "NONE" => Ok((events, attributes)),
            _ => Err(SyntaxError::new("expected events or NONE")),
        };
    }
    let (mut new, mut expunge) = (false, false);
    lexer.list(|lexer| {
        match lexer.keyword()?.as_str() {
            "MESSAGENEW" => {
                new = true;
                // RFC 5465 5.2: only for the selected mailbox.
                if selected && lexer.peek_bytes(b" (") {
                    lexer.space()?;
                    attributes = lexer.list(attribute)?;
                }
            }
            "MESSAGEEXPUNGE" => expunge = true,
            "FLAGCHANGE" => events.flags = true,
            "MAILBOXNAME" => events.names = true,
            "SUBSCRIPTIONCHANGE" => events.subscriptions = true,
            // RFC 5465 5: a server need not know them, and says so.
            "ANNOTATIONCHANGE" | "MAILBOXMETADATACHANGE" | "SERVERMETADATACHANGE" => events.unknown = true,
            _ => return Err(SyntaxError::new("unknown event")),
        }
        Ok(())
    })?;
    // RFC 5465 5.2, 5.1: one without the other leaves the client with wrong numbers.
    if new != expunge || (events.flags && !new) {
        return Err(SyntaxError::new("MessageNew and MessageExpunge go together, and FlagChange with them"));
    }
    events.messages = new;
    // Nobody has read what the server sends by itself.
    attributes.iter_mut().for_each(Attribute::peek);
    if attributes.iter().any(|attribute| matches!(attribute, Attribute::Rfc822 | Attribute::Rfc822Text)) {
        return Err(SyntaxError::new("use BODY.PEEK"));
    }
    Ok((events, attributes))
}
