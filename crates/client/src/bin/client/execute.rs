//! Maps commands to library calls.

use std::time::Instant;

use client::{Cas, Client, Error, NodeAddr, Placement, Read, Ttl, Walk};

use proto::request::HEALTHY_WAIT;

use crate::command::{Command, PageWords};
use crate::verb;

/// The outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Stored(Placement),
    Deleted(Placement),
    Read(Read),
    /// A read that includes the key's version.
    ReadVersioned(Read),
    Conditional(Cas),
    /// Whether there was anything to do.
    Counted(bool),
    Ttl(Ttl),
    /// The keys of a page.
    Keys(Vec<Vec<u8>>),
    Count(u64),
    /// For each key its value, or what went wrong.
    ReadMany(Vec<Result<Option<Vec<u8>>, Error>>),
    StoredMany(Vec<Result<Placement, Error>>),
    Level {
        level: String,
        /// Whether this client asked for the level; otherwise it is the cluster's own.
        is_own: bool,
    },
    Nodes(Vec<NodeAddr>),
    Holders(Placement),
    Info(String),
    Stats(Vec<(String, u64)>),
    /// The lines of the coordinator's answer.
    Status(Vec<String>),
    /// What each node found, one line each.
    Verified(Vec<(NodeAddr, Result<Vec<String>, Error>)>),
    Pong {
        addr: NodeAddr,
        is_coordinator: bool,
    },
    Losses(Vec<String>),
    /// The coordinator's reply to a change of the cluster.
    CoordinatorReply(String),
    /// What to print.
    Help(String),
    Bye,
    /// The user did not want to wait for the answer to a question.
    Interrupted,
    Failed(Error),
}

/// The outcome of a command that needs no cluster.
pub(crate) fn execute_alone(command: &Command<'_>) -> Option<Outcome> {
    match command {
        Command::Help(of) => Some(Outcome::Help(verb::help(*of))),
        Command::Exit => Some(Outcome::Bye),
        _ => None,
    }
}

/// Executes a command that was given at this moment.
pub(crate) async fn execute(client: &Client, command: &Command<'_>, begun: Instant) -> Outcome {
    call(client, command, begun).await.unwrap_or_else(Outcome::Failed)
}

async fn call(client: &Client, command: &Command<'_>, begun: Instant) -> Result<Outcome, Error> {
    Ok(match command {
        Command::Put { key, value } => Outcome::Stored(client.put(key, value).await?),
        Command::Get { key } => Outcome::Read(client.read(key).await?),
        Command::Delete { key } => Outcome::Deleted(client.delete(key).await?),
        Command::GetVersioned { key } => Outcome::ReadVersioned(client.read_versioned(key).await?),
        Command::Cas { key, expected, value } => {
            Outcome::Conditional(client.compare_and_set(key, *expected, value).await?)
        }
        Command::PutIfAbsent { key, value } => Outcome::Conditional(client.put_if_absent(key, value).await?),
        Command::PutFor { key, seconds, value } => Outcome::Stored(client.put_for(key, value, *seconds).await?),
        Command::Expire { key, seconds } => Outcome::Counted(client.expire(key, *seconds).await?),
        Command::Ttl { key } => Outcome::Ttl(client.ttl(key).await?),
        Command::Persist { key } => Outcome::Counted(client.persist(key).await?),
        Command::Prefix { prefix, page } => Outcome::Keys(one_page(client.prefix(prefix), *page).await?),
        Command::Range { from, to, page } => Outcome::Keys(one_page(client.range(from, to), *page).await?),
        Command::Count { prefix } => Outcome::Count(client.count(prefix).await?),
        Command::GetMany(keys) => Outcome::ReadMany(client.get_many(keys).await),
        Command::PutMany(pairs) => Outcome::StoredMany(client.put_many(pairs.iter().copied()).await),
        Command::AckLevel(_) => level(client.levels_in_effect().ack, client.levels().ack),
        Command::ReadLevel(_) => level(client.levels_in_effect().read, client.levels().read),
        Command::ListNodes => Outcome::Nodes(client.list_nodes().await?),
        Command::GetNodesForKey { key } => Outcome::Holders(client.nodes_for_key(key).await?),
        Command::Info(None) => Outcome::Info(client.info().await?),
        Command::Info(Some(node)) => Outcome::Info(client.node_info(node).await?),
        Command::Stats(None) => Outcome::Stats(client.stats().await?),
        Command::Stats(Some(node)) => Outcome::Stats(client.node_stats(node).await?),
        Command::Status => Outcome::Status(client.status().await?),
        Command::WaitHealthy(span) => {
            client.wait_healthy_since(begun, span.unwrap_or(HEALTHY_WAIT)).await?;
            Outcome::CoordinatorReply("OK".to_owned())
        }
        Command::Verify(Some(node)) => Outcome::Verified(vec![(node.clone(), client.verify(node).await)]),
        Command::Verify(None) => Outcome::Verified(client.verify_all().await?),
        Command::Ping(None) => {
            client.ping().await?;
            Outcome::Pong { addr: client.coordinator().clone(), is_coordinator: true }
        }
        Command::Ping(Some(node)) => {
            client.ping_node(node).await?;
            Outcome::Pong { addr: node.clone(), is_coordinator: node == client.coordinator() }
        }
        Command::Losses(node) => Outcome::Losses(client.losses(node).await?),
        Command::Forget(node) => Outcome::CoordinatorReply(client.forget(node).await?),
        Command::Unregister(node) => Outcome::CoordinatorReply(client.unregister(node).await?),
        Command::AcceptLoss(slots) => Outcome::CoordinatorReply(client.accept_loss(*slots).await?),
        Command::Decommission(node) => Outcome::CoordinatorReply(client.decommission(node).await?),
        Command::Recommission(node) => Outcome::CoordinatorReply(client.recommission(node).await?),
        Command::Replace { old, new } => Outcome::CoordinatorReply(client.replace(old, new).await?),
        Command::Help(of) => Outcome::Help(verb::help(*of)),
        Command::Exit => Outcome::Bye,
    })
}

async fn one_page(walk: Walk, page: PageWords<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let walk = page.limit.into_iter().fold(walk, Walk::page_size);
    let mut walk = page.after.into_iter().fold(walk, Walk::after);
    Ok(walk.next_page().await?.unwrap_or_default())
}

fn level<T: ToString>(in_effect: Option<T>, own: Option<T>) -> Outcome {
    Outcome::Level { level: in_effect.map(|level| level.to_string()).unwrap_or_default(), is_own: own.is_some() }
}

/// The outcome of a command whose answer the user did not want to wait for.
pub(crate) fn interrupted(command: &Command<'_>) -> Outcome {
    let reason = match command {
        Command::Forget(_)
        | Command::Unregister(_)
        | Command::AcceptLoss(_)
        | Command::Decommission(_)
        | Command::Recommission(_)
        | Command::Replace { .. } => "interrupted; it may have taken effect; it is safe to repeat",
        command if command.is_write() => {
            "interrupted; the write may have taken effect, or still may within two minutes: read the key after that before \
             you repeat it"
        }
        _ => return Outcome::Interrupted,
    };
    Outcome::Failed(Error::Unknown { reason: reason.to_owned() })
}
