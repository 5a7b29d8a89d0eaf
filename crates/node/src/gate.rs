//! What a node answers to clients that have not authenticated.

use net::access::Shown;
use net::connection::Flow;
use net::gate::{Knock, Knocked};
use proto::error::ErrorReply;
use proto::frame::Frame;
use proto::request::{NodeRequest, ServerCommand, asks_for_entry};
use proto::response::Response;

use crate::driver::Driver;
use crate::server_commands::{Front, Then};

/// A client that has not authenticated.
#[derive(Debug)]
pub struct Stranger<'a> {
    /// The node.
    pub driver: &'a Driver,
    /// Its connection.
    pub front: Front,
}

impl Knock for Stranger<'_> {
    fn knock(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Knocked {
        let Some(encoding) = self.front.encoding(frame) else { return Knocked::Answered(Flow::Next) };
        let (response, flow) = match NodeRequest::parse(frame) {
            Ok(NodeRequest::Server(
                command @ (ServerCommand::Auth(_)
                | ServerCommand::Hello(_)
                | ServerCommand::Reset
                | ServerCommand::Quit),
            )) => {
                let now = self.driver.clock().now();
                return match self.front.execute(self.driver, now, command, encoding, out) {
                    Then::Admitted => Knocked::Admitted,
                    Then::WrongPassword => Knocked::Wrong,
                    Then::Answered(flow) => Knocked::Answered(flow),
                    Then::Reset | Then::Count | Then::Wait { .. } => Knocked::Answered(Flow::Next),
                };
            }
            Ok(NodeRequest::Quit) => (Response::Ok, Flow::Close),
            Err(error) if asks_for_entry(frame) => (Response::Error(error), Flow::Next),
            request => {
                if let Ok(NodeRequest::Peer(_)) = request {
                    let from = Shown(self.front.client().addr());
                    self.driver.access().warn(|| format!("a node at {from} connects without a password"));
                }
                (Response::Error(ErrorReply::no_auth(encoding)), Flow::Next)
            }
        };
        response.encode(encoding, out);
        Knocked::Answered(flow)
    }
}
