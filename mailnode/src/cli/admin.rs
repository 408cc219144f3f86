//! Commands that ask a node through its admin API.

use super::{CliError, Target};
use crate::admin::{
    AccountSignature, Alias, AppPassword, ClusterStatus, DomainEncryption, MadeSecret, NewAppPassword,
    NewDomain, NewEncryption, NewPassword, NewUser, Secret, User,
};
use crate::files::ca_files;
use crate::healing::DrainProgress;
use clap::Subcommand;
use data_encoding::HEXLOWER;
use directory::encryption::{Mode, signature};
use rpc::pki::{Authority, read_file};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Read;
use std::path::{Path, PathBuf};
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
        /// Who can read the mail: `cluster`, or `user` for the user alone. What the domain says if absent.
        #[arg(long)]
        encryption: Option<String>,
        /// With `--encryption user`: make a recovery key and print it. It is shown only now.
        #[arg(long)]
        recovery_key: bool,
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
        /// The old password, an app password or the recovery key, for an account that is encrypted for the user.
        #[arg(long)]
        secret_file: Option<String>,
        /// Without a secret: mail from before stays unreadable until `user recover`.
        #[arg(long, conflicts_with = "secret_file")]
        lose_mail: bool,
    },
    /// Sign the account's mode and public key with the CA's key, which is on no node: where that is required, mail is sealed to nothing else.
    Sign {
        #[arg(required_unless_present = "all")]
        address: Option<String>,
        /// All accounts that are not signed as they are now.
        #[arg(long, conflicts_with = "address")]
        all: bool,
        /// Directory with ca.pem and ca.key.
        #[arg(long)]
        ca: PathBuf,
    },
    /// Set who can read the mail: `cluster`, or `user` for the user alone. Mail that is there follows in the background.
    Encryption {
        address: String,
        mode: String,
        /// The user's password, the first time that `user` is set.
        #[arg(long)]
        password_file: Option<String>,
    },
    /// Make a recovery key, in place of the one before, and print it. It is shown only now.
    RecoveryKey {
        address: String,
        /// The password, an app password or the recovery key.
        #[arg(long, default_value = "-")]
        secret_file: String,
    },
    /// Make mail from before a reset of the password readable again.
    Recover {
        address: String,
        /// The recovery key or an app password.
        #[arg(long, default_value = "-")]
        secret_file: String,
    },
    /// Passwords for single programs.
    #[command(subcommand)]
    AppPassword(AppPasswordCommand),
    /// Remove a user and all its addresses.
    Remove {
        address: String,
    },
}

