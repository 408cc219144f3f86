//! ENABLE (RFC 9051 6.3.1; RFC 7162 3.1, 3.2.3).

use crate::backend::Account;
use crate::logged_in::LoggedIn;
use crate::output::Output;
use crate::reply::Reply;
use crate::responses::Responses;

pub(crate) fn run<A: Account, O: Output>(
    user: &mut LoggedIn<A>,
    capabilities: &[String],
    out: &mut Responses<'_, O>,
) -> Reply {
    let had_condstore = user.enabled.condstore;
    let mut enabled = String::new();
    for capability in capabilities {
        let name = match capability.as_str() {
            "CONDSTORE" => {
                user.enabled.condstore = true;
                " CONDSTORE"
            }
            "QRESYNC" => {
                // RFC 7162 3.2.3: it includes CONDSTORE.
                user.enabled.qresync = true;
                user.enabled.condstore = true;
                " QRESYNC"
            }
            "IMAP4REV2" => {
                user.enabled.rev2 = true;
                " IMAP4rev2"
            }
            // RFC 9051 6.3.1: what is not known is ignored.
            _ => continue,
        };
        if !enabled.contains(name) {
            enabled.push_str(name);
        }
    }
    out.line(format_args!("* ENABLED{enabled}"));
    // RFC 7162 3.1: a client that has a mailbox selected needs a MODSEQ to begin with.
    if let (false, true, Some(mailbox)) = (had_condstore, user.enabled.condstore, &user.selected) {
        out.line(format_args!("* OK [HIGHESTMODSEQ {}] Highest", mailbox.highest_modseq));
    }
    Reply::ok("ENABLE completed")
}
