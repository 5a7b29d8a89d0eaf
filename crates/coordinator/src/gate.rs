//! What the coordinator answers to clients that have not authenticated.

use std::net::SocketAddr;

use net::access::{Access, Shown};
use net::connection::Flow;
use net::gate::{Knock, Knocked};
use proto::error::ErrorReply;
use proto::frame::Frame;
use proto::request::{CoordinatorRequest, asks_for_entry};
use proto::response::Response;

/// A client that has not authenticated.
#[derive(Debug)]
pub struct Stranger<'a> {
    /// The password check.
    pub access: &'a Access,
    /// Where it connects from.
    pub from: Option<SocketAddr>,
}

impl Knock for Stranger<'_> {
    fn knock(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Knocked {
        let encoding = frame.encoding();
        let (response, knocked) = match CoordinatorRequest::parse(frame) {
            Ok(CoordinatorRequest::Auth(auth)) => match self.access.admit(auth, self.from) {
                Ok(()) => (Response::Ok, Knocked::Admitted),
                Err(error) => (Response::Error(error), Knocked::Wrong),
            },
            Ok(CoordinatorRequest::Quit) => (Response::Ok, Knocked::Answered(Flow::Close)),
            // There is no `HELLO` here, and clients that have not authenticated are not told so.
            Err(error) if asks_for_entry(frame) && error != ErrorReply::UnknownCommand => {
                (Response::Error(error), Knocked::Answered(Flow::Next))
            }
            request => {
                if let Ok(CoordinatorRequest::Join(_)) = request {
                    self.access.warn(|| format!("a node at {} wants to join without a password", Shown(self.from)));
                }
                (Response::Error(ErrorReply::no_auth(encoding)), Knocked::Answered(Flow::Next))
            }
        };
        response.encode(encoding, out);
        knocked
    }
}
