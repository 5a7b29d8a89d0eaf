//! A command and the library's calls.

use client::{Client, Error, NodeAddr, Placement, Read};

use crate::command::Command;

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Stored(Placement),
    Deleted(Placement),
    Read(Read),
    Nodes(Vec<NodeAddr>),
    Holders(Placement),
    Info(String),
    Pong {
        addr: NodeAddr,
        is_coordinator: bool,
    },
    Help,
    Bye,
    /// A person did not want to wait for the answer to a question.
    Interrupted,
    Failed(Error),
}

/// What a command that needs no cluster comes to.
pub(crate) fn execute_alone(command: &Command<'_>) -> Option<Outcome> {
    match command {
        Command::Help => Some(Outcome::Help),
        Command::Exit => Some(Outcome::Bye),
        _ => None,
    }
}

/// Carries a command out.
pub(crate) async fn execute(client: &Client, command: &Command<'_>) -> Outcome {
    call(client, command).await.unwrap_or_else(Outcome::Failed)
}

async fn call(client: &Client, command: &Command<'_>) -> Result<Outcome, Error> {
    Ok(match command {
        Command::Put { key, value } => Outcome::Stored(client.put(key, value).await?),
        Command::Get { key } => Outcome::Read(client.read(key).await?),
        Command::Delete { key } => Outcome::Deleted(client.delete(key).await?),
        Command::ListNodes => Outcome::Nodes(client.list_nodes().await?),
        Command::GetNodesForKey { key } => Outcome::Holders(client.nodes_for_key(key).await?),
        Command::Info(None) => Outcome::Info(client.info().await?),
        Command::Info(Some(node)) => Outcome::Info(client.node_info(node).await?),
        Command::Ping(None) => {
            client.ping().await?;
            Outcome::Pong { addr: client.coordinator().clone(), is_coordinator: true }
        }
        Command::Ping(Some(node)) => {
            client.ping_node(node).await?;
            Outcome::Pong { addr: node.clone(), is_coordinator: false }
        }
        Command::Help => Outcome::Help,
        Command::Exit => Outcome::Bye,
    })
}

/// What a command comes to whose answer a person did not want to wait for.
pub(crate) fn interrupted(command: &Command<'_>) -> Outcome {
    if !command.is_write() {
        return Outcome::Interrupted;
    }
    let reason = "interrupted; the write may have taken effect: read the key before you repeat it".to_owned();
    Outcome::Failed(Error::Unknown { reason })
}
