//! Requests that cannot be answered here and now: another node leads the key, or for a moment nobody does.

use std::time::Duration;

use engine::node::{NotHere, Turn};
use proto::error::ErrorReply;
use proto::frame::Encoding;
use proto::id::{Incarnation, NodeAddr};
use proto::peer::{Effect, Forward, KeyRequest};
use proto::reply::ReplyDecoder;
use proto::response::Response;
use proto::slot::SlotId;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::driver::Driver;
use crate::forward::{Answer, Failed, PATIENCE};

/// How long to wait for a change of the map before the same way is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// How long a read waits for a primary that has let another wait for too long, and has said nothing since.
const STALLED_PATIENCE: Duration = Duration::from_millis(100);

/// A request kept until it is answered, and the answers to later requests that wait behind it.
#[derive(Debug)]
pub struct Kept {
    /// The slot of its key.
    pub slot: SlotId,
    key: Vec<u8>,
    work: Work,
    encoding: Encoding,
    /// Answers to requests that came after this one and before the next that is kept.
    pub after: Vec<u8>,
}

#[derive(Debug)]
enum Work {
    Get,
    Put(Vec<u8>),
    Delete,
}

/// What became of one try.
enum Tried {
    /// The answer is written.
    Answered,
    /// The node says that it does not lead the slot, or not yet. Nothing was done.
    Moved,
    /// The node could not be reached. Nothing was done.
    Unreachable,
    /// The node was sent the request and has not answered.
    Silent,
}

impl Kept {
    /// Keeps a request.
    #[must_use]
    pub fn new(slot: SlotId, request: KeyRequest<'_>, encoding: Encoding) -> Self {
        let work = match request {
            KeyRequest::Get { .. } => Work::Get,
            KeyRequest::Write { effect: Effect::Put(value), .. } => Work::Put(value.to_vec()),
            KeyRequest::Write { effect: Effect::Delete, .. } => Work::Delete,
        };
        Self { slot, key: request.key().to_vec(), work, encoding, after: Vec::new() }
    }

    /// How much memory it takes, about.
    #[must_use]
    pub fn size(&self) -> usize {
        let value = if let Work::Put(value) = &self.work { value.len() } else { 0 };
        size_of::<Self>() + self.key.len() + value + self.after.len()
    }

    fn request(&self) -> KeyRequest<'_> {
        let key = &self.key;
        match &self.work {
            Work::Get => KeyRequest::Get { key },
            Work::Put(value) => KeyRequest::Write { key, effect: Effect::Put(value) },
            Work::Delete => KeyRequest::Write { key, effect: Effect::Delete },
        }
    }

    fn forwarded(&self, at_replica: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        Forward { at_replica, request: self.request() }.encode(&mut bytes);
        bytes
    }

    fn answer(&self, response: &Response<'_>, out: &mut Vec<u8>) {
        response.encode(self.encoding, out);
    }
}

/// Answers kept requests, in their order. Those for one node travel together.
pub async fn answer_all(driver: &Driver, kept: Vec<Kept>, out: &mut Vec<u8>) {
    // One deadline for all: they came together, and the last must not wait for every other's failure.
    let start = Instant::now();
    let mut first_tries = send_first(driver, &kept);
    for (request, first_try) in kept.iter().zip(&mut first_tries) {
        answer_one(driver, request, first_try.take(), start, out).await;
        out.extend_from_slice(&request.after);
    }
}

/// A request under way: to whom, and where its answer comes.
struct UnderWay {
    to: Incarnation,
    sent: Instant,
    answer: oneshot::Receiver<Answer>,
}

/// Sends every request to its primary as the map has it, all requests for one node at once.
fn send_first(driver: &Driver, kept: &[Kept]) -> Vec<Option<UnderWay>> {
    let me = driver.node().incarnation();
    let primaries: Vec<_> = kept
        .iter()
        .map(|request| driver.node().route(request.slot).primary.filter(|(primary, _)| *primary != me))
        .collect();
    let mut under_way: Vec<Option<UnderWay>> = kept.iter().map(|_| None).collect();
    let mut nodes: Vec<&(Incarnation, NodeAddr)> = primaries.iter().flatten().collect();
    nodes.sort();
    nodes.dedup();
    for (to, addr) in nodes {
        let theirs =
            || (0..kept.len()).filter(|at| primaries.get(*at).is_some_and(|p| p.as_ref().is_some_and(|p| p.0 == *to)));
        let requests = theirs().filter_map(|at| kept.get(at)).map(|request| request.forwarded(false)).collect();
        let answers = driver.forwards().send(driver, *to, addr, requests);
        for (at, answer) in theirs().zip(answers) {
            if let Some(place) = under_way.get_mut(at) {
                *place = Some(UnderWay { to: *to, sent: Instant::now(), answer });
            }
        }
    }
    under_way
}

/// Tries until the request is answered or its time is up.
async fn answer_one(
    driver: &Driver,
    request: &Kept,
    mut first_try: Option<UnderWay>,
    start: Instant,
    out: &mut Vec<u8>,
) {
    let is_write = request.request().is_write();
    let deadline = start + driver.request_timeout();
    let mut map_changes = driver.watch_map();
    loop {
        map_changes.mark_unchanged();
        let tried = match first_try.take() {
            Some(under_way) => await_answer(driver, request, under_way, deadline, out).await,
            None if execute_here(driver, request, out).is_ok() => Tried::Answered,
            None => try_primary(driver, request, deadline, out).await,
        };
        match tried {
            Tried::Answered => return,
            Tried::Silent if is_write => {
                let what = "the primary was sent the write and did not answer: it may or may not have taken effect; \
                            read the key to find out";
                return request.answer(&Response::Error(ErrorReply::Unknown(what.to_owned())), out);
            }
            Tried::Moved if start.elapsed() < PATIENCE => {}
            Tried::Moved | Tried::Unreachable | Tried::Silent => {
                if !is_write && read_elsewhere(driver, request, deadline, out).await {
                    return;
                }
            }
        }
        if Instant::now() >= deadline {
            let why = why_unavailable(driver, request.slot);
            return request.answer(&Response::Error(ErrorReply::Unavailable(why)), out);
        }
        // Either the map changes, or what was in the way may have passed.
        let _ = timeout_at((Instant::now() + RETRY_PAUSE).min(deadline), map_changes.changed()).await;
    }
}

