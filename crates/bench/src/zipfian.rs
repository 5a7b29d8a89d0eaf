//! Ranks drawn by Zipf's law.

use std::sync::Arc;

use seeded::Random;

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
