//! Bugs planted on the way between nodes, to show that each checker finds what it is for. A history has none
//! unless a test asks for one.

use bytes::Bytes;
use cluster::mailbox::Marks;
use mailnode::wire::{FolderChanges, Request, Response, Sender, Updated, UserReply, decode, encode};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tamper {
    #[default]
    Nothing,
    /// Replicas say that they stored a message, and did not.
    DropStores,
    /// Nodes say that they stored a MIME part, and did not.
    DropParts,
    /// Replicas say that they took an update, and did not.
    DropUpdates,
    /// Replicas take updates, but not that a message is gone.
    ForgetTombstones,
    /// One host never learns of updates.
    DeafHost(usize),
    /// Sessions are shown UIDs one too high, now and then.
    ShiftUids(u32),
    /// Sessions are told of a MODSEQ from long ago.
    OldModseq,
    /// Nobody gets the bodies of messages.
    NoBodies,
}

fn coded(sender: Sender, response: &Response) -> (Bytes, Bytes) {
    encode(sender, response, Bytes::new()).unwrap_or_default()
}

impl Tamper {
    /// What arrives of a request; None: nothing.
    pub fn request(&mut self, to: usize, head: Bytes, body: Bytes) -> Option<(Bytes, Bytes)> {
        if matches!(self, Self::Nothing | Self::ShiftUids(_) | Self::OldModseq | Self::NoBodies) {
            return Some((head, body));
        }
        let Ok((sender, request, bytes)) = decode::<Request>(&head, body.clone()) else {
            return Some((head, body));
        };
        let changed = match (&*self, request) {
            (Self::DropStores, Request::Store { .. }) => Request::Store { entries: Vec::new() },
            (Self::DropParts, Request::StorePart { .. }) => Request::Store { entries: Vec::new() },
            (Self::DropUpdates, Request::Update { entries }) => {
                // As many answers as questions, all about nothing: see `answer`.
                let entries = entries.into_iter().map(|mut pending| {
                    pending.entry.replicas.value.clear();
                    pending
                });
                Request::Update { entries: entries.collect() }
            }
            (Self::ForgetTombstones, Request::Update { entries }) => {
                let entries = entries.into_iter().map(|mut pending| {
                    pending.entry.expunged = None;
                    pending
                });
                Request::Update { entries: entries.collect() }
            }
            (Self::DeafHost(deaf), Request::Update { .. } | Request::Store { .. } | Request::Compare(_))
                if *deaf == to =>
            {
                return None;
            }
            _ => return Some((head, body)),
        };
        encode(sender, &changed, bytes).ok()
    }

    /// What arrives of an answer.
    pub fn answer(&mut self, head: Bytes, body: Bytes) -> (Bytes, Bytes) {
        if !matches!(self, Self::ShiftUids(_) | Self::OldModseq | Self::NoBodies | Self::DropUpdates) {
            return (head, body);
        }
        let Ok((sender, response, _)) = decode::<Response>(&head, body.clone()) else { return (head, body) };
        match (self, response) {
            (Self::ShiftUids(count), Response::User(UserReply::Opened(mut opened))) => {
                *count += 1;
                if *count % 3 == 0 {
                    opened.messages.iter_mut().for_each(|message| message.uid += 1);
                }
                coded(sender, &Response::User(UserReply::Opened(opened)))
            }
            (
                Self::OldModseq,
                Response::User(UserReply::Changes(FolderChanges::Delta { marks, upserts, vanished })),
            ) => {
                let marks = Marks { highest_modseq: 1, ..marks };
                let delta = FolderChanges::Delta { marks, upserts, vanished };
                coded(sender, &Response::User(UserReply::Changes(delta)))
            }
            (Self::NoBodies, Response::Blob) => {
                (coded(sender, &Response::Blob).0, Bytes::from_static(b"rubbish"))
            }
            (Self::DropUpdates, Response::Updated(outcomes)) => {
                coded(sender, &Response::Updated(outcomes.iter().map(|_| Updated::Same).collect()))
            }
            _ => (head, body),
        }
    }
}
