//! The section `outbound` of the configuration with the files that it names.

use super::tls;
use crate::config::outbound::{DkimConfig, OutboundConfig, RelayConfig, RelayTls};
use crate::running::StartError;
use outbound::Schedule;
use outbound::client::{Login, Tls};
use outbound::dkim::Signer;
use outbound::queue::Limits;
use std::net::SocketAddr;
use std::time::Duration;
use tokio_rustls::TlsConnector;

pub struct Settings {
    pub enabled: bool,
    pub limits: Limits,
    pub schedule: Schedule,
    pub name_servers: Vec<SocketAddr>,
    pub relay: Option<Relay>,
    pub signers: Vec<Signer>,
    /// TLS that believes any certificate.
    pub opportunistic: TlsConnector,
}

/// The server that all mail goes through.
pub struct Relay {
    pub host: String,
    pub port: u16,
    pub tls: Tls,
    pub login: Option<Login>,
    /// TLS that wants a certificate for the host's name; None if any will do.
    pub verified: Option<TlsConnector>,
}

impl Settings {
    /// # Errors
    /// Names the field whose file is missing or wrong.
    pub fn load(config: &OutboundConfig) -> Result<Self, StartError> {
        let seconds = |seconds: &u64| Duration::from_secs(*seconds);
        Ok(Self {
            enabled: config.enabled,
            limits: Limits {
                connections: config.connections,
                per_destination: config.connections_per_destination,
                messages: config.messages,
            },
            schedule: Schedule {
                waits: config.retry_seconds.iter().map(seconds).collect(),
                warning: seconds(&config.warn_seconds),
                expiry: seconds(&config.expire_seconds),
            },
            name_servers: config.name_servers.clone(),
            relay: config.relay.as_ref().map(relay).transpose()?,
            signers: config.dkim.iter().map(signer).collect::<Result<_, _>>()?,
            opportunistic: tls::opportunistic().map_err(|error| StartError::new("outbound", error))?,
        })
    }
}

fn relay(config: &RelayConfig) -> Result<Relay, StartError> {
    let login = config.login.as_ref().map(|login| {
        let file = &login.password_file;
        let password = std::fs::read_to_string(file).map_err(|error| {
            StartError::new("outbound.relay.login.passwordFile", format!("{}: {error}", file.display()))
        })?;
        let password = password.trim_end_matches(['\r', '\n']).to_owned();
        Ok(Login { name: login.name.clone(), password })
    });
    let verified = config.ca.as_ref().map(|file| {
        tls::verified(file)
            .map_err(|error| StartError::new("outbound.relay.ca", format!("{}: {error}", file.display())))
    });
    Ok(Relay {
        host: config.host.clone(),
        port: config.port,
        tls: match config.tls {
            RelayTls::None => Tls::Never,
            RelayTls::Opportunistic => Tls::IfOffered,
            RelayTls::Required => Tls::Required,
        },
        login: login.transpose()?,
        verified: verified.transpose()?,
    })
}

fn signer(config: &DkimConfig) -> Result<Signer, StartError> {
    let file = &config.key_file;
    let wrong = |error: &dyn std::fmt::Display| {
        StartError::new("outbound.dkim.keyFile", format!("{}: {error}", file.display()))
    };
    let pem = std::fs::read(file).map_err(|error| wrong(&error))?;
    Signer::new(&config.domain, &config.selector, &pem).map_err(|error| wrong(&error))
}
