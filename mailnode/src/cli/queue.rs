//! `mailnode queue`: mail to other servers that waits, on all nodes.

use super::CliError;
use super::client::{Client, escape};
use crate::admin::{QueuePage, Retried};
use crate::outbound::control::{QueuedMessage, RecipientState};
use clap::Subcommand;

#[derive(Subcommand)]
pub enum QueueCommand {
    /// Messages that wait, oldest first.
    List {
        /// So many at most; 0 is all.
        #[arg(long, default_value_t = 0)]
        limit: usize,
        #[arg(long)]
        json: bool,
    },
    /// One message, with all its recipients.
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Try a message now, whatever the schedule says.
    Retry {
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// All messages.
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
    /// Delete a message. Its sender is not told.
    Drop { id: String },
}

/// Messages asked for at once.
const PAGE: usize = 500;

pub fn run(client: &Client, command: QueueCommand) -> Result<(), CliError> {
    match command {
        QueueCommand::List { limit, json } => list(client, limit, json),
        QueueCommand::Show { id, json } => show(client, &id, json),
        QueueCommand::Retry { id, all: _ } => {
            let path = id.map_or("/v1/queue/retry".into(), |id| format!("/v1/queue/{}/retry", escape(&id)));
            let retried: Retried = client.ask("POST", &path, &())?;
            println!("messages to be tried now: {}", retried.messages);
            Ok(())
        }
        QueueCommand::Drop { id } => {
            client.call("DELETE", &format!("/v1/queue/{}", escape(&id)), None).map(|_| ())
        }
    }
}

fn list(client: &Client, limit: usize, json: bool) -> Result<(), CliError> {
    let mut left = if limit == 0 { usize::MAX } else { limit };
    let mut after = String::new();
    while left > 0 {
        let path = format!("/v1/queue?limit={}&after={after}", left.min(PAGE));
        let page: QueuePage = client.get(&path)?;
        for name in page.missing.iter().filter(|_| after.is_empty()) {
            eprintln!("{name} does not answer: its messages are missing here");
        }
        for message in &page.messages {
            if json {
                println!("{}", serde_json::to_string(message).map_err(CliError::new)?);
            } else {
                print(message);
            }
        }
        left = left.saturating_sub(page.messages.len());
        match page.messages.last() {
            Some(last) => after = last.id.to_string(),
            None => break,
        }
    }
    Ok(())
}

fn show(client: &Client, id: &str, json: bool) -> Result<(), CliError> {
    let path = format!("/v1/queue/{}", escape(id));
    let message: QueuedMessage = client.get(&path)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&message).map_err(CliError::new)?);
        return Ok(());
    }
    println!("id           {}", message.id);
    println!("transaction  {}", message.transaction);
    println!("holder       {}", message.holder);
    println!("sender       <{}>", message.sender.as_deref().unwrap_or_default());
    println!("bytes        {}", message.bytes);
    println!("age          {}", duration(message.age_seconds));
    println!("recipients   {} to go", message.waiting);
    print_recipients(&message);
    Ok(())
}

fn print(message: &QueuedMessage) {
    println!(
        "{}  {:>8}  {:>9} bytes  {}  <{}>  recipients {}",
        message.id,
        duration(message.age_seconds),
        message.bytes,
        message.holder,
        message.sender.as_deref().unwrap_or_default(),
        message.waiting,
    );
    print_recipients(message);
}

fn print_recipients(message: &QueuedMessage) {
    for recipient in &message.recipients {
        let when = match (recipient.state, recipient.next_seconds) {
            (RecipientState::Waiting, Some(next)) => format!("in {}", duration(next)),
            (state, _) => format!("{state:?}").to_lowercase(),
        };
        println!("    {}  {when}, attempts {}", recipient.address, recipient.attempts);
        if let Some(problem) = &recipient.problem {
            println!("        {problem}");
        }
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!([0, 119, 120, 7_200, 172_800].map(duration), ["0 s", "119 s", "2 min", "2 h", "2 days"]);
    }
}
