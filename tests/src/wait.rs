//! Waiting for something, with a deadline and a reason.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for anything that should happen at once, on a machine that is busy with something else.
pub const SOON: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Looks at a condition until it holds, and gives what it found.
///
/// # Panics
/// With `what` and the last reason of `condition` when it did not hold within `deadline`.
#[track_caller]
pub fn eventually<T, E: Display>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(found) => return found,
            Err(reason) if start.elapsed() > deadline => {
                panic!("{what}: not within {deadline:?}. Last seen: {reason}")
            }
            Err(_) => sleep(POLL),
        }
    }
}

/// Looks at a condition again and again for the whole of `duration`: it must hold every time.
///
/// # Panics
/// With `what` and the reason of `condition` as soon as it does not hold.
#[track_caller]
pub fn throughout<E: Display>(what: &str, duration: Duration, mut condition: impl FnMut() -> Result<(), E>) {
    let start = Instant::now();
    while start.elapsed() < duration {
        if let Err(reason) = condition() {
            panic!("{what}: no longer so after {:?}: {reason}", start.elapsed());
        }
        sleep(POLL);
    }
}

/// A condition for [`eventually`] and [`throughout`]: `Err` with what was seen, made only when it does not hold.
///
/// # Errors
/// The text of `seen` when `holds` is false.
pub fn ensure(holds: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen()) }
}