fn execute_here(driver: &Driver, request: &Kept, out: &mut Vec<u8>) -> Result<(), NotHere> {
    let node = driver.node();
    match request.request() {
        KeyRequest::Get { key } => node.read(request.slot, key, |record| {
            let value = record.and_then(|record| record.value());
            request.answer(&value.map_or(Response::NotFound, Response::Value), out);
        }),
        KeyRequest::Write { key, effect } => {
            let mut turn = Turn::default();
            node.write(request.slot, key, effect, &mut turn)?;
            request.answer(&Response::Ok, out);
            driver.wake_touched(&mut turn);
            Ok(())
        }
    }
}

async fn try_primary(driver: &Driver, request: &Kept, deadline: Instant, out: &mut Vec<u8>) -> Tried {
    let me = driver.node().incarnation();
    match driver.node().route(request.slot).primary {
        // The map makes this node the primary, and the slot is not open: it is about to be, or is being handed over.
        Some((primary, _)) if primary == me => Tried::Moved,
        Some((to, addr)) => match send_one(driver, to, &addr, request.forwarded(false)) {
            Some(under_way) => await_answer(driver, request, under_way, deadline, out).await,
            None => Tried::Unreachable,
        },
        None => Tried::Unreachable,
    }
}

fn send_one(driver: &Driver, to: Incarnation, addr: &NodeAddr, bytes: Vec<u8>) -> Option<UnderWay> {
    let answer = driver.forwards().send(driver, to, addr, vec![bytes]).pop()?;
    Some(UnderWay { to, sent: Instant::now(), answer })
}

async fn await_answer(
    driver: &Driver,
    request: &Kept,
    mut under_way: UnderWay,
    deadline: Instant,
    out: &mut Vec<u8>,
) -> Tried {
    let is_write = request.request().is_write();
    // Counted from when it was sent: those that were sent together do not wait one after the other.
    let patience = if driver.forwards().is_stalled(under_way.to) { STALLED_PATIENCE } else { PATIENCE };
    let mut waited_from = under_way.sent;
    let mut answer;
    loop {
        // A read waits as long as something comes, which may be a long value on its way.
        let reads = driver.forwards().reads(under_way.to);
        let until = if is_write { deadline } else { deadline.min(waited_from + patience) };
        answer = timeout_at(until, &mut under_way.answer).await;
        if answer.is_ok() || until == deadline || reads == driver.forwards().reads(under_way.to) {
            break;
        }
        waited_from = Instant::now();
    }
    match answer {
        Ok(Ok(Ok(bytes))) => match ReplyDecoder::new().decode(&bytes) {
            Ok(Some((reply, _))) => match Response::from(reply) {
                Response::Error(ErrorReply::Moved) => Tried::Moved,
                response => {
                    request.answer(&response, out);
                    Tried::Answered
                }
            },
            Ok(None) | Err(_) => Tried::Silent,
        },
        Ok(Ok(Err(Failed::NotSent))) => Tried::Unreachable,
        Ok(Ok(Err(Failed::Lost)) | Err(_)) => Tried::Silent,
        Err(_) => {
            driver.forwards().set_stalled(under_way.to);
            Tried::Silent
        }
    }
}

/// Reads from whatever copy answers, this node's own first. Says whether one did.
async fn read_elsewhere(driver: &Driver, request: &Kept, deadline: Instant, out: &mut Vec<u8>) -> bool {
    let read = |record: Option<&std::sync::Arc<engine::record::Record>>, out: &mut Vec<u8>| {
        let value = record.and_then(|record| record.value());
        request.answer(&value.map_or(Response::NotFound, Response::Value), out);
    };
    let route = driver.node().route(request.slot);
    if driver.node().read_copy(request.slot, &request.key, |record| read(record, out)).is_ok() {
        return true;
    }
    let me = driver.node().incarnation();
    for (to, addr) in route.replicas.iter().filter(|(replica, _)| *replica != me) {
        let Some(under_way) = send_one(driver, *to, addr, request.forwarded(true)) else { continue };
        if let Tried::Answered = await_answer(driver, request, under_way, deadline, out).await {
            return true;
        }
    }
    false
}

fn why_unavailable(driver: &Driver, slot: SlotId) -> String {
    let route = driver.node().route(slot);
    if driver.node().map().is_none() {
        return "this node has no map of the cluster yet; nothing was changed, see whether the coordinator runs"
            .to_owned();
    }
    if let Some((_, addr)) = route.primary {
        return format!("the primary of this key, {addr}, does not take it now; nothing was changed, try again");
    }
    match route.missing.first() {
        Some(addr) => format!(
            "no copy of this key's slot can be reached, the last was on {addr}; nothing was changed: bring that node \
             back, or give its data up with UNREGISTER_NODE {} {} at the coordinator",
            addr.host(),
            addr.port()
        ),
        None => "this key's slot has no primary now; nothing was changed, try again".to_owned(),
    }
}
