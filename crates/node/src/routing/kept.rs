//! A request that is kept until it is answered.

use proto::frame::Encoding;
use proto::id::Version;
use proto::level::{AckLevel, ReadLevel};
use proto::peer::{Change, Identity, KeyRequest, Read, Wanted, Write};
use proto::response::Response;
use proto::slot::SlotId;

/// A request kept until it is answered, and the answers to later requests that wait behind it.
#[derive(Debug)]
pub struct Kept {
    /// The slot of its key.
    pub slot: SlotId,
    key: Vec<u8>,
    work: Work,
    encoding: Encoding,
    /// It was carried out here: the ticket of the wait, and what to answer once that is over.
    pub(super) carried_out: Option<(usize, Vec<u8>)>,
    /// Answers to requests that came after this one and before the next that is kept.
    pub after: Vec<u8>,
}

#[derive(Debug)]
enum Work {
    Read { wanted: Wanted, level: ReadLevel },
    Write(KeptWrite),
}

#[derive(Debug)]
struct KeptWrite {
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
}

impl Kept {
    /// Keeps a request that was not carried out.
    #[must_use]
    pub fn new(slot: SlotId, request: KeyRequest<'_>, encoding: Encoding) -> Self {
        let key = request.key().to_vec();
        Self { slot, key, work: Work::of(request, true), encoding, carried_out: None, after: Vec::new() }
    }

    /// Keeps a request that was carried out here, with its answer.
    #[must_use]
    pub fn carried_out(
        slot: SlotId,
        request: KeyRequest<'_>,
        encoding: Encoding,
        ticket: usize,
        answer: Vec<u8>,
    ) -> Self {
        // Only what may be sent again need be kept whole.
        let repeatable = match request {
            KeyRequest::Read(_) => true,
            KeyRequest::Write(write) => write.identity.is_some(),
        };
        let work = Work::of(request, repeatable);
        let key = if repeatable { request.key().to_vec() } else { Vec::new() };
        Self { slot, key, work, encoding, carried_out: Some((ticket, answer)), after: Vec::new() }
    }

    /// Whether it was carried out, so that later requests for its slot need not wait for it.
    #[must_use]
    pub fn is_carried_out(&self) -> bool {
        self.carried_out.is_some()
    }

    /// How much memory it takes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let value = match &self.work {
            Work::Write(write) => write.change.value_len(),
            Work::Read { .. } => 0,
        };
        size_of::<Self>() + self.key.len() + value + self.after.len()
    }

    /// The request itself. Of a write that was carried out and may not be sent again nothing is left but
    /// that it is one.
    pub(super) fn request(&self) -> KeyRequest<'_> {
        let key = &self.key;
        match &self.work {
            Work::Read { wanted, level } => KeyRequest::Read(Read { key, wanted: *wanted, level: *level }),
            Work::Write(KeptWrite { change, expected, identity, ack }) => KeyRequest::Write(Write {
                key,
                change: change.as_asked(),
                expected: *expected,
                identity: identity.as_ref().map(|(client, seq)| Identity { client, seq: *seq }),
                ack: *ack,
            }),
        }
    }

    /// Whether it may be sent again although it may have been carried out.
    pub(super) fn is_repeatable(&self) -> bool {
        match &self.work {
            Work::Read { .. } => true,
            Work::Write(write) => write.identity.is_some(),
        }
    }

    /// Whether a replica may answer where the primary does not.
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
            Change::PutFor(value, seconds) => Self::PutFor(value.to_vec(), seconds),
            Change::Delete => Self::Delete,
            Change::Expire(seconds) => Self::Expire(seconds),
            Change::Persist => Self::Persist,
        }
    }

    fn as_asked(&self) -> Change<'_> {
        match self {
            Self::Put(value) => Change::Put(value),
            Self::PutFor(value, seconds) => Change::PutFor(value, *seconds),
            Self::Delete => Change::Delete,
            Self::Expire(seconds) => Change::Expire(*seconds),
            Self::Persist => Change::Persist,
        }
    }

    fn value_len(&self) -> usize {
        match self {
            Self::Put(value) | Self::PutFor(value, _) => value.len(),
            Self::Delete | Self::Expire(_) | Self::Persist => 0,
        }
    }
}

impl Work {
    fn of(request: KeyRequest<'_>, whole: bool) -> Self {
        match request {
            KeyRequest::Read(Read { wanted, level, .. }) => Self::Read { wanted, level },
            KeyRequest::Write(Write { change, expected, identity, ack, .. }) => Self::Write(KeptWrite {
                change: if whole { KeptChange::of(change) } else { KeptChange::Delete },
                expected,
                identity: identity.map(|identity| (identity.client.to_vec(), identity.seq)),
                ack,
            }),
        }
    }
}
