//! ENVELOPE (RFC 9051 7.5.2).

use bytes::{BufMut, BytesMut};

use super::address::{self, Address};
use super::header;
use crate::syntax::writer;

/// Writes the envelope of a header. `utf8`: strings may be quoted UTF-8 (IMAP4rev2).
pub fn write(out: &mut BytesMut, header: &[u8], utf8: bool) {
    const NAMES: [&str; 10] =
        ["Date", "Subject", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "In-Reply-To", "Message-ID"];
    let mut values: [Option<Vec<u8>>; 10] = Default::default();
    for field in header::fields(header) {
        if let Some(index) = NAMES.iter().position(|name| field.is(name))
            && let Some(value @ None) = values.get_mut(index)
        {
            *value = Some(header::unfold(field.value));
        }
    }
    let [date, subject, from, sender, reply_to, to, cc, bcc, in_reply_to, message_id] = values;
    let addresses = |value: Option<Vec<u8>>| value.map(|value| address::parse(&value)).unwrap_or_default();
    let from = addresses(from);
    // RFC 9051 7.5.2: an absent or empty Sender or Reply-To is From.
    let or_from = |value: Vec<Address>| if value.is_empty() { from.clone() } else { value };
    let (sender, reply_to) = (or_from(addresses(sender)), or_from(addresses(reply_to)));
    out.put_u8(b'(');
    writer::nstring(out, date.as_deref(), utf8);
    out.put_u8(b' ');
    writer::nstring(out, subject.as_deref(), utf8);
    for list in [&from, &sender, &reply_to, &addresses(to), &addresses(cc), &addresses(bcc)] {
        out.put_u8(b' ');
        address_list(out, list, utf8);
    }
    out.put_u8(b' ');
    writer::nstring(out, in_reply_to.as_deref(), utf8);
    out.put_u8(b' ');
    writer::nstring(out, message_id.as_deref(), utf8);
    out.put_u8(b')');
}

fn address_list(out: &mut BytesMut, addresses: &[Address], utf8: bool) {
    if addresses.is_empty() {
        out.put_slice(b"NIL");
        return;
    }
    out.put_u8(b'(');
    for address in addresses {
        out.put_u8(b'(');
        writer::nstring(out, address.name.as_deref(), utf8);
        out.put_u8(b' ');
        writer::nstring(out, address.route.as_deref(), utf8);
        out.put_u8(b' ');
        writer::nstring(out, address.mailbox.as_deref(), utf8);
        out.put_u8(b' ');
        writer::nstring(out, address.host.as_deref(), utf8);
        out.put_u8(b')');
    }
    out.put_u8(b')');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(header: &[u8]) -> String {
        let mut out = BytesMut::new();
        write(&mut out, header, false);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn the_example_of_the_rfc_is_reproduced() {
        let header = b"Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\r\nFrom: Terry Gray <gray@cac.washington.edu>\r\n\
            Subject: IMAP4rev2 WG mtg summary and minutes\r\nTo: imap@cac.washington.edu\r\n\
            cc: minutes@CNRI.Reston.VA.US, John Klensin\r\n <KLENSIN@MIT.EDU>\r\nMessage-Id: <B27397-0100000@cac.washington.ed>\r\n\r\n";
        assert_eq!(
            envelope(header),
            "(\"Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\" \"IMAP4rev2 WG mtg summary and minutes\" \
             ((\"Terry Gray\" NIL \"gray\" \"cac.washington.edu\")) \
             ((\"Terry Gray\" NIL \"gray\" \"cac.washington.edu\")) \
             ((\"Terry Gray\" NIL \"gray\" \"cac.washington.edu\")) \
             ((NIL NIL \"imap\" \"cac.washington.edu\")) \
             ((NIL NIL \"minutes\" \"CNRI.Reston.VA.US\")(\"John Klensin\" NIL \"KLENSIN\" \"MIT.EDU\")) \
             NIL NIL \"<B27397-0100000@cac.washington.ed>\")"
        );
    }

    #[test]
    fn an_empty_header_has_an_empty_envelope() {
        assert_eq!(envelope(b""), "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)");
    }

    #[test]
    fn eight_bit_subjects_become_literals_and_nul_is_dropped() {
        assert_eq!(
            envelope(b"Subject: \xfc\0x\n\n"),
            "(NIL {2}\r\n\u{fffd}x NIL NIL NIL NIL NIL NIL NIL NIL)"
        );
    }
}
