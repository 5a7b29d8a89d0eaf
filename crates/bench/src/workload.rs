//! The kinds of operations, and how often each comes.

use std::fmt;
use std::str::FromStr;

use seeded::Random;

use crate::keys::Distribution;
/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Reads an existing key.
    Get,
    /// Overwrites an existing key.
    Put,
    /// Writes a key that does not exist yet.
    Insert,
    /// Lists up to 100 keys in order, starting from an existing key.
    Scan,
    /// Reads a key and overwrites it once its value has arrived. Counts as one operation.
    Modify,
}

impl Action {
    /// All kinds, in the order of the tables.
    pub const ALL: [Self; 5] = [Self::Get, Self::Put, Self::Insert, Self::Scan, Self::Modify];

    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Insert => "insert",
            Self::Scan => "scan",
            Self::Modify => "modify",
        }
    }

    /// Its index in [`Action::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// How often each kind of operation comes, and on which keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mix {
    /// Percentages, in the order of [`Action::ALL`].
    shares: [u8; Action::ALL.len()],
    /// The default distribution of keys.
    pub distribution: Distribution,
}

impl Mix {
    /// A single kind of operation.
    #[must_use]
    pub fn only(action: Action) -> Self {
        let mut shares = [0; Action::ALL.len()];
        if let Some(share) = shares.get_mut(action.index()) {
            *share = 100;
        }
        Self { shares, distribution: Distribution::Uniform }
    }

    /// `of_hundred` percent are GET, the others PUT.
    ///
    /// # Panics
    /// If `of_hundred` is more than a hundred.
    #[must_use]
    pub fn gets(of_hundred: u8) -> Self {
        assert!(of_hundred <= 100, "{of_hundred} of a hundred");
        Self { shares: [of_hundred, 100 - of_hundred, 0, 0, 0], distribution: Distribution::Uniform }
    }

    /// Whether a kind ever comes up.
    #[must_use]
    pub fn has(&self, action: Action) -> bool {
        self.shares.get(action.index()).is_some_and(|share| *share > 0)
    }

    /// The kind of the next operation.
    pub(crate) fn next(&self, random: &mut Random) -> Action {
        if self.shares.contains(&100) {
            return Action::ALL.into_iter().find(|action| self.has(*action)).unwrap_or(Action::Get);
        }
        let mut drawn = random.below(100) as u8;
        for (action, share) in Action::ALL.into_iter().zip(self.shares) {
            if drawn < share {
                return action;
            }
            drawn -= share;
        }
        Action::Get
    }
}

/// A named mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// GET alone.
    Get,
    /// PUT alone.
    Put,
    /// GET and PUT, in a ratio given separately.
    Mixed,
    /// A to F of YCSB (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010).
    Ycsb(char),
}

impl Workload {
    /// All names.
    pub const NAMES: [&'static str; 9] = ["get", "put", "mixed", "a", "b", "c", "d", "e", "f"];

    /// The mix. `gets` is the percentage of GETs, which only [`Workload::Mixed`] uses.
    #[must_use]
    pub fn mix(self, gets: u8) -> Mix {
        let ycsb = |shares, distribution| Mix { shares, distribution };
        match self {
            Self::Get => Mix::only(Action::Get),
            Self::Put => Mix::only(Action::Put),
            Self::Mixed => Mix::gets(gets),
            Self::Ycsb('a') => ycsb([50, 50, 0, 0, 0], Distribution::Zipfian),
            Self::Ycsb('b') => ycsb([95, 5, 0, 0, 0], Distribution::Zipfian),
            Self::Ycsb('d') => ycsb([95, 0, 5, 0, 0], Distribution::Latest),
            Self::Ycsb('e') => ycsb([0, 0, 5, 95, 0], Distribution::Zipfian),
            Self::Ycsb('f') => ycsb([50, 0, 0, 0, 50], Distribution::Zipfian),
            Self::Ycsb(_) => ycsb([100, 0, 0, 0, 0], Distribution::Zipfian),
        }
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.to_ascii_lowercase();
        match name.strip_prefix("ycsb-").unwrap_or(&name) {
            "get" => Ok(Self::Get),
            "put" => Ok(Self::Put),
            "mixed" => Ok(Self::Mixed),
            letter if letter.len() == 1 && ("a"..="f").contains(&letter) => {
                Ok(Self::Ycsb(letter.chars().next().unwrap_or('a')))
            }
            _ => Err(format!("expected one of {}; a to f are those of YCSB", Self::NAMES.join(", "))),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get => f.write_str("get"),
            Self::Put => f.write_str("put"),
            Self::Mixed => f.write_str("mixed"),
            Self::Ycsb(letter) => write!(f, "ycsb-{letter}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_any_case_and_come_back() {
        for name in Workload::NAMES {
            let workload: Workload = name.to_uppercase().parse().unwrap();
            assert_eq!(workload.to_string().parse(), Ok(workload));
        }
        for wrong in ["", "g", "ycsb-", "ycsb-g", "gets"] {
            assert!(wrong.parse::<Workload>().unwrap_err().contains("get, put, mixed, a, b"), "{wrong}");
        }
    }

    #[test]
    fn each_kind_comes_as_often_as_its_share() {
        for (name, gets, shares) in [
            ("get", 50, [100, 0, 0, 0, 0]),
            ("put", 50, [0, 100, 0, 0, 0]),
            ("mixed", 80, [80, 20, 0, 0, 0]),
            ("a", 80, [50, 50, 0, 0, 0]),
            ("b", 50, [95, 5, 0, 0, 0]),
            ("c", 50, [100, 0, 0, 0, 0]),
            ("d", 50, [95, 0, 5, 0, 0]),
            ("e", 50, [0, 0, 5, 95, 0]),
            ("f", 50, [50, 0, 0, 0, 50]),
        ] {
            let mix = name.parse::<Workload>().unwrap().mix(gets);
            let mut random = Random::new(1);
            let mut seen = [0_i32; Action::ALL.len()];
            (0..100_000).for_each(|_| seen[mix.next(&mut random).index()] += 1);
            for (action, (count, share)) in Action::ALL.into_iter().zip(seen.into_iter().zip(shares)) {
                assert!((count - share * 1_000).abs() < 600, "{name}, {}: {count}", action.name());
                assert_eq!(mix.has(action), share > 0);
            }
        }
    }
}
