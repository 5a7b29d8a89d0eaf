//! One page of a walk through the keys of all slots, at the node that was asked for it.
//!
//! Every slot is asked for its first keys behind the last page, at the node that leads it: all slots of one node in one
//! message ([`List`]). A node answers for the slots that it serves and names the others, which are asked for again,
//! wherever they are led by then. The page is given once each slot has been answered for exactly once, and never before.
//! So it has every key that was there all the time, up to its last: pages are disjoint ranges, and whoever leads a slot
//! when its turn comes has all of its keys.
//!
//! An answer that was cut knows nothing behind its last key. There the page ends.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster_map::ClusterMap;
use proto::id::{Incarnation, NodeAddr};
use proto::level::ReadLevel;
use proto::peer::{List, Listed};
use proto::range::{KeyRange, next_key};
use proto::slot::{SlotBits, SlotId};

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::listing::{Page, PageSize};

/// How many slots one message asks about, where only a number is asked for.
const COUNT_SLOTS: usize = 512;

/// A page that is being made, or a count.
#[derive(Debug)]
pub struct Walk<B: Bugs = NoBugs> {
    level: ReadLevel,
    range: KeyRange,
    /// None: only the number is asked for.
    page: Option<Page>,
    limit: Option<usize>,
    count: u64,
    slots: Vec<SlotProgress>,
    under_way: BTreeMap<u64, Vec<SlotId>>,
    next_ask: u64,
    bugs: B,
}

/// How far a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotProgress {
    /// Nobody has answered for it, after so many tries, the last of which found nobody where this is said.
    Open {
        tries: u8,
        was_silent: bool,
    },
    Asked {
        tries: u8,
    },
    Answered,
}

/// What a node is to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The node. It may be the one that asks.
    pub to: Incarnation,
    /// Where it is.
    pub addr: NodeAddr,
    /// The question. Its `id` names it to [`Walk::answered`] and [`Walk::failed`], and to nobody else.
    pub list: List,
}

impl<B: Bugs> Walk<B> {
    /// A page of this size of the keys in a range; without a size only their number.
    #[must_use]
    pub fn new(bits: SlotBits, level: ReadLevel, range: KeyRange, size: Option<PageSize>, bugs: B) -> Self {
        Self {
            level,
            range,
            page: size.map(Page::new),
            limit: size.map(|size| size.keys),
            count: 0,
            slots: vec![SlotProgress::Open { tries: 0, was_silent: false }; bits.count()],
            under_way: BTreeMap::new(),
            next_ask: 0,
            bugs,
        }
    }

    /// The same of some slots alone.
    #[must_use]
    pub fn within(mut self, is_asked: impl Fn(SlotId) -> bool) -> Self {
        for (slot, progress) in (0..).map(SlotId).zip(&mut self.slots) {
            if !is_asked(slot) {
                *progress = SlotProgress::Answered;
            }
        }
        self
    }

    /// Whom to ask now, for all slots that nobody has answered for and nobody is asked about. `is_late`: a primary that
    /// does not take its slots, although it answers, is not waited for.
    pub fn asks(&mut self, map: &ClusterMap, me: Incarnation, is_late: bool) -> Vec<Ask> {
        let mut groups: BTreeMap<(Incarnation, bool), Vec<SlotId>> = BTreeMap::new();
        for slot in map.bits().slots() {
            let Some(progress) = self.slots.get_mut(usize::from(slot.0)) else { continue };
            let SlotProgress::Open { tries, was_silent } = *progress else { continue };
            let may_ask_replica = self.level == ReadLevel::Local && (was_silent || is_late);
            let replica = if may_ask_replica { replica_for(map, slot, tries, me) } else { None };
            let primary =
                map.config(slot).primary.filter(|primary| map.member(*primary).is_some_and(|member| member.up));
            let (to, at_replica) = match (replica, primary) {
                (Some(replica), _) => (replica, true),
                (None, Some(primary)) => (primary, false),
                (None, None) => {
                    // Whether there is a replica is looked at the next time.
                    *progress = SlotProgress::Open { tries: tries.saturating_add(1), was_silent: true };
                    continue;
                }
            };
            *progress = SlotProgress::Asked { tries };
            groups.entry((to, at_replica)).or_default().push(slot);
        }
        // A count says nothing before it is done: in parts a node is seen to be at work.
        let at_once = if self.limit.is_some() { self.slots.len() } else { COUNT_SLOTS };
        let mut asks = Vec::new();
        for ((to, at_replica), slots) in groups {
            asks.extend(slots.chunks(at_once).filter_map(|slots| self.ask(map, to, at_replica, slots)));
        }
        asks
    }

