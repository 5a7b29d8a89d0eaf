//! Requests that cannot be answered locally right away: another node leads the key, nobody leads it for a moment, or
//! the answer waits until a record is durable.

mod deferred;

use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use engine::node::Turn;
use engine::record::Record;
use engine::slot::{Executed, Refusal, Written};
use engine::time::Timestamp;
use engine::waiting::{Outcome, Waiting};
use proto::error::ErrorReply;
use proto::id::{Incarnation, NodeAddr};
use proto::peer::{Detail, KeyRequest, Read, Wanted};
use proto::reply::ReplyDecoder;
use proto::response::Response;
use proto::slot::SlotId;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use crate::answering;
use crate::driver::Driver;
use crate::forward::{Failed, Handed};

pub(crate) use deferred::DeferredBatch;
use deferred::{Deferred, Entry};

/// The longest pause for a change of the map before the same route is tried again.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// The first of these pauses, also used after a change of the map: the new primary takes over in a moment. Each pause
/// is twice as long as the one before.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(2);

/// How long a read, or a walk through the keys, waits for a primary before a replica is asked.
pub(crate) const PRIMARY_PATIENCE: Duration = Duration::from_millis(300);

/// How long it waits for a primary that has already kept another request waiting too long and has sent nothing since.
pub(crate) const STALLED_PATIENCE: Duration = Duration::from_millis(100);

/// For how long answers that are ready are kept back for one that is not.
const KEPT_BACK: Duration = Duration::from_millis(20);

/// The outcome of one attempt.
enum Attempt {
    /// The answer is written.
    Answered,
    /// The node says that it does not lead the slot, or not yet. Nothing was done.
    Moved,
    /// The node could not be reached. Nothing was done.
    Unreachable,
    /// The node was sent the request and has not answered.
    Silent,
    /// The request was carried out but is not durable, and may never be: it may or may not have taken effect.
    Undecided,
    /// The value is long, and the request was sent together with others.
    Long,
    /// This attempt was refused and did nothing.
    Refused(ErrorReply),
}

/// Why it is unknown whether a write has taken effect.
#[derive(Debug, Clone, Copy)]
enum Unsure {
    /// It was sent to a primary, which did not answer.
    Silent,
    /// A primary has carried it out, but it may not be durable.
    Undecided,
}

/// Waits for one connection's answers, batch after batch.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// The tickets of a batch's requests that were carried out.
    pub waiting: Waiting,
    timer: Timer,
    outcomes: Vec<Option<Outcome>>,
    /// Requests of a batch that were sent to other nodes and are not answered yet.
    under_way: Vec<Option<UnderWay>>,
    half_answered: Option<HalfAnswered>,
}

/// A batch of which only the first requests are answered.
#[derive(Debug, Clone, Copy)]
struct HalfAnswered {
    done: usize,
    /// When its requests began to be answered, if the rest goes by that as well.
    started: Option<Started>,
}

/// A reusable timer: resetting it to a later moment takes no lock; creating and dropping one does.
#[derive(Debug, Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Waits until `ready`, or until the deadline; `None` if the deadline has passed.
    async fn wait<T>(&mut self, deadline: Instant, mut ready: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().reset(deadline);
        poll_fn(|context| match ready(context) {
            Poll::Ready(ready) => Poll::Ready(Some(ready)),
            Poll::Pending => timer.as_mut().poll(context).map(|()| None),
        })
        .await
    }
}

impl Waits {
    /// Waits until all tickets are settled, or until the deadline. The outcomes tell which are.
    async fn settle(&mut self, deadline: Instant) {
        let Self { waiting, timer, outcomes, .. } = self;
        if !waiting.is_settled() {
            timer.wait(deadline, |context| waiting.poll_settled(context)).await;
        }
        waiting.take(outcomes);
    }

    /// Whether [`answer_all`] has only partly answered a batch and must be called again.
    #[must_use]
    pub(crate) fn is_half_answered(&self) -> bool {
        self.half_answered.is_some()
    }

    /// Waits until everything carried out so far is written as `--fsync` asks.
    ///
    /// # Errors
    /// It was not written within the request timeout. Nobody may learn of it.
    pub(crate) async fn persisted(&mut self, driver: &Driver) -> io::Result<()> {
        let end = driver.node().noted().end();
        // Mostly this suffices, and no deadline is set up.
        if driver.persist_soon(end).await {
            return Ok(());
        }
        let mut persisted = pin!(driver.wait_written(end));
        let deadline = Instant::now() + driver.request_timeout();
        let in_time = self.timer.wait(deadline, |context| persisted.as_mut().poll(context)).await;
        in_time.ok_or(io::ErrorKind::TimedOut)?.map_err(io::Error::other)
    }
}

