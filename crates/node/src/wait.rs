//! `WAIT`: how many replicas have what a connection has written.

use std::time::Duration;

use net::connection::has_ended;
use net::shutdown::Shutdown;
use proto::id::{Incarnation, NodeAddr};
use proto::level::AckLevel;
use proto::peer::CopiesOf;
use proto::reply::{Reply, ReplyDecoder};
use proto::slot::{SLOT_BITS, SlotId};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::driver::Driver;

/// The pause before slots are queried again: a quarter of the time waited so far, within these limits.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How long another node may take to answer a client that has no time left: one that only wants to look.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// How many of the slots that too few replicas are known to have are queried at a time, until enough have all of these:
/// only then is it worth querying the others.
const SOME: usize = 64;

/// How long another node may take to answer one question.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest wait, whatever was asked for.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// The slots that a connection has written to and that not every replica is known to have.
#[derive(Debug)]
pub(crate) struct WrittenSlots {
    /// A bit per slot; `None` until the connection's first `WAIT`, so that connections without one track nothing.
    slots: Option<Box<[u64]>>,
    /// Something was written at level `async` since the last `WAIT`, so that a new primary may lack it.
    has_async: bool,
    /// The value of [`Driver::terms`] when the connection was opened or last asked.
    terms: u64,
}

/// A `WAIT` that is answered after everything that is deferred.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeferredWait {
    /// How many replicas to wait for.
    pub replicas: u64,
    /// For how long, in milliseconds; 0 for as long as a request may take.
    pub millis: u64,
}

/// A queried slot: up to which record, once that is known, and how many replicas have it as far as is known.
#[derive(Debug, Clone, Copy)]
struct Asked {
    slot: SlotId,
    seq: Option<u64>,
    replicas: u64,
}

impl WrittenSlots {
    /// Starts with nothing written yet.
    #[must_use]
    pub(crate) fn new(driver: &Driver) -> Self {
        Self { slots: None, has_async: false, terms: driver.terms() }
    }

    /// Notes a write to this slot, at this level.
    pub(crate) fn add(&mut self, slot: SlotId, level: AckLevel) {
        self.has_async |= level == AckLevel::Async;
        if let Some(slots) = &mut self.slots
            && let Some(word) = slots.get_mut(usize::from(slot.0) / 64)
        {
            *word |= 1 << (slot.0 % 64);
        }
    }

    /// Notes that every slot may be written to, at this level.
    pub(crate) fn add_all(&mut self, level: AckLevel) {
        self.has_async |= level == AckLevel::Async;
        self.slots.iter_mut().for_each(|slots| slots.fill(u64::MAX));
    }

    fn remove(&mut self, slot: SlotId) {
        if let Some(slots) = &mut self.slots
            && let Some(word) = slots.get_mut(usize::from(slot.0) / 64)
        {
            *word &= !(1 << (slot.0 % 64));
        }
    }

    /// All slots that may have writes of this connection: every slot, when it asks for the first time.
    fn take_slots(&mut self) -> Vec<SlotId> {
        let all = || SLOT_BITS.slots();
        match &self.slots {
            None => {
                let count = all().count();
                // Each stays set until all replicas are found to have its writes.
                self.slots = Some(vec![u64::MAX; count.div_ceil(64)].into());
                all().collect()
            }
            Some(slots) => {
                let has = |slot: &SlotId| {
                    slots.get(usize::from(slot.0) / 64).is_some_and(|word| word & (1 << (slot.0 % 64)) != 0)
                };
                all().filter(has).collect()
            }
        }
    }

