//! One connection's work for one destination: its hosts and their addresses in order until one takes mail, then message
//! after message while there are any.
//!
//! A host that breaks off in the middle leaves the message to the next one. The destination rests if none can be used.

use super::conclude::conclude;
use super::connection::{Connection, NotOpened};
use super::resolver::Resolver;
use super::{Held, Job, is_ours, own_names};
use crate::environment;
use crate::lists;
use crate::node::Node;
use crate::retrieval;
use cluster::EntryId;
use outbound::client::{Config, Tls};
use outbound::{Destination, Envelope, MailExchangers, Outcome, Problem, Transaction, Work, route};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

const SMTP: u16 = 25;
/// Messages over one connection; then another one may turn out to be less busy.
const MESSAGES: usize = 100;

/// What a worker needs, and how far it is.
pub struct Worker {
    pub node: Arc<Node>,
    pub destination: Destination,
    pub resolver: Arc<Resolver>,
    pub stopping: watch::Receiver<bool>,
    /// The message that the last host left undone.
    pub open: Option<Work<EntryId>>,
}

/// How the work at one host ended.
enum Ended {
    /// Nothing is left to do.
    Done,
    /// Another host may do better.
    Broken(Problem),
}

impl Worker {
    /// Works until nothing is due, the hosts are tried, or the node stops.
    pub async fn run(mut self) {
        // A relay that cannot be found is a mistake of ours, and no word about anybody's mail.
        let has_relay = self.node.outbound.settings.relay.is_some();
        let outcome = self.work().await;
        let outcome = outcome.map_err(|problem| if has_relay { problem.for_now() } else { problem });
        let node = self.node.clone();
        let outbound = &node.outbound;
        if let Err(problem) = outcome {
            tracing::info!(destination = %self.destination, %problem, "no mail can be sent there");
            if problem.permanent {
                self.fail_all(&problem).await;
            } else {
                let (now, random) = (outbound.now(), environment::random());
                outbound.lock().queue.destination_failed(&self.destination, &problem, now, random);
                self.node.metrics.queue.attempts.with_label_values(&["unreachable"]).inc();
                if let Some(work) = self.open.take() {
                    self.conclude(work, |_| Outcome::Failed(problem.clone())).await;
                }
            }
        }
        let mut state = outbound.lock();
        if let Some(work) = self.open.take() {
            state.queue.give_back(&work, &self.destination);
        }
        state.queue.release(&self.destination);
        drop(state);
        self.node.outbound.news.notify_one();
    }

    async fn work(&mut self) -> Result<(), Problem> {
        let mut last: Option<Problem> = None;
        for host in self.hosts().await? {
            let addresses = match self.resolver.addresses(&host).await {
                Ok(addresses) => addresses,
                Err(problem) => {
                    last = Some(worse(last, problem.at(&host)));
                    continue;
                }
            };
            for address in addresses {
                if *self.stopping.borrow() {
                    return Ok(());
                }
                let address = SocketAddr::new(address, self.port());
                match self.host(&host, address).await {
                    Ok(Ended::Done) => return Ok(()),
                    Ok(Ended::Broken(problem)) | Err(problem) => last = Some(worse(last, problem.at(&host))),
                }
            }
        }
        Err(last.unwrap_or_else(|| Problem::temporary(4, 4, "no host to send to")))
    }

    fn port(&self) -> u16 {
        self.node.outbound.settings.relay.as_ref().map_or(SMTP, |relay| relay.port)
    }

    async fn hosts(&self) -> Result<Vec<String>, Problem> {
        if let Some(relay) = &self.node.outbound.settings.relay {
            return Ok(vec![relay.host.clone()]);
        }
        let answer: MailExchangers = self.resolver.exchangers(&self.destination).await?;
        route::hosts(&self.destination, answer, &own_names(&self.node), environment::random)
    }

    /// What can be sent through one address of a host.
    async fn host(&mut self, name: &str, address: SocketAddr) -> Result<Ended, Problem> {
        let mut connection = self.open(name, address).await?;
        self.node.outbound.lock().queue.destination_works(&self.destination);
        // The others may come, too.
        self.node.outbound.news.notify_one();
        for _ in 0..MESSAGES {
            if *self.stopping.borrow() {
                break;
            }
            let Some(work) = self.next() else { break };
            let Some((held, transaction)) = prepare(&self.node, &self.destination, &work).await else {
                continue;
            };
            let (outcomes, ended) = connection.send(transaction).await;
            let outcomes = outcomes.into_iter().map(|outcome| match outcome {
                Outcome::Failed(problem) => Outcome::Failed(problem.at(name)),
                delivered => delivered,
            });
            let outcomes: Vec<Outcome> = outcomes.collect();
            match ended {
                None => conclude(&self.node, &held, &work, &self.destination, outcomes, false).await,
                Some(problem) => {
                    // What is known is known; the rest is for the next host.
                    let left = conclude_known(&self.node, &held, work, &self.destination, outcomes).await;
                    self.open = left;
                    return Ok(Ended::Broken(problem));
                }
            }
        }
        connection.close().await;
        Ok(Ended::Done)
    }

