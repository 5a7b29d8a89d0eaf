//! The state machines of the store: what the coordinator decides, and what a node does with its slots.
//!
//! This crate is pure. It reads no clock and no file, opens no socket, draws no random number, and starts no task: the
//! caller passes `now` and seeds, hands messages in, and carries out what comes back. A test can therefore run a whole
//! cluster in one thread with its own clock, and replay any failure.
//!
//! The coordinator's half:
//! - [`coordinator`]: membership, the cluster map, and every change to it.
//! - [`output`]: the coordinator's settings, and the work it wants done.
//! - `registry`: who is registered, who is suspected, and who has been silent for too long.
//! - `plan`: what a slot's configuration should become, as a function of who is alive.
//! - `promotion`: who takes over the slots of a dead primary.
//! - [`status`]: the health of the slots, in words.
//!
//! The node's half:
//! - [`record`] and [`table`]: one write, and the newest write of each key of a slot.
//! - [`memory`]: how much memory records and tables take, and may take.
//! - [`log`] and [`completions`]: the order of a slot's records, its tail, and which client writes it holds.
//! - [`modify`]: what a read-modify-write does to a key.
//! - [`slot`]: one slot's role: as a primary it orders writes and tracks what is durable; as a replica it follows.
//! - [`outbox`] and [`inbox`]: what a replica has still to be sent, and what it receives. `pace`: how fast slots are
//!   filled. `near`: a queue that stores its first entries inline.
//! - [`compare`]: whether the copies of a slot are equal.
//! - [`peers`]: leases between nodes. [`waiting`]: deferred answers. [`losses`]: dropped writes.
//! - [`journal`]: what a node must not forget, as it goes to disk, and how a node is restored from it.
//! - [`walk`] and [`listing`]: a page of the keys of all slots, and one node's part of it.
//! - [`node`]: all slots of a node, the map it follows, and its exchanges with the others.
//!
//! [`time`] is shared, and so is [`bugs`], with which the simulator plants bugs.

pub mod bugs;
pub mod compare;
pub mod completions;
pub mod coordinator;
pub mod inbox;
pub mod journal;
pub mod listing;
pub mod log;
pub mod losses;
pub mod memory;
pub mod modify;
mod near;
pub mod node;
pub mod outbox;
pub mod output;
mod pace;
pub mod peers;
mod plan;
mod promotion;
pub mod record;
mod registry;
pub mod slot;
pub mod status;
pub mod table;
pub mod time;
pub mod waiting;
pub mod walk;
