//! Commands that ask a node through its admin API.

use super::{CliError, Target};
use crate::admin::{Alias, ClusterStatus, NewDomain, NewPassword, NewUser, User};
use crate::healing::DrainProgress;
use clap::Subcommand;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::time::Duration;
use ureq::Agent;

#[derive(Subcommand)]
pub enum UserCommand {
    /// Add a user. The password is read from a file, or from standard input with `-`.
    Add {
        address: String,
        #[arg(long, default_value = "-")]
        password_file: String,
        /// Bytes; 0 is unlimited.
        #[arg(long, default_value_t = 0)]
        quota_bytes: u64,
    },
    /// Addresses of all users.
    List,
    Show {
        address: String,
    },
    /// Set a user's password.
    Passwd {
        address: String,
        #[arg(long, default_value = "-")]
        password_file: String,
    },
    /// Remove a user and all its addresses.
    Remove {
        address: String,
    },
}

#[derive(Subcommand)]
pub enum DomainCommand {
    Add { domain: String },
    List,
    Remove { domain: String },
}

#[derive(Subcommand)]
pub enum AliasCommand {
    /// Mail for ADDRESS goes to all the targets.
    Add {
        address: String,
        #[arg(required = true)]
        targets: Vec<String>,
    },
    List,
    Remove {
        address: String,
    },
}

#[derive(Subcommand)]
pub enum ClusterCommand {
    /// Members, epoch, load, under-replicated entries.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Take a node out of service: its mail gets copies elsewhere, its sessions end. Returns when nothing lives only
    /// there, and it may be stopped for good.
    Drain {
        node: String,
        /// Put it back into service.
        #[arg(long)]
        cancel: bool,
        /// Begin, and do not wait.
        #[arg(long, conflicts_with = "cancel")]
        no_wait: bool,
    },
}

pub struct Client {
    agent: Agent,
    server: String,
    token: String,
}

impl Client {
    pub fn new(target: &Target) -> Result<Self, CliError> {
        let token = std::fs::read_to_string(&target.token_file).map_err(|error| {
            CliError::new(format!("{}: {error} (give --token-file)", target.token_file.display()))
        })?;
        let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(30)));
        let agent = config.http_status_as_error(false).build().into();
        let server = target.server.trim_end_matches('/').to_owned();
        Ok(Self { agent, server, token: token.trim().to_owned() })
    }

    pub fn call(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<String, CliError> {
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(body.unwrap_or_default())
            .map_err(CliError::new)?;
        let mut response = self
            .agent
            .run(request)
            .map_err(|error| CliError::new(format!("{}: {error} (give --server)", self.server)))?;
        let status = response.status();
        let text = response.body_mut().read_to_string().map_err(CliError::new)?;
        if status.is_success() {
            return Ok(text);
        }
        let reason = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|body| body.get("error")?.as_str().map(str::to_owned))
            .unwrap_or(text);
        Err(CliError::new(format!("{reason} (HTTP {status})")))
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        serde_json::from_str(&self.call("GET", path, None)?).map_err(CliError::new)
    }

    fn send<T: Serialize>(&self, method: &str, path: &str, body: &T) -> Result<(), CliError> {
        let body = serde_json::to_vec(body).map_err(CliError::new)?;
        self.call(method, path, Some(body)).map(|_| ())
    }

    pub fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(body).map_err(CliError::new)?;
        serde_json::from_str(&self.call(method, path, Some(body))?).map_err(CliError::new)
    }

    /// All pages of a list.
    fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        key: impl Fn(&T) -> String,
        mut each: impl FnMut(&T),
    ) -> Result<(), CliError> {
        let mut after = String::new();
        loop {
            let page: Vec<T> = self.get(&format!("{path}?limit=1000&after={}", escape(&after)))?;
            page.iter().for_each(&mut each);
            match page.last() {
                Some(last) => after = key(last),
                None => return Ok(()),
            }
        }
    }
}

/// Percent-encodes a path or query part (RFC 3986 2.1).
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' => {
                out.push(byte as char)
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

