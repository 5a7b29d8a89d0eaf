//! What the coordinator answers to clients that have not authenticated.

use std::net::SocketAddr;

use net::access::{Access, DisplayAddr};
use net::connection::Flow;
use net::gate::{AuthOutcome, Gatekeeper};
use proto::error::ErrorReply;
use proto::frame::Frame;
use proto::request::{CoordinatorRequest, is_auth_attempt};
use proto::response::Response;

/// A client that has not authenticated.
#[derive(Debug)]
pub(crate) struct Unauthenticated<'a> {
    /// The password check.
    pub access: &'a Access,
    /// Where it connects from.
    pub from: Option<SocketAddr>,
}

impl Gatekeeper for Unauthenticated<'_> {
    fn handle(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> AuthOutcome {
        let encoding = frame.encoding();
        let (response, outcome) = match CoordinatorRequest::parse(frame) {
            Ok(CoordinatorRequest::Auth(auth)) => match self.access.admit(auth, self.from) {
                Ok(()) => (Response::Ok, AuthOutcome::Admitted),
                Err(error) => (Response::Error(error), AuthOutcome::WrongPassword),
            },
            Ok(CoordinatorRequest::Quit) => (Response::Ok, AuthOutcome::Answered(Flow::Close)),
            Err(error @ ErrorReply::Protocol(_)) => (Response::Error(error), AuthOutcome::Answered(Flow::Close)),
            // There is no `HELLO` here, and clients that have not authenticated are not told so.
            Err(error) if is_auth_attempt(frame) && error != ErrorReply::UnknownCommand => {
                (Response::Error(error), AuthOutcome::Answered(Flow::Next))
            }
            request => {
                if let Ok(CoordinatorRequest::Join(_)) = request {
                    self.access
                        .warn(|| format!("a node at {} wants to join without a password", DisplayAddr(self.from)));
                }
                (Response::Error(ErrorReply::no_auth(encoding)), AuthOutcome::Answered(Flow::Next))
            }
        };
        response.encode(encoding, out);
        outcome
    }
}
