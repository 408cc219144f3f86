//! The embedded database of a cluster of one node, in memory: the real state machine, without a network.

use bytes::Bytes;
use cluster::{Addresses, Epoch, Incarnation, Member, MemberState, NodeId, View};
use directory::embedded::{
    Disk, DiskError, Effect, Embedded, EmbeddedRequest, EmbeddedResponse, Event, Promises,
};
use directory::{DatabaseError, Key, Kind, Read, Records, Token};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Mutex;

const ME: NodeId = NodeId(1);

#[derive(Default)]
struct Memory(BTreeMap<Bytes, Bytes>);

impl Disk for Memory {
    fn record(&self, key: &[u8]) -> Result<Option<Bytes>, DiskError> {
        Ok(self.0.get(key).cloned())
    }

    fn records(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, DiskError> {
        let from = Bytes::copy_from_slice(after.unwrap_or(prefix));
        let rest = self.0.range(from..).filter(|(key, _)| after != Some(&key[..]));
        let with = rest.take_while(|(key, _)| key.starts_with(prefix));
        Ok(with.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

struct State {
    core: Embedded,
    disk: Memory,
    answers: HashMap<u64, EmbeddedResponse>,
    next: u64,
}

pub struct OneNode(Mutex<State>);

impl OneNode {
    pub fn new() -> Self {
        let core = Embedded::new(ME, 1, Promises::default());
        let state = State { core, disk: Memory::default(), answers: HashMap::new(), next: 1 };
        let node = Self(Mutex::new(state));
        let member = Member {
            id: ME,
            name: "one".into(),
            addresses: Addresses::default(),
            zone: None,
            state: MemberState::Active,
            incarnation: Incarnation(1),
        };
        node.run(Event::View(View::new(Epoch(1), vec![member])));
        for _ in 0..100 {
            node.run(Event::Tick);
        }
        let progress = node.0.lock().unwrap().core.progress();
        assert!(progress.0 == progress.1 && progress.1 > 0, "{progress:?}");
        node
    }

    /// An event and all that follows from it.
    fn run(&self, event: Event) {
        let mut state = self.0.lock().unwrap();
        let state = &mut *state;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in state.core.handle(event, &state.disk) {
                match effect {
                    Effect::Write { write, records, .. } => {
                        for (key, value) in records {
                            match value {
                                Some(value) => state.disk.0.insert(key, value),
                                None => state.disk.0.remove(&key),
                            };
                        }
                        events.push_back(Event::Written { write, ok: true });
                    }
                    Effect::Respond { id, response } => {
                        state.answers.insert(id, response);
                    }
                    Effect::Call { call, .. } => events.push_back(Event::Answer { call, response: None }),
                    Effect::Tell { .. } => {}
                }
            }
        }
    }

    fn ask(&self, request: EmbeddedRequest) -> Result<EmbeddedResponse, DatabaseError> {
        let id = {
            let mut state = self.0.lock().unwrap();
            state.next += 1;
            state.next
        };
        self.run(Event::Request { from: ME, id, request });
        let answer = self.0.lock().unwrap().answers.remove(&id);
        answer.ok_or_else(|| DatabaseError::Unavailable("no answer".into()))
    }
}

fn unexpected<T>(response: EmbeddedResponse) -> Result<T, DatabaseError> {
    Err(DatabaseError::Unavailable(format!("{response:?}")))
}

impl Records for OneNode {
    async fn read(&self, key: &Key, stale: bool) -> Result<Read, DatabaseError> {
        match self.ask(EmbeddedRequest::Read { key: key.clone(), stale })? {
            EmbeddedResponse::Record { version, value } => Ok(Read { version, value }),
            other => unexpected(other),
        }
    }

    async fn compare_and_set(
        &self,
        key: &Key,
        expected: u64,
        token: Token,
        value: Option<Bytes>,
    ) -> Result<u64, DatabaseError> {
        let key = key.clone();
        match self.ask(EmbeddedRequest::CompareAndSet { key, expected, token, millis: 1, value })? {
            EmbeddedResponse::Committed { version } => Ok(version),
            EmbeddedResponse::Conflict { .. } => Err(DatabaseError::Conflict),
            other => unexpected(other),
        }
    }

    async fn list(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Key, Read)>, DatabaseError> {
        let after = after.map(Bytes::copy_from_slice);
        match self.ask(EmbeddedRequest::List { kind, after, limit: u32::try_from(limit).unwrap() })? {
            EmbeddedResponse::Listed(records) => Ok(records
                .into_iter()
                .map(|(key, version, value)| (key, Read { version, value: Some(value) }))
                .collect()),
            other => unexpected(other),
        }
    }
}
