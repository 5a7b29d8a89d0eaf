//! Redis's multi-key commands that have a single answer. For most, each key is a request of its own, and the answers are
//! combined; none of these sees or changes all its keys at one moment. `MSETNX` is one request.

use std::collections::BTreeMap;

use net::connection::Flow;
use proto::error::ErrorReply;
use proto::frame::Encoding;
use proto::limits;
use proto::peer::{Change, Effect, Identity, KeyRequest, Modify, ModifyError, Write, Writes};
use proto::reply::ReplyDecoder;
use proto::request::{KeyWords, KeyspaceRequest, LastWords};
use proto::response::Response;

use super::many::{Begun, KEYS_AT_ONCE, Kind};
use super::{ClientSession, Last};
use crate::answering;
use crate::keyspace::DeferredKeyspace;

/// The answers of single keys are combined once they reach this size.
const FOLDED_BYTES: usize = 16 * 1024;

/// A multi-key request in progress.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// The answers of the keys that have been executed, in the array encoding, as far as they are not yet folded into
    /// the fields below.
    pub(super) answers: Vec<u8>,
    /// The sum of the answers that are numbers.
    sum: i64,
    /// Whether a key is to be changed; and whether an answer reports a change, or may hide one.
    writes: bool,
    has_changed: bool,
    /// The first answer that is an error.
    error: Option<ErrorReply>,
}

impl Gather {
    /// Folds in the answers that are there.
    fn fold(&mut self) {
        let mut rest = self.answers.as_slice();
        while let Ok(Some((reply, len))) = ReplyDecoder::new().decode(rest) {
            match Response::from(reply) {
                Response::Number(number) => {
                    self.sum = self.sum.saturating_add(number);
                    self.has_changed |= number > 0;
                }
                Response::Error(error) => {
                    self.has_changed |= matches!(error, ErrorReply::Unknown(_));
                    self.error = self.error.take().or(Some(error));
                }
                _ => self.has_changed = true,
            }
            rest = rest.get(len..).unwrap_or_default();
        }
        self.answers.clear();
    }
}

impl ClientSession<'_> {
    pub(super) fn keyspace(&mut self, request: KeyspaceRequest<'_>, encoding: Encoding, out: &mut Vec<u8>) -> Flow {
        let (ack, level) = (self.ack(), self.read());
        match request {
            KeyspaceRequest::Delete(keys) => self.gather(Kind::Delete, keys.into(), encoding, out),
            KeyspaceRequest::Exists(keys) => self.gather(Kind::Exists, keys.into(), encoding, out),
            KeyspaceRequest::Set(words) => self.gather(Kind::Set, words.into(), encoding, out),
            KeyspaceRequest::SetAllAbsent { pairs, identity } => self.set_all_absent(pairs, identity, encoding, out),
            KeyspaceRequest::Keys(pattern) => {
                let pattern = pattern.to_vec();
                self.answer_last(Last::Keyspace(DeferredKeyspace::Keys { pattern, level }), encoding)
            }
            KeyspaceRequest::Scan(scan) => {
                self.answer_last(Last::Keyspace(DeferredKeyspace::scan(scan, level)), encoding)
            }
            KeyspaceRequest::Random => self.answer_last(Last::Keyspace(DeferredKeyspace::Random { level }), encoding),
            KeyspaceRequest::Flush => {
                self.written.add_all(ack);
                self.answer_last(Last::Keyspace(DeferredKeyspace::Flush { ack }), encoding)
            }
        }
    }

    fn set_all_absent(
        &mut self,
        mut words: KeyWords<'_>,
        identity: Option<Identity<'_>>,
        encoding: Encoding,
        out: &mut Vec<u8>,
    ) -> Flow {
        // If a key is named twice, its last value counts.
        let pairs: BTreeMap<_, _> = std::iter::from_fn(|| words.next().zip(words.next())).collect();
        let mut writes = Vec::new();
        for (key, value) in &pairs {
            Writes::push(key, Effect::Put(value), &mut writes);
            // The rest is not copied: all of it may be twice as long.
            if writes.len() > limits::VALUE_BYTES {
                let error = ErrorReply::redis(ModifyError::TooLong.to_string());
                Response::Error(error).encode(encoding, self.deferred.place(out));
                return Flow::Next;
            }
        }
        let first = pairs.keys().next().copied().unwrap_or_default();
        let change = Change::Modify(Modify::SetAllAbsent(Writes::known(&writes)));
        let write = Write { ack: self.ack(), identity, ..Write::new(first, change) };
        self.key_request(&KeyRequest::Write(write), encoding, out)
    }

    /// Executes a request for each key, one after the other, and combines their answers. If some must be answered
    /// before others can be executed, the request is offered again and resumes where it stopped.
    pub(super) fn gather(
        &mut self,
        kind: Kind,
        mut words: LastWords<'_>,
        encoding: Encoding,
        out: &mut Vec<u8>,
    ) -> Flow {
        let (ack, level) = (self.ack(), self.read());
        let mut gather = match self.gather.take() {
            Some(gather) => gather,
            // Answers to deferred requests come before this one's, and must not be taken for part of it.
            None if !self.deferred.is_empty() => return Flow::Settle,
            None => Gather::default(),
        };
        for executed in 1_usize.. {
            let left = words.left();
            let request = kind.next(&mut words, ack, level);
            if executed.is_multiple_of(KEYS_AT_ONCE) {
                self.rest_if_late();
            }
            let must_settle = match request {
                Some(_) if self.must_rest => true,
                Some(request) => {
                    gather.writes |= request.is_write();
                    let out = &mut gather.answers;
                    let flow = if kind.is_in_any_order() {
                        let slot = self.driver.node().slot_of(request.key());
                        self.request_in_slot(slot, &request, Encoding::Array, out)
                    } else {
                        self.key_request(&request, Encoding::Array, out)
                    };
                    flow == Flow::Settle
                }
                None => !self.deferred.is_empty(),
            };
            if must_settle {
                self.gather = Some(gather);
                self.begun = Some(Begun { kind, left });
                return Flow::Settle;
            }
            if request.is_none() {
                break;
            }
            if self.deferred.is_empty() && gather.answers.len() >= FOLDED_BYTES {
                gather.fold();
            }
        }
        gather.fold();
        let response = match (gather.error.take(), kind) {
            // The answer for one key says nothing about the others.
            (Some(error), _) if gather.writes && gather.has_changed => Response::Error(answering::half_done(&error)),
            (Some(error), _) => Response::Error(error),
            (None, Kind::Set) => Response::Ok,
            (None, _) => Response::Number(gather.sum),
        };
        response.encode(encoding, out);
        Flow::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_may_hide_a_change_counts_as_one() {
        for (answers, has_changed) in [
            (&b"-FULL no memory; nothing was changed\r\n-BUSY try again\r\n"[..], false),
            (b"-FULL no memory; nothing was changed\r\n-UNKNOWN it may have taken effect\r\n", true),
            (b"-UNKNOWN it may have taken effect\r\n", true),
            (b":0\r\n", false),
            (b":1\r\n-FULL no memory\r\n", true),
        ] {
            let mut gather = Gather { answers: answers.to_vec(), ..Gather::default() };
            gather.fold();
            assert_eq!(gather.has_changed, has_changed, "{answers:?}");
        }
    }
}
