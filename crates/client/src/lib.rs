//! The client library, which sends each request straight to the node that leads its key, and the program `client` on
//! top of it.
//!
//! A [`Client`] knows the cluster map. It fetches the map from the coordinator when it connects, is told of every
//! change from then on, and keeps using the map it has while the coordinator is away. Calls are independent: clone the
//! client, or share it, and run as many calls concurrently as you like.
//!
//! ```
//! # use fake_cluster::FakeCluster;
//! # #[tokio::main]
//! # async fn main() -> Result<(), client::Error> {
//! # let cluster = FakeCluster::start(3).await;
//! # let coordinator = cluster.coordinator_addr();
//! use client::{Client, Error};
//!
//! let client = Client::connect(coordinator).await?; // such as "127.0.0.1:5000"
//! client.put("user:1", "Alice").await?;
//! assert_eq!(client.get("user:1").await?, Some(b"Alice".to_vec()));
//!
//! match client.delete("user:1").await {
//!     Ok(placement) => println!("{:?} deleted it, {:?} follow", placement.primary, placement.replicas),
//!     Err(Error::Refused { reason, .. }) => println!("nothing happened, it may be sent again: {reason}"),
//!     Err(Error::Unknown { reason }) => println!("it may or may not be deleted, look before you repeat it: {reason}"),
//!     Err(other) => return Err(other),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What happens to a request
//!
//! A **write** goes to the key's primary. It carries an identity, a name that the client made up plus a number, by
//! which the nodes recognize it: however often it is sent, it takes effect once, even if another node has become the
//! primary in the meantime. So the client retries the same write, following changes of the map, whenever it cannot
//! connect, a node reports that it did nothing or does not know, the connection breaks, or nothing arrives for two
//! seconds. It stops when it has an answer or its timeout has passed. If the timeout passes, the outcome is
//! [`Error::Refused`] if nothing was sent or every answer said that nothing was done, otherwise [`Error::Unknown`].
//!
//! A **read** goes to the key's primary, too. If the primary refuses the connection or is silent for 300 ms, the client
//! asks the replicas, and [`Read::from_replica`] says so: their data may be older. A [linear](ReadLevel::Linear) read
//! is answered by the primary or not at all.
//!
//! [Levels] determine when a write is answered and what a read may return. They are those the cluster was
//! started with, unless the client or a single call [asks for others](Client::with).
//!
//! Dropping a call's future drops its connection as well, so nobody ever reads an answer meant for somebody else. A
//! write that was dropped may or may not have taken effect, and may still take effect later.
//!
//! At most 256 writes of a client, with all its clones, are in flight at a time, and 16 walks and counts; further ones
//! wait their turn, within their timeout.
//!
//! A client writes under few names, which it uses again and again. Each new client begins with new ones, and so does
//! each write that follows one that was dropped or ended as [`Error::Unknown`]. A slot remembers 65,536 names and
//! writes for ten minutes after the last write of each name, and refuses new names beyond that (`BUSY`). So keep a
//! client, rather than connect anew for each of many writes: some 50 such writes a second to one key fill its slot.
//!
//! # Where to find what
//!
//! - `client`: [`Client`] and its calls. Start here. `builder`: how it connects; `cluster`: the state all calls share.
//! - `read` and `write`: which node to ask, when to try the next one, and when to give up.
//! - `walk`: [`Walk`], pages of keys, which any node can serve. `many`: many keys concurrently.
//! - `lane`: the identities of writes. `level`: the levels that calls ask for and connections are set to.
//! - `map_watch`: the task that follows the cluster map. It ends when the last clone of the client is dropped.
//! - `admin`: questions that only the coordinator answers, questions to a node about itself, and an operator's
//!   commands to the coordinator.
//! - `pool` and `connection`: idle connections, and one exchange of a request and its answer.
//! - `answer`: encodes requests and decodes answers.
//! - `random`: random bits. `placement`, `error`: what the calls return.
//!
//! The program is in `bin/client` and is built on this crate's public API.

mod admin;
mod answer;
mod builder;
mod client;
mod cluster;
mod connection;
mod error;
mod lane;
mod level;
mod many;
mod map_watch;
mod placement;
mod pool;
mod random;
mod read;
mod walk;
mod write;

pub use admin::Slots;
pub use builder::{Builder, DEFAULT_TIMEOUT};
pub use client::Client;
pub use error::Error;
pub use level::Levels;
pub use password::{Password, PasswordError};
pub use placement::Placement;
pub use proto::id::{NodeAddr, Version};
pub use proto::level::{AckLevel, ReadLevel};
pub use read::{Read, Ttl};
pub use walk::Walk;
pub use write::Cas;
