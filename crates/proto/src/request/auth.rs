//! `AUTH`, which nodes and the coordinator accept in both encodings.

use super::redis::syntax;
use super::{KeyWords, Rest, verbs};
use crate::error::ErrorReply;
use crate::frame::Frame;

/// The words of `AUTH [user] password`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// The user; Redis's `default` if `None`.
    pub user: Option<&'a [u8]>,
    /// The password.
    pub password: &'a [u8],
}

impl<'a> Rest<'a> {
    pub(super) fn auth(self) -> Result<Auth<'a>, ErrorReply> {
        let mut words = KeyWords(self);
        let first = words.next().ok_or(ErrorReply::InvalidFormat(verbs::AUTH))?;
        match (words.next(), words.next()) {
            (None, _) => Ok(Auth { user: None, password: first }),
            (Some(password), None) => Ok(Auth { user: Some(first), password }),
            _ if self.is_array() => Err(syntax()),
            _ => Err(ErrorReply::InvalidFormat(verbs::AUTH)),
        }
    }
}

/// Whether a request attempts to authenticate, well-formed or not.
#[must_use]
pub fn is_auth_attempt(frame: Frame<'_>) -> bool {
    frame.has_verb(b"AUTH") || frame.has_verb(b"HELLO")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{CoordinatorRequest, NodeRequest, ServerCommand};

    #[test]
    fn both_servers_take_auth_by_line() {
        let (alone, named) = (Auth { user: None, password: b"p" }, Auth { user: Some(b"default"), password: b"p" });
        for (line, auth) in [("AUTH p", alone), ("auth default p", named)] {
            let frame = Frame::Line(line.as_bytes());
            assert_eq!(NodeRequest::parse(frame), Ok(NodeRequest::Server(ServerCommand::Auth(auth))), "{line}");
            assert_eq!(CoordinatorRequest::parse(frame), Ok(CoordinatorRequest::Auth(auth)), "{line}");
        }
        for line in ["AUTH", "AUTH a b c"] {
            let frame = Frame::Line(line.as_bytes());
            assert_eq!(NodeRequest::parse(frame), Err(ErrorReply::InvalidFormat("AUTH")), "{line}");
            assert!(is_auth_attempt(frame), "{line}");
        }
        assert!(is_auth_attempt(Frame::Line(b"  hello 3")) && !is_auth_attempt(Frame::Line(b"AUTHOR p")));
    }
}
