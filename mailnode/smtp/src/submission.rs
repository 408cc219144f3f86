//! What a submission server adds to a message whose client did not (RFC 6409 8): the fields that RFC 5322 3.6 asks for
//! and that the client can leave to us. Nothing that is there is changed.

use crate::date::date;
use crate::trace::{begins_field, header_lines};

/// The fields to put in front. `id` is the transaction's, which no other at this host has in the same second.
pub fn missing_fields(content: &[u8], id: &str, host_name: &str, unix_seconds: i64) -> String {
    let has = |name: &[u8]| header_lines(content).any(|line| begins_field(line, name));
    let mut fields = String::new();
    // RFC 6409 8.2.
    if !has(b"date:") {
        fields.push_str(&format!("Date: {}\r\n", date(unix_seconds)));
    }
    // RFC 6409 8.3.
    if !has(b"message-id:") {
        fields.push_str(&format!("Message-ID: <{unix_seconds:x}.{id}@{host_name}>\r\n"));
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_is_added() {
        let both = missing_fields(b"Subject: x\r\n\r\nDate: in the body\r\n", "7.1", "mx.example", 0);
        assert_eq!(both, "Date: Thu, 1 Jan 1970 00:00:00 +0000\r\nMessage-ID: <0.7.1@mx.example>\r\n");
        let neither = missing_fields(b"DATE: x\r\nmessage-id: y\r\n\r\n", "7.1", "mx.example", 0);
        assert_eq!(neither, "");
    }
}
