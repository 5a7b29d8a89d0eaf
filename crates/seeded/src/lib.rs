//! Random numbers from a seed: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
//! 2014). The same seed gives the same numbers everywhere. Good enough to choose keys and faults, not for secrets.

/// The distance between two states: 2^64 divided by the golden ratio.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number that belongs to a state.
#[must_use]
pub fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A source of random numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A source with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent source, so that drawing from it does not disturb the others.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    /// 64 random bits.
    #[expect(clippy::should_implement_trait, reason = "it has no end, and nobody iterates over it")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below a bound; 0 if the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Lemire's reduction; its bias is below one in 2^32 for bounds below 2^32.
        let wide = u128::from(self.next()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// An index below a length; 0 if the length is 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// One of the items; `None` if there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.index(items.len()))
    }

    /// Puts the items into a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (2..=items.len()).rev() {
            items.swap(end - 1, self.index(end));
        }
    }

    /// One of the numbers; 0 if there are none.
    pub fn one_of(&mut self, numbers: &[u64]) -> u64 {
        self.pick(numbers).copied().unwrap_or_default()
    }

    /// A number between two bounds, both inclusive.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// A number between two bounds, each order of magnitude equally likely.
    pub fn spread(&mut self, low: u64, high: u64) -> u64 {
        let octaves = u64::from((high.max(1) / low.max(1)).max(1).ilog2());
        let floor = low << self.below(octaves + 1);
        self.between(floor, floor * 2).min(high)
    }

    /// A number from 0 to just below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns `true` with a probability of `per_mille` in a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_paper() {
        // From the reference implementation of SplitMix64 (Vigna), seed 1234567.
        let mut random = Random::new(1_234_567);
        let drawn: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn numbers_are_spread_evenly_below_their_bound() {
        let mut random = Random::new(1);
        let mut seen = [0_u32; 10];
        for _ in 0..100_000 {
            seen[random.index(10)] += 1;
        }
        assert!(seen.iter().all(|count| (9_500..10_500).contains(count)), "{seen:?}");
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&random.unit())));
    }

    #[test]
    fn choices_keep_their_bounds() {
        let mut random = Random::new(1);
        for _ in 0..1_000 {
            assert!((3..=5).contains(&random.between(3, 5)));
            assert!((3..=50).contains(&random.spread(3, 50)));
            assert!(!random.chance(0) && random.chance(1_000));
            assert!([7, 9].contains(&random.one_of(&[7, 9])));
        }
        assert_eq!((random.below(0), random.index(0), random.one_of(&[]), random.pick::<u8>(&[])), (0, 0, 0, None));
    }
}
