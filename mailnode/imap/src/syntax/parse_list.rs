//! LIST (RFC 9051 6.3.9, RFC 5258, RFC 5819, RFC 6154) and the items of STATUS.

use super::command::{List, MailboxName, StatusItem};
use super::lexer::{Lexer, SyntaxError};
use super::parse::{decode_name, mailbox};

/// The most patterns of one LIST: each is compared with every name.
const MAX_PATTERNS: usize = 100;

pub fn list(lexer: &mut Lexer<'_>) -> Result<List, SyntaxError> {
    let mut list = List::default();
    lexer.space()?;
    if lexer.peek() == Some(b'(') {
        list.extended = true;
        lexer.list(|lexer| {
            match lexer.keyword()?.as_str() {
                "SUBSCRIBED" => list.select_subscribed = true,
                "SPECIAL-USE" => list.select_special_use = true,
                "RECURSIVEMATCH" => list.recursive_match = true,
                // There are no remote mailboxes.
                "REMOTE" => {}
                _ => return Err(SyntaxError::new("unknown LIST selection option")),
            }
            Ok(())
        })?;
        // RFC 5258 3.1: it modifies another option and means nothing alone.
        if list.recursive_match && !list.select_subscribed {
            return Err(SyntaxError::new("RECURSIVEMATCH needs SUBSCRIBED"));
        }
        lexer.space()?;
    }
    if let MailboxName::Valid(reference) = mailbox(lexer)? {
        list.reference = reference;
    }
    lexer.space()?;
    let utf8_names = lexer.utf8_names;
    let mut pattern = |lexer: &mut Lexer<'_>| {
        if let MailboxName::Valid(pattern) = decode_name(lexer.list_mailbox()?, utf8_names) {
            if list.patterns.len() == MAX_PATTERNS {
                return Err(SyntaxError::new("too many LIST patterns"));
            }
            list.patterns.push(pattern);
        }
        Ok(())
    };
    if lexer.peek() == Some(b'(') {
        lexer.list(pattern)?;
        list.extended = true;
    } else {
        pattern(lexer)?;
    }
    if lexer.accept(b' ') && !lexer.at_end() {
        if lexer.keyword()? != "RETURN" {
            return Err(SyntaxError::new("expected RETURN"));
        }
        lexer.space()?;
        list.extended = true;
        lexer.list(|lexer| {
            match lexer.keyword()?.as_str() {
                "SUBSCRIBED" => list.return_subscribed = true,
                // Always told.
                "CHILDREN" | "SPECIAL-USE" => {}
                "STATUS" => {
                    lexer.space()?;
                    list.return_status = Some(status_items(lexer)?);
                }
                _ => return Err(SyntaxError::new("unknown LIST return option")),
            }
            Ok(())
        })?;
    }
    Ok(list)
}

pub fn status_items(lexer: &mut Lexer<'_>) -> Result<Vec<StatusItem>, SyntaxError> {
    let items = lexer.list(|lexer| {
        Ok(match lexer.keyword()?.as_str() {
            "MESSAGES" => StatusItem::Messages,
            "RECENT" => StatusItem::Recent,
            "UIDNEXT" => StatusItem::UidNext,
            "UIDVALIDITY" => StatusItem::UidValidity,
            "UNSEEN" => StatusItem::Unseen,
            "DELETED" => StatusItem::Deleted,
            "SIZE" => StatusItem::Size,
            "HIGHESTMODSEQ" => StatusItem::HighestModSeq,
            "APPENDLIMIT" => StatusItem::AppendLimit,
            _ => return Err(SyntaxError::new("unknown STATUS item")),
        })
    })?;
    if items.is_empty() {
        return Err(SyntaxError::new("STATUS of what?"));
    }
    Ok(items)
}
