//! Requests for many keys: each key is a request of its own, and the next few are executed once the ones before them
//! are answered. The request is then offered again, and resumes where it stopped.

use net::connection::Flow;
use proto::frame::{self, Encoding, Frame};
use proto::level::{AckLevel, ReadLevel};
use proto::peer::{Change, KeyRequest, Modify, Read, Wanted, Write};
use proto::request::{KeyWords, LastWords, exists_request};

use super::ClientSession;

/// Once the answers to a multi-key request reach this size, they are written out before the rest is executed.
const MANY_BYTES: usize = 256 * 1024;

/// After this many keys, it is looked whether the request has taken so long that others come first.
pub(super) const KEYS_AT_ONCE: usize = 256;

/// What is done with each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is read, and the answer is a part of the whole.
    Get,
    /// The value that follows it is stored, and the answer is a part of the whole.
    Put,
    /// The value that follows it is stored.
    Set,
    /// It is deleted, and counted if it was present.
    Delete,
    /// It is counted if it is present.
    Exists,
}

/// A request of which some keys have been executed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    pub(super) kind: Kind,
    /// How much of it is left to execute, see [`LastWords::left`].
    pub(super) left: usize,
}

impl Kind {
    /// Whether the answer is the same in whatever order the keys are executed, even if one occurs twice. Such a request
    /// has nothing deferred before it.
    pub(super) fn is_in_any_order(self) -> bool {
        matches!(self, Self::Delete | Self::Exists)
    }

    /// The request for the next key.
    pub(super) fn next<'k>(self, words: &mut LastWords<'k>, ack: AckLevel, level: ReadLevel) -> Option<KeyRequest<'k>> {
        let key = words.next()?;
        let write = |change| KeyRequest::Write(Write { ack, ..Write::new(key, change) });
        Some(match self {
            Self::Get => KeyRequest::Read(Read { key, wanted: Wanted::Value, level }),
            Self::Put | Self::Set => write(Change::Put(words.next()?)),
            Self::Delete => write(Change::Modify(Modify::Delete)),
            Self::Exists => exists_request(key, level),
        })
    }
}

impl ClientSession<'_> {
    /// Executes a request that is answered with an array of what each key is answered.
    pub(super) fn begin_many(
        &mut self,
        kind: Kind,
        words: KeyWords<'_>,
        encoding: Encoding,
        out: &mut Vec<u8>,
    ) -> Flow {
        if encoding != Encoding::Line {
            let keys = if kind == Kind::Put { words.count() / 2 } else { words.count() };
            frame::begin_array(keys, self.deferred.place(out));
        }
        self.many(kind, words.into(), encoding, out)
    }

    /// Goes on with a request that was executed in part.
    pub(super) fn go_on_with_many(
        &mut self,
        begun: Begun,
        frame: Frame<'_>,
        encoding: Encoding,
        out: &mut Vec<u8>,
    ) -> Flow {
        let words = LastWords::of(frame, begun.left);
        match begun.kind {
            Kind::Get | Kind::Put => self.many(begun.kind, words, encoding, out),
            kind => self.gather(kind, words, encoding, out),
        }
    }

    fn many(&mut self, kind: Kind, mut words: LastWords<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        let (ack, level) = (self.ack(), self.read());
        for executed in 1_usize.. {
            let left = words.left();
            let Some(request) = kind.next(&mut words, ack, level) else { break };
            if executed.is_multiple_of(KEYS_AT_ONCE) {
                self.rest_if_late();
            }
            if self.must_rest || out.len() >= MANY_BYTES || self.key_request(&request, encoding, out) == Flow::Settle {
                self.begun = Some(Begun { kind, left });
                return Flow::Settle;
            }
            if let Some(body) = self.body.take() {
                out.extend_from_slice(body.bytes());
                out.extend_from_slice(body.end);
            }
        }
        if encoding == Encoding::Line {
            self.deferred.place(out).push(b'\n');
        }
        Flow::Next
    }
}
