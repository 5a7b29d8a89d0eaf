//! A queue that stores its first entries inline.
//!
//! Most of the time a slot has one or two records that are not known to be durable, and as many waiters for them.
//! Accessing these causes no further cache miss and no allocation.

use std::collections::VecDeque;

/// A queue whose two oldest entries are stored inline.
#[derive(Debug)]
pub(crate) struct NearQueue<T> {
    /// The oldest entries, filled from the first place on.
    near: [Option<T>; 2],
    /// The others, if there are any: then both inline places are taken. It is released with the last of them, since
    /// finding it empty each time would cost a cache miss.
    #[expect(clippy::box_collection, reason = "most queues never have any, and should be small")]
    far: Option<Box<VecDeque<T>>>,
}

impl<T> Default for NearQueue<T> {
    fn default() -> Self {
        Self { near: [None, None], far: None }
    }
}

impl<T> NearQueue<T> {
    /// The oldest entry.
    pub(crate) fn front(&self) -> Option<&T> {
        let [first, _] = &self.near;
        first.as_ref()
    }

    /// The newest entry.
    fn back(&self) -> Option<&T> {
        self.far.as_ref().and_then(|far| far.back()).or_else(|| self.near.iter().rev().flatten().next())
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.near.iter().flatten().count() + self.far.as_ref().map_or(0, |far| far.len())
    }

    /// All entries, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.near.iter().flatten().chain(self.far.iter().flat_map(|far| far.iter()))
    }

    /// The entries from the first on that does not come before, oldest first. Looks at few of those before it; they must
    /// be the oldest ones.
    pub(crate) fn iter_mut_from(&mut self, comes_before: impl Fn(&T) -> bool) -> impl Iterator<Item = &mut T> {
        let at = self.far.as_ref().map_or(0, |far| far.partition_point(&comes_before));
        let near = self.near.iter_mut().flatten().filter(move |item| !comes_before(item));
        near.chain(self.far.iter_mut().flat_map(move |far| far.range_mut(at..)))
    }

    pub(crate) fn push_back(&mut self, item: T) {
        match self.near.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(item),
            None => self.far.get_or_insert_default().push_back(item),
        }
    }

    /// Inserts an item behind the entries that come before it; those must be the oldest ones.
    pub(crate) fn insert_behind(&mut self, comes_before: impl Fn(&T) -> bool, item: T) {
        if self.back().is_none_or(&comes_before) {
            return self.push_back(item);
        }
        let [first, second] = &mut self.near;
        let moved = if !first.as_ref().is_some_and(&comes_before) {
            std::mem::replace(second, first.replace(item))
        } else if !second.as_ref().is_some_and(&comes_before) {
            second.replace(item)
        } else {
            let far = self.far.get_or_insert_default();
            return far.insert(far.partition_point(comes_before), item);
        };
        if let Some(moved) = moved {
            self.far.get_or_insert_default().push_front(moved);
        }
    }

    /// Pops the oldest entry if the predicate accepts it.
    pub(crate) fn pop_front_if(&mut self, is_wanted: impl FnOnce(&mut T) -> bool) -> Option<T> {
        let [first, second] = &mut self.near;
        let popped = first.take_if(is_wanted)?;
        *first = second.take();
        *second = self.far.as_mut().and_then(|far| far.pop_front());
        self.release_if_empty();
        Some(popped)
    }

    /// Pops the newest entry if the predicate accepts it.
    pub(crate) fn pop_back_if(&mut self, is_wanted: impl FnOnce(&mut T) -> bool) -> Option<T> {
        if let Some(far) = &mut self.far {
            let popped = far.pop_back_if(is_wanted);
            self.release_if_empty();
            return popped;
        }
        let newest = self.near.iter_mut().rev().find(|place| place.is_some())?;
        newest.take_if(is_wanted)
    }

    fn release_if_empty(&mut self) {
        self.far.take_if(|far| far.is_empty());
    }
}

impl<T> FromIterator<T> for NearQueue<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut queue = Self::default();
        items.into_iter().for_each(|item| queue.push_back(item));
        queue
    }
}

impl<T> IntoIterator for NearQueue<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<
        std::iter::Flatten<std::array::IntoIter<Option<T>, 2>>,
        std::collections::vec_deque::IntoIter<T>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.near.into_iter().flatten().chain(self.far.map(|far| *far).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn it_holds_what_a_plain_queue_holds() {
        // A linear congruential generator (Knuth, MMIX) is random enough here.
        let mut state = 3_u64;
        let (mut queue, mut model) = (NearQueue::default(), VecDeque::new());
        for number in 1_u64..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let is_wanted = !(state >> 40).is_multiple_of(4);
            // Mostly many entries, and at times about as many as are stored inline.
            let must_shrink = number % 1_024 < 512 && model.len() > 4;
            match if must_shrink { (state >> 33) % 3 } else { (state >> 33) % 6 } {
                0 => assert_eq!(queue.pop_back_if(|_| is_wanted), model.pop_back_if(|_| is_wanted)),
                1 | 2 if must_shrink || number % 512 < 448 => {
                    assert_eq!(queue.pop_front_if(|_| is_wanted), model.pop_front_if(|_| is_wanted));
                }
                3 => {
                    // A place within the sorted entries.
                    let item = model.front().copied().unwrap_or(number) + (state >> 50) % 8;
                    queue.insert_behind(|before| *before <= item, item);
                    model.insert(model.partition_point(|before| *before <= item), item);
                }
                _ => {
                    let item = model.back().copied().unwrap_or(0).max(number);
                    queue.push_back(item);
                    model.push_back(item);
                }
            }
            assert_eq!(queue.front(), model.front());
            assert!(queue.iter().eq(&model));
            assert_eq!(queue.far.is_some(), model.len() > 2, "{} entries", model.len());
            let from = model.front().copied().unwrap_or(number) + (state >> 50) % 8;
            let expected = model.iter_mut().filter(|item| **item >= from);
            assert!(queue.iter_mut_from(|item| *item < from).eq(expected));
        }
        assert!(queue.into_iter().eq(model));
    }

    #[test]
    fn few_entries_are_looked_at_on_the_way_to_one() {
        let mut queue: NearQueue<u32> = (0..100_000).collect();
        for from in [0, 1, 2, 50_000, 99_999] {
            let looked_at = Cell::new(0);
            let first = queue.iter_mut_from(|item| {
                looked_at.set(looked_at.get() + 1);
                *item < from
            });
            assert_eq!(first.take(1).next(), Some(&mut from.clone()));
            assert!(looked_at.get() < 30, "{} for {from}", looked_at.get());
        }
    }
}
