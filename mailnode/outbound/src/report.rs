//! Delivery status notifications (RFC 3464) in a multipart/report (RFC 6522): what a sender is told of recipients that
//! could not be served. With addresses that are not ASCII, in the forms of RFC 6533.
//!
//! Whoever delivers it uses the null return path (RFC 5321 4.5.5), and none is made for a message that has it, so that
//! no report is ever answered by another.

use crate::problem::{Problem, Status};
use std::fmt::Write;

/// Of the header of the message, and of each recipient's text.
const HEADER: usize = 64 * 1024;
const LINE: usize = 900;

/// What a report says.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// The host that reports.
    pub host_name: &'a str,
    /// The sender of the message, to whom the report goes.
    pub to: &'a str,
    /// Unique; becomes part of the Message-ID and of the boundary, so letters, digits, dots and hyphens only.
    pub id: &'a str,
    /// RFC 5322 3.3, of the report and of the message's arrival.
    pub date: &'a str,
    pub arrived: &'a str,
    /// The transaction's id, as in the logs.
    pub queue_id: &'a str,
    pub failures: &'a [Failure<'a>],
    /// The recipients are only late; until then it is tried.
    pub delayed_until: Option<&'a str>,
    /// The message that could not be delivered; its header is returned.
    pub message: &'a [u8],
}

#[derive(Clone, Debug)]
pub struct Failure<'a> {
    pub recipient: &'a str,
    pub problem: &'a Problem,
    /// It was tried for too long; the problem is that of the last attempt.
    pub expired: bool,
}

impl Failure<'_> {
    /// RFC 3464 2.3.4: a transient status with `failed` says that it was given up.
    fn status(&self) -> Status {
        if self.expired { Status::new(4, 4, 7) } else { self.problem.status }
    }
}

impl Report<'_> {
    /// The whole message, with CRLF line ends.
    pub fn message(&self) -> Vec<u8> {
        let header = header(self.message);
        let global = !self.failures.iter().all(|failure| failure.recipient.is_ascii())
            || !self.to.is_ascii()
            || !header.is_ascii();
        let boundary = format!("=_{}", self.id);
        let mut text = String::with_capacity(2_000 + self.failures.len() * 300);
        self.head(&mut text, &boundary);
        self.explanation(&mut text, &boundary);
        self.fields(&mut text, &boundary, global);
        let headers = if global { "message/global-headers" } else { "text/rfc822-headers" };
        // Writing to a string cannot fail.
        let _ = write!(text, "--{boundary}\r\nContent-Type: {headers}\r\n\r\n");
        let mut message = text.into_bytes();
        message.extend_from_slice(header);
        message.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        message
    }

    fn head(&self, text: &mut String, boundary: &str) {
        let Self { host_name, to, id, date, .. } = self;
        let subject = match self.delayed_until {
            None => "Your message could not be delivered",
            Some(_) => "Your message is delayed",
        };
        let _ = write!(
            text,
            "From: Mail delivery <MAILER-DAEMON@{host_name}>\r\nTo: <{to}>\r\nSubject: {subject}\r\n\
             Date: {date}\r\nMessage-ID: <{id}@{host_name}>\r\nAuto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"{boundary}\"\r\n\r\n"
        );
    }

    fn explanation(&self, text: &mut String, boundary: &str) {
        let _ = write!(
            text,
            "--{boundary}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
             This is the mail server {}.\r\n\r\n",
            self.host_name
        );
        let _ = match self.delayed_until {
            None => {
                write!(text, "Your message did not reach these recipients, and will not be tried again:\r\n")
            }
            Some(until) => write!(
                text,
                "Your message has not reached these recipients yet. You need not send it again: it will be tried until\r\n{until}.\r\n"
            ),
        };
        for failure in self.failures {
            let _ = write!(text, "\r\n  {}\r\n", failure.recipient);
            if failure.expired {
                text.push_str("    It was tried for too long. At last:\r\n");
            }
            let _ = write!(text, "    {}\r\n", cut(&failure.problem.to_string()));
        }
        let _ = write!(text, "\r\nThe server's number for your message is {}.\r\n\r\n", self.queue_id);
    }

    /// RFC 3464 2: a group of fields for the message, then one a recipient.
    fn fields(&self, text: &mut String, boundary: &str, global: bool) {
        let (kind, address) = if global {
            ("message/global-delivery-status", "utf-8")
        } else {
            ("message/delivery-status", "rfc822")
        };
        let Self { host_name, arrived, date, queue_id, .. } = self;
        let _ = write!(
            text,
            "--{boundary}\r\nContent-Type: {kind}\r\n\r\nReporting-MTA: dns; {host_name}\r\n\
             X-Prickle-Id: {queue_id}\r\nArrival-Date: {arrived}\r\n"
        );
        for failure in self.failures {
            let problem = failure.problem;
            let action = if self.delayed_until.is_some() { "delayed" } else { "failed" };
            let _ = write!(
                text,
                "\r\nFinal-Recipient: {address}; {}\r\nAction: {action}\r\nStatus: {}\r\n",
                failure.recipient,
                failure.status()
            );
            if let Some(host) = &problem.host {
                let _ = write!(text, "Remote-MTA: dns; {}\r\n", cut(host));
            }
            // RFC 3464 2.3.6: of type smtp only if a server said it.
            let kind = if problem.is_reply { "smtp" } else { "X-Prickle" };
            let _ = write!(
                text,
                "Diagnostic-Code: {kind}; {}\r\nLast-Attempt-Date: {date}\r\n",
                cut(&problem.text)
            );
            if let Some(until) = self.delayed_until {
                let _ = write!(text, "Will-Retry-Until: {until}\r\n");
            }
        }
        text.push_str("\r\n");
    }
}

