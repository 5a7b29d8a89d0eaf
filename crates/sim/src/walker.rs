//! Clients that walk through all keys page by page, and what each page says about the judged keys.
//!
//! A page is a linear read of every key between its bounds: at some moment between call and answer, the listed keys
//! existed and the others did not. So each becomes a read in the history, and the judges decide whether all of them can
//! be true. In addition, a walk lists its keys in order, each once, and none that was never written. For a walk at
//! `local` only that is judged, since replicas may lack what has not reached them.

use std::collections::BTreeMap;
use std::rc::Rc;

use proto::level::ReadLevel;
use proto::range::{Keys, PageRequest};
use proto::slot::Position;
use seeded::Random;

use crate::history::{Action, Operation};
use crate::node::{PageAsked, Step};
use crate::schedule::Event;
use crate::world::World;
/// How long a walker waits for a page, in microseconds. A node gives up earlier.
const PATIENCE: u64 = 3_000_000;

/// The client numbers of walkers in the history start here.
const CLIENT: u32 = 100;

/// The index of the walker that walks at `local`, in runs with enough walkers.
const AT_LOCAL: usize = 2;

/// The keys of a page, and the values of those that were seen with one.
pub(crate) type Paged = (Vec<Box<[u8]>>, BTreeMap<Box<[u8]>, Rc<str>>);

/// A client that walks.
#[derive(Debug)]
pub(crate) struct Walker {
    random: Random,
    /// Identifies the awaited page or the pause: other answers are ignored.
    serial: u64,
    prefix: &'static str,
    after: Option<Box<[u8]>>,
    limit: usize,
    /// When the page was called; `None` during a pause.
    call: Option<u64>,
}

impl Walker {
    pub(crate) fn new(random: Random) -> Self {
        Self { random, serial: 0, prefix: "", after: None, limit: 1, call: None }
    }

    fn request(&self) -> PageRequest<'_> {
        PageRequest { keys: Keys::Prefix(self.prefix.as_bytes()), limit: self.limit, after: self.after.as_deref() }
    }
}

fn level(w: usize) -> ReadLevel {
    if w == AT_LOCAL { ReadLevel::Local } else { ReadLevel::Linear }
}

impl World {
    /// A walker's pause or patience is over.
    pub(crate) fn walker_due(&mut self, w: usize, serial: u64) {
        let walker = &mut self.walkers[w];
        if walker.serial != serial {
            return;
        }
        if walker.call.take().is_some() {
            return self.walker_pauses(w); // It asks for the same page again.
        }
        if self.clients.iter().all(|client| client.is_stopped) {
            return self.walker_pauses(w);
        }
        let walker = &mut self.walkers[w];
        walker.serial += 1;
        walker.call = Some(self.schedule.now);
        walker.limit = walker.random.between(1, 4) as usize;
        let n = walker.random.index(self.nodes.len());
        let (serial, request) = (walker.serial, walker.request());
        let page = PageAsked { walker: w as u8, serial, level: level(w), range: request.range(), limit: request.limit };
        let delay = self.network.delay(n, n);
        self.schedule.after(delay, Event::Walk { node: n as u8, step: Box::new(Step::Page(page)) });
        self.schedule.after(PATIENCE, Event::Walker { walker: w as u8, serial });
    }

    /// Continues after a pause.
    fn walker_pauses(&mut self, w: usize) {
        let walker = &mut self.walkers[w];
        walker.serial += 1;
        let (pause, serial) = (walker.random.spread(10_000, 300_000), walker.serial);
        self.schedule.after(pause, Event::Walker { walker: w as u8, serial });
    }

    /// A page arrives at its walker.
    pub(crate) fn page_arrives(&mut self, w: usize, serial: u64, (keys, values): &Paged) {
        let now = self.schedule.now;
        let walker = &self.walkers[w];
        let Some(call) = walker.call.filter(|_| walker.serial == serial) else { return };
        self.trace.mix(now ^ serial);
        self.stats.pages += 1;
        self.tell(None, || {
            let names: Vec<_> = keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
            format!("walker {w} from {call}: {names:?}")
        });
        if let Some(what) = self.wrong_page(w, keys) {
            return self.broken("a walk has its keys in their order", None, what);
        }
        let walker = &self.walkers[w];
        let range = walker.request().range();
        let last = keys.last().cloned();
        let is_told = |key: &[u8]| {
            key >= range.start.as_slice() && range.ends_after(key) && last.as_ref().is_none_or(|last| key <= &**last)
        };
        for number in (0..self.knobs.keys).filter(|_| level(w) == ReadLevel::Linear) {
            let key = format!("judged{number}");
            if is_told(key.as_bytes()) {
                let result = keys.iter().any(|listed| **listed == *key.as_bytes());
                let result =
                    result.then(|| values.get(key.as_bytes()).map_or_else(String::new, |value| value.to_string()));
                let client = CLIENT + w as u32;
                self.history.push(Operation { client, key, call, end: Some(now), action: Action::Get { result } });
            }
        }
        let walker = &mut self.walkers[w];
        walker.call = None;
        if last.is_none() {
            walker.prefix = ["", "", "judged", "judged1", "async"][walker.random.index(5)];
        }
        walker.after = last;
        self.walker_pauses(w);
    }

    /// What is wrong with a page, regardless of the values.
    fn wrong_page(&self, w: usize, keys: &[Box<[u8]>]) -> Option<String> {
        let request = self.walkers[w].request();
        let range = request.range();
        if keys.len() > request.limit {
            return Some(format!("{} keys where {} were asked for", keys.len(), request.limit));
        }
        if !keys.is_sorted_by(|one, next| one < next) {
            return Some("the keys of a page are not in their order".to_owned());
        }
        for key in keys {
            let name = String::from_utf8_lossy(key);
            if **key < *range.start || !range.ends_after(key) {
                return Some(format!("{name} is not among the keys asked for"));
            }
            let slot = self.bits.slot(&Position::of(key));
            if !self.oracle.slots[usize::from(slot.0)].keys.contains_key(key) {
                return Some(format!("nobody has ever written {name}"));
            }
        }
        None
    }
}
