//! The failure detector: who is registered, and who has been silent for too long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::id::{Incarnation, NodeAddr};

use crate::time::Timestamp;

/// A registered node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registered {
    /// The current start of the node.
    pub incarnation: Incarnation,
    /// Registered by hand, with a plain line; the address need not run any of our programs.
    pub by_hand: bool,
    last_heard: Timestamp,
    session: Session,
}

impl Registered {
    /// Whether it is not heard, though what was before `excused` is not held against it.
    fn is_silent(&self, now: Timestamp, excused: Timestamp) -> bool {
        self.session != Session::Stands || now - self.last_heard.max(excused) >= SUSPECT_AFTER
    }
}

/// The state of a node's session, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Stands,
    /// There has been none since this time.
    Ended(Timestamp),
}

/// A node that was not heard for this long, or whose session has ended, is suspected. That alone has no consequences.
pub(crate) const SUSPECT_AFTER: Duration = Duration::from_millis(600);

/// The registered nodes by address.
#[derive(Debug)]
pub(crate) struct Registry {
    timeout: Duration,
    /// The longest timeout that an earlier map had, and until when nodes may go by it.
    honored: (Duration, Timestamp),
    nodes: BTreeMap<NodeAddr, Registered>,
    last_check: Timestamp,
    /// Silence before this time was nobody's fault and causes no suspicion.
    excused: Timestamp,
}