#[derive(Subcommand)]
pub enum AppPasswordCommand {
    /// Make one and print it. It is shown only now.
    Add {
        address: String,
        /// What it is for.
        name: String,
        /// The password, an app password or the recovery key, for an account with keys.
        #[arg(long)]
        secret_file: Option<String>,
    },
    List {
        address: String,
    },
    Revoke {
        address: String,
        id: u32,
    },
}

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

    pub fn send<T: Serialize>(&self, method: &str, path: &str, body: &T) -> Result<(), CliError> {
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
    pub fn pages<T: DeserializeOwned>(
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

fn mode(text: &str) -> Result<Mode, CliError> {
    match text {
        "cluster" => Ok(Mode::Cluster),
        "user" => Ok(Mode::User),
        other => Err(CliError::new(format!("{other}: the modes are cluster and user"))),
    }
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

/// Signs the mode and key that the node shows for an account, or for all of which the node does not say that it is done. Nobody else can: compare
/// a key with what its user sees, if that matters.
fn sign(client: &Client, address: Option<&str>, ca: &Path) -> Result<(), CliError> {
    let (certificate, key) = ca_files(ca);
    let [certificate, key] = [certificate, key].map(|file| read_file(&file).map_err(CliError::new));
    let authority = Authority::from_pem(&certificate?, &key?).map_err(CliError::new)?;
    if let Some(address) = address {
        return sign_one(client, address, &authority, false);
    }
    let mut all = Vec::new();
    client.pages("/v1/users", String::clone, |address: &String| all.push(address.clone()))?;
    all.iter().try_for_each(|address| sign_one(client, address, &authority, true))
}

fn sign_one(
    client: &Client,
    address: &str,
    authority: &Authority,
    if_not_signed: bool,
) -> Result<(), CliError> {
    let path = format!("/v1/users/{}", escape(address));
    let user: User = client.get(&path)?;
    let encryption = user.encryption;
    if if_not_signed && encryption.signed {
        return Ok(());
    }
    let sealing_key = encryption.public_key.filter(|_| encryption.mode == Mode::User);
    let id = user.id.parse().map_err(CliError::new)?;
    let signature = authority.sign(&signature::message(id, sealing_key));
    let signature = signature.ok_or_else(|| CliError::new("the CA's key cannot sign this"))?;
    let signed = AccountSignature { sealing_key, signature: HEXLOWER.encode(&signature) };
    client.send("PUT", &format!("{path}/signature"), &signed)?;
    let key = sealing_key.map_or_else(|| "cluster".into(), |key| HEXLOWER.encode(&key.0.0));
    println!("{address} {key}");
    Ok(())
}

pub fn user(target: &Target, command: UserCommand) -> Result<(), CliError> {
    let client = Client::new(target)?;
    match command {
        UserCommand::Add { address, password_file, quota_bytes, encryption, recovery_key } => {
            let encryption = encryption.as_deref().map(mode).transpose()?;
            let secret = password(&password_file)?;
            let new = NewUser { address: address.clone(), password: secret.clone(), quota_bytes, encryption };
            client.send("POST", "/v1/users", &new)?;
            if recovery_key { new_recovery_key(&client, &address, secret) } else { Ok(()) }
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
            let encryption = user.encryption;
            println!("encryption {}", if encryption.mode == Mode::User { "user" } else { "cluster" });
            match encryption.messages_to_rewrap {
                Some(0) => {}
                Some(left) => println!("           {left} messages wait to be wrapped anew"),
                None => println!("           messages wait to be wrapped anew"),
            }
            if encryption.locked_keys > 0 {
                println!("           mail from before a reset waits for `user recover`");
            }
            if encryption.signed {
                println!("           signed");
            }
            println!("recovery   {}", if encryption.recovery_key { "has a recovery key" } else { "none" });
            println!("programs   {}", encryption.app_passwords);
            Ok(())
        }
        UserCommand::Passwd { address, password_file, secret_file, lose_mail } => {
            let new = NewPassword {
                password: password(&password_file)?,
                secret: secret_file.as_deref().map(password).transpose()?,
                lose_mail,
            };
            client.send("PUT", &format!("/v1/users/{}/password", escape(&address)), &new)
        }
        UserCommand::Sign { address, all: _, ca } => sign(&client, address.as_deref(), &ca),
        UserCommand::Encryption { address, mode: text, password_file } => {
            let password = password_file.as_deref().map(password).transpose()?;
            let new = NewEncryption { mode: mode(&text)?, password };
            client.send("PUT", &format!("/v1/users/{}/encryption", escape(&address)), &new)
        }
        UserCommand::RecoveryKey { address, secret_file } => {
            new_recovery_key(&client, &address, password(&secret_file)?)
        }
        UserCommand::Recover { address, secret_file } => {
            let secret = Secret { secret: password(&secret_file)? };
            client.send("POST", &format!("/v1/users/{}/recover", escape(&address)), &secret)
        }
        UserCommand::AppPassword(command) => app_password(&client, command),
        UserCommand::Remove { address } => {
            client.call("DELETE", &format!("/v1/users/{}", escape(&address)), None).map(|_| ())
        }
    }
}

fn new_recovery_key(client: &Client, address: &str, secret: String) -> Result<(), CliError> {
    let path = format!("/v1/users/{}/recovery-key", escape(address));
    let made: MadeSecret = client.ask("POST", &path, &Secret { secret })?;
    println!("{}", made.secret);
    Ok(())
}

fn app_password(client: &Client, command: AppPasswordCommand) -> Result<(), CliError> {
    let path = |address: &str| format!("/v1/users/{}/app-passwords", escape(address));
    match command {
        AppPasswordCommand::Add { address, name, secret_file } => {
            let new = NewAppPassword { name, secret: secret_file.as_deref().map(password).transpose()? };
            let made: MadeSecret = client.ask("POST", &path(&address), &new)?;
            println!("{}", made.secret);
            Ok(())
        }
        AppPasswordCommand::List { address } => {
            let all: Vec<AppPassword> = client.get(&path(&address))?;
            all.iter().for_each(|app| println!("{:>4}  {}", app.id, app.name));
            Ok(())
        }
        AppPasswordCommand::Revoke { address, id } => {
            client.call("DELETE", &format!("{}/{id}", path(&address)), None).map(|_| ())
        }
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
