//! Redis's commands about all keys: `KEYS`, `SCAN`, `RANDOMKEY`, `FLUSHALL`. Each goes through the keys as a walk
//! does.
//!
//! The cursor of a scan is a slot number: all slots before it were listed completely, each at one moment, or page by
//! page in key order. So a key that is present throughout is listed, whichever node is asked and whoever leads its
//! slot meanwhile; and any node can continue a scan that another began.

use engine::bugs::NoBugs;
use engine::listing::PageSize;
use engine::node::Turn;
use engine::slot::{Executed, Refusal};
use engine::walk::Walk;
use net::random;
use proto::error::ErrorReply;
use proto::frame::Encoding;
use proto::level::{AckLevel, ReadLevel};
use proto::limits;
use proto::peer::{Change, KeyRequest, Write};
use proto::range::{KeyRange, Keys, next_key};
use proto::reply::{Reply, ReplyDecoder};
use proto::request::{Scan, glob_matches, literal_prefix};
use proto::response::Response;
use proto::slot::{SLOT_BITS, SlotId};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use crate::answering;
use crate::driver::Driver;
use crate::routing::{self, DeferredBatch, Waits};
use crate::store::on_a_thread;
use crate::walks;

/// How many slots are sampled to estimate the number of keys per slot.
const SAMPLED_SLOTS: usize = 64;

/// This many steps of matching take a few milliseconds at worst.
const QUICK_STEPS: usize = 4_000_000;

/// The factor by which a scan widens its range of slots when it has found too little.
const WIDER: usize = 4;

/// A request about all keys, deferred until the batch that it arrived with is answered.
#[derive(Debug)]
pub(crate) enum DeferredKeyspace {
    /// `KEYS`.
    Keys { pattern: Vec<u8>, level: ReadLevel },
    /// `SCAN`.
    Scan { cursor: u64, pattern: Option<Vec<u8>>, count: u64, is_of_strings: bool, level: ReadLevel },
    /// `RANDOMKEY`.
    Random { level: ReadLevel },
    /// `FLUSHALL`, `FLUSHDB`.
    Flush { ack: AckLevel },
}

type Found = Vec<Box<[u8]>>;

impl DeferredKeyspace {
    /// `SCAN`.
    #[must_use]
    pub(crate) fn scan(scan: Scan<'_>, level: ReadLevel) -> Self {
        let Scan { cursor, pattern, count, is_of_strings } = scan;
        Self::Scan { cursor, pattern: pattern.map(<[u8]>::to_vec), count, is_of_strings, level }
    }

    /// Whether it changes keys.
    pub(crate) fn is_flush(&self) -> bool {
        matches!(self, Self::Flush { .. })
    }

    /// Answers the request.
    pub(crate) async fn answer(self, driver: &Driver, encoding: Encoding, out: &mut Vec<u8>) {
        // Held until what was found is encoded, and no longer in memory twice.
        let _permit = match &self {
            Self::Keys { .. } => match list_permit(driver).await {
                Ok(permit) => Some(permit),
                Err(error) => return Response::Error(error).encode(encoding, out),
            },
            Self::Scan { .. } | Self::Random { .. } | Self::Flush { .. } => None,
        };
        let done = match self {
            Self::Keys { pattern, level } => all_keys(driver, &pattern, level).await.map(Response::Page),
            Self::Scan { is_of_strings: false, .. } => Ok(Response::Scanned(0, Vec::new())),
            Self::Scan { cursor, pattern, count, level, .. } => {
                let scanned = scan(driver, cursor, pattern.as_deref(), count, level).await;
                scanned.map(|(cursor, keys)| Response::Scanned(cursor, keys))
            }
            Self::Random { level } => match random_key(driver, level).await {
                Ok(Some(key)) => return Response::Value(&key).encode(encoding, out),
                Ok(None) => Ok(Response::NotFound),
                Err(error) => Err(error),
            },
            Self::Flush { ack } => flush(driver, ack).await.map(|()| Response::Ok),
        };
        done.unwrap_or_else(Response::Error).encode(encoding, out);
    }
}

/// The keys that a pattern matches. Matching that may take long runs where it delays nobody.
async fn matching(mut keys: Found, pattern: Option<&[u8]>) -> Found {
    let Some(pattern) = pattern else { return keys };
    let steps = pattern.len() * keys.iter().map(|key| key.len()).sum::<usize>();
    if steps <= QUICK_STEPS {
        keys.retain(|key| glob_matches(pattern, key));
        return keys;
    }
    let pattern = pattern.to_vec();
    on_a_thread(move || {
        keys.retain(|key| glob_matches(&pattern, key));
        keys
    })
    .await
}

