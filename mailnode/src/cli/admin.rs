//! Commands about domains, aliases and the cluster, which ask a node through its admin API.

use super::client::{Client, escape};
use super::{CliError, Target};
use crate::admin::{Alias, ClusterStatus, DomainEncryption, NewDomain};
use crate::healing::DrainProgress;
use clap::Subcommand;
use directory::encryption::Mode;
use std::time::Duration;

#[derive(Subcommand)]
pub enum DomainCommand {
    Add {
        domain: String,
        /// Who can read the mail of new accounts: `cluster`, or `user` for the user alone.
        #[arg(long, default_value = "cluster")]
        encryption: String,
    },
    List,
    /// Set who can read the mail of new accounts. Those that are there stay as they are.
    Encryption {
        domain: String,
        mode: String,
    },
    Remove {
        domain: String,
    },
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

pub fn mode(text: &str) -> Result<Mode, CliError> {
    match text {
        "cluster" => Ok(Mode::Cluster),
        "user" => Ok(Mode::User),
        other => Err(CliError::new(format!("{other}: the modes are cluster and user"))),
    }
}

pub fn domain(target: &Target, command: DomainCommand) -> Result<(), CliError> {
    let client = Client::new(target)?;
    match command {
        DomainCommand::Add { domain, encryption } => {
            let new = NewDomain { domain, encryption: mode(&encryption)? };
            client.send("POST", "/v1/domains", &new)
        }
        DomainCommand::Encryption { domain, mode: text } => {
            let new = DomainEncryption { encryption: mode(&text)? };
            client.send("PUT", &format!("/v1/domains/{}/encryption", escape(&domain)), &new)
        }
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
    let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    println!("{:<20} {:>10} {:>10} {:>10} {:>10}  (MiB)", "NAME", "LIVE", "PARTS", "TRASH", "DEAD");
    for member in &status.members {
        let (Some(node), Some(parts)) = (member.node.as_ref(), member.parts) else { continue };
        println!(
            "{:<20} {:>10} {:>10} {:>10} {:>10}{}",
            member.name,
            mebibytes(node.live_bytes),
            mebibytes(parts.live_bytes),
            mebibytes(parts.trash_bytes),
            mebibytes(node.dead_bytes),
            if parts.missing > 0 {
                format!("  ({} copies of parts on their way)", parts.missing)
            } else {
                String::new()
            },
        );
    }
    for member in &status.members {
        if let Some(quarantine) = member.node.as_ref().and_then(|node| node.quarantined.as_ref()) {
            println!("{}: its log was put into quarantine and replaced: {}", member.name, quarantine.reason);
        }
    }
    let secrets =
        status.members.iter().filter_map(|member| Some((&member.name, &member.node.as_ref()?.secret)));
    for (name, secret) in secrets.filter(|(_, secret)| secret.versions.len() > 1) {
        let older = match secret.wrapped_by_older {
            Some(0) => "no key here needs an older one".into(),
            Some(keys) => format!("{keys} keys here need an older one"),
            None => "keys that need an older one are being counted".into(),
        };
        let versions: Vec<String> = secret.versions.iter().map(u16::to_string).collect();
        println!(
            "{name}: versions {} of the cluster secret, {} in use; {older}",
            versions.join(", "),
            secret.current
        );
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
