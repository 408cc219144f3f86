//! Commands about accounts: passwords, encryption, signatures.

use super::admin::mode;
use super::client::{Client, escape};
use super::{CliError, Target};
use crate::admin::{
    AccountSignature, AppPassword, MadeSecret, NewAppPassword, NewEncryption, NewPassword, NewUser, Secret,
    User,
};
use crate::files::ca_files;
use clap::Subcommand;
use data_encoding::HEXLOWER;
use directory::encryption::{Mode, signature};
use rpc::pki::{Authority, read_file};
use std::io::Read;
use std::path::{Path, PathBuf};

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
        /// With --all: those that are signed, too, because the CA is another.
        #[arg(long, requires = "all")]
        again: bool,
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
fn sign(client: &Client, address: Option<&str>, again: bool, ca: &Path) -> Result<(), CliError> {
    let (certificate, key) = ca_files(ca);
    let [certificate, key] = [certificate, key].map(|file| read_file(&file).map_err(CliError::new));
    let authority = Authority::from_pem(&certificate?, &key?).map_err(CliError::new)?;
    if let Some(address) = address {
        return sign_one(client, address, &authority, true);
    }
    let mut all = Vec::new();
    client.pages("/v1/users", String::clone, |address: &String| all.push(address.clone()))?;
    all.iter().try_for_each(|address| sign_one(client, address, &authority, again))
}

fn sign_one(client: &Client, address: &str, authority: &Authority, again: bool) -> Result<(), CliError> {
    let path = format!("/v1/users/{}", escape(address));
    let user: User = client.get(&path)?;
    let encryption = user.encryption;
    if encryption.signed && !again {
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
        UserCommand::Sign { address, all: _, again, ca } => sign(&client, address.as_deref(), again, &ca),
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