/// Answers deferred requests in order, until all are answered, or `out` has `most` bytes, or has some while another node
/// is slow; in these cases, write them out and call it again to continue. Requests for the same node are sent together.
/// `waits` has the tickets of those that were carried out.
pub(crate) async fn answer_all(
    driver: &Driver,
    deferred: &DeferredBatch,
    waits: &mut Waits,
    most: usize,
    out: &mut Vec<u8>,
) {
    // One deadline for all requests: they arrived together, and the last must not wait for every other's failure. The
    // time that the client took to read many earlier answers does not count.
    let half_answered = waits.half_answered.take();
    let started = half_answered
        .and_then(|half| half.started)
        .unwrap_or_else(|| Started { at: Instant::now(), on_clock: driver.clock().now() });
    if half_answered.is_none() {
        if !deferred.all_carried_out() {
            waits.under_way = send_first(driver, deferred.entries());
        }
        waits.settle(started.deadline(driver)).await;
        if deferred.all_carried_out() && waits.outcomes.iter().all(|outcome| *outcome == Some(Outcome::Durable)) {
            return out.extend_from_slice(deferred.answers());
        }
    }
    let Waits { outcomes, under_way: first_tries, .. } = waits;
    let done = half_answered.map_or(0, |half| half.done);
    for (at, entry) in deferred.entries().iter().enumerate().skip(done) {
        if out.len() >= most && at > done {
            waits.half_answered = Some(HalfAnswered { done: at, started: None });
            return;
        }
        let (answer, after) = deferred.answers_of(at);
        let outcome = entry.ticket.map(|ticket| outcomes.get(ticket).copied().flatten());
        match (outcome, &entry.request) {
            (Some(Some(Outcome::Durable)), _) => out.extend_from_slice(answer),
            (Some(Some(Outcome::Lost)), Some(request)) => {
                // IMPORTANT: what was carried out here may have reached the next primary, or may still reach it.
                answer_one(driver, request, None, true, false, started, out).await;
            }
            (Some(None), Some(request)) => give_up(driver, request, out),
            (None, Some(request)) => {
                // Answers that are ready are kept back only briefly for one that is not.
                let keeps_back = !out.is_empty() && half_answered.is_none_or(|half| half.done != at);
                let is_slow = match first_tries.get_mut(at) {
                    Some(Some(under_way)) if keeps_back => {
                        !under_way.handed.arrives_by(Instant::now() + KEPT_BACK).await
                    }
                    _ => false,
                };
                let mut first_try = || first_tries.get_mut(at).and_then(Option::take);
                if is_slow || !answer_one(driver, request, first_try(), false, keeps_back, started, out).await {
                    waits.half_answered = Some(HalfAnswered { done: at, started: Some(started) });
                    return;
                }
            }
            (_, None) => Response::Error(answering::not_durable(false)).encode(entry.encoding, out),
        }
        out.extend_from_slice(after);
    }
    first_tries.clear();
}

/// Answers a request that was carried out and has not become durable in time.
fn give_up(driver: &Driver, request: &Deferred, out: &mut Vec<u8>) {
    let error = match request.request() {
        KeyRequest::Read(_) => ErrorReply::Unavailable(why_unavailable(driver, request)),
        KeyRequest::Write(write) => answering::not_durable(write.identity.is_some()),
    };
    request.answer(&Response::Error(error), out);
}

/// Answers a write that may or may not have taken effect.
fn leave_unknown(why: Unsure, request: &Deferred, out: &mut Vec<u8>) {
    let error = match why {
        Unsure::Silent => answering::unanswered(request.is_repeatable()),
        Unsure::Undecided => answering::not_durable(request.is_repeatable()),
    };
    request.answer(&Response::Error(error), out);
}

/// When the requests of a batch began to be answered.
#[derive(Debug, Clone, Copy)]
struct Started {
    /// On the runtime's clock, which may stand still while the machine is suspended.
    at: Instant,
    /// On the node's clock, which does not.
    on_clock: Timestamp,
}

impl Started {
    fn deadline(self, driver: &Driver) -> Instant {
        self.at + driver.request_timeout()
    }

