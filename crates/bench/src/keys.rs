//! Maps numbers to keys and their values; decides which numbers a server has and in which order they are requested.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use seeded::Random;

use crate::zipfian::Zipfian;

/// What every key begins with.
pub const PREFIX: &[u8] = b"bench:";

/// The number of digits of the highest possible number.
const DIGITS_MOST: usize = 10;

/// How many neighbors in a shuffled list are drawn one after the other. They lie in one cache line.
const RUN: u32 = 16;

/// How many of its own inserts a connection remembers, so as to request the latest.
const INSERTS_KEPT: usize = 100_000;

/// The sizes of keys and values, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Of a key: at least [`Sizes::KEY_LEAST`].
    pub key: usize,
    /// Of a value.
    pub value: usize,
}

impl Sizes {
    /// The shortest key.
    pub const KEY_LEAST: usize = PREFIX.len() + 1;

    /// How many keys of this length there are, capped at the most that are ever used.
    #[must_use]
    pub fn keys(self) -> u64 {
        let digits = self.key.saturating_sub(PREFIX.len()).min(DIGITS_MOST);
        10_u64.pow(digits as u32).min(u64::from(u32::MAX))
    }

    /// The key with a number below [`Sizes::keys`].
    #[must_use]
    pub fn make_key(self, number: u32) -> Vec<u8> {
        let mut key = PREFIX.to_vec();
        key.resize(self.key, b'0');
        write_number(number, &mut key);
        key
    }

    /// The value that belongs to a key. It begins with the key if it is long enough. Like most values it does not end
    /// in a digit: one that does costs a node an extra check when sent as a line.
    #[must_use]
    pub fn make_value(self, key: &[u8]) -> Vec<u8> {
        let mut value = vec![b'v'; self.value];
        if key.len() < value.len() {
            value.iter_mut().zip(key).for_each(|(place, byte)| *place = *byte);
        }
        value
    }
}

