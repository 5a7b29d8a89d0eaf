//! What became of starts that the map still names: which later start holds their data, or that nobody ever will.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::id::Incarnation;
use proto::session::Ancestors;

use crate::bugs::{Bug, Bugs};
use crate::time::Timestamp;

/// How long members that come back with their disks wait for the other members of their slots.
const REBORN_GRACE: Duration = Duration::from_secs(1);

/// See the module documentation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Successors {
    /// Known never to come back with their memory: replaced by a newer start, or given up by an operator. They will
    /// never again be trusted to hold anything.
    gone: BTreeSet<Incarnation>,
    /// Restarted with the data on their disks; the value is the newer incarnation.
    reborn: BTreeMap<Incarnation, Incarnation>,
    /// Restarted with data on their disks whose end may be missing; the value is the newer incarnation. None of them is
    /// in `reborn`.
    unproven: BTreeMap<Incarnation, Incarnation>,
    /// When the last of these came back.
    unproven_at: Timestamp,
    /// The time until which slots whose members are all coming back wait for the rest of them.
    grace_until: Timestamp,
}

impl Successors {
    /// As they were when the state was saved.
    pub(super) fn restored(
        gone: BTreeSet<Incarnation>,
        reborn: BTreeMap<Incarnation, Incarnation>,
        unproven: BTreeMap<Incarnation, Incarnation>,
    ) -> Self {
        Self { gone, reborn, unproven, ..Self::default() }
    }

    /// A new incarnation takes the place of all these starts. Those whose data it has found on its disk are reborn or
    /// unproven, and the others are gone.
    pub(super) fn replace(
        &mut self,
        now: Timestamp,
        replaced: &[Incarnation],
        incarnation: Incarnation,
        ancestors: &Ancestors,
        bugs: impl Bugs,
    ) {
        // Whoever was reborn as an incarnation that is now replaced holds what the new incarnation holds.
        let held = self.reborn.iter().chain(&self.unproven).filter(|(_, successor)| replaced.contains(successor));
        let held: BTreeSet<_> = held.map(|(old, _)| *old).chain(replaced.iter().copied()).collect();
        for old in held {
            // The new start may know the old incarnation itself, or only its successor.
            let successor = self.reborn.remove(&old);
            let unproven_successor = self.unproven.remove(&old);
            let knows = |list: &[Incarnation], successor: Option<Incarnation>| {
                list.contains(&old) || successor.is_some_and(|successor| list.contains(&successor))
            };
            let is_proven = unproven_successor.is_none() && knows(&ancestors.proven, successor);
            let is_here = is_proven
                || knows(&ancestors.unproven, successor.or(unproven_successor))
                || knows(&ancestors.proven, unproven_successor);
            let is_trusted = is_here && bugs.plants(Bug::UnprovenTrusted);
            if is_proven || is_trusted || bugs.plants(Bug::TrustWithoutProof) {
                self.is_reborn_as(old, incarnation);
            } else if is_here && !bugs.plants(Bug::UnprovenGone) {
                self.is_unproven_as(old, incarnation);
                self.unproven_at = now;
            } else {
                self.gone.insert(old);
                continue;
            }
            self.grace_until = now + REBORN_GRACE;
        }
    }

    /// A start was restarted with its data.
    pub(crate) fn is_reborn_as(&mut self, old: Incarnation, new: Incarnation) {
        self.unproven.remove(&old);
        self.reborn.insert(old, new);
    }

    /// A start was restarted with data whose end may be missing.
    pub(crate) fn is_unproven_as(&mut self, old: Incarnation, new: Incarnation) {
        self.reborn.remove(&old);
        self.unproven.insert(old, new);
    }

    /// These are not waited for any more.
    pub(crate) fn give_up(&mut self, starts: impl IntoIterator<Item = Incarnation>) {
        self.gone.extend(starts);
    }

    /// Forgets starts that the map does not name.
    pub(super) fn retain(&mut self, is_named: impl Fn(&Incarnation) -> bool) {
        self.gone.retain(|start| is_named(start));
        self.reborn.retain(|start, _| is_named(start));
        self.unproven.retain(|start, _| is_named(start));
    }

    pub(crate) fn is_gone(&self, start: Incarnation) -> bool {
        self.gone.contains(&start)
    }

    /// The newer start of one that was restarted with its data.
    pub(crate) fn reborn(&self, start: Incarnation) -> Option<Incarnation> {
        self.reborn.get(&start).copied()
    }

    /// The newer start of one that was restarted with data whose end may be missing.
    pub(crate) fn unproven(&self, start: Incarnation) -> Option<Incarnation> {
        self.unproven.get(&start).copied()
    }

    /// The start that now holds what this one held: itself, or its next one if that found the data on its disk.
    pub(crate) fn holder(&self, start: Incarnation) -> Incarnation {
        self.reborn(start).unwrap_or(start)
    }

    pub(super) fn any_unproven(&self) -> bool {
        !self.unproven.is_empty()
    }

    /// When the last start without proof of its data came back.
    pub(super) fn unproven_at(&self) -> Timestamp {
        self.unproven_at
    }

    /// The time until which slots whose members are all coming back wait for the rest of them.
    pub(super) fn grace_until(&self) -> Timestamp {
        self.grace_until
    }

    /// For the state.
    pub(super) fn all_gone(&self) -> impl Iterator<Item = &Incarnation> {
        self.gone.iter()
    }

    /// For the state.
    pub(super) fn all_reborn(&self) -> impl Iterator<Item = (&Incarnation, &Incarnation)> {
        self.reborn.iter()
    }

    /// For the state.
    pub(super) fn all_unproven(&self) -> impl Iterator<Item = (&Incarnation, &Incarnation)> {
        self.unproven.iter()
    }
}
