//! `mailnode list`: mailing lists.

use super::client::{Client, escape};
use super::{CliError, Target};
use crate::admin::{MEMBERS, MailingList, MembersChange, MembersPage};
use clap::{Subcommand, ValueEnum};
use directory::accounts::Posting;
use directory::accounts::lists::{Changed, ListChange};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum ListCommand {
    /// Make a mailing list without members.
    Add {
        address: String,
        /// Who is told of failures, and may always post; several times for several. An address of ours.
        #[arg(long = "owner", required = true)]
        owners: Vec<String>,
        /// Who may post.
        #[arg(long, default_value = "members")]
        posting: PostingArgument,
        /// One line, for the header List-Id.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Change what is given.
    Set {
        address: String,
        #[arg(long = "owner")]
        owners: Vec<String>,
        #[arg(long)]
        posting: Option<PostingArgument>,
        #[arg(long)]
        description: Option<String>,
    },
    List,
    Show {
        address: String,
    },
    Members {
        address: String,
    },
    /// Add members: any addresses.
    Subscribe {
        address: String,
        members: Vec<String>,
        /// A file with one address a line.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    Unsubscribe {
        address: String,
        members: Vec<String>,
        /// A file with one address a line.
        #[arg(long)]
        file: Option<PathBuf>,
    },
    Remove {
        address: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
pub enum PostingArgument {
    Anyone,
    Members,
    Owners,
}

impl From<PostingArgument> for Posting {
    fn from(argument: PostingArgument) -> Self {
        match argument {
            PostingArgument::Anyone => Self::Anyone,
            PostingArgument::Members => Self::Members,
            PostingArgument::Owners => Self::Owners,
        }
    }
}

pub fn run(target: &Target, command: ListCommand) -> Result<(), CliError> {
    let client = Client::new(target)?;
    let path = |address: &str| format!("/v1/lists/{}", escape(address));
    match command {
        ListCommand::Add { address, owners, posting, description } => {
            let list = MailingList { address, owners, posting: posting.into(), description };
            client.send("POST", "/v1/lists", &list)
        }
        ListCommand::Set { address, owners, posting, description } => {
            let owners = (!owners.is_empty()).then_some(owners);
            let change = ListChange { owners, posting: posting.map(Posting::from), description };
            client.send("PATCH", &path(&address), &change)
        }
        ListCommand::List => client.pages(
            "/v1/lists",
            |list: &MailingList| list.address.clone(),
            |list| println!("{}", list.address),
        ),
        ListCommand::Show { address } => {
            let text = client.call("GET", &path(&address), None)?;
            let list: MailingList = serde_json::from_str(&text).map_err(CliError::new)?;
            println!("{}", list.address);
            println!("owners: {}", list.owners.join(", "));
            println!(
                "posting: {}",
                serde_json::to_string(&list.posting).map_err(CliError::new)?.trim_matches('"')
            );
            println!("description: {}", list.description);
            Ok(())
        }
        ListCommand::Members { address } => members(&client, &path(&address)),
        ListCommand::Subscribe { address, members, file } => {
            let change = |add| MembersChange { add, ..MembersChange::default() };
            change_members(&client, &path(&address), members, file, change)
        }
        ListCommand::Unsubscribe { address, members, file } => {
            let change = |remove| MembersChange { remove, ..MembersChange::default() };
            change_members(&client, &path(&address), members, file, change)
        }
        ListCommand::Remove { address } => client.call("DELETE", &path(&address), None).map(|_| ()),
    }
}

fn members(client: &Client, path: &str) -> Result<(), CliError> {
    let mut from = Some(0);
    while let Some(shard) = from {
        let text = client.call("GET", &format!("{path}/members?from={shard}"), None)?;
        let page: MembersPage = serde_json::from_str(&text).map_err(CliError::new)?;
        page.members.iter().for_each(|member| println!("{member}"));
        from = page.next;
    }
    Ok(())
}

fn change_members(
    client: &Client,
    path: &str,
    mut members: Vec<String>,
    file: Option<PathBuf>,
    change: impl Fn(Vec<String>) -> MembersChange,
) -> Result<(), CliError> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(&file);
        let text = text.map_err(|error| CliError::new(format!("{}: {error}", file.display())))?;
        members.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
    }
    let mut all = Changed::default();
    for page in members.chunks(MEMBERS) {
        let body = serde_json::to_vec(&change(page.to_vec())).map_err(CliError::new)?;
        let text = client.call("POST", &format!("{path}/members"), Some(body))?;
        let done: Changed = serde_json::from_str(&text).map_err(CliError::new)?;
        all.changed += done.changed;
        all.unchanged += done.unchanged;
    }
    println!("{} changed, {} as they were", all.changed, all.unchanged);
    Ok(())
}
