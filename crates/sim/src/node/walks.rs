//! Pages of walks at a node: those that it assembles for walkers, and the lists that it makes for other nodes.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use engine::listing::{Listing, PageSize};
use engine::node::Node;
use engine::waiting::{Outcome, Waiting};
use engine::walk::Walk;
use proto::level::ReadLevel;
use proto::peer::{List, Listed};
use proto::range::KeyRange;

use super::held::Outgoing;
use crate::mutants::Planted;
use crate::node::NodeProcess;
use crate::schedule::Event;
use crate::walker::Paged;
use crate::world::World;

/// How long a node works on a page, in microseconds.
const DEADLINE: u64 = 2_000_000;

/// How long it waits for another node's list, in microseconds.
const PATIENCE: u64 = 300_000;

/// When a walk at `local` stops waiting for a primary that answers but does not accept its slots, in microseconds.
const LATE: u64 = 300_000;

/// The values of keys at the moment they were listed.
type Values = BTreeMap<Box<[u8]>, Rc<str>>;

/// Something that a node is asked to do for a walk.
#[derive(Debug)]
pub(crate) enum Step {
    /// A walker asks for a page.
    Page(PageAsked),
    /// A node that assembles a page asks for keys.
    List { from: Asker, list: List },
    /// The answer to that.
    Listed { to: Asker, ask: u64, listed: Listed, values: Values },
}

/// What a walker asks for.
#[derive(Debug, Clone)]
pub(crate) struct PageAsked {
    pub(crate) walker: u8,
    pub(crate) serial: u64,
    pub(crate) level: ReadLevel,
    pub(crate) range: KeyRange,
    pub(crate) limit: usize,
}

/// A page of a node, and of a given start of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    pub(super) node: u8,
    boot: u32,
    page: u64,
}

/// A page that a node is assembling.
#[derive(Debug)]
pub(crate) struct PageUnderWay {
    asker: Asker,
    page: PageAsked,
    walk: Walk<Planted>,
    values: Values,
    begun: u64,
    /// The time of each ask.
    asked: BTreeMap<u64, u64>,
}

/// A list that waits until what it reveals is durable.
#[derive(Debug)]
pub(crate) struct PendingList {
    to: Asker,
    list: List,
    listed: Listed,
    values: Values,
    waiting: Waiting,
    deadline: u64,
}

impl World {
    /// A step of a walk arrives at a node.
    pub(crate) fn walk_arrives(&mut self, n: usize, step: Step) {
        match step {
            Step::Page(page) => self.begin_page(n, page),
            Step::List { from, list } => self.list(n, from, list),
            Step::Listed { to, ask, listed, values } => {
                let pages = &mut self.nodes[n].pages;
                if let Some(under_way) = pages.iter_mut().find(|under_way| under_way.asker == to) {
                    // A late answer to an abandoned ask is ignored, and so are its values.
                    if under_way.asked.remove(&ask).is_some() {
                        under_way.values.extend(values);
                        under_way.walk.answered(ask, listed);
                    }
                }
                self.go_on_with_pages(n);
            }
        }
        self.settle(n);
    }

    fn begin_page(&mut self, n: usize, page: PageAsked) {
        let process = &mut self.nodes[n];
        process.pages_begun += 1;
        let asker = Asker { node: n as u8, boot: process.boot, page: process.pages_begun };
        let size = PageSize { keys: page.limit, bytes: 40 };
        let walk = Walk::new(self.bits, page.level, page.range.clone(), Some(size), self.planted);
        let begun = self.schedule.now;
        let (values, asked) = (Values::new(), BTreeMap::new());
        process.pages.push(PageUnderWay { asker, page, walk, values, begun, asked });
        self.go_on_with_pages(n);
    }

    /// Gives up asks and pages that took too long, and returns complete pages.
    pub(super) fn go_on_with_pages(&mut self, n: usize) {
        let now = self.schedule.now;
        let mut pages = std::mem::take(&mut self.nodes[n].pages);
        pages.retain(|under_way| now < under_way.begun + DEADLINE);
        for under_way in &mut pages {
            for (ask, _) in under_way.asked.extract_if(.., |_, sent| now >= *sent + PATIENCE) {
                under_way.walk.failed(ask);
            }
        }
        for under_way in pages.extract_if(.., |under_way| under_way.walk.is_whole()) {
            let (walker, serial) = (under_way.page.walker, under_way.page.serial);
            let paged: Paged = (under_way.walk.into_keys(), under_way.values);
            let delay = self.network.delay(n, n);
            self.schedule.after(delay, Event::Paged { walker, serial, paged: Box::new(paged) });
        }
        self.nodes[n].pages = pages;
    }

