//! Capabilities, STARTTLS and login (RFC 9051 6.1.1, 6.2).

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;

use crate::backend::{Account, Backend, LoginError};
use crate::config;
use crate::logged_in::LoggedIn;
use crate::output::Output;
use crate::reply::{Reply, Stop};
use crate::responses::Responses;
use crate::session::{Next, Session, Waiting};
use crate::syntax::command::Secret;

const ANY_STATE: &str = "IMAP4rev1 IMAP4rev2 LITERAL+ SASL-IR ENABLE ID";
const LOGGED_IN: &str = "IDLE NAMESPACE UIDPLUS UNSELECT MOVE CHILDREN LIST-EXTENDED LIST-STATUS SPECIAL-USE \
    CREATE-SPECIAL-USE STATUS=SIZE ESEARCH SEARCHRES CONDSTORE QRESYNC BINARY MULTIAPPEND NOTIFY";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl<B: Backend> Session<B> {
    /// What works now.
    pub(crate) fn capabilities(&self) -> String {
        if self.user.is_some() {
            return format!("{ANY_STATE} {LOGGED_IN} APPENDLIMIT={}", self.config.max_message);
        }
        let start_tls = if self.may_start_tls() { " STARTTLS" } else { "" };
        let login = if self.may_log_in() { " AUTH=PLAIN" } else { " LOGINDISABLED" };
        format!("{ANY_STATE}{start_tls}{login}")
    }

    fn may_start_tls(&self) -> bool {
        self.config.start_tls && !self.tls && self.user.is_none()
    }

    fn may_log_in(&self) -> bool {
        self.tls || self.config.clear_text_login
    }

    /// STARTTLS (RFC 9051 6.2.1). What the client, or somebody between, sent behind it in clear text is forgotten.
    pub(crate) fn start_tls(&mut self) -> Result<Reply, Reply> {
        if !self.may_start_tls() {
            return Err(Reply::bad("STARTTLS is not available here"));
        }
        self.decoder.clear();
        self.next = Some(Next::StartTls);
        Ok(Reply::ok("Begin TLS now"))
    }

    fn check_login_allowed(&self) -> Result<(), Reply> {
        if self.user.is_some() {
            Err(Reply::bad("Already logged in"))
        } else if !self.may_log_in() {
            Err(Reply::no("PRIVACYREQUIRED", "Start TLS first"))
        } else {
            Ok(())
        }
    }

    pub(crate) async fn login(&mut self, name: String, password: Secret) -> Result<Reply, Reply> {
        self.check_login_allowed()?;
        match std::str::from_utf8(&password.0) {
            Ok(password) => self.check(&name, password).await,
            Err(_) => Err(self.login_failed()),
        }
    }

    /// AUTHENTICATE (RFC 9051 6.2.2), the initial response included (RFC 4959).
    pub(crate) async fn authenticate<O: Output>(
        &mut self,
        tag: &str,
        mechanism: &str,
        initial: Option<Secret>,
        out: &mut Responses<'_, O>,
    ) -> Result<Option<Reply>, Stop> {
        self.check_login_allowed()?;
        if mechanism != "PLAIN" {
            return Err(Reply::no("CANNOT", "The only mechanism is PLAIN").into());
        }
        match initial {
            Some(initial) if initial.0 == "=" => Ok(Some(self.sasl_plain(b"").await?)),
            Some(initial) => Ok(Some(self.sasl_plain(&initial.0).await?)),
            None => {
                self.waiting = Waiting::Authenticate { tag: tag.to_owned() };
                self.decoder.set_line_mode(true);
                out.line(format_args!("+ "));
                Ok(None)
            }
        }
    }

    /// The client's message of SASL PLAIN (RFC 4616 2), in base64. `*` cancels.
    pub(crate) async fn sasl_plain(&mut self, encoded: &[u8]) -> Result<Reply, Stop> {
        if encoded == b"*" {
            return Err(Reply::bad("AUTHENTICATE cancelled").into());
        }
        let Ok(message) = BASE64.decode(encoded) else {
            return Err(Reply::bad("Invalid base64").into());
        };
        let message = Secret(Bytes::from(message));
        let mut fields = message.0.split(|byte| *byte == 0).map(std::str::from_utf8);
        let (Some(Ok(identity)), Some(Ok(name)), Some(Ok(password)), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(Reply::bad("Malformed PLAIN message").into());
        };
        if !identity.is_empty() && identity != name {
            return Err(Reply::no("AUTHORIZATIONFAILED", "Nobody can act for another user").into());
        }
        Ok(self.check(name, password).await?)
    }

    async fn check(&mut self, name: &str, password: &str) -> Result<Reply, Reply> {
        match self.backend.login(name, password).await {
            Ok(account) => {
                tracing::info!(user = name, "logged in");
                self.alert = account.alert();
                self.user = Some(LoggedIn::new(account, self.config.max_message));
                self.decoder.allow_append();
                Ok(Reply::ok("Logged in").code(format!("CAPABILITY {}", self.capabilities())))
            }
            Err(LoginError::Invalid) => Err(self.login_failed()),
            Err(LoginError::Temporary(text)) => Err(Reply::no("UNAVAILABLE", text)),
        }
    }

    /// Guessing is slow, and soon over.
    fn login_failed(&mut self) -> Reply {
        self.failed_logins += 1;
        tracing::info!(failed = self.failed_logins, "login failed");
        if self.failed_logins < config::MAX_FAILED_LOGINS {
            self.next = Some(Next::Pause(config::pause_after(self.failed_logins)));
        }
        Reply::no("AUTHENTICATIONFAILED", "Invalid credentials")
    }
}
