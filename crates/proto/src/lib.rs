//! What every program of the store shares: the words on the wire and the placement of keys.
//!
//! This crate is pure. It opens no socket, reads no clock and starts no thread: bytes and facts come in as arguments,
//! values go out. Read it in this order:
//!
//! 1. [`limits`]: every size that is refused, in one place.
//! 2. [`id`]: node addresses and the numbers that order things (epoch, sequence, incarnation).
//!    [`level`] is what a client may ask for.
//! 3. [`slot`] and [`ring`]: where a key lives. [`ring::HashRing`] is consistent hashing over SHA-256;
//!    [`slot::SlotId`] is the unit of authority, the top bits of a key's hash.
//! 4. [`cluster_map`]: who holds which slot now, as the coordinator publishes it.
//! 5. [`frame`]: bytes to frames (a line, or an array of words), incrementally.
//! 6. [`request`] and [`response`]: frames to commands, and answers to bytes, one set of commands in two encodings.
//!    [`range`] has what a walk through keys asks for; [`decimal`] the numbers of `INCRBYFLOAT`. [`commands`] is the table of
//!    all that an array may ask of a node; [`resp`] writes the answers that only arrays get.
//! 7. [`peer`] and [`session`]: what nodes say to each other, and to the coordinator.
//! 8. [`reply`]: the reader of answers, for whoever asked.
//! 9. [`error`]: every error text that the wire carries.

pub mod cluster_map;
pub mod commands;
pub mod decimal;
pub mod error;
pub mod frame;
pub mod id;
pub mod level;
pub mod limits;
pub mod peer;
pub mod range;
pub mod reply;
pub mod request;
pub mod resp;
pub mod response;
pub mod ring;
pub mod session;
pub mod slot;