    /// Asks for what nobody has answered; called with every tick, so that what was refused is not asked for again at
    /// once.
    pub(super) fn ask_for_pages(&mut self, n: usize) {
        let now = self.schedule.now;
        let process = &mut self.nodes[n];
        let Some(node) = &process.node else { return };
        let (Some(map), me) = (node.map(), node.incarnation()) else { return };
        let mut asks = Vec::new();
        for under_way in &mut process.pages {
            for ask in under_way.walk.asks(&map, me, now >= under_way.begun + LATE) {
                under_way.asked.insert(ask.list.id, now);
                asks.push((under_way.asker, ask));
            }
        }
        for (from, ask) in asks {
            let to = self.proc_of(&ask.addr);
            self.send_step(n, to, Step::List { from, list: ask.list });
        }
    }

    pub(super) fn send_step(&mut self, from: usize, to: usize, step: Step) {
        if self.network.is_blocked(from, to) {
            return;
        }
        let delay = if from == to { 1 } else { self.network.delay(from, to) };
        self.schedule.after(delay, Event::Walk { node: to as u8, step: Box::new(step) });
    }

    /// Makes a list for a page, to be sent once its content is durable.
    fn list(&mut self, n: usize, to: Asker, list: List) {
        let now = self.local(n);
        let bytes = self.random.between(5, 40) as usize;
        self.tell_wall_clock(n);
        let NodeProcess { node: Some(node), turn, .. } = &mut self.nodes[n] else { return };
        self.stats.lists_of_replicas += u64::from(list.at_replica);
        let (waiting, mut listing) = (Waiting::new(), Listing::new(&list, bytes));
        for slot in &list.slots {
            node.list(*slot, &list, || now, &waiting, turn, &mut listing);
        }
        let listed = listing.finish();
        let values = values_of(node, &list, &listed);
        let wall = node.wall(now);
        let is_expired = |key: &[u8]| {
            let slot = node.slot_of(key);
            node.inspect(slot, |state| state.records().any(|record| record.key() == key && record.is_expired(wall)))
        };
        if let Some(key) = listed.keys.iter().find(|key| is_expired(key)) {
            let (slot, what) =
                (node.slot_of(key), format!("{} is listed past its deadline", String::from_utf8_lossy(key)));
            return self.broken("I11", Some(slot), what);
        }
        let deadline = self.schedule.now + DEADLINE;
        self.nodes[n].lists.push(PendingList { to, list, listed, values, waiting, deadline });
    }

    /// Answers the lists whose content is durable by now.
    pub(super) fn answer_lists(&mut self, n: usize) {
        let now = self.schedule.now;
        let mut lists = std::mem::take(&mut self.nodes[n].lists);
        lists.retain(|pending| now < pending.deadline);
        let (mut context, mut told) = (Context::from_waker(Waker::noop()), Vec::new());
        for mut pending in lists.extract_if(.., |pending| pending.waiting.poll_settled(&mut context).is_ready()) {
            let mut outcomes = Vec::new();
            pending.waiting.take(&mut outcomes);
            let is_durable = outcomes.iter().all(|outcome| *outcome == Some(Outcome::Durable));
            let listed =
                if is_durable { pending.listed } else { Listed { refused: pending.list.slots, ..Listed::default() } };
            let (to, values) = (pending.to, if is_durable { pending.values } else { Values::new() });
            let step = Step::Listed { to, ask: pending.list.id, listed, values };
            told.push((pending.list.level, to, step));
        }
        self.nodes[n].lists = lists;
        for (level, to, step) in told {
            match level {
                ReadLevel::Linear => self.send_when_durable(n, Outgoing::Listed { to, step: Box::new(step) }),
                ReadLevel::Local => self.send_step(n, usize::from(to.node), step),
            }
        }
    }
}

/// The values of the listed keys.
fn values_of(node: &Node<Planted>, list: &List, listed: &Listed) -> Values {
    let mut values = Values::new();
    for slot in list.slots.iter().filter(|slot| !listed.refused.contains(slot)) {
        node.inspect(*slot, |state| {
            for record in state.records() {
                let is_listed = listed.keys.iter().any(|key| **key == *record.key());
                if let Some(value) = record.value().filter(|_| is_listed) {
                    values.insert(record.key().into(), String::from_utf8_lossy(value).into());
                }
            }
        });
    }
    values
}