    fn ask(&mut self, map: &ClusterMap, to: Incarnation, at_replica: bool, slots: &[SlotId]) -> Option<Ask> {
        let addr = map.member(to)?.addr.clone();
        let id = self.next_ask;
        self.next_ask += 1;
        self.under_way.insert(id, slots.to_vec());
        let (level, limit, range, slots) = (self.level, self.limit, self.range.clone(), slots.to_vec());
        Some(Ask { to, addr, list: List { id, level, at_replica, limit, range, slots } })
    }

    /// A node has answered. What is not waited for any more is passed over: its slots are asked for elsewhere.
    pub fn answered(&mut self, ask: u64, listed: Listed) {
        if listed.has_more && listed.keys.is_empty() {
            return self.failed(ask); // It says nothing of where it was cut.
        }
        let Some(slots) = self.under_way.remove(&ask) else { return };
        let refused: BTreeSet<_> = listed.refused.iter().collect();
        for slot in slots {
            let is_refused = refused.contains(&slot) && !self.bugs.plants(Bug::PageWithHoles);
            self.stands(slot, is_refused.then_some(false));
        }
        self.count += listed.count;
        let Some(page) = &mut self.page else { return };
        if listed.has_more && !self.bugs.plants(Bug::CutIgnored) {
            listed.keys.last().into_iter().for_each(|last| page.end_at(&next_key(last)));
        }
        for key in &listed.keys {
            if !page.take(key) {
                break;
            }
        }
    }

    /// A node was not reached, or has not answered in time. An answer that comes yet is passed over.
    pub fn failed(&mut self, ask: u64) {
        for slot in self.under_way.remove(&ask).unwrap_or_default() {
            self.stands(slot, Some(true));
        }
    }

    /// A slot that was asked about is answered for, or open again; then whether that is so because nobody answered.
    fn stands(&mut self, slot: SlotId, open: Option<bool>) {
        let Some(progress) = self.slots.get_mut(usize::from(slot.0)) else { return };
        let tries = match *progress {
            SlotProgress::Open { tries, .. } | SlotProgress::Asked { tries } => tries,
            SlotProgress::Answered => 0,
        };
        *progress = match open {
            Some(was_silent) => SlotProgress::Open { tries: tries.saturating_add(1), was_silent },
            None => SlotProgress::Answered,
        };
    }

    /// Whether every slot is answered for.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing().is_none()
    }

    /// A slot that is not answered for, if there is one.
    #[must_use]
    pub fn missing(&self) -> Option<SlotId> {
        let at = self.slots.iter().position(|progress| *progress != SlotProgress::Answered)?;
        u16::try_from(at).ok().map(SlotId)
    }

    /// The keys of the page, ascending.
    ///
    /// # Panics
    /// Where a slot is not answered for: keys would be missing.
    #[must_use]
    pub fn into_keys(self) -> Vec<Box<[u8]>> {
        self.into_page().0
    }

    /// The keys of the page, ascending, and whether there may be more behind them.
    ///
    /// # Panics
    /// Where a slot is not answered for: keys would be missing.
    #[must_use]
    pub fn into_page(self) -> (Vec<Box<[u8]>>, bool) {
        assert!(self.is_whole(), "a page is given once every slot is answered for");
        self.page.map(Page::into_keys).unwrap_or_default()
    }

    /// How many keys there are.
    ///
    /// # Panics
    /// Where a slot is not answered for.
    #[must_use]
    pub fn into_count(self) -> u64 {
        assert!(self.is_whole(), "a count is given once every slot is answered for");
        self.count
    }
}

/// The copy to ask at the try after so many: every second time a replica; else none. The own copy comes first, also where it
/// is in sync no more.
fn replica_for(map: &ClusterMap, slot: SlotId, tries: u8, me: Incarnation) -> Option<Incarnation> {
    let primary = map.config(slot).primary;
    let up = map.holders(slot).filter(|(holder, member)| member.up && Some(*holder) != primary);
    let others = up.map(|(holder, _)| holder).filter(|holder| *holder != me);
    let replicas: Vec<_> = Some(me).filter(|me| Some(*me) != primary).into_iter().chain(others).collect();
    let number = usize::from(tries).checked_sub(1).filter(|number| number.is_multiple_of(2) || primary.is_none())?;
    replicas.get(number / 2 % replicas.len().max(1)).copied()
}

#[cfg(test)]
mod tests;
