//! The pure core of Prickle: what a cluster of identical mail nodes knows and decides.
//!
//! Nothing here does I/O, reads a clock, sleeps or spawns: events and time come in, values and effects go
//! out. The node (`mailnode/src`) runs this code on sockets and disks, the simulator on simulated ones.
//!
//! | module | what it decides | source |
//! | --- | --- | --- |
//! | [`ids`] | names of nodes, users, entries, blobs, buckets, epochs | DESIGN 1 |
//! | [`clock`] | hybrid logical clock, refusal of clocks too far ahead | DESIGN 4 |
//! | [`entry`] | one message's record and how two versions of it merge | DESIGN 4 |
//! | [`fragment`] | the messages of one user on one node | Porcupine, "mailbox fragment" |
//! | [`view`] | numbered membership list | DESIGN 5 |
//! | [`membership`] | probes, suspicion, the coordinator's decisions | DESIGN 5 |
//! | [`user_map`] | bucket -> manager, by rendezvous hashing | DESIGN 1 |
//! | [`lateness`] | whether a request still has a caller who waits for it | decisions/simulator.md |
//! | [`mail_map`] | user -> nodes that hold fragments | DESIGN 1 |
//! | [`placement`] | which nodes take a new message | Porcupine, DESIGN 6 |
//! | [`blob`] | what can be told of a stored blob without a key | decisions/parts.md |
//! | [`part_owners`] | which nodes keep a MIME part | POST (PAST), DESIGN 7 |
//! | [`queue_user`] | whose entries the outbound queue is | decisions/outbound.md |
//! | [`replica_write`] | a new message's way to `minCopies` disks | DESIGN 2 |
//! | [`redelivery`] | when the update log is pushed to a peer | Porcupine, DESIGN 4 |
//! | [`tree`] | who passes news on to whom | Scribe, DESIGN 7 |
//! | [`anti_entropy`] | what two nodes should both have and do not | DESIGN 4 |
//! | [`healing`] | which entries need new replicas, where, and how fast | DESIGN 4 |
//! | [`reconstruction`] | whom to ask for the mail maps of the buckets that a node gained | DESIGN 5; Porcupine |
//! | [`mailbox`] | UID and MODSEQ order of an active mailbox, plans for changes | DESIGN 4 |

pub mod agreed_time;
pub mod anti_entropy;
pub mod blob;
pub mod clock;
pub mod entry;
pub mod fragment;
pub mod healing;
pub mod ids;
pub mod lateness;
pub mod mail_map;
pub mod mailbox;
pub mod membership;
pub mod part_owners;
pub mod placement;
pub mod queue_user;
pub mod reconstruction;
pub mod record_places;
pub mod redelivery;
pub mod replica_write;
pub mod tree;
pub mod user_map;
pub mod view;
mod zones;

pub use agreed_time::AgreedTime;
pub use blob::BlobKind;
pub use clock::{ClockError, HybridClock, Timestamp};
pub use entry::{BlobRef, Entry, Flag, Location, Register, WrappedKey};
pub use fragment::Fragment;
pub use ids::{BlobId, Bucket, EntryId, Epoch, FolderId, Incarnation, ListId, NodeId, UserId};
pub use lateness::{Lateness, Sent};
pub use mail_map::MailMap;
pub use mailbox::{FolderTable, MailboxIndex, UidBlock};
pub use part_owners::PartOrder;
pub use placement::{Candidate, Policy};
pub use queue_user::{is_queue_user, queue_user};
pub use record_places::{RecordPlace, record_places, record_replicas};
pub use redelivery::Redelivery;
pub use replica_write::{Progress, ReplicaWrite, StoreCall};
pub use user_map::UserMap;
pub use view::{Addresses, Load, Member, MemberState, View};