    async fn open(&self, name: &str, address: SocketAddr) -> Result<Connection, Problem> {
        let settings = &self.node.outbound.settings;
        let mut config = Config {
            host_name: self.node.settings.host_name.clone(),
            not_ourselves: settings.relay.is_none(),
            tls: Tls::IfOffered,
            login: None,
        };
        let mut connector: &TlsConnector = &settings.opportunistic;
        if let Some(relay) = &settings.relay {
            config.tls = relay.tls;
            config.login = relay.login.clone();
            connector = relay.verified.as_ref().unwrap_or(connector);
        }
        match Connection::open(address, name, connector, config.clone()).await {
            Ok(connection) => Ok(connection),
            Err(NotOpened::Handshake(problem)) if config.tls == Tls::IfOffered => {
                // RFC 7435 3: no worse than if TLS were not offered.
                tracing::info!(host = name, %problem, "clear text instead");
                config.tls = Tls::Never;
                match Connection::open(address, name, connector, config).await {
                    Ok(connection) => Ok(connection),
                    Err(NotOpened::Handshake(problem) | NotOpened::Other(problem)) => Err(problem),
                }
            }
            Err(NotOpened::Handshake(problem) | NotOpened::Other(problem)) => Err(problem),
        }
    }

    /// What the last host left, or the next job.
    fn next(&mut self) -> Option<Work<EntryId>> {
        if let Some(work) = self.open.take() {
            return Some(work);
        }
        let outbound = &self.node.outbound;
        outbound.lock().queue.take(&self.destination, outbound.now())
    }

    async fn conclude(&self, work: Work<EntryId>, outcome: impl Fn(usize) -> Outcome) {
        let held = self.node.outbound.lock().held.get(&work.id).cloned();
        let outcomes: Vec<Outcome> = work.recipients.iter().map(|&index| outcome(index)).collect();
        match held {
            Some(held) => conclude(&self.node, &held, &work, &self.destination, outcomes, false).await,
            None => self.node.outbound.lock().queue.give_back(&work, &self.destination),
        }
    }

    /// Nothing that is due can ever be delivered there.
    async fn fail_all(&mut self, problem: &Problem) {
        while let Some(work) = self.next() {
            self.conclude(work, |_| Outcome::Failed(problem.clone())).await;
        }
    }
}

/// The message, if it is still to be sent by us.
async fn prepare(
    node: &Arc<Node>,
    destination: &Destination,
    work: &Work<EntryId>,
) -> Option<(Held, Transaction)> {
    let held = node.outbound.lock().held.get(&work.id).cloned();
    let Some(held) = held.filter(|held| is_ours(node, &held.entry)) else {
        let mut state = node.outbound.lock();
        state.queue.give_back(work, destination);
        state.forget(work.id);
        return None;
    };
    let body = retrieval::body(node, &held.entry.blob, &held.entry.replicas.value, None).await;
    let opened = body.map_err(|failure| failure.to_string());
    match opened.and_then(|whole| Envelope::open(whole).map_err(|error| error.to_string())) {
        Ok((envelope, message)) => {
            let address = |&index: &usize| envelope.recipients.get(index).cloned();
            let recipients = work.recipients.iter().filter_map(address).collect();
            let (sender, utf8) = (envelope.sender, envelope.utf8);
            Some((held, Transaction { sender, recipients, message, utf8 }))
        }
        Err(error) => {
            tracing::warn!(id = held.envelope.id, error, "a queued message cannot be read now");
            let problem = Problem::temporary(3, 0, "the message cannot be read now");
            let outcomes = vec![Outcome::Failed(problem); work.recipients.len()];
            conclude(node, &held, work, destination, outcomes, false).await;
            None
        }
    }
}

/// Brings messages to the members of lists while any are due.
pub async fn work_on_lists(node: Arc<Node>, stopping: watch::Receiver<bool>) {
    let (outbound, destination) = (&node.outbound, Destination::lists());
    for _ in 0..MESSAGES {
        if *stopping.borrow() {
            break;
        }
        let Some(work) = outbound.lock().queue.take(&destination, outbound.now()) else { break };
        let Some((held, transaction)) = prepare(&node, &destination, &work).await else { continue };
        let job = Job { entry: held.entry.clone(), envelope: held.envelope.clone() };
        let mut outcomes = Vec::with_capacity(transaction.recipients.len());
        for recipient in &transaction.recipients {
            let outcome = lists::work(&node, &job, recipient, transaction.message.clone()).await;
            outcomes.push(match outcome {
                Ok(()) => Outcome::Delivered("all members have it".into()),
                Err(problem) => Outcome::Failed(problem),
            });
        }
        // With what was noted meanwhile.
        let held = outbound.lock().held.get(&work.id).cloned().unwrap_or(held);
        conclude(&node, &held, &work, &destination, outcomes, false).await;
    }
    outbound.lock().queue.release(&destination);
    outbound.news.notify_one();
}

/// Makes durable what is known of a job whose connection broke; the rest is to be tried elsewhere.
async fn conclude_known(
    node: &Arc<Node>,
    held: &Held,
    work: Work<EntryId>,
    destination: &Destination,
    outcomes: Vec<Outcome>,
) -> Option<Work<EntryId>> {
    let is_open = |outcome: &Outcome| matches!(outcome, Outcome::Failed(problem) if !problem.permanent);
    let (open, known): (Vec<_>, Vec<_>) =
        work.recipients.iter().copied().zip(outcomes).partition(|(_, outcome)| is_open(outcome));
    let (recipients, outcomes): (Vec<usize>, Vec<Outcome>) = known.into_iter().unzip();
    let left = !open.is_empty();
    let known = Work { id: work.id, recipients };
    conclude(node, held, &known, destination, outcomes, left).await;
    left.then(|| Work { id: work.id, recipients: open.into_iter().map(|(index, _)| index).collect() })
}

/// Of two problems, the one that leaves more hope.
fn worse(last: Option<Problem>, problem: Problem) -> Problem {
    match last {
        Some(last) if !last.permanent && problem.permanent => last,
        _ => problem,
    }
}
