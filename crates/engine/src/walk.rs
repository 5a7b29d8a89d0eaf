//! One page of a walk through the keys of all slots, at the node that was asked for it.
//!
//! Every slot is asked, at the node that leads it, for its first keys after the last page: one message ([`List`])
//! covers all slots of a node. A node answers for the slots that it serves and names the others, which are asked for
//! again wherever they are led by then. The page is returned once each slot has been answered for exactly once, and
//! never before. It therefore has every key up to its last that existed all along: pages are disjoint ranges, and
//! whoever leads a slot when its turn comes has all of its keys.
//!
//! A truncated answer says nothing about what is behind its last key. The page ends there.

use std::collections::{BTreeMap, BTreeSet};

use proto::cluster_map::ClusterMap;
use proto::id::{Incarnation, NodeAddr};
use proto::level::ReadLevel;
use proto::peer::{List, Listed};
use proto::range::{KeyRange, next_key};
use proto::slot::{SlotBits, SlotId};

use crate::bugs::{Bug, Bugs, NoBugs};
use crate::listing::{Page, PageSize};

/// How many slots one message covers if only a number is requested.
const COUNT_SLOTS: usize = 512;

/// A page or a count in progress.
#[derive(Debug)]
pub struct Walk<B: Bugs = NoBugs> {
    level: ReadLevel,
    must_serve: bool,
    range: KeyRange,
    /// `None`: only the number is requested.
    page: Option<Page>,
    limit: Option<usize>,
    count: u64,
    slots: Vec<SlotProgress>,
    under_way: BTreeMap<u64, Vec<SlotId>>,
    next_ask: u64,
    bugs: B,
}

/// The progress of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotProgress {
    /// Not answered for after this many tries; `was_silent` says whether the last one reached nobody.
    Open {
        tries: u8,
        was_silent: bool,
    },
    Asked {
        tries: u8,
    },
    Answered,
}

/// A question for one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The node, which may be the asking node itself.
    pub to: Incarnation,
    /// Its address.
    pub addr: NodeAddr,
    /// The question. Its `id` identifies it to [`Walk::answered`] and [`Walk::failed`] only.
    pub list: List,
}

impl<B: Bugs> Walk<B> {
    /// A page of this size of the keys in a range; without a size, only their number.
    #[must_use]
    pub fn new(bits: SlotBits, level: ReadLevel, range: KeyRange, size: Option<PageSize>, bugs: B) -> Self {
        Self {
            level,
            must_serve: false,
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

    /// The same, but whatever the level, every slot is listed by a primary that serves it at that moment.
    #[must_use]
    pub fn where_served(mut self) -> Self {
        self.must_serve = true;
        self
    }

    /// The same, restricted to some slots.
    #[must_use]
    pub fn within(mut self, is_asked: impl Fn(SlotId) -> bool) -> Self {
        for (slot, progress) in (0..).map(SlotId).zip(&mut self.slots) {
            if !is_asked(slot) {
                *progress = SlotProgress::Answered;
            }
        }
        self
    }

    /// The questions to ask now, for all slots that are neither answered for nor being asked about. `is_late`: do not
    /// wait for a primary that answers but does not accept its slots.
    pub fn asks(&mut self, map: &ClusterMap, me: Incarnation, is_late: bool) -> Vec<Ask> {
        let mut groups: BTreeMap<(Incarnation, bool), Vec<SlotId>> = BTreeMap::new();
        for slot in map.bits().slots() {
            let Some(progress) = self.slots.get_mut(usize::from(slot.0)) else { continue };
            let SlotProgress::Open { tries, was_silent } = *progress else { continue };
            let may_ask_replica = self.level == ReadLevel::Local && !self.must_serve && (was_silent || is_late);
            let replica = if may_ask_replica { replica_for(map, slot, tries, me) } else { None };
            let primary =
                map.config(slot).primary.filter(|primary| map.member(*primary).is_some_and(|member| member.up));
            let (to, at_replica) = match (replica, primary) {
                (Some(replica), _) => (replica, true),
                (None, Some(primary)) => (primary, false),
                (None, None) => {
                    // Whether there is a replica is checked the next time.
                    *progress = SlotProgress::Open { tries: tries.saturating_add(1), was_silent: true };
                    continue;
                }
            };
            *progress = SlotProgress::Asked { tries };
            groups.entry((to, at_replica)).or_default().push(slot);
        }
        // A count yields nothing until it is complete; smaller parts show that a node is making progress.
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
        let (limit, range, slots) = (self.limit, self.range.clone(), slots.to_vec());
        let (level, must_serve) = (self.level, self.must_serve && self.level == ReadLevel::Local);
        Some(Ask { to, addr, list: List { id, level, at_replica, must_serve, limit, range, slots } })
    }

    /// A node has answered. An answer that is no longer awaited is ignored: its slots are being asked for elsewhere.
    pub fn answered(&mut self, ask: u64, listed: Listed) {
        if listed.has_more && listed.keys.is_empty() {
            return self.failed(ask); // The answer does not say where it was truncated.
        }
        let Some(slots) = self.under_way.remove(&ask) else { return };
        let refused: BTreeSet<_> = listed.refused.iter().collect();
        for slot in slots {
            let is_refused = refused.contains(&slot) && !self.bugs.plants(Bug::PageWithHoles);
            self.stands(slot, is_refused.then_some(false));
        }
        self.count = self.count.saturating_add(listed.count);
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

    /// A node was not reached or has not answered in time. A later answer is ignored.
    pub fn failed(&mut self, ask: u64) {
        for slot in self.under_way.remove(&ask).unwrap_or_default() {
            self.stands(slot, Some(true));
        }
    }

    /// Marks a slot as answered (`None`) or open again; `Some(true)` if nobody answered for it.
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

    /// Whether every slot has been answered for.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing().is_none()
    }

    /// A slot that has not been answered for, if there is one.
    #[must_use]
    pub fn missing(&self) -> Option<SlotId> {
        let at = self.slots.iter().position(|progress| *progress != SlotProgress::Answered)?;
        u16::try_from(at).ok().map(SlotId)
    }

    /// The keys of the page, ascending.
    ///
    /// # Panics
    /// A slot has not been answered for: keys would be missing.
    #[must_use]
    pub fn into_keys(self) -> Vec<Box<[u8]>> {
        self.into_page().0
    }

    /// The keys of the page, ascending, and whether there may be more after them.
    ///
    /// # Panics
    /// A slot has not been answered for: keys would be missing.
    #[must_use]
    pub fn into_page(self) -> (Vec<Box<[u8]>>, bool) {
        assert!(self.is_whole(), "a page is given once every slot is answered for");
        self.page.map(Page::into_keys).unwrap_or_default()
    }

    /// How many keys there are.
    ///
    /// # Panics
    /// A slot has not been answered for.
    #[must_use]
    pub fn into_count(self) -> u64 {
        assert!(self.is_whole(), "a count is given once every slot is answered for");
        self.count
    }
}

/// The replica to ask after this many tries, if any: a replica on every other try, or, if there is no primary, on every
/// try but the first. This node's own copy comes first, even if it is no longer in sync.
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