    fn is_over(self, driver: &Driver) -> bool {
        Instant::now() >= self.deadline(driver) || driver.clock().now() - self.on_clock >= driver.request_timeout()
    }
}

/// A request in flight: the node it was sent to, and where its answer arrives.
#[derive(Debug)]
struct UnderWay {
    to: Incarnation,
    sent: Instant,
    handed: Handed,
    /// A replica was asked, which answers whoever the primary is.
    at_replica: bool,
}

impl UnderWay {
    /// Stops waiting for it.
    fn give_up(&self) -> Attempt {
        if self.handed.take_back() { Attempt::Unreachable } else { Attempt::Silent }
    }
}

/// Sends every request to its primary according to the map, all requests for one node at once. If there are several,
/// the sizes of their answers are unknown, so long values are asked for one by one.
///
/// A request for a slot in which an earlier one was carried out here is not sent yet: that one may turn out to be lost,
/// and is then sent first.
fn send_first(driver: &Driver, entries: &[Entry]) -> Vec<Option<UnderWay>> {
    let me = driver.node().incarnation();
    let mut carried_out = BTreeSet::new();
    let mut of_nodes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut not_carried_out = 0;
    for (at, entry) in entries.iter().enumerate() {
        let Some(request) = &entry.request else { continue };
        if entry.ticket.is_some() {
            carried_out.insert(request.slot);
        }
        if carried_out.contains(&request.slot) {
            continue;
        }
        not_carried_out += 1;
        if let Some(primary) = driver.node().route(request.slot).primary.filter(|(primary, _)| *primary != me) {
            of_nodes.entry(primary).or_default().push((at, request));
        }
    }
    let is_short = not_carried_out > 1;
    let mut under_way: Vec<_> = entries.iter().map(|_| None).collect();
    for ((to, addr), requests) in of_nodes {
        let forwards: Vec<_> = requests.iter().map(|(_, request)| request.forward(false, is_short)).collect();
        let handed = driver.forwards().send(driver, to, &addr, &forwards);
        for ((at, _), handed) in requests.into_iter().zip(handed) {
            if let Some(place) = under_way.get_mut(at) {
                *place = Some(UnderWay { to, sent: Instant::now(), handed, at_replica: false });
            }
        }
    }
    under_way
}

/// Retries until the request is answered or its time is up. `was_tried`: it may already have taken effect. With
/// `keeps_back`, returns `false` instead of waiting for another try of a request that has not taken effect: call it again
/// once the answers before it are written out.
async fn answer_one(
    driver: &Driver,
    request: &Deferred,
    mut first_try: Option<UnderWay>,
    was_tried: bool,
    keeps_back: bool,
    started: Started,
    out: &mut Vec<u8>,
) -> bool {
    let is_write = request.request().is_write();
    let deadline = started.deadline(driver);
    let mut map_changes = driver.watch_map();
    let mut unsure = (was_tried && is_write).then_some(Unsure::Undecided);
    let mut pause = FIRST_RETRY_PAUSE;
    loop {
        map_changes.mark_unchanged();
        // IMPORTANT: nothing is sent once the time is up: the process may have stood still meanwhile.
        if first_try.is_none() && started.is_over(driver) {
            match unsure {
                Some(why) => leave_unknown(why, request, out),
                None => {
                    let why = why_unavailable(driver, request);
                    request.answer(&Response::Error(ErrorReply::Unavailable(why)), out);
                }
            }
            return true;
        }
        // IMPORTANT: the first attempt may have failed long ago, while this request waited behind others. Otherwise
        // each of them would pause again.
        let tried_at = first_try.as_ref().map_or_else(Instant::now, |under_way| under_way.sent);
        let tried = match first_try.take() {
            Some(under_way) => await_answer(driver, request, under_way, deadline, out).await,
            None => match execute_here(driver, request, deadline, out).await {
                Attempt::Moved => try_primary(driver, request, deadline, out).await,
                tried => tried,
            },
        };
        match tried {
            Attempt::Answered => return true,
            Attempt::Long => continue,
            Attempt::Silent | Attempt::Undecided if is_write => {
                // IMPORTANT: a write that was sent once and not answered stays unknown, whatever refuses it later.
                let why = match (tried, unsure) {
                    (Attempt::Silent, None | Some(Unsure::Silent)) => Unsure::Silent,
                    _ => Unsure::Undecided,
                };
                if !request.is_repeatable() {
                    leave_unknown(why, request, out);
                    return true;
                }
                unsure = Some(why);
            }
            Attempt::Refused(error) => match unsure {
                Some(why) if matches!(error, ErrorReply::Stale(_)) => {
                    leave_unknown(why, request, out);
                    return true;
                }
                Some(_) => {}
                None => {
                    request.answer(&Response::Error(error), out);
                    return true;
                }
            },
            Attempt::Moved if started.at.elapsed() < PRIMARY_PATIENCE => {}
            Attempt::Moved | Attempt::Unreachable | Attempt::Silent | Attempt::Undecided => {
                if request.replica_may_answer() && read_elsewhere(driver, request, deadline, out).await {
                    return true;
                }
            }
        }
        if keeps_back && unsure.is_none() {
            return false;
        }
        // Either the map changes, or the obstacle may have passed.
        let changed = timeout_at((tried_at + pause).min(deadline), map_changes.changed()).await;
        pause = if changed.is_ok() { FIRST_RETRY_PAUSE } else { (pause * 2).min(RETRY_PAUSE) };
    }
}

