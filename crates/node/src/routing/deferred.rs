//! Requests that are deferred until they are answered.

use proto::frame::Encoding;
use proto::id::Version;
use proto::level::{AckLevel, ReadLevel};
use proto::peer::{Change, Forward, Identity, KeyRequest, Modify, Read, Wanted, Write};
use proto::response::Response;
use proto::slot::SlotId;

/// The requests of a batch that cannot be answered at once, in order, with the answers already known that wait behind
/// them. The buffers are cleared and reused, so that waiting costs a batch no memory of its own.
#[derive(Debug, Default)]
pub(crate) struct DeferredBatch {
    entries: Vec<Entry>,
    /// For each request its answer, if known, followed by the answers to later requests up to the next deferred one.
    answers: Vec<u8>,
    /// The size of the requests themselves.
    bytes: usize,
    /// How many of them have not been carried out yet.
    not_carried_out: usize,
    /// How many of those are writes that are answered with a value, whatever its length.
    tell_values: usize,
}

/// One deferred request.
#[derive(Debug)]
pub(super) struct Entry {
    /// `None`: a write that was carried out here and may not be sent again.
    pub(super) request: Option<Deferred>,
    pub(super) encoding: Encoding,
    /// It was carried out here: the ticket that must settle before its answer may be sent.
    pub(super) ticket: Option<usize>,
    /// Where its answer begins and ends in `answers`.
    answer: (usize, usize),
}

/// A request that is deferred until it is answered.
#[derive(Debug)]
pub(super) struct Deferred {
    /// The slot of its key.
    pub(super) slot: SlotId,
    encoding: Encoding,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Read { key: Vec<u8>, wanted: Wanted, level: ReadLevel },
    Write(KeptWrite),
}

#[derive(Debug)]
struct KeptWrite {
    key: Vec<u8>,
    change: KeptChange,
    expected: Option<Version>,
    identity: Option<(Vec<u8>, u64)>,
    ack: AckLevel,
}

/// See [`Change`].
#[derive(Debug)]
enum KeptChange {
    Put(Vec<u8>),
    PutFor(Vec<u8>, u64),
    Delete,
    Expire(u64),
    Persist,
    /// With the data that it borrows, see [`Modify::borrowed`].
    Modify(Box<(Modify<'static>, Vec<u8>, Vec<u8>)>),
}

/// How many bytes of requests and answers are deferred before they must be answered.
const KEPT_BYTES: usize = 1024 * 1024;

/// How many requests are deferred for other nodes: each may be answered with [`SHORT_BYTES`](proto::peer::SHORT_BYTES)
/// before the first of the answers is written.
const NOT_CARRIED_OUT: usize = 512;

/// How many of those may be answered with a value of any length.
const TELL_VALUES: usize = 8;

/// How much memory a cleared batch keeps for the next: the number of requests, and bytes of answers.
const REUSED: (usize, usize) = (1_024, 64 * 1024);

impl DeferredBatch {
    /// Whether nothing is deferred.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether what is deferred must be answered before more is deferred.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        let size = self.entries.len() * size_of::<Entry>() + self.bytes + self.answers.len();
        size > KEPT_BYTES || self.not_carried_out >= NOT_CARRIED_OUT || self.tell_values >= TELL_VALUES
    }

    /// Whether a request for this slot is still to be carried out, so that later ones must wait too.
    #[must_use]
    pub(crate) fn blocks(&self, slot: SlotId) -> bool {
        let waits = |entry: &Entry| {
            entry.ticket.is_none() && entry.request.as_ref().is_some_and(|deferred| deferred.slot == slot)
        };
        self.not_carried_out > 0 && self.entries.iter().any(waits)
    }

    /// Where to write an answer that is ready: to `out`, or behind the deferred requests.
    pub(crate) fn place<'a>(&'a mut self, out: &'a mut Vec<u8>) -> &'a mut Vec<u8> {
        if self.is_empty() { out } else { &mut self.answers }
    }

    /// Appends to the answers behind the deferred requests.
    pub(crate) fn add_answer(&mut self, bytes: &[u8]) {
        self.answers.extend_from_slice(bytes);
    }

    /// Defers a request that has not been carried out.
    pub(crate) fn defer(&mut self, slot: SlotId, request: KeyRequest<'_>, encoding: Encoding) {
        let deferred = Deferred { slot, encoding, work: Work::of(request) };
        self.bytes += deferred.work.size();
        self.not_carried_out += 1;
        self.tell_values += usize::from(matches!(request, KeyRequest::Write(write) if write.change.tells_value()));
        let at = self.answers.len();
        self.entries.push(Entry { request: Some(deferred), encoding, ticket: None, answer: (at, at) });
    }

    /// Defers a request that was carried out here, together with its answer.
    pub(crate) fn defer_carried_out(
        &mut self,
        slot: SlotId,
        request: KeyRequest<'_>,
        encoding: Encoding,
        ticket: usize,
        answer: impl FnOnce(&mut Vec<u8>),
    ) {
        // Only requests that may be sent again need be copied.
        let request = is_repeatable(request).then(|| Deferred { slot, encoding, work: Work::of(request) });
        self.bytes += request.as_ref().map_or(0, |deferred| deferred.work.size());
        let start = self.answers.len();
        answer(&mut self.answers);
        let answer = (start, self.answers.len());
        self.entries.push(Entry { request, encoding, ticket: Some(ticket), answer });
    }

    /// The requests, in order.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Whether every request was carried out.
    pub(super) fn all_carried_out(&self) -> bool {
        self.not_carried_out == 0
    }

    /// All answers in a row: the output if every wait has succeeded.
    pub(super) fn answers(&self) -> &[u8] {
        &self.answers
    }

    /// The answer of the request at index `at`, empty if unknown, and the bytes between it and the next.
    pub(super) fn answers_of(&self, at: usize) -> (&[u8], &[u8]) {
        let Some(Entry { answer: (start, end), .. }) = self.entries.get(at) else { return (&[], &[]) };
        let next = self.entries.get(at + 1).map_or(self.answers.len(), |next| next.answer.0);
        let bytes = |from: usize, to: usize| self.answers.get(from..to).unwrap_or_default();
        (bytes(*start, *end), bytes(*end, next))
    }

    /// Clears everything.
    pub(crate) fn clear(&mut self) {
        let Self { entries, answers, bytes, not_carried_out, tell_values } = self;
        entries.clear();
        entries.shrink_to(REUSED.0);
        answers.clear();
        answers.shrink_to(REUSED.1);
        (*bytes, *not_carried_out, *tell_values) = (0, 0, 0);
    }
}

/// Whether a request may be sent again even if it may already have been carried out.
fn is_repeatable(request: KeyRequest<'_>) -> bool {
    match request {
        KeyRequest::Read(_) => true,
        KeyRequest::Write(write) => write.identity.is_some(),
    }
}

impl Deferred {
    /// The request itself.
    pub(super) fn request(&self) -> KeyRequest<'_> {
        match &self.work {
            Work::Read { key, wanted, level } => KeyRequest::Read(Read { key, wanted: *wanted, level: *level }),
            Work::Write(KeptWrite { key, change, expected, identity, ack }) => KeyRequest::Write(Write {
                key,
                change: change.as_asked(),
                expected: *expected,
                identity: identity.as_ref().map(|(client, seq)| Identity { client, seq: *seq }),
                ack: *ack,
            }),
        }
    }

