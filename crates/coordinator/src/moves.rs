//! Answers to operators who decommission and replace nodes.

use engine::output::{DecommissionError, Replaced};
use proto::error::ErrorReply;
use proto::id::NodeAddr;
use proto::response::Response;

/// The answer to `DECOMMISSION`.
pub(crate) fn decommissioned(addr: &NodeAddr, asked: Result<usize, DecommissionError>) -> Response<'static> {
    match asked {
        Ok(slots) => Response::Text(leaves(addr, slots)),
        Err(error) => refused(addr, error),
    }
}

/// The answer to `RECOMMISSION`.
pub(crate) fn recommissioned(addr: &NodeAddr, asked: Result<(), DecommissionError>) -> Response<'static> {
    match asked {
        Ok(()) => Response::Text(format!("OK Node {addr} stays")),
        Err(error) => refused(addr, error),
    }
}

/// The answer to `REPLACE`.
pub(crate) fn replaced(
    old: &NodeAddr,
    new: &NodeAddr,
    asked: Result<Replaced, DecommissionError>,
) -> Response<'static> {
    match asked {
        Ok(Replaced::Leaves(slots)) => Response::Text(leaves(old, slots)),
        Ok(Replaced::Waits) => Response::Text(format!("OK Node {old} leaves once {new} has joined: start it")),
        Err(error) => refused(old, error),
    }
}

fn leaves(addr: &NodeAddr, slots: usize) -> String {
    format!("OK Node {addr} leaves: it holds copies of {slots} slots")
}

fn refused(addr: &NodeAddr, error: DecommissionError) -> Response<'static> {
    let why = match error {
        DecommissionError::NotFound => return Response::Error(ErrorReply::NodeNotFound(addr.clone())),
        DecommissionError::ByHand => {
            format!(
                "node {addr} was registered by hand; nothing was changed, use UNREGISTER_NODE to take it off the ring"
            )
        }
        DecommissionError::NotServing => {
            "the coordinator does not lead the cluster yet; nothing was changed, try again once INFO shows \
             waiting_for=-"
                .to_owned()
        }
        DecommissionError::LastNode => {
            format!("no node would be left without {addr}; nothing was changed, start another one first")
        }
        DecommissionError::TooLate => {
            format!(
                "node {addr} has handed everything over and is deleting its data; nothing was changed, start it again \
                 as a new node"
            )
        }
        DecommissionError::Itself => {
            format!("node {addr} cannot be replaced by itself or by a node that is leaving; nothing was changed")
        }
        DecommissionError::Taken(other) => format!(
            "the new node is to take the place of {other} once it has joined; nothing was changed, to replace {addr} \
             instead send RECOMMISSION {other} first"
        ),
    };
    Response::Error(ErrorReply::Unavailable(why))
}