/// Carries a request out here if this node leads its slot, and waits until it is durable.
async fn execute_here(driver: &Driver, request: &Deferred, deadline: Instant, out: &mut Vec<u8>) -> Attempt {
    let (node, waiting) = (driver.node(), Waiting::new());
    let mut answer = Vec::new();
    let mut turn = Turn::default();
    let executed = match request.request() {
        KeyRequest::Read(Read { key, wanted: Wanted::Detail(Detail::Idle), .. }) => {
            let idle = node.idle(request.slot, key, driver.clock().now());
            idle.map(|idle| {
                request.answer(&answering::idle(idle), &mut answer);
                None
            })
        }
        KeyRequest::Read(Read { key, wanted, level }) => {
            let clock = || driver.clock().now();
            let encode = |record: Option<&Record>| {
                request.answer(&answering::found(record, wanted, || driver.wall()), &mut answer);
            };
            node.read(request.slot, key, level, clock, &waiting, &mut turn, encode).map(|executed| executed.ticket)
        }
        KeyRequest::Write(write) => {
            if let Some(refusal) = driver.disk_refusal(request.slot) {
                return Attempt::Refused(refusal);
            }
            let executed = node.write(driver.clock().now(), request.slot, &write, &waiting, &mut turn);
            executed.map(|Executed::<Written> { answer: written, ticket }| {
                request.answer(&answering::written(&written, &write), &mut answer);
                ticket
            })
        }
    };
    driver.finish(&mut turn);
    let ticket = match executed {
        Ok(ticket) => ticket,
        Err(Refusal::NotHere) => return Attempt::Moved,
        Err(refusal) => return Attempt::Refused(answering::refused(refusal, driver)),
    };
    if let Some(ticket) = ticket {
        // The ticket tells whether it was in time.
        let _ = timeout_at(deadline, poll_fn(|context| waiting.poll_settled(context))).await;
        if waiting.outcome(ticket) != Some(Outcome::Durable) {
            return Attempt::Undecided;
        }
    }
    // IMPORTANT: the session persists only what it has carried out itself, not this.
    if !request.replica_may_answer() && !matches!(timeout_at(deadline, driver.persist()).await, Ok(Ok(()))) {
        return Attempt::Undecided;
    }
    out.append(&mut answer);
    Attempt::Answered
}

async fn try_primary(driver: &Driver, request: &Deferred, deadline: Instant, out: &mut Vec<u8>) -> Attempt {
    let me = driver.node().incarnation();
    match driver.node().route(request.slot).primary {
        // The map makes this node the primary, but the slot is not open: it is about to open, or is being handed over.
        Some((primary, _)) if primary == me => Attempt::Moved,
        Some((to, addr)) => match send_one(driver, to, &addr, request, false) {
            Some(under_way) => await_answer(driver, request, under_way, deadline, out).await,
            None => Attempt::Unreachable,
        },
        None => Attempt::Unreachable,
    }
}

fn send_one(
    driver: &Driver,
    to: Incarnation,
    addr: &NodeAddr,
    request: &Deferred,
    at_replica: bool,
) -> Option<UnderWay> {
    let handed = driver.forwards().send(driver, to, addr, &[request.forward(at_replica, false)]).pop()?;
    Some(UnderWay { to, sent: Instant::now(), handed, at_replica })
}