/// The first keys of a range in some slots, and whether there are more.
async fn page(
    driver: &Driver,
    slots: std::ops::Range<usize>,
    range: KeyRange,
    level: ReadLevel,
) -> Result<(Found, bool), ErrorReply> {
    let walk = walk_of(range, level).within(|slot| slots.contains(&usize::from(slot.0)));
    walks::complete(driver, walk).await.map(Walk::into_page)
}

fn walk_of(range: KeyRange, level: ReadLevel) -> Walk {
    let size = PageSize { keys: limits::PAGE_KEYS, bytes: limits::PAGE_BYTES };
    Walk::new(SLOT_BITS, level, range, Some(size), NoBugs)
}

async fn list_permit(driver: &Driver) -> Result<SemaphorePermit<'_>, ErrorReply> {
    match timeout(driver.request_timeout(), driver.lists().acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => {
            let why = "too many KEYS in progress on this node; nothing was changed, try again later, or use SCAN";
            Err(ErrorReply::Busy(why.to_owned()))
        }
    }
}

async fn all_keys(driver: &Driver, pattern: &[u8], level: ReadLevel) -> Result<Found, ErrorReply> {
    let mut range = Keys::Prefix(literal_prefix(pattern)).range();
    let mut found = Matched::default();
    loop {
        let (keys, has_more) = page(driver, 0..SLOT_BITS.count(), range.clone(), level).await?;
        let last = keys.last().map(|last| next_key(last));
        found.add(matching(keys, Some(pattern)).await)?;
        match last.filter(|_| has_more) {
            Some(next) => range.start = next,
            None => return Ok(found.keys),
        }
    }
}

/// Matching keys, up to what one answer has room for.
#[derive(Debug, Default)]
struct Matched {
    keys: Found,
    bytes: usize,
}

impl Matched {
    fn add(&mut self, keys: Found) -> Result<(), ErrorReply> {
        self.bytes += keys.iter().map(|key| key.len()).sum::<usize>();
        self.keys.extend(keys);
        if self.keys.len() <= limits::ARRAY_WORDS && self.bytes <= limits::ARRAY_BYTES {
            return Ok(());
        }
        Err(ErrorReply::redis(format!(
            "ERR too many matching keys for one answer (limit {} keys, {} bytes); nothing was changed, use a narrower \
             pattern, or PREFIX",
            limits::ARRAY_WORDS,
            limits::ARRAY_BYTES
        )))
    }
}

async fn scan(
    driver: &Driver,
    cursor: u64,
    pattern: Option<&[u8]>,
    count: u64,
    level: ReadLevel,
) -> Result<(u64, Found), ErrorReply> {
    let slots = SLOT_BITS.count();
    let range = Keys::Prefix(pattern.map_or(b"", literal_prefix)).range();
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(limits::PAGE_KEYS);
    let mut first = usize::try_from(cursor).unwrap_or(slots).min(slots);
    let mut width = slots_with(driver, count);
    let (mut found, mut looked_at, mut bytes) = (Matched::default(), 0, 0);
    while first < slots && looked_at < count && bytes < limits::PAGE_BYTES {
        let end = (first + width).min(slots);
        let (mut keys, has_more) = page(driver, first..end, range.clone(), level).await?;
        if has_more && width > 1 {
            width = (width / WIDER).max(1);
            continue;
        }
        // A slot with more than a page of keys is listed completely, page by page.
        let mut rest = keys.last().filter(|_| has_more).map(|last| next_key(last));
        loop {
            looked_at += keys.len();
            bytes += keys.iter().map(|key| key.len()).sum::<usize>();
            found.add(matching(keys, pattern).await)?;
            let Some(start) = rest else { break };
            let range = KeyRange { start, end: range.end.clone() };
            let (next, more) = page(driver, first..end, range, level).await?;
            rest = next.last().filter(|_| more).map(|last| next_key(last));
            keys = next;
        }
        first = end;
        width = width.saturating_mul(WIDER);
    }
    let cursor = if first < slots { first as u64 } else { 0 };
    Ok((cursor, found.keys))
}