/// Writes a number into the end of a key.
pub(crate) fn write_number(mut number: u32, key: &mut [u8]) {
    let digits = key.len().saturating_sub(PREFIX.len()).min(DIGITS_MOST);
    for digit in key.iter_mut().rev().take(digits) {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// The numbers of the keys on a server.
#[derive(Debug, Clone)]
pub enum Numbers {
    /// A whole range.
    Range(Range<u32>),
    /// An explicit list.
    List(List),
}

/// Explicit numbers in two orders.
#[derive(Debug, Clone)]
pub struct List {
    ascending: Arc<[u32]>,
    shuffled: Arc<[u32]>,
}

impl Numbers {
    /// These, which ascend.
    #[must_use]
    pub fn list(ascending: Vec<u32>) -> Self {
        let mut shuffled = ascending.clone();
        Random::new(1).shuffle(&mut shuffled);
        Self::List(List { ascending: ascending.into(), shuffled: shuffled.into() })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        match self {
            Self::Range(range) => range.end.saturating_sub(range.start),
            Self::List(list) => list.ascending.len() as u32,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn get(&self, at: u32) -> u32 {
        match self {
            Self::Range(range) => range.start + at,
            Self::List(list) => list.ascending.get(at as usize).copied().unwrap_or_default(),
        }
    }
}

/// Which of a server's keys is requested next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Every key equally often.
    Uniform,
    /// A few keys often and most rarely; the frequent ones are scattered among all.
    Zipfian,
    /// As `Zipfian`, with the most recently inserted keys the most frequent.
    Latest,
}

/// Draws keys for one connection.
#[derive(Debug)]
pub(crate) struct Draw {
    numbers: Numbers,
    distribution: Distribution,
    zipfian: Option<Arc<Zipfian>>,
    /// Coprime to the count of numbers, so that its multiples reach every number.
    step: u64,
    inserted: VecDeque<u32>,
    /// The places in a shuffled list that are drawn next.
    run: Range<u32>,
}

impl Draw {
    /// If the distribution needs `zipfian`, it must have as many ranks as there are numbers.
    pub(crate) fn new(numbers: Numbers, distribution: Distribution, zipfian: Option<Arc<Zipfian>>) -> Self {
        let count = u64::from(numbers.len().max(1));
        // Steps of the golden ratio scatter neighbors.
        let mut step = (count * 618 / 1_000).max(1);
        while greatest_common_divisor(step, count) != 1 {
            step += 1;
        }
        Self { numbers, distribution, zipfian, step, inserted: VecDeque::new(), run: 0..0 }
    }

    /// The key at an index in order.
    pub(crate) fn at(&self, place: u32) -> u32 {
        self.numbers.get(place)
    }

    /// Draws an existing key.
    pub(crate) fn next(&mut self, random: &mut Random) -> u32 {
        if self.distribution == Distribution::Uniform
            && let Numbers::List(list) = &self.numbers
        {
            return next_of_list(list, &mut self.run, random);
        }
        let count = u64::from(self.numbers.len());
        let rank = match &self.zipfian {
            Some(zipfian) => zipfian.next(random),
            None => random.below(count),
        };
        match self.distribution {
            Distribution::Uniform => self.numbers.get(rank as u32),
            Distribution::Zipfian => self.numbers.get((rank * self.step % count) as u32),
            Distribution::Latest => match self.inserted.get(rank as usize) {
                Some(inserted) => *inserted,
                None => self.numbers.get((count - 1).saturating_sub(rank - self.inserted.len() as u64) as u32),
            },
        }
    }

    /// Notes that a key was inserted.
    pub(crate) fn insert(&mut self, number: u32) {
        if self.distribution == Distribution::Latest {
            self.inserted.truncate(INSERTS_KEPT - 1);
            self.inserted.push_front(number);
        }
    }
}

/// Draws uniformly from a list, where `run` is what is left of the places chosen last. A long list is not in the cache, so
/// each draw alone would cost a cache miss that a range of numbers does not.
fn next_of_list(list: &List, run: &mut Range<u32>, random: &mut Random) -> u32 {
    let place = run.next().unwrap_or_else(|| {
        let count = list.shuffled.len() as u32;
        let start = random.below(count.div_ceil(RUN).into()) as u32 * RUN;
        *run = start + 1..count.min(start + RUN);
        start
    });
    list.shuffled.get(place as usize).copied().unwrap_or_default()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(distribution: Distribution, count: u32) -> Draw {
        let zipfian = (distribution != Distribution::Uniform).then(|| Zipfian::new(count.into()));
        Draw::new(Numbers::Range(0..count), distribution, zipfian)
    }

    fn counts(draw: &mut Draw, count: u32) -> Vec<u32> {
        let mut random = Random::new(7);
        let mut seen = vec![0; count as usize];
        (0..200_000).for_each(|_| seen[draw.next(&mut random) as usize] += 1);
        seen
    }

    #[test]
    fn a_key_ends_in_its_number_and_a_value_begins_with_its_key() {
        let sizes = Sizes { key: 16, value: 20 };
        let key = sizes.make_key(4_000_012_345);
        assert_eq!(key, b"bench:4000012345");
        assert_eq!(sizes.make_value(&key), b"bench:4000012345vvvv");
        assert_eq!(Sizes { key: 16, value: 16 }.make_value(&key), [b'v'; 16]);
        assert_eq!(Sizes { key: 16, value: 0 }.make_value(&key), b"");
        assert_eq!(Sizes { key: 8, value: 0 }.make_key(42), b"bench:42");
        assert_eq!([7, 8, 20].map(|key| Sizes { key, value: 0 }.keys()), [10, 100, u32::MAX.into()]);
    }

    #[test]
    fn uniform_keys_all_come_alike() {
        let seen = counts(&mut draw(Distribution::Uniform, 100), 100);
        assert!(seen.iter().all(|count| (1_700..2_300).contains(count)), "{seen:?}");
    }

    #[test]
    fn zipfian_keys_are_few_and_scattered() {
        let seen = counts(&mut draw(Distribution::Zipfian, 1_000), 1_000);
        let mut order: Vec<usize> = (0..1_000).collect();
        order.sort_by_key(|at| std::cmp::Reverse(seen[*at]));
        let hot: u32 = order[..100].iter().map(|at| seen[*at]).sum();
        assert!((120_000..150_000).contains(&hot), "a tenth of the keys gets {hot} of 200000");
        assert!(order[0].abs_diff(order[1]) > 100, "{:?}", &order[..10]);
        assert!(seen.iter().filter(|count| **count > 0).count() > 950);
    }

    #[test]
    fn the_latest_inserts_come_most_often() {
        let mut draw = draw(Distribution::Latest, 1_000);
        let before = counts(&mut draw, 1_000);
        assert_eq!(before.iter().max(), before.last());
        (0..50).for_each(|number| draw.insert(number));
        let after = counts(&mut draw, 1_000);
        assert_eq!(after.iter().max(), after.get(49));
    }

    #[test]
    fn a_list_gives_only_its_own() {
        let numbers = Numbers::list(vec![3, 5, 8]);
        let mut draw = Draw::new(numbers, Distribution::Zipfian, Some(Zipfian::new(3)));
        let mut random = Random::new(3);
        let mut seen: Vec<u32> = (0..1_000).map(|_| draw.next(&mut random)).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [3, 5, 8]);
    }

    #[test]
    fn each_key_of_a_list_is_drawn_equally_often() {
        let list = Numbers::list((1..=100).collect());
        let mut draw = Draw::new(list, Distribution::Uniform, None);
        let (mut random, mut seen) = (Random::new(5), [0; 101]);
        (0..1_000_000).for_each(|_| seen[draw.next(&mut random) as usize] += 1);
        assert_eq!(seen[0], 0);
        let drawn = seen.iter().skip(1);
        assert!(drawn.clone().all(|times| (9_200..10_800).contains(times)), "{:?}", drawn.collect::<Vec<_>>());
    }
}