    /// The request as it is forwarded.
    pub(super) fn forward(&self, at_replica: bool, is_short: bool) -> Forward<'_> {
        Forward { id: 0, at_replica, is_short, request: self.request() }
    }

    /// Whether it may be sent again even if it may already have been carried out.
    pub(super) fn is_repeatable(&self) -> bool {
        is_repeatable(self.request())
    }

    /// Whether a replica may answer if the primary does not.
    pub(super) fn replica_may_answer(&self) -> bool {
        matches!(self.work, Work::Read { level: ReadLevel::Local, .. })
    }

    /// Writes the answer in the encoding of the request.
    pub(super) fn answer(&self, response: &Response<'_>, out: &mut Vec<u8>) {
        response.encode(self.encoding, out);
    }
}

impl KeptChange {
    fn of(change: Change<'_>) -> Self {
        match change {
            Change::Put(value) => Self::Put(value.to_vec()),
            Change::PutFor(value, millis) => Self::PutFor(value.to_vec(), millis),
            Change::Delete => Self::Delete,
            Change::Expire(millis) => Self::Expire(millis),
            Change::Persist => Self::Persist,
            Change::Modify(modify) => {
                let [value, expected] = modify.borrowed();
                Self::Modify(Box::new((modify.with_borrowed(b"", b""), value.to_vec(), expected.to_vec())))
            }
        }
    }

    fn as_asked(&self) -> Change<'_> {
        match self {
            Self::Put(value) => Change::Put(value),
            Self::PutFor(value, millis) => Change::PutFor(value, *millis),
            Self::Delete => Change::Delete,
            Self::Expire(millis) => Change::Expire(*millis),
            Self::Persist => Change::Persist,
            Self::Modify(deferred) => {
                let (modify, value, expected) = &**deferred;
                Change::Modify(modify.with_borrowed(value, expected))
            }
        }
    }

    fn value_len(&self) -> usize {
        match self {
            Self::Put(value) | Self::PutFor(value, _) => value.len(),
            Self::Modify(deferred) => size_of_val(&**deferred) + deferred.1.len() + deferred.2.len(),
            Self::Delete | Self::Expire(_) | Self::Persist => 0,
        }
    }
}

impl Work {
    fn of(request: KeyRequest<'_>) -> Self {
        match request {
            KeyRequest::Read(Read { key, wanted, level }) => Self::Read { key: key.to_vec(), wanted, level },
            KeyRequest::Write(Write { key, change, expected, identity, ack }) => Self::Write(KeptWrite {
                key: key.to_vec(),
                change: KeptChange::of(change),
                expected,
                identity: identity.map(|identity| (identity.client.to_vec(), identity.seq)),
                ack,
            }),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Read { key, .. } => key.len(),
            Self::Write(KeptWrite { key, change, .. }) => key.len() + change.value_len(),
        }
    }
}
