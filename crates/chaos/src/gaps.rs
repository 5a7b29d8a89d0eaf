//! How long writes stalled when a node was hit.

use std::collections::{BTreeMap, BTreeSet};

use sim::history::{Action, Operation};

use crate::nemesis::NodeFault;

/// A gap belongs to a fault if it begins at most this long after it, in microseconds.
const BEGINS_WITHIN: u64 = 1_000_000;

/// The times for one kind of fault, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gaps {
    /// Per fault, the longest time between two answered writes of keys that the node led.
    pub(crate) still: Vec<u64>,
    /// Per fault, the longest time that an answered write of these keys took.
    pub(crate) slowest: Vec<u64>,
}

/// The gaps of all faults by name, with lone faults kept apart from those that coincided with other faults.
pub(crate) fn gaps(faults: &[NodeFault], history: &[Operation]) -> BTreeMap<(&'static str, bool), Gaps> {
    let mut writes: Vec<(u64, u64, &str)> = history
        .iter()
        .filter(|operation| !matches!(operation.action, Action::Get { .. }))
        .filter_map(|operation| Some((operation.end?, operation.call, operation.key.as_str())))
        .collect();
    writes.sort_unstable();
    let mut gaps: BTreeMap<_, Gaps> = BTreeMap::new();
    for fault in faults {
        let keys: BTreeSet<&str> = fault.keys.iter().map(String::as_str).collect();
        let of_keys: Vec<(u64, u64)> =
            writes.iter().filter(|(_, _, key)| keys.contains(key)).map(|&(end, call, _)| (end, call)).collect();
        let kind = gaps.entry((fault.what, fault.alone)).or_default();
        let pairs = of_keys.iter().zip(of_keys.iter().skip(1));
        let still = pairs.filter(|((end, _), (next, _))| *next > fault.at && *end <= fault.at + BEGINS_WITHIN);
        kind.still.extend(still.map(|((end, _), (next, _))| next - end).max());
        let met = of_keys.iter().filter(|(end, call)| *end > fault.at && *call <= fault.at + BEGINS_WITHIN);
        kind.slowest.extend(met.map(|(end, call)| end - call).max());
    }
    gaps
}

/// The value below which `percent` percent of the values lie; `None` if there are no values.
pub(crate) fn percentile(values: &[u64], percent: usize) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * percent).div_ceil(100)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, call: u64, end: Option<u64>) -> Operation {
        Operation { client: 1, key: key.into(), call, end, action: Action::Put { value: call.to_string() } }
    }

    #[test]
    fn the_gap_of_a_blow_is_that_of_the_keys_that_the_node_led() {
        let second = 1_000_000;
        let history = [
            put("led", 0, Some(1)),
            put("led", 5, None),
            put("other", 2 * second, Some(2 * second + 1)),
            put("led", 10, Some(3 * second)),
            put("led", 3 * second, Some(9 * second)),
        ];
        let fault = NodeFault { at: 5, what: "node killed", alone: true, keys: vec!["led".into()] };
        let gaps = gaps(&[fault], &history);
        let expected = Gaps { still: vec![3 * second - 1], slowest: vec![3 * second - 10] };
        assert_eq!(gaps[&("node killed", true)], expected);
    }

    #[test]
    fn percentiles_are_values_that_were_there() {
        let values: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(percentile(&values, 50), Some(51));
        assert_eq!(percentile(&values, 100), Some(100));
        assert_eq!((percentile(&[7], 99), percentile(&[], 50)), (Some(7), None));
    }
}
