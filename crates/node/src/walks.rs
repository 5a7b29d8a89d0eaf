//! Pages of walks through the keys of the whole cluster (`PREFIX`, `RANGE`), and counts: how this node asks others,
//! and how it answers them. [`engine::walk`] decides who answers for what.

use std::future::{pending, poll_fn};
use std::panic::resume_unwind;
use std::time::Duration;

use engine::bugs::NoBugs;
use engine::listing::{Listing, PageSize};
use engine::node::Turn;
use engine::waiting::{Outcome, Waiting};
use engine::walk::{Ask, Walk};
use proto::error::ErrorReply;
use proto::level::ReadLevel;
use proto::limits;
use proto::peer::{List, Listed};
use proto::range::{KeyRange, Keys, PageRequest};
use proto::reply::{Reply, ReplyDecoder};
use proto::response::Response;
use proto::slot::{SLOT_BITS, SlotId};
use tokio::task::{JoinError, JoinSet, yield_now};
use tokio::time::{Instant, timeout_at};

use crate::answering::NO_MAP;
use crate::driver::Driver;
use crate::routing::{PRIMARY_PATIENCE, RETRY_PAUSE, STALLED_PATIENCE, replaced};

/// How long a node may send nothing while it is asked for its keys. It may have to sort them first.
const LIST_PATIENCE: Duration = Duration::from_secs(2);

/// How many slots are listed before other tasks get a turn: about 0.1 ms of work, or 1 ms if they must be sorted.
const SLOTS_AT_ONCE: usize = 32;

/// A request for a page or a count, deferred until the batch that it arrived with is answered.
#[derive(Debug)]
pub(crate) struct DeferredWalk {
    range: KeyRange,
    /// `None`: only the count is wanted.
    limit: Option<usize>,
    level: ReadLevel,
}

impl DeferredWalk {
    /// A page.
    #[must_use]
    pub(crate) fn page(request: PageRequest<'_>, level: ReadLevel) -> Self {
        Self { range: request.range(), limit: Some(request.limit), level }
    }

    /// The number of keys with a prefix.
    #[must_use]
    pub(crate) fn count(prefix: &[u8], level: ReadLevel) -> Self {
        Self { range: Keys::Prefix(prefix).range(), limit: None, level }
    }

    /// The answer.
    pub(crate) async fn answer(self, driver: &Driver) -> Response<'static> {
        let is_count = self.limit.is_none();
        let size = self.limit.map(|keys| PageSize { keys, bytes: limits::PAGE_BYTES });
        let walk = Walk::new(SLOT_BITS, self.level, self.range, size, NoBugs);
        match complete(driver, walk).await {
            Ok(walk) if is_count => Response::count(walk.into_count()),
            Ok(walk) => Response::Page(walk.into_keys()),
            Err(error) => Response::Error(error),
        }
    }
}

/// Asks nodes until every slot is answered for.
pub(crate) async fn complete(driver: &Driver, mut walk: Walk) -> Result<Walk, ErrorReply> {
    let start = Instant::now();
    let deadline = start + driver.request_timeout();
    let Ok(Ok(_permit)) = timeout_at(deadline, driver.walks().acquire()).await else {
        let why = "too many walks in progress on this node; nothing was changed, try again later";
        return Err(ErrorReply::Busy(why.to_owned()));
    };
    let mut map_changes = driver.watch_map();
    loop {
        map_changes.mark_unchanged();
        let tried_at = Instant::now();
        let mut asked = JoinSet::new();
        if let Some(map) = driver.node().map() {
            for ask in walk.asks(&map, driver.node().incarnation(), start.elapsed() >= PRIMARY_PATIENCE) {
                asked.spawn(put_question(driver.clone(), ask, deadline));
            }
        }
        while let Some(answered) = asked.join_next().await {
            match answered.map_err(JoinError::try_into_panic) {
                Ok((id, Some(listed))) => walk.answered(id, listed),
                Ok((id, None)) => walk.failed(id),
                Err(Ok(panic)) => resume_unwind(panic),
                // The runtime is ending all tasks, this one next.
                Err(Err(_)) => pending().await,
            }
        }
        let Some(missing) = walk.missing() else { return Ok(walk) };
        if Instant::now() >= deadline {
            return Err(ErrorReply::Unavailable(why_missing(driver, missing)));
        }
        // Either the map changes, or the obstacle may have passed.
        let _ = timeout_at((tried_at + RETRY_PAUSE).min(deadline), map_changes.changed()).await;
    }
}