    /// Waits until `wait.replicas` replicas have everything that the connection has written, or the client has closed its
    /// side of the connection, or connections are to end, and returns how many have. Returns 0 if a slot has got another
    /// primary since the connection last asked: the new one may lack what was answered at level `async`.
    pub(crate) async fn wait(
        &mut self,
        driver: &Driver,
        wait: DeferredWait,
        client: &TcpStream,
        shutdown: &Shutdown,
    ) -> u64 {
        let time = if wait.millis == 0 { driver.request_timeout() } else { Duration::from_millis(wait.millis) };
        let begun = Instant::now();
        let deadline = begun + time.min(LONGEST_WAIT);
        let copies = driver.cluster_settings().replicas as u64;
        let mut asked: Vec<Asked> =
            self.take_slots().into_iter().map(|slot| Asked { slot, seq: None, replicas: 0 }).collect();
        ask(driver, &mut asked, deadline, wait.replicas, usize::MAX).await;
        let must_end = || Instant::now() >= deadline || has_ended(client) || shutdown.has_begun();
        while fewest(&asked, copies) < wait.replicas && !must_end() {
            let pause = (begun.elapsed() / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
            sleep_until((Instant::now() + pause).min(deadline)).await;
            let short = asked.iter().filter(|asked| asked.is_short(wait.replicas)).count();
            ask(driver, &mut asked, deadline, wait.replicas, SOME).await;
            let short_now = asked.iter().filter(|asked| asked.is_short(wait.replicas)).count();
            if short - short_now >= short.min(SOME) || Instant::now() >= deadline {
                ask(driver, &mut asked, deadline, wait.replicas, usize::MAX).await;
            }
        }
        // IMPORTANT: read last, so that no primary has changed while others were asked.
        let terms = driver.terms();
        let is_sure = terms == self.terms || !self.has_async;
        self.terms = terms;
        let fewest = fewest(&asked, copies);
        self.has_async &= is_sure && fewest < copies;
        for asked in asked.iter().filter(|asked| asked.replicas >= copies) {
            self.remove(asked.slot);
        }
        if is_sure { fewest } else { 0 }
    }
}

impl Asked {
    /// Whether fewer replicas than this are known to have the slot.
    fn is_short(&self, replicas: u64) -> bool {
        self.seq.is_none() || self.replicas < replicas
    }
}

/// How many replicas are known to have every slot.
fn fewest(asked: &[Asked], copies: u64) -> u64 {
    asked.iter().map(|asked| asked.replicas).min().unwrap_or(copies)
}

/// Queries slots that too few replicas are known to have, each at its primary, and no more than `most` of them.
async fn ask(driver: &Driver, asked: &mut [Asked], deadline: Instant, replicas: u64, most: usize) {
    let Some(map) = driver.node().map() else { return };
    let me = driver.node().incarnation();
    let mut by_node: Vec<(Incarnation, Vec<usize>)> = Vec::new();
    for (at, slot) in asked.iter().enumerate().filter(|(_, asked)| asked.is_short(replicas)).take(most) {
        let Some(primary) = map.config(slot.slot).primary else { continue };
        match by_node.iter_mut().find(|(node, _)| *node == primary) {
            Some((_, slots)) => slots.push(at),
            None => by_node.push((primary, vec![at])),
        }
    }
    let mut questions = JoinSet::new();
    for (node, places) in by_node {
        let slots: Vec<_> = places.iter().filter_map(|at| asked.get(*at)).map(|a| (a.slot, a.seq)).collect();
        if node == me {
            take(asked, &places, &answers_here(driver, &slots));
        } else if let Some(addr) = map.member(node).map(|member| member.addr.clone()) {
            let driver = driver.clone();
            questions.spawn(async move {
                let answers = ask_other(&driver, node, &addr, slots, deadline).await;
                (places, answers)
            });
        }
    }
    while let Some(answered) = questions.join_next().await {
        if let Ok((places, Some(answers))) = answered {
            take(asked, &places, &answers);
        }
    }
}

fn take(asked: &mut [Asked], places: &[usize], answers: &[CopiesOf]) {
    for (at, answer) in places.iter().zip(answers) {
        if let (Some(asked), Some(replicas)) = (asked.get_mut(*at), answer.replicas) {
            (asked.seq, asked.replicas) = (Some(answer.seq), replicas.into());
        }
    }
}

async fn ask_other(
    driver: &Driver,
    to: Incarnation,
    addr: &NodeAddr,
    slots: Vec<(SlotId, Option<u64>)>,
    deadline: Instant,
) -> Option<Vec<CopiesOf>> {
    let until = (Instant::now() + PATIENCE).min(deadline.max(Instant::now() + LAST_LOOK));
    let mut handed = driver.forwards().send_copies(driver, to, addr, slots);
    handed.arrives_by(until).await;
    let bytes = handed.take_answer()?.ok()?;
    match ReplyDecoder::new().decode(&bytes) {
        Ok(Some((Reply::Bulk(answers), _))) => CopiesOf::parse_all(answers),
        _ => None,
    }
}

/// How many replicas of each of these slots have it up to a record, or up to its last one. A slot not led here says
/// so.
#[must_use]
pub(crate) fn answers_here(driver: &Driver, slots: &[(SlotId, Option<u64>)]) -> Vec<CopiesOf> {
    let node = driver.node();
    let answer = |(slot, seq): &(SlotId, Option<u64>)| {
        if !node.has_slot(*slot) {
            return CopiesOf { seq: 0, replicas: None };
        }
        node.inspect(*slot, |slot| {
            let seq = seq.unwrap_or(slot.last().seq);
            let replicas = slot.replicas_with(seq).map(|replicas| u8::try_from(replicas).unwrap_or(u8::MAX - 1));
            CopiesOf { seq, replicas }
        })
    };
    slots.iter().map(answer).collect()
}