async fn await_answer(
    driver: &Driver,
    request: &Deferred,
    mut under_way: UnderWay,
    deadline: Instant,
    out: &mut Vec<u8>,
) -> Attempt {
    // Counted from when it was sent: requests that were sent together do not wait one after the other.
    let patience = if driver.forwards().is_stalled(under_way.to) { STALLED_PATIENCE } else { PRIMARY_PATIENCE };
    let patience = request.replica_may_answer().then_some(patience);
    let may_move = !under_way.at_replica && request.is_repeatable();
    let UnderWay { to, sent, handed, .. } = &mut under_way;
    let answer = tokio::select! {
        answer = driver.forwards().answer(*to, handed, *sent, patience, deadline) => answer,
        // The slot's new primary is asked instead, if the request may safely be sent twice.
        () = replaced(driver, request.slot, *to), if may_move => return under_way.give_up(),
    };
    match answer {
        Some(Ok(bytes)) => match ReplyDecoder::new().decode(&bytes) {
            Ok(Some((reply, _))) => match Response::from(reply) {
                Response::Error(ErrorReply::Moved) => Attempt::Moved,
                Response::Error(ErrorReply::Long) => Attempt::Long,
                Response::Error(ErrorReply::Unknown(_)) if request.is_repeatable() => Attempt::Undecided,
                // An error in Redis's words answers the command; a write that was refused has another one.
                Response::Error(error @ (ErrorReply::Unknown(_) | ErrorReply::Redis(_))) => {
                    request.answer(&Response::Error(error), out);
                    Attempt::Answered
                }
                Response::Error(error) => Attempt::Refused(error),
                response => {
                    request.answer(&response, out);
                    Attempt::Answered
                }
            },
            Ok(None) | Err(_) => Attempt::Silent,
        },
        Some(Err(Failed::NotSent)) => Attempt::Unreachable,
        Some(Err(Failed::Lost)) => Attempt::Silent,
        None => {
            driver.forwards().set_stalled(under_way.to);
            under_way.give_up()
        }
    }
}

/// Waits until the map names a primary for the slot other than this one.
pub(crate) async fn replaced(driver: &Driver, slot: SlotId, primary: Incarnation) {
    let mut map_changes = driver.watch_map();
    loop {
        let next = driver.node().route(slot).primary;
        if next.is_some_and(|(next, _)| next != primary) || map_changes.changed().await.is_err() {
            return;
        }
    }
}

/// Reads from any copy that answers, this node's own first. Returns whether one did.
async fn read_elsewhere(driver: &Driver, request: &Deferred, deadline: Instant, out: &mut Vec<u8>) -> bool {
    let KeyRequest::Read(Read { key, wanted, .. }) = request.request() else { return false };
    let read = |record: Option<&Record>| request.answer(&answering::found(record, wanted, || driver.wall()), out);
    let clock = || driver.clock().now();
    let route = driver.node().route(request.slot);
    if driver.node().read_copy(request.slot, key, clock, read).is_ok() {
        return true;
    }
    let me = driver.node().incarnation();
    for (to, addr) in route.replicas.iter().filter(|(replica, _)| *replica != me) {
        let Some(under_way) = send_one(driver, *to, addr, request, true) else { continue };
        if let Attempt::Answered = await_answer(driver, request, under_way, deadline, out).await {
            return true;
        }
    }
    false
}

fn why_unavailable(driver: &Driver, request: &Deferred) -> String {
    let route = driver.node().route(request.slot);
    if driver.node().map().is_none() {
        return answering::NO_MAP.to_owned();
    }
    if let Some((_, addr)) = route.primary {
        let is_linear_read = !request.request().is_write() && !request.replica_may_answer();
        return if is_linear_read {
            format!(
                "the primary of this key, {addr}, has not answered a linear read in time: it cannot be reached, or \
                 too few of the slot's copies confirm what it has; nothing was changed: try again, or read at level \
                 local"
            )
        } else {
            format!("the primary of this key, {addr}, does not accept it now; nothing was changed, try again")
        };
    }
    match route.missing.first() {
        Some(addr) => format!(
            "no copy of this key's slot can be reached, the last known one is on {addr}; nothing was changed: bring \
             that node back, or give its data up with UNREGISTER_NODE {} {} at the coordinator",
            addr.host(),
            addr.port()
        ),
        None => "this key's slot has no primary now; nothing was changed, try again".to_owned(),
    }
}
