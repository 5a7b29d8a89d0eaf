//! The client: a library that goes straight to the node that leads a key, and the program `client` on top of it.
//!
//! A [`Client`] knows the cluster map. It learns it from the coordinator when it connects, hears of every change from
//! then on, and goes on with the map that it has while the coordinator is away. Every call is for itself: clone the
//! client, or share it, and as many calls as you like run side by side.
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
//! A **write** goes to the key's primary. It has an identity, a name that the client made up and a number, by which
//! nodes know it again: however often it is sent, it takes effect once, also where another node has become the primary
//! meanwhile. So where no connection can be made, a node says that it did nothing or does not know, the connection
//! breaks, or nothing comes for two seconds, the client sends the same write again, along the changes of the map, until
//! it has an answer or its timeout has passed. If it passes after anything was sent, the outcome is [`Error::Unknown`].
//!
//! A **read** goes to the key's primary, too. Where the primary refuses the connection or is silent for 300 ms, the
//! replicas are asked, and [`Read::from_replica`] says so: what they hold may be older. A [linear](ReadLevel::Linear)
//! read is answered by the primary or not at all.
//!
//! When a write is answered and what a read may return are [levels](Levels): those with which the cluster was started,
//! unless the client, or one of its calls, [asks for others](Client::with).
//!
//! A call whose future is dropped drops its connection with it, so nobody ever reads an answer that was meant for
//! somebody else. A write that was dropped may or may not have taken effect.
//!
//! # Where to find what
//!
//! - `client`: [`Client`] and its calls. Start here. `builder`: how it connects; `cluster`: what all calls share.
//! - `read` and `write`: which node is asked, when the next one is, and when to give up.
//! - `walk`: [`Walk`], pages of keys, which any node gives. `many`: many keys side by side.
//! - `lane`: the identities of writes. `level`: what calls ask for, and connections are set to.
//! - `map_watch`: the task that keeps the cluster map. It ends when the last clone of the client is dropped.
//! - `coordinator`: the questions that only the coordinator answers, those to a node about itself, and what an operator
//!   tells the coordinator.
//! - `pool` and `connection`: idle connections, and one exchange of a request and its answer.
//! - `answer`: requests to bytes, and bytes to answers.
//! - `placement`, `error`: what the calls return.
//!
//! The program is in `bin/client`, and stands on what this crate exports.

mod answer;
mod builder;
mod client;
mod cluster;
mod connection;
mod coordinator;
mod error;
mod lane;
mod level;
mod many;
mod map_watch;
mod placement;
mod pool;
mod read;
mod walk;
mod write;

pub use builder::{Builder, DEFAULT_TIMEOUT};
pub use client::Client;
pub use coordinator::Slots;
pub use error::Error;
pub use level::Levels;
pub use password::{Password, PasswordError};
pub use placement::Placement;
pub use proto::id::{NodeAddr, Version};
pub use proto::level::{AckLevel, ReadLevel};
pub use read::{Read, Ttl};
pub use walk::Walk;
pub use write::Cas;
