//! The set of steps that a search has put in order so far, and what may come next.
//!
//! It is a bitset over the steps, ordered by call. All steps before the first missing one are in it, and none that was
//! called after a missing one ended. So sets can differ only within a window, and are compared by their windows (the
//! bitset of Lowe 2017, cut to what is undecided).

use super::model::Step;

/// A set of steps.
pub(super) struct Linearized {
    words: Vec<u64>,
    /// The first missing step.
    first: usize,
    len: usize,
}

impl Linearized {
    /// The empty set, for this many steps.
    pub(super) fn new(steps: usize) -> Self {
        Self { words: vec![0; steps / 64 + 1], first: 0, len: 0 }
    }

    /// How many steps are in the set.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, step: usize) -> bool {
        self.words.get(step / 64).is_some_and(|word| word >> (step % 64) & 1 == 1)
    }

    pub(super) fn insert(&mut self, step: usize) {
        self.flip(step);
        self.len += 1;
        if step == self.first {
            self.first = self.missing_from(step);
        }
    }

    pub(super) fn remove(&mut self, step: usize) {
        self.flip(step);
        self.len -= 1;
        self.first = self.first.min(step);
    }

    fn flip(&mut self, step: usize) {
        *self.words.get_mut(step / 64).expect("a step of the model") ^= 1 << (step % 64);
    }

    /// The first missing step from `step` on; beyond the last step if none is missing.
    fn missing_from(&self, step: usize) -> usize {
        let mut mask = u64::MAX << (step % 64);
        for (index, word) in self.words.iter().enumerate().skip(step / 64) {
            let missing = !word & mask;
            if missing != 0 {
                return index * 64 + missing.trailing_zeros() as usize;
            }
            mask = u64::MAX;
        }
        self.words.len() * 64
    }

    /// The steps in turn, ordered by call: the missing steps that no other missing step precedes. `steps` are all steps
    /// of the model, ordered by call.
    pub(super) fn in_turn<'s, 'a>(&'s self, steps: &'s [Step<'a>]) -> InTurn<'s, 'a> {
        InTurn { set: self, steps, at: self.first, horizon: u64::MAX }
    }

    /// The words of the window, which ends before the step `end`.
    pub(super) fn window(&self, end: usize) -> &[u64] {
        self.words.get(self.first / 64..end.div_ceil(64)).unwrap_or_default()
    }

    /// The first missing step.
    pub(super) fn first(&self) -> usize {
        self.first
    }
}

/// An iterator over the steps in turn.
pub(super) struct InTurn<'s, 'a> {
    set: &'s Linearized,
    steps: &'s [Step<'a>],
    at: usize,
    horizon: u64,
}

impl InTurn<'_, '_> {
    /// Once the iterator has ended: the earliest end of all missing steps, in microseconds. A later call is not in
    /// turn.
    pub(super) fn horizon(&self) -> u64 {
        self.horizon
    }

    /// Once the iterator has ended: the end of the window. No step from this one on is in the set.
    pub(super) fn window_end(&self) -> usize {
        self.at
    }
}

impl<'s, 'a> Iterator for InTurn<'s, 'a> {
    type Item = (usize, &'s Step<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        // Later steps have later calls, so their ends are later than this step's call and cannot put it out of turn.
        let index = self.set.missing_from(self.at);
        let Some(step) = self.steps.get(index).filter(|step| step.operation.call <= self.horizon) else {
            self.at = index.min(self.steps.len());
            return None;
        };
        self.at = index + 1;
        self.horizon = self.horizon.min(step.end);
        Some((index, step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use crate::judges::search::model::Model;

    #[test]
    fn steps_are_in_turn_until_one_that_is_missing_ends() {
        let history: History = "1 0 9 k delete\n1 2 3 k delete\n1 3 5 k delete\n1 6 9 k delete\n".parse().unwrap();
        let operations: Vec<_> = history.operations().iter().collect();
        let model = Model::new(&operations).unwrap();
        let mut set = Linearized::new(model.steps.len());
        let in_turn = |set: &Linearized| {
            let mut iter = set.in_turn(&model.steps);
            let steps: Vec<_> = iter.by_ref().map(|(index, _)| index).collect();
            (steps, iter.horizon(), iter.window_end())
        };
        assert_eq!(in_turn(&set), (vec![0, 1, 2], 3, 3));
        set.insert(1);
        assert_eq!(in_turn(&set), (vec![0, 2], 5, 3));
        assert_eq!(set.window(3), [0b10]);
        set.insert(2);
        set.insert(0);
        assert_eq!((set.first(), set.len(), in_turn(&set)), (3, 3, (vec![3], 9, 4)));
        set.remove(1);
        assert_eq!((set.first(), set.contains(1), set.contains(2), in_turn(&set)), (1, false, true, (vec![1], 3, 3)));
        set.insert(1);
        set.insert(3);
        assert_eq!(in_turn(&set), (vec![], u64::MAX, 4));
    }

    #[test]
    fn the_first_missing_step_is_found_across_words() {
        let mut set = Linearized::new(200);
        for step in (0..64).chain(65..150) {
            set.insert(step);
        }
        assert_eq!(set.first(), 64);
        assert_eq!(set.window(150).len(), 2);
        set.insert(64);
        assert_eq!((set.first(), set.len()), (150, 150));
    }
}