impl Registry {
    /// An empty registry that drops nodes unheard for `timeout`.
    #[must_use]
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            honored: (Duration::ZERO, Timestamp::default()),
            nodes: BTreeMap::new(),
            last_check: Timestamp::default(),
            excused: Timestamp::default(),
        }
    }

    /// Until this timeout has passed, drops nobody any sooner than by it: nodes may go by an earlier map that has it.
    pub(crate) fn honor(&mut self, now: Timestamp, timeout: Duration) {
        let longest = self.timeout_at(now).max(timeout);
        self.honored = (longest, now + longest);
    }

    /// The longest timeout that any node may still go by, as far as was known when it was last set.
    pub(crate) fn honored(&self) -> Duration {
        self.honored.0
    }

    /// The timeout that nodes may go by: the present one, or a longer one of an earlier map.
    pub(crate) fn timeout_at(&self, now: Timestamp) -> Duration {
        let (honored, until) = self.honored;
        if now < until { self.timeout.max(honored) } else { self.timeout }
    }

    /// Registers a node, replacing whoever was registered at that address.
    pub(crate) fn insert(&mut self, now: Timestamp, addr: NodeAddr, incarnation: Incarnation) {
        let node = Registered { incarnation, by_hand: false, last_heard: now, session: Session::Stands };
        self.nodes.insert(addr, node);
    }

    /// Registers an address at an operator's request, replacing whoever was registered there.
    pub(crate) fn insert_by_hand(&mut self, now: Timestamp, addr: NodeAddr, incarnation: Incarnation) {
        let node = Registered { incarnation, by_hand: true, last_heard: now, session: Session::Stands };
        self.nodes.insert(addr, node);
    }

    /// Registers a node that an earlier run of the coordinator knew and that has not been heard since.
    pub(crate) fn insert_unheard(&mut self, now: Timestamp, addr: NodeAddr, incarnation: Incarnation) {
        let node = Registered { incarnation, by_hand: false, last_heard: now, session: Session::Ended(now) };
        self.nodes.insert(addr, node);
    }

    /// Removes a node.
    pub(crate) fn remove(&mut self, addr: &NodeAddr) -> Option<Registered> {
        self.nodes.remove(addr)
    }

    /// The node at an address.
    #[must_use]
    pub(crate) fn get(&self, addr: &NodeAddr) -> Option<&Registered> {
        self.nodes.get(addr)
    }

    /// The incarnation of the node at an address.
    pub(crate) fn incarnation_at(&self, addr: &NodeAddr) -> Option<Incarnation> {
        self.nodes.get(addr).map(|node| node.incarnation)
    }

    /// All nodes, sorted by address.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeAddr, &Registered)> {
        self.nodes.iter()
    }

    /// Those that were registered by hand.
    pub(crate) fn by_hand(&self) -> impl Iterator<Item = Incarnation> {
        self.nodes.values().filter(|node| node.by_hand).map(|node| node.incarnation)
    }

    /// How many nodes there are.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are no nodes.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The address of a registered incarnation.
    #[must_use]
    pub(crate) fn addr_of(&self, incarnation: Incarnation) -> Option<&NodeAddr> {
        self.nodes.iter().find(|(_, node)| node.incarnation == incarnation).map(|(addr, _)| addr)
    }

    /// Whether an incarnation belongs to an address that was registered by hand.
    #[must_use]
    pub(crate) fn is_by_hand(&self, incarnation: Incarnation) -> bool {
        self.nodes.values().any(|node| node.by_hand && node.incarnation == incarnation)
    }

    /// The incarnations of all registered nodes.
    #[must_use]
    pub(crate) fn incarnations(&self) -> BTreeSet<Incarnation> {
        self.nodes.values().map(|node| node.incarnation).collect()
    }

    /// Notes that a node was heard; `false` if it is not registered.
    pub(crate) fn heard(&mut self, now: Timestamp, addr: &NodeAddr) -> bool {
        let Some(node) = self.nodes.get_mut(addr) else { return false };
        node.last_heard = now;
        node.session = Session::Stands;
        true
    }

    /// The session of an incarnation has ended.
    pub(crate) fn session_ended(&mut self, now: Timestamp, incarnation: Incarnation) {
        let node = self.nodes.values_mut().find(|node| node.incarnation == incarnation);
        if let Some(node) = node.filter(|node| node.session == Session::Stands) {
            node.session = Session::Ended(now);
        }
    }

    /// Whether the node registered at an address may still be alive, so that no other start may have its name. It may
    /// be, until its session has been over for so long that it would have come back, or it has been removed as silent
    /// for too long. A successor proves, with the data it found on its disk, that its predecessor has ended; it only
    /// waits for the end of the predecessor's session, or until the predecessor is suspected.
    #[must_use]
    pub(crate) fn may_live(
        &self,
        now: Timestamp,
        addr: &NodeAddr,
        comes_back_within: Duration,
        is_successor: bool,
    ) -> bool {
        let Some(node) = self.nodes.get(addr).filter(|node| !node.by_hand) else { return false };
        match node.session {
            Session::Stands => !(is_successor && self.is_suspect(now, node.incarnation)),
            Session::Ended(at) => !is_successor && now - at < comes_back_within,
        }
    }

    /// Whether an incarnation is suspected to be dead. An unregistered one is.
    #[must_use]
    pub(crate) fn is_suspect(&self, now: Timestamp, incarnation: Incarnation) -> bool {
        let node = self.nodes.values().find(|node| node.incarnation == incarnation);
        node.is_none_or(|node| node.is_silent(now, self.excused))
    }

    /// How long a registered incarnation that is suspected has not been heard.
    #[must_use]
    pub(crate) fn silent_for(&self, now: Timestamp, incarnation: Incarnation) -> Option<Duration> {
        let node = self.nodes.values().find(|node| node.incarnation == incarnation && !node.by_hand)?;
        node.is_silent(now, self.excused).then(|| now - node.last_heard)
    }

    /// All suspected incarnations.
    #[must_use]
    pub(crate) fn suspects(&self, now: Timestamp) -> BTreeSet<Incarnation> {
        let suspects = self.nodes.values().filter(|node| node.is_silent(now, self.excused));
        suspects.map(|node| node.incarnation).collect()
    }

    /// All incarnations that are not heard, including those that this is not held against.
    #[must_use]
    pub(crate) fn silent_nodes(&self, now: Timestamp) -> BTreeSet<Incarnation> {
        let silent = self.nodes.values().filter(|node| node.is_silent(now, node.last_heard));
        silent.map(|node| node.incarnation).collect()
    }

    /// The suspected nodes, and how long each has not been heard.
    #[must_use]
    pub(crate) fn silent(&self, now: Timestamp) -> Vec<(NodeAddr, Duration)> {
        let suspects = self.nodes.iter().filter(|(_, node)| node.is_silent(now, self.excused));
        suspects.map(|(addr, node)| (addr.clone(), now - node.last_heard)).collect()
    }

    /// Whether an incarnation is registered and was not heard after this moment.
    pub(crate) fn is_unheard_since(&self, moment: Timestamp, incarnation: Incarnation) -> bool {
        self.nodes.values().any(|node| node.incarnation == incarnation && node.last_heard <= moment)
    }

    /// All incarnations not heard after this moment.
    #[must_use]
    pub(crate) fn unheard_since(&self, moment: Timestamp) -> BTreeSet<Incarnation> {
        let unheard = self.nodes.values().filter(|node| node.last_heard <= moment);
        unheard.map(|node| node.incarnation).collect()
    }

    /// When an incarnation becomes suspected if it is not heard.
    #[must_use]
    pub(crate) fn suspect_from(&self, incarnation: Incarnation) -> Option<Timestamp> {
        let node = self.nodes.values().find(|node| node.incarnation == incarnation)?;
        Some(node.last_heard.max(self.excused) + SUSPECT_AFTER)
    }

    /// Notes that nobody could be heard for a while, which is no reason for suspicion. The timeout is not affected.
    pub(crate) fn excuse(&mut self, now: Timestamp) {
        self.excused = now;
    }

    /// Removes and returns every node that has been silent for too long.
    ///
    /// A registry that was not called for half the timeout was asleep (a paused process, a closed laptop) and heard
    /// nobody meanwhile. It blames nobody for that: everyone's time starts over.
    pub(crate) fn remove_silent(&mut self, now: Timestamp) -> Vec<(NodeAddr, Registered)> {
        let slept = now - self.last_check > self.timeout / 2 && self.last_check != Timestamp::default();
        self.last_check = now;
        if slept {
            self.nodes.values_mut().for_each(|node| node.last_heard = now);
        }
        let timeout = self.timeout_at(now);
        if now >= self.honored.1 {
            self.honored.0 = Duration::ZERO;
        }
        self.nodes.extract_if(.., |_, node| now - node.last_heard >= timeout).collect()
    }

    /// When to check for silent nodes next: often enough to distinguish sleep from silence.
    #[must_use]
    pub(crate) fn next_check(&self) -> Timestamp {
        let timeout = self.timeout_at(self.last_check);
        let next_timeout = self.nodes.values().map(|node| node.last_heard + timeout).min();
        let regular = self.last_check + self.timeout / 4;
        next_timeout.map_or(regular, |timeout| timeout.min(regular))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Timestamp {
        Timestamp(1_000_000) + Duration::from_secs(seconds)
    }

    fn addr(port: u16) -> NodeAddr {
        NodeAddr::new("127.0.0.1", port).expect("a valid address")
    }

    #[test]
    fn a_node_unheard_for_the_timeout_is_taken_out() {
        let mut registry = Registry::new(TIMEOUT);
        registry.insert(at(0), addr(1), Incarnation(1));
        registry.insert(at(0), addr(2), Incarnation(2));
        for second in (0..=9).step_by(2) {
            assert!(registry.heard(at(second), &addr(2)));
            assert_eq!(registry.remove_silent(at(second)), []);
        }
        assert!(registry.next_check() <= at(10));
        let silent = registry.remove_silent(at(10));
        assert_eq!(silent.iter().map(|(addr, _)| addr.port()).collect::<Vec<_>>(), [1]);
        assert!(!registry.heard(at(10), &addr(1)));
    }

    #[test]
    fn a_longer_timeout_of_before_is_honored_as_long_as_nodes_may_go_by_it() {
        let mut registry = Registry::new(TIMEOUT);
        registry.honor(at(0), 2 * TIMEOUT);
        registry.insert(at(0), addr(1), Incarnation(1));
        registry.insert(at(2), addr(2), Incarnation(2));
        for second in (0..20).step_by(2) {
            assert_eq!(registry.remove_silent(at(second)), []);
        }
        assert!(registry.next_check() <= at(22));
        assert_eq!(registry.remove_silent(at(20)).len(), 2, "neither was heard for the timeout");
    }

    #[test]
    fn a_silent_node_is_suspected_before_it_is_taken_out_and_a_moment_of_sleep_excuses_only_the_first() {
        let mut registry = Registry::new(TIMEOUT);
        registry.insert(at(0), addr(1), Incarnation(1));
        assert!(!registry.is_suspect(at(0), Incarnation(1)) && registry.is_suspect(at(1), Incarnation(1)));
        registry.excuse(at(1));
        assert!(!registry.is_suspect(at(1), Incarnation(1)));
        registry.session_ended(at(1), Incarnation(1));
        assert!(registry.is_suspect(at(1), Incarnation(1)));
        for second in (1..10).step_by(2) {
            assert_eq!(registry.remove_silent(at(second)), []);
            registry.excuse(at(second));
        }
        assert_eq!(registry.remove_silent(at(10)).len(), 1);
    }

    #[test]
    fn a_name_is_held_while_its_node_may_live() {
        let mut registry = Registry::new(TIMEOUT);
        let second = Duration::from_secs(1);
        let may_live = |registry: &Registry, now, is_successor| registry.may_live(now, &addr(1), second, is_successor);
        assert!(!may_live(&registry, at(0), false));
        registry.insert(at(0), addr(1), Incarnation(1));
        assert!(may_live(&registry, at(0), false) && may_live(&registry, at(0), true));
        // Silent: the next start from its disk may come, others only after the timeout.
        assert!(may_live(&registry, at(5), false) && !may_live(&registry, at(5), true));
        registry.session_ended(at(5), Incarnation(1));
        assert!(may_live(&registry, at(5), false) && !may_live(&registry, at(5), true));
        assert!(!may_live(&registry, at(6), false), "it would have come back");
        registry.insert_unheard(at(7), addr(1), Incarnation(1));
        assert!(may_live(&registry, at(7), false) && !may_live(&registry, at(8), false));
        registry.insert_by_hand(at(9), addr(1), Incarnation(2));
        assert!(!may_live(&registry, at(9), false), "nothing of ours need be there");
    }

    #[test]
    fn a_registry_that_slept_blames_nobody() {
        let mut registry = Registry::new(TIMEOUT);
        registry.insert(at(0), addr(1), Incarnation(1));
        assert_eq!(registry.remove_silent(at(1)), []);
        assert_eq!(registry.remove_silent(at(60)), [], "nobody could be heard in between");
        for second in (62..70).step_by(2) {
            assert_eq!(registry.remove_silent(at(second)), []);
        }
        assert_eq!(registry.remove_silent(at(70)).len(), 1, "silent since");
    }
}
