//! Mailing lists (docs/lists.md): the address is an object of the user database that any node expands.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`accept`] | may the sender post? then the message enters the queue, durable before 250 |
//! | [`work`] | the holder of the queued message brings it to the members, some shards at a time, and notes which are done |
//! | [`tree`] | members of ours, along a tree of nodes: each delivers to the users that it manages, and passes the rest on |
//!
//! A message that was accepted reaches each member, whatever dies: at least once those elsewhere, exactly once those here, since
//! a member's copy has the same id however often it is delivered.

mod accept;
mod tree;
mod work;

pub use accept::{accept, may_post};
pub use tree::{Fan, NotDelivered, Share, fan};
pub use work::work;

use directory::Address;

/// What a recipient in a queued envelope begins with if it is a list, and no address elsewhere.
pub const LIST: &str = "list ";

/// Where reports of failures go (RFC 5321 3.9.2): to the list's owners.
fn owner_address(list: &Address) -> String {
    let address = list.to_string();
    match address.rsplit_once('@') {
        Some((local, domain)) if !local.ends_with('"') => format!("{local}+owner@{domain}"),
        // A quoted local part.
        _ => address,
    }
}

/// The value of List-Id (RFC 2919 2).
fn list_id(list: &Address) -> String {
    let label: String =
        list.local().chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    format!("<{}.{}>", label.to_lowercase(), list.domain())
}
