//! Questions that the coordinator answers, and those to a node about itself. They change nothing, and are asked once:
//! whoever does not answer is reported at once.

use proto::id::NodeAddr;
use proto::request::verbs;

use crate::answer::{NotAnAnswer, Request};
use crate::client::Cluster;
use crate::connection::{Failure, Patience};
use crate::error::Error;
use crate::placement::Placement;

/// Whom to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whom<'a> {
    Coordinator,
    Node(&'a NodeAddr),
}

pub(crate) async fn list_nodes(cluster: &Cluster) -> Result<Vec<NodeAddr>, Error> {
    let lines = ask(cluster, Whom::Coordinator, Request::question(verbs::LIST_NODES, None), Some("OK Nodes:")).await?;
    let nodes = match lines.split_first() {
        Some((first, nodes)) if first == "OK Nodes:" => nodes,
        Some((first, [])) if first == "OK No nodes registered" => &[],
        _ => return Err(no_protocol(cluster, Whom::Coordinator)),
    };
    let nodes = nodes.iter().map(|node| node.strip_prefix("  ")?.parse().ok());
    nodes.collect::<Option<_>>().ok_or_else(|| no_protocol(cluster, Whom::Coordinator))
}

pub(crate) async fn nodes_for_key(cluster: &Cluster, key: &[u8]) -> Result<Placement, Error> {
    let request = Request::question(verbs::GET_NODES_FOR_KEY, Some(key));
    let lines = ask(cluster, Whom::Coordinator, request, Some("PRIMARY ")).await?;
    Placement::from_lines(&lines).ok_or_else(|| no_protocol(cluster, Whom::Coordinator))
}

pub(crate) async fn info(cluster: &Cluster, whom: Whom<'_>) -> Result<String, Error> {
    match ask(cluster, whom, Request::question(verbs::INFO, None), None).await?.as_slice() {
        [info] if info.starts_with("OK ") => Ok(info.clone()),
        _ => Err(no_protocol(cluster, whom)),
    }
}

pub(crate) async fn ping(cluster: &Cluster, whom: Whom<'_>) -> Result<(), Error> {
    match ask(cluster, whom, Request::question(verbs::PING, None), None).await?.as_slice() {
        [pong] if pong == "PONG" => Ok(()),
        _ => Err(no_protocol(cluster, whom)),
    }
}

/// Asks, and gives the lines of the answer; `several` is how an answer of several lines starts.
async fn ask(cluster: &Cluster, whom: Whom<'_>, request: Request, several: Option<&str>) -> Result<Vec<String>, Error> {
    let addr = cluster.addr_of(whom);
    let patience = Patience::until(cluster.deadline());
    let exchange = async {
        let mut connection = cluster.pool().connection(addr, patience).await?;
        connection.send(&request.bytes, patience).await?;
        let lines = connection.lines(several, patience).await?;
        cluster.pool().put_back(addr, connection);
        Ok(lines)
    };
    let lines = exchange.await.map_err(|failure: Failure| not_reached(cluster, whom, &failure))?;
    match lines.first().and_then(|first| error_of(first)) {
        Some(reason) => Err(Error::Refused { by: Some(addr.clone()), reason: reason.to_owned() }),
        None => Ok(lines),
    }
}

/// The text of an error answer, in either encoding.
fn error_of(line: &str) -> Option<&str> {
    line.strip_prefix("ERROR ").or_else(|| line.strip_prefix("-ERR ")).or_else(|| line.strip_prefix('-'))
}

fn not_reached(cluster: &Cluster, whom: Whom<'_>, failure: &Failure) -> Error {
    let addr = cluster.addr_of(whom);
    let whom = match whom {
        Whom::Coordinator => format!("the coordinator at {addr}"),
        Whom::Node(_) => format!("node {addr}"),
    };
    Error::NotReached { whom, reason: failure.to_string() }
}

fn no_protocol(cluster: &Cluster, whom: Whom<'_>) -> Error {
    not_reached(cluster, whom, &Failure::NoAnswer(NotAnAnswer.to_string()))
}
