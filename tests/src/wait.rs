//! Waiting for something, with a deadline and a reason.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Long enough for anything that should happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(10);

/// Checks a condition until it holds, and returns its result.
///
/// # Panics
/// With `what` and the last reason from `condition` when it did not hold within `deadline`.
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

/// Checks a condition repeatedly for the whole of `duration`: it must hold every time.
///
/// # Panics
/// With `what` and the reason from `condition` as soon as it does not hold.
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

/// A condition for [`eventually`] and [`throughout`]: `Err` with what was seen, evaluated only when it does not hold.
///
/// # Errors
/// The text of `seen` when `holds` is false.
pub fn ensure(holds: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen()) }
}
