//! The machines and their time. A tick moves the world on: what arrived is handed over, then each machine runs
//! until the end of the tick, one after the other, in an order that never changes.

use crate::dice::Dice;
use crate::host::{Host, Times, directory};
use crate::leases::SimLeases;
use crate::network::{Arrival, Network, SharedNetwork};
use crate::tamper::Tamper;
use crate::trace::Trace;
use crate::work::{Done, Work, run};
use cluster::NodeId;
use mailnode::healing::set_draining;
use std::collections::{BTreeSet, VecDeque};
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use storage::disk::Crash;

/// Messages take at least about so long. Timers within a process are exact.
pub const TICK: Duration = Duration::from_millis(5);

/// Work that a host was asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub id: u64,
    pub host: usize,
    life: u64,
    pub begun: Duration,
}

pub struct World {
    pub now: Duration,
    pub hosts: Vec<Host>,
    pub network: SharedNetwork,
    pub leases: SimLeases,
    /// Processes that were stopped and will go on.
    pub stopped: BTreeSet<usize>,
    ids: Vec<NodeId>,
    done: Arc<Mutex<VecDeque<(u64, Done)>>>,
    tickets: u64,
}

impl World {
    /// # Errors
    /// If the nodes' configuration is wrong.
    pub fn new(
        hosts: usize,
        zones: bool,
        times: Times,
        dice: &Dice,
        tamper: Tamper,
        trace: Trace,
    ) -> Result<Self, String> {
        let hosts: Result<Vec<Host>, String> = (0..hosts)
            .map(|index| {
                let zone = ["a", "b"].get(index % 2).copied().filter(|_| zones);
                Host::new(index, dice, zone, hosts.min(3), times)
            })
            .collect();
        let hosts = hosts?;
        let network = Network::new(dice.fork("network"), directory(&hosts), tamper, trace);
        Ok(Self {
            now: Duration::ZERO,
            network: SharedNetwork::new(network),
            leases: SimLeases::new(dice.fork("leases")),
            stopped: BTreeSet::new(),
            ids: hosts.iter().map(|host| host.id).collect(),
            hosts,
            done: Arc::default(),
            tickets: 0,
        })
    }

    pub fn tell(&self, what: impl Display) {
        self.network.lock().trace.tell(self.now, what);
    }

    pub fn tick(&mut self) {
        self.now += TICK;
        self.network.lock().now = self.now;
        loop {
            let arrival = self.network.lock().next_arrival(&self.stopped);
            match arrival {
                None => break,
                Some(Arrival::Request(delivery)) => {
                    let (Some(host), Some(&from)) =
                        (self.hosts.get(delivery.to), self.ids.get(delivery.from))
                    else {
                        continue;
                    };
                    host.serve(delivery, from, &self.network);
                }
                Some(Arrival::Load { to, about, load }) => {
                    if let (Some(host), Some(&about)) = (self.hosts.get(to), self.ids.get(about)) {
                        host.report(about, load);
                    }
                }
            }
        }
        for host in &mut self.hosts {
            if !self.stopped.contains(&host.index) {
                host.run(self.now);
            }
        }
    }

    pub fn is_up(&self, host: usize) -> bool {
        self.hosts.get(host).is_some_and(|host| host.node().is_some())
    }

    pub fn start(&mut self, host: usize) -> bool {
        let (now, network, leases) = (self.now, self.network.clone(), self.leases.clone());
        let Some(machine) = self.hosts.get_mut(host) else { return false };
        if machine.node().is_some() {
            return true;
        }
        let outcome = machine.start(now, &network, &leases);
        match outcome {
            Ok(()) => self.tell(format_args!("node-{host} starts")),
            Err(why) => {
                self.tell(format_args!("node-{host} does not start: {why}"));
                return false;
            }
        }
        true
    }

    pub fn crash(&mut self, host: usize, crash: Crash) {
        let network = self.network.clone();
        self.stopped.remove(&host);
        let Some(machine) = self.hosts.get_mut(host) else { return };
        if machine.node().is_some() {
            machine.crash(crash, &network);
            self.tell(format_args!("node-{host} crashes: {crash:?}"));
        }
    }

    /// Somebody asks a host to drain itself, or not to any more. True if it is as wished.
    pub fn drain(&self, host: usize, draining: bool) -> bool {
        let Some((host, node)) = self.hosts.get(host).and_then(|host| Some((host, host.node()?.clone())))
        else {
            return false;
        };
        if node.healing.is_draining() == draining {
            return true;
        }
        self.tell(format_args!("{}: drain: {draining}", host.name));
        let name = host.name.clone();
        host.spawn(async move { set_draining(&node, &name, draining).await });
        false
    }

    /// Asks a host to do something. None if it is down.
    pub fn begin(&mut self, host: usize, work: Work) -> Option<Ticket> {
        let machine = self.hosts.get(host)?;
        let node = machine.node()?.clone();
        self.tickets += 1;
        let id = self.tickets;
        let done = self.done.clone();
        machine.spawn(async move {
            let outcome = run(node, work).await;
            done.lock().unwrap_or_else(PoisonError::into_inner).push_back((id, outcome));
        });
        Some(Ticket { id, host, life: machine.life, begun: self.now })
    }

    /// What was done since the last call.
    pub fn finished(&self) -> Vec<(u64, Done)> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// The process that was asked is gone: nobody will answer.
    pub fn is_lost(&self, ticket: &Ticket) -> bool {
        let host = self.hosts.get(ticket.host);
        !host.is_some_and(|host| host.node().is_some() && host.life == ticket.life)
    }
}
