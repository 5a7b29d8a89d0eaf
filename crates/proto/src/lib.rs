//! What every program of the store shares: the wire protocol and the placement of keys.
//!
//! This crate is pure. It opens no sockets, reads no clock and starts no threads: bytes and facts come in as arguments,
//! values go out. Read it in this order:
//!
//! 1. [`limits`]: every size limit, in one place.
//! 2. [`id`]: node addresses and the numbers that order things (epoch, sequence, incarnation). [`level`]: the
//!    guarantees that a client can ask for.
//! 3. [`slot`] and [`ring`]: where a key lives. [`ring::HashRing`] is consistent hashing over SHA-256;
//!    [`slot::SlotId`], the top bits of a key's hash, is the unit of authority.
//! 4. [`cluster_map`]: who holds which slot now, as published by the coordinator.
//! 5. [`frame`]: bytes to frames (a line, or an array of words), incrementally.
//! 6. [`request`] and [`response`]: frames to commands, and answers to bytes: one command set in two encodings.
//!    [`range`]: key ranges and the requests that page through them. [`decimal`]: the numbers of `INCRBYFLOAT`.
//!    [`commands`]: the table of every command that a node accepts as an array. [`resp`]: the answers that only array
//!    requests get.
//! 7. [`peer`] and [`session`]: messages between nodes, and between a node and the coordinator.
//! 8. [`reply`]: parsing answers, on the requesting side.
//! 9. [`error`]: every error text on the wire.

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