/// Asks one node, which may be this one. `None`: it does not answer.
async fn put_question(driver: Driver, ask: Ask, deadline: Instant) -> (u64, Option<Listed>) {
    let id = ask.list.id;
    if ask.to == driver.node().incarnation() {
        return (id, Some(list_here(&driver, &ask.list).await));
    }
    (id, ask_other(&driver, ask, deadline).await)
}

async fn ask_other(driver: &Driver, ask: Ask, deadline: Instant) -> Option<Listed> {
    let Ask { to, addr, list } = ask;
    let first = *list.slots.first()?;
    let may_move = !list.at_replica;
    let mut handed = driver.forwards().send_list(driver, to, &addr, list);
    let patience = if driver.forwards().is_stalled(to) { STALLED_PATIENCE } else { LIST_PATIENCE };
    let answer = tokio::select! {
        answer = driver.forwards().answer(to, &mut handed, Instant::now(), Some(patience), deadline) => answer,
        // The new primary of the slots is asked instead.
        () = replaced(driver, first, to), if may_move => return None,
    };
    let Some(answer) = answer else {
        driver.forwards().set_stalled(to);
        // If it was not sent, it never will be; an answer that still arrives is ignored.
        let _ = handed.take_back();
        return None;
    };
    let bytes = answer.ok()?;
    match ReplyDecoder::new().decode(&bytes) {
        Ok(Some((Reply::Bulk(listed), _))) => Listed::parse(listed),
        _ => None,
    }
}

/// Lists the keys held here, for this node or for another. Nobody learns of them before they are as durable as
/// requested.
pub(crate) async fn list_here(driver: &Driver, list: &List) -> Listed {
    let node = driver.node();
    let (mut waiting, mut turn) = (Waiting::new(), Turn::default());
    let mut listing = Listing::new(list, limits::PAGE_BYTES);
    for slots in list.slots.chunks(SLOTS_AT_ONCE) {
        for slot in slots.iter().filter(|slot| node.has_slot(**slot)) {
            node.list(*slot, list, || driver.clock().now(), &waiting, &mut turn, &mut listing);
        }
        // Expiries are on their way to the replicas while other slots are listed.
        driver.wake_touched(&mut turn);
        yield_now().await;
    }
    // The tickets tell whether it was in time.
    let deadline = Instant::now() + driver.request_timeout();
    let _ = timeout_at(deadline, poll_fn(|context| waiting.poll_settled(context))).await;
    let mut outcomes = Vec::new();
    waiting.take(&mut outcomes);
    let is_durable = outcomes.iter().all(|outcome| *outcome == Some(Outcome::Durable));
    let is_kept = list.level == ReadLevel::Local || matches!(timeout_at(deadline, driver.persist()).await, Ok(Ok(())));
    if is_durable && is_kept { listing.finish() } else { Listed { refused: list.slots.clone(), ..Listed::default() } }
}

fn why_missing(driver: &Driver, slot: SlotId) -> String {
    let route = driver.node().route(slot);
    let number = slot.0;
    if driver.node().map().is_none() {
        return NO_MAP.to_owned();
    }
    if let Some((_, addr)) = route.primary {
        return format!(
            "the primary of slot {number}, {addr}, does not list its keys now, the result would be incomplete; \
             nothing was changed, try again"
        );
    }
    match route.missing.first() {
        Some(addr) => format!(
            "no copy of slot {number} can be reached, the last known one is on {addr}, the result would be \
             incomplete; nothing was changed: bring that node back, or give its data up with UNREGISTER_NODE {} {} at \
             the coordinator",
            addr.host(),
            addr.port()
        ),
        None => {
            format!("slot {number} has no primary now, the result would be incomplete; nothing was changed, try again")
        }
    }
}