/// How many slots together have about this many keys, estimated from the copies held here.
fn slots_with(driver: &Driver, keys: usize) -> usize {
    let slots = SLOT_BITS.count();
    let sampled = (0..SAMPLED_SLOTS).filter_map(|at| u16::try_from(at * slots / SAMPLED_SLOTS).ok());
    let seen: usize = sampled.map(|slot| driver.node().inspect(SlotId(slot), engine::slot::Slot::keys)).sum();
    (keys * SAMPLED_SLOTS / seen.max(1)).clamp(1, slots)
}

/// A key from the first slots that have one, starting at a random slot. Slots are equally likely, not keys.
async fn random_key(driver: &Driver, level: ReadLevel) -> Result<Option<Box<[u8]>>, ErrorReply> {
    let slots = SLOT_BITS.count();
    let random = |bound: usize| usize::try_from(random::bits()).unwrap_or_default() % bound.max(1);
    let start = random(slots);
    let mut width = slots_with(driver, 1);
    // Up to the last slot, then from the first.
    let (mut first, mut end) = (start, slots);
    loop {
        let range = Keys::Prefix(b"").range();
        let (mut keys, _) = page(driver, first..(first + width).min(end), range, level).await?;
        if !keys.is_empty() {
            return Ok(Some(keys.swap_remove(random(keys.len()))));
        }
        first = (first + width).min(end);
        width = width.saturating_mul(WIDER);
        if first == end {
            if end == start {
                return Ok(None);
            }
            (first, end) = (0, start);
        }
    }
}

/// Deletes every key, page by page. Keys written meanwhile may remain.
///
/// IMPORTANT: the keys are listed only by primaries that serve them at that moment: one that has been replaced without
/// knowing it, or a replica, would not name all that was acknowledged. Unless the deletes themselves may be lost, what is
/// listed must be durable, too; at level `async` it need not, so that one copy suffices.
async fn flush(driver: &Driver, ack: AckLevel) -> Result<(), ErrorReply> {
    let level = if ack == AckLevel::Async { ReadLevel::Local } else { ReadLevel::Linear };
    let mut range = Keys::Prefix(b"").range();
    let half_done = |error| answering::half_done(&error);
    let mut is_first = true;
    loop {
        let walked = walks::complete(driver, walk_of(range.clone(), level).where_served()).await;
        let (keys, has_more) =
            walked.map(Walk::into_page).map_err(|error| if is_first { error } else { half_done(error) })?;
        is_first = false;
        delete_all(driver, &keys, ack).await.map_err(half_done)?;
        match keys.last().filter(|_| has_more) {
            Some(last) => range.start = next_key(last),
            None => return Ok(()),
        }
    }
}

async fn delete_all(driver: &Driver, keys: &[Box<[u8]>], ack: AckLevel) -> Result<(), ErrorReply> {
    let (node, now) = (driver.node(), driver.clock().now());
    let (mut deferred, mut waits, mut turn) = (DeferredBatch::default(), Waits::default(), Turn::default());
    let mut refused = None;
    for key in keys {
        let write = Write { ack, ..Write::new(key, Change::Delete) };
        let slot = node.slot_of(key);
        refused = driver.disk_refusal(slot);
        if refused.is_some() {
            break;
        }
        let request = KeyRequest::Write(write);
        match node.write(now, slot, &write, &waits.waiting, &mut turn) {
            Ok(Executed { ticket: None, .. }) => {}
            Ok(Executed { ticket: Some(ticket), .. }) => {
                let answer = |out: &mut Vec<u8>| Response::Ok.encode(Encoding::Array, out);
                deferred.defer_carried_out(slot, request, Encoding::Array, ticket, answer);
            }
            Err(Refusal::NotHere) => deferred.defer(slot, request, Encoding::Array),
            Err(refusal) => {
                refused = Some(answering::refused(refusal, driver));
                break;
            }
        }
    }
    // The deletes before this point are in flight, whatever stopped the rest.
    driver.wake_touched(&mut turn);
    if let Some(error) = refused {
        return Err(error);
    }
    let mut answers = Vec::new();
    loop {
        routing::answer_all(driver, &deferred, &mut waits, usize::MAX, &mut answers).await;
        if !waits.is_half_answered() {
            break;
        }
    }
    let mut rest = answers.as_slice();
    while let Ok(Some((reply, len))) = ReplyDecoder::new().decode(rest) {
        if let Reply::Error(_) = reply
            && let Response::Error(error) = Response::from(reply)
        {
            return Err(error);
        }
        rest = rest.get(len..).unwrap_or_default();
    }
    Ok(())
}