/// One line of it, not too long.
fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(LINE).collect()
}

/// The header of a message with the line end of its last field.
fn header(message: &[u8]) -> &[u8] {
    let end = match memchr::memmem::find(message, b"\r\n\r\n") {
        Some(end) => end + 2,
        None => message.len(),
    };
    let header = message.get(..end.min(HEADER)).unwrap_or_default();
    // Whole lines only.
    let end = memchr::memrchr(b'\n', header).map_or(0, |end| end + 1);
    header.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(recipient: &str, problem: &Problem, expired: bool, message: &[u8]) -> String {
        told(recipient, problem, expired, None, message)
    }

    fn told(
        recipient: &str,
        problem: &Problem,
        expired: bool,
        delayed_until: Option<&str>,
        message: &[u8],
    ) -> String {
        let failures = [Failure { recipient, problem, expired }];
        let report = Report {
            host_name: "mx.example.org",
            to: "alice@example.org",
            id: "5.7",
            date: "Thu, 1 Jan 1970 00:00:09 +0000",
            arrived: "Thu, 1 Jan 1970 00:00:00 +0000",
            queue_id: "7.1",
            failures: &failures,
            delayed_until,
            message,
        };
        String::from_utf8(report.message()).unwrap()
    }

    fn refusal() -> Problem {
        Problem {
            permanent: true,
            status: Status::new(5, 1, 1),
            text: "550 5.1.1 no such user".into(),
            is_reply: true,
            host: Some("mx.example.net".into()),
        }
    }

    #[test]
    fn it_says_who_was_not_reached_and_why() {
        let text =
            report("bob@example.net", &refusal(), false, b"Subject: secret plan\r\nX: y\r\n\r\nthe body\r\n");
        for part in [
            "To: <alice@example.org>\r\n",
            "Content-Type: multipart/report; report-type=delivery-status;",
            "Reporting-MTA: dns; mx.example.org\r\n",
            "\r\n\r\nFinal-Recipient: rfc822; bob@example.net\r\nAction: failed\r\nStatus: 5.1.1\r\n\
             Remote-MTA: dns; mx.example.net\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n",
            "Content-Type: text/rfc822-headers\r\n\r\nSubject: secret plan\r\nX: y\r\n\r\n--=_5.7--\r\n",
            "mx.example.net said: 550 5.1.1 no such user",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("the body"));
        assert_eq!(text.matches("--=_5.7\r\n").count(), 3);
    }

    #[test]
    fn what_was_given_up_says_so() {
        let problem = Problem::temporary(4, 1, "no connection to 192.0.2.1");
        let text = report("bob@example.net", &problem, true, b"X: y\r\n\r\n");
        assert!(
            text.contains("Status: 4.4.7\r\n") && text.contains("Diagnostic-Code: X-Prickle; no connection")
        );
        assert!(text.contains("tried for too long"));
    }

    #[test]
    fn a_delay_is_no_failure_and_says_until_when_it_is_tried() {
        let problem = Problem::temporary(4, 1, "no connection to 192.0.2.1");
        let until = "Tue, 6 Jan 1970 00:00:00 +0000";
        let text = told("bob@example.net", &problem, false, Some(until), b"X: y\r\n\r\n");
        assert!(
            text.contains("Subject: Your message is delayed\r\n")
                && text.contains("not reached these recipients yet")
        );
        assert!(text.contains("Action: delayed\r\nStatus: 4.4.1\r\n"), "{text}");
        assert!(text.contains(&format!("\r\nWill-Retry-Until: {until}\r\n")));
        assert!(!text.contains("failed") && !text.contains("could not be delivered"));
    }

    #[test]
    fn addresses_beyond_ascii_take_the_international_form() {
        let text = report("grün@example.net", &refusal(), false, b"X: y\r\n\r\n");
        assert!(text.contains("Content-Type: message/global-delivery-status\r\n"));
        assert!(text.contains("Final-Recipient: utf-8; grün@example.net\r\n"));
    }

    #[test]
    fn no_more_than_a_bounded_header_comes_back_in_whole_lines() {
        let long = [b"A: b\r\n".repeat(HEADER).as_slice(), b"\r\nbody"].concat();
        let text = report("bob@example.net", &refusal(), false, &long);
        assert!(text.len() < HEADER + 4_000, "{}", text.len());
        assert!(text.contains("A: b\r\n\r\n--=_5.7--\r\n"));
        let text = report("bob@example.net", &refusal(), false, b"no line end");
        assert!(text.contains("text/rfc822-headers\r\n\r\n\r\n--=_5.7--"));
    }
}
