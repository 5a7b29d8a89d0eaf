//! Each disk call fails once, in a run that covers everything.

use storage::bugs::NoBugs;
use storage::disk::sim::Fault;

use crate::model::{Model, Step};

/// Rotations, large payloads, snapshots, removals, a restart, a clean stop.
fn everything() -> Vec<Step> {
    let append = |count, size| Step::Append { count, size };
    vec![
        append(3, 600),
        Step::Sync,
        append(4, 600),
        append(2, 900),
        Step::SyncFurther,
        append(1, 6_000),
        Step::SyncFurther,
        append(3, 600),
        Step::SyncFurther,
        Step::Snapshot { meanwhile: 2, keep: 1 },
        append(4, 900),
        Step::Kill,
        append(4, 900),
        Step::Snapshot { meanwhile: 0, keep: 2 },
        append(2, 8),
        Step::Stop,
        append(2, 8),
        Step::Sync,
    ]
}

#[test]
fn a_fault_at_any_call_loses_nothing_that_was_synced() {
    let steps = everything();
    let calls = Model::calls(&steps, NoBugs);
    assert!(calls > 150, "a run of {calls} calls has not everything in it");
    for fault in [Fault::Io, Fault::NoSpace, Fault::Short] {
        for call in 0..calls {
            // A restart clears faults, so the fault is injected again before every step.
            let mut struck = 0;
            for start in 0..steps.len() {
                let mut faulty = steps.clone();
                faulty.insert(start, Step::Fault { calls: call, fault });
                if let Err(wrong) = Model::play(call, &faulty, NoBugs) {
                    panic!("{fault:?} at call {call} from step {start} on: {wrong}");
                }
                struck += 1;
                if call > 60 && struck > 3 {
                    break;
                }
            }
        }
    }
}

#[test]
fn the_power_is_cut_at_any_call_of_a_start() {
    for seed in 0..20 {
        for call in 0..60 {
            let mut steps = everything();
            steps.push(Step::Append { count: 6, size: 600 });
            steps.push(Step::CrashTwice(call));
            steps.push(Step::Append { count: 2, size: 600 });
            if let Err(wrong) = Model::play(seed, &steps, NoBugs) {
                panic!("seed {seed}, call {call}: {wrong}");
            }
        }
    }
}
