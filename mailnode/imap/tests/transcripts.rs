//! Runs the transcripts in tests/transcripts: what clients say and what the server must answer, to the byte.
//!
//! A line is `C: ` and what the client sends, or `S: ` and what the server answers. A number names the session (`C2: `); each
//! begins with its greeting, and is under TLS. A `!` line does something to the store or the session; see [`Run::directive`].
//! `#` begins a comment. After each group of client lines, the answer must be exactly the server lines that follow.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::Client;
use common::store::Store;
use imap::backend::SpecialUse;
use imap::{Config, Next};

struct Run {
    store: Arc<Store>,
    clients: BTreeMap<u32, Client>,
    config: Config,
    tls: bool,
}

impl Run {
    async fn client(&mut self, number: u32) -> &mut Client {
        if !self.clients.contains_key(&number) {
            let mut client = Client::new(&self.store, self.config.clone(), self.tls);
            client.session.greet(&mut client.output).await.unwrap();
            self.clients.insert(number, client);
        }
        self.clients.get_mut(&number).unwrap()
    }

    async fn directive(&mut self, line: &str) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            // A session that has logged in already.
            "log-in" => {
                let client = Client::logged_in_with(&self.store, self.config.clone()).await;
                self.clients.insert(rest.parse().unwrap(), client);
            }
            // The connection is not under TLS.
            "clear-text" => self.tls = false,
            "allow-clear-text-login" => self.config.clear_text_login = true,
            "max-message" => self.config.max_message = rest.parse().unwrap(),
            // A delivery: folder, then the body as a Rust-like string.
            "deliver" => {
                let (folder, body) = rest.split_once(' ').unwrap();
                self.store.deliver(folder, Bytes::from(unescape(body)));
            }
            "create" => match rest.split_once(' ') {
                Some((name, special_use)) => self.store.create(name, SpecialUse::parse(special_use)),
                None => self.store.create(rest, None),
            },
            "unreadable" => {
                let uids: Vec<u32> = rest.split_whitespace().map(|uid| uid.parse().unwrap()).collect();
                self.store.set_unreadable(&uids);
            }
            "divided-at" => self.store.divide_at(rest.parse().unwrap()),
            "fresh" => self.store.answer_next_sync_fresh(),
            "manager" => self.store.set_away(rest == "away"),
            "quota" => self.store.set_quota_reached(rest == "reached"),
            "uid-validity-changes" => self.store.change_uid_validity(rest),
            // The session waits for news and tells them.
            "news" => {
                let client = self.clients.get_mut(&rest.parse().unwrap()).unwrap();
                let news = client.wait_for_news().await;
                client.output = news.into_bytes();
            }
            "timed-out" => {
                let client = self.clients.get_mut(&rest.parse().unwrap()).unwrap();
                client.session.timed_out(&mut client.output).await.unwrap();
            }
            "closed" => {
                let client = &self.clients[&rest.parse().unwrap()];
                assert_eq!(client.next, Next::Close, "the session should be over");
            }
            other => panic!("unknown directive {other}"),
        }
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\r", "\r").replace("\\n", "\n").replace("\\t", "\t").replace("\\0", "\0")
}

fn session(prefix: &str) -> Option<(char, u32)> {
    let kind = prefix.chars().next()?;
    let number = prefix.get(1..)?;
    match (kind, number) {
        ('C' | 'S', "") => Some((kind, 1)),
        ('C' | 'S', number) => Some((kind, number.parse().ok()?)),
        _ => None,
    }
}

async fn run(name: &str, text: &str) {
    let mut run = Run { store: Store::new(), clients: BTreeMap::new(), config: Config::default(), tls: true };
    let mut expected: Vec<String> = Vec::new();
    let (mut current, mut pending) = (1, String::new());
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(directive) = line.strip_prefix("! ") {
            run.directive(directive).await;
            continue;
        }
        let (prefix, rest) = line.split_once(':').unwrap_or_else(|| panic!("{name}:{}: {line}", index + 1));
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        let (kind, number) = session(prefix).unwrap_or_else(|| panic!("{name}:{}: {line}", index + 1));
        current = if pending.is_empty() && expected.is_empty() { number } else { current };
        assert_eq!(current, number, "{name}:{}: sessions mixed", index + 1);
        if kind == 'C' {
            pending.push_str(&unescape(rest));
            pending.push_str("\r\n");
        } else {
            expected.push(rest.to_owned());
        }
        // A group ends where the next line is neither its own continuation nor its answer.
        let following = lines.peek().and_then(|(_, line)| session(line.split(':').next()?));
        let ends = match (kind, following) {
            ('C', Some((_, next))) => next != number,
            ('S', Some((next_kind, next))) => next_kind == 'C' || next != number,
            _ => true,
        };
        if ends {
            let client = run.client(number).await;
            if !pending.is_empty() {
                client.feed(std::mem::take(&mut pending).as_bytes()).await;
            }
            let answer = client.take();
            let wanted: String = expected.drain(..).map(|line| line + "\r\n").collect();
            assert!(
                answer == wanted,
                "{name}:{}: expected\n{wanted}\nbut the server said\n{answer}",
                index + 1
            );
        }
    }
}

/// Every file is run, and each that fails is named.
#[tokio::test]
async fn the_server_answers_as_the_transcripts_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "where are the transcripts?");
    let mut failed = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let task_name = name.clone();
        let task = tokio::spawn(async move { run(&task_name, &text).await });
        if task.await.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