fn password(file: &str) -> Result<String, CliError> {
    let mut text = String::new();
    if file == "-" {
        std::io::stdin().read_to_string(&mut text).map_err(CliError::new)?;
    } else {
        text = std::fs::read_to_string(file).map_err(|error| CliError::new(format!("{file}: {error}")))?;
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

pub fn user(target: &Target, command: UserCommand) -> Result<(), CliError> {
    let client = Client::new(target)?;
    match command {
        UserCommand::Add { address, password_file, quota_bytes } => {
            let new = NewUser { address, password: password(&password_file)?, quota_bytes };
            client.send("POST", "/v1/users", &new)
        }
        UserCommand::List => {
            client.pages("/v1/users", String::clone, |address: &String| println!("{address}"))
        }
        UserCommand::Show { address } => {
            let user: User = client.get(&format!("/v1/users/{}", escape(&address)))?;
            println!("id         {}", user.id);
            println!("addresses  {}", user.addresses.join(", "));
            println!("enabled    {}", user.enabled);
            println!(
                "quota      {}",
                if user.quota_bytes == 0 { "unlimited".into() } else { user.quota_bytes.to_string() }
            );
            println!("folders    {}", user.folders.join(", "));
            Ok(())
        }
        UserCommand::Passwd { address, password_file } => {
            let new = NewPassword { password: password(&password_file)? };
            client.send("PUT", &format!("/v1/users/{}/password", escape(&address)), &new)
        }
        UserCommand::Remove { address } => {
            client.call("DELETE", &format!("/v1/users/{}", escape(&address)), None).map(|_| ())
        }
    }
}

pub fn domain(target: &Target, command: DomainCommand) -> Result<(), CliError> {
    let client = Client::new(target)?;
    match command {
        DomainCommand::Add { domain } => client.send("POST", "/v1/domains", &NewDomain { domain }),
        DomainCommand::List => {
            client.pages("/v1/domains", String::clone, |domain: &String| println!("{domain}"))
        }
        DomainCommand::Remove { domain } => {
            client.call("DELETE", &format!("/v1/domains/{}", escape(&domain)), None).map(|_| ())
        }
    }
}

pub fn alias(target: &Target, command: AliasCommand) -> Result<(), CliError> {
    let client = Client::new(target)?;
    match command {
        AliasCommand::Add { address, targets } => {
            client.send("POST", "/v1/aliases", &Alias { address, targets })
        }
        AliasCommand::List => client.pages(
            "/v1/aliases",
            |alias: &Alias| alias.address.clone(),
            |alias| {
                println!("{} -> {}", alias.address, alias.targets.join(", "));
            },
        ),
        AliasCommand::Remove { address } => {
            client.call("DELETE", &format!("/v1/aliases/{}", escape(&address)), None).map(|_| ())
        }
    }
}

pub fn cluster(target: &Target, command: ClusterCommand) -> Result<(), CliError> {
    let client = Client::new(target)?;
    match command {
        ClusterCommand::Status { json } => status(&client, json),
        ClusterCommand::Drain { node, cancel: true, .. } => {
            client.call("DELETE", &format!("/v1/cluster/members/{}/drain", escape(&node)), None).map(|_| ())
        }
        ClusterCommand::Drain { node, no_wait, .. } => drain(&client, &node, no_wait),
    }
}

fn drain(client: &Client, node: &str, no_wait: bool) -> Result<(), CliError> {
    let path = format!("/v1/cluster/members/{}/drain", escape(node));
    client.call("PUT", &path, None)?;
    if no_wait {
        return Ok(());
    }
    let mut said = String::new();
    loop {
        let now: DrainProgress = client.get(&path)?;
        if now.done {
            println!("{node} is drained");
            return Ok(());
        }
        if !now.draining {
            return Err(CliError::new(format!("the drain of {node} was cancelled")));
        }
        let text = format!(
            "messages left {}, updates on their way {}, user database buckets {}, connections {}, still named by {}",
            now.copies,
            now.updates,
            now.buckets,
            now.connections,
            if now.named_by.is_empty() { "nobody".into() } else { now.named_by.join(", ") },
        );
        if text != said {
            println!("{text}");
            said = text;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn status(client: &Client, json: bool) -> Result<(), CliError> {
    let text = client.call("GET", "/v1/cluster", None)?;
    if json {
        println!("{text}");
        return Ok(());
    }
    let status: ClusterStatus = serde_json::from_str(&text).map_err(CliError::new)?;
    println!("epoch {}, coordinator {}", status.epoch, status.coordinator.as_deref().unwrap_or("unknown"));
    println!(
        "under-replicated entries {}, pending updates {}",
        status.under_replicated_entries, status.pending_updates
    );
    println!(
        "{:<20} {:<9} {:<10} {:>7} {:>8} {:>6}  ADDRESS",
        "NAME", "STATE", "ZONE", "BUCKETS", "PENDING", "FULL"
    );
    for member in &status.members {
        let load = member.node.as_ref().map(|node| node.load);
        println!(
            "{:<20} {:<9} {:<10} {:>7} {:>8} {:>6}  {}{}",
            member.name,
            format!("{:?}", member.state).to_lowercase(),
            member.zone.as_deref().unwrap_or("-"),
            member.buckets,
            load.map_or("-".into(), |load| load.pending.to_string()),
            load.map_or("-".into(), |load| format!("{}%", load.fullness / 10)),
            member.address,
            if member.reachable { "" } else { " (does not answer)" },
        );
    }
    for member in &status.members {
        if let Some(quarantine) = member.node.as_ref().and_then(|node| node.quarantined.as_ref()) {
            println!("{}: its log was put into quarantine and replaced: {}", member.name, quarantine.reason);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped_for_paths() {
        assert_eq!(escape("a+b/ü@example.org"), "a%2Bb%2F%C3%BC@example.org");
    }
}
