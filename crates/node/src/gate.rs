//! What a node answers to clients that have not authenticated.

use net::access::DisplayAddr;
use net::connection::Flow;
use net::gate::{AuthOutcome, Gatekeeper};
use proto::error::ErrorReply;
use proto::frame::Frame;
use proto::request::{NodeRequest, ServerCommand, is_auth_attempt};
use proto::response::Response;

use crate::driver::Driver;
use crate::server_commands::{CommandOutcome, Front};

/// A client that has not authenticated.
#[derive(Debug)]
pub(crate) struct Unauthenticated<'a> {
    /// The node.
    pub driver: &'a Driver,
    /// Its connection.
    pub front: Front,
}

impl Gatekeeper for Unauthenticated<'_> {
    fn handle(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> AuthOutcome {
        let Some(encoding) = self.front.encoding(frame) else { return AuthOutcome::Answered(Flow::Next) };
        let (response, flow) = match NodeRequest::parse(frame) {
            Ok(NodeRequest::Server(
                command @ (ServerCommand::Auth(_)
                | ServerCommand::Hello(_)
                | ServerCommand::Reset
                | ServerCommand::Quit),
            )) => {
                let now = self.driver.clock().now();
                return match self.front.execute(self.driver, now, command, encoding, out) {
                    CommandOutcome::Admitted => AuthOutcome::Admitted,
                    CommandOutcome::WrongPassword => AuthOutcome::WrongPassword,
                    CommandOutcome::Answered(flow) => AuthOutcome::Answered(flow),
                    // The client was not admitted, so there is nothing to reset.
                    CommandOutcome::Reset => AuthOutcome::Answered(Flow::Next),
                    CommandOutcome::Count | CommandOutcome::Wait { .. } => unreachable!("not of these commands"),
                };
            }
            Ok(NodeRequest::Quit) => (Response::Ok, Flow::Close),
            Err(error @ ErrorReply::Protocol(_)) => (Response::Error(error), Flow::Close),
            Err(error) if is_auth_attempt(frame) => (Response::Error(error), Flow::Next),
            request => {
                if let Ok(NodeRequest::Peer(_)) = request {
                    let from = DisplayAddr(self.front.client().addr());
                    self.driver.access().warn(|| format!("a node at {from} connected without a password"));
                }
                (Response::Error(ErrorReply::no_auth(encoding)), Flow::Next)
            }
        };
        response.encode(encoding, out);
        AuthOutcome::Answered(flow)
    }
}
