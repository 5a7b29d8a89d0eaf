//! The state machines of the store: what the coordinator decides, and what a node does with its slots.
//!
//! This crate is pure. It reads no clock and no file, opens no socket, draws no random number and starts no task: the
//! caller passes `now` and seeds, hands messages in and carries out what comes back. So a test can run a cluster in
//! one thread, with a clock of its own, and replay any failure.
//!
//! The coordinator's half:
//! - [`coordinator`]: membership, the cluster map, and each change of it.
//! - [`output`]: what the coordinator wants done, and its settings.
//! - [`registry`]: who is registered, who is suspected, and who has been silent for too long.
//! - [`plan`]: what a slot's configuration should become, as a function of who is alive.
//! - [`promotion`]: who takes over the slots of a dead primary.
//! - [`status`]: how the slots are, in words.
//!
//! The node's half:
//! - [`record`] and [`table`]: one write, and the newest write of each key of a slot.
//! - [`memory`]: how much of it records and tables take, and may take.
//! - [`log`] and [`completions`]: the order of a slot's records, its end, and which writes of clients it holds.
//! - [`modify`]: what a read-modify-write makes of a key.
//! - [`slot`]: one slot's role: as a primary its order of writes and what of it is durable, as a replica its obedience.
//! - [`outbox`] and [`inbox`]: what a replica has still to be sent, and what it takes in.
//! - [`compare`]: whether the copies of a slot are equal.
//! - [`peers`]: leases between nodes. [`waiting`]: answers that wait. [`losses`]: acknowledged writes that were lost.
//! - [`journal`]: what a node must not forget, as it goes to its disk, and a node made of it again.
//! - [`walk`] and [`listing`]: a page of the keys of all slots, and the part of it that one node gives.
//! - [`node`]: all slots of a node, the map it goes by, and what passes between it and the others.
//!
//! [`time`] is shared, and so is [`bugs`], where the simulator plants mistakes.

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
pub mod pace;
pub mod peers;
pub mod plan;
pub mod promotion;
pub mod record;
pub mod registry;
pub mod slot;
pub mod status;
pub mod table;
pub mod time;
pub mod waiting;
pub mod walk;
