//! Random numbers, uniform and Zipf-distributed.

use std::sync::Arc;

/// SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): good enough to scatter keys, and nearly free.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator; the same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any 64-bit number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // Lemire's reduction; its bias is below one in 2^32 for the key counts used here.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 to just below 1.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// YCSB's exponent.
const THETA: f64 = 0.99;

/// Ranks that follow Zipf's law with exponent 0.99, as YCSB draws them: 0 is the most frequent. The algorithm is that
/// of Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994).
#[derive(Debug)]
pub struct Zipfian {
    count: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// A distribution over `count` ranks. Takes time proportional to `count`: some 20 ms for a million.
    #[must_use]
    pub fn new(count: u64) -> Arc<Self> {
        let count = count.max(1);
        let zeta = |ranks: u64| -> f64 { (1..=ranks).map(|rank| (rank as f64).powf(-THETA)).sum() };
        let all = zeta(count);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / all);
        Arc::new(Self { count, zeta: all, eta })
    }

    /// Draws a rank below the count.
    pub fn next(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let scaled = unit * self.zeta;
        let rank = if scaled < 1.0 {
            0
        } else if scaled < 1.0 + 0.5_f64.powf(THETA) {
            1
        } else {
            (self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(1.0 / (1.0 - THETA))) as u64
        };
        rank.min(self.count - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_evenly_below_their_bound() {
        let mut random = Random::new(1);
        let mut seen = [0_u32; 10];
        for _ in 0..100_000 {
            seen[random.below(10) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (9_500..10_500).contains(count)), "{seen:?}");
        assert_eq!(random.below(0), 0);
        assert!((0..1_000).all(|_| (0.0..1.0).contains(&random.unit())));
    }

    #[test]
    fn ranks_follow_zipfs_law() {
        const RANKS: u64 = 1_000;
        const DRAWS: u32 = 400_000;
        let zipfian = Zipfian::new(RANKS);
        let mut random = Random::new(2);
        let mut seen = [0_u32; RANKS as usize];
        for _ in 0..DRAWS {
            seen[zipfian.next(&mut random) as usize] += 1;
        }
        let zeta: f64 = (1..=RANKS).map(|rank| (rank as f64).powf(-THETA)).sum();
        let share = |from: usize, to: usize| {
            let expected: f64 = (from..to).map(|rank| ((rank + 1) as f64).powf(-THETA) / zeta).sum();
            let drawn = f64::from(seen[from..to].iter().sum::<u32>()) / f64::from(DRAWS);
            (drawn, expected)
        };
        // The algorithm is exact for the first two ranks and approximate beyond them.
        for (from, to, tolerance) in [(0, 1, 0.02), (1, 2, 0.03), (2, 10, 0.12), (10, 100, 0.08), (100, 1_000, 0.08)] {
            let (drawn, expected) = share(from, to);
            assert!((drawn / expected - 1.0).abs() < tolerance, "{from}..{to}: {drawn} for {expected}");
        }
    }

    #[test]
    fn one_rank_is_always_drawn() {
        for count in [0, 1, 2] {
            let zipfian = Zipfian::new(count);
            assert!((0..1_000).all(|seed| zipfian.next(&mut Random::new(seed)) < count.max(1)));
        }
    }
}
