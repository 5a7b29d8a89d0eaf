//! How much processor time other processes have used. On a busy machine it says more than the clock on the wall.

use std::fs;
use std::time::Duration;

/// The time that processes have run, all the threads together that they have now, to the nanosecond. `None` where the system does not
/// say (it is Linux that does), or there are no processes to ask for.
pub fn used(pids: &[u32]) -> Option<Duration> {
    if pids.is_empty() {
        return None;
    }
    let mut sum = Duration::ZERO;
    for pid in pids {
        for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
            let thread = thread.ok()?.path();
            let line = match fs::read_to_string(thread.join("schedstat")) {
                Ok(line) => line,
                // It has ended just now.
                Err(_) if !thread.exists() => continue,
                Err(_) => return None,
            };
            // The first number of the line is nanoseconds on a processor.
            sum += Duration::from_nanos(line.split(' ').next()?.parse().ok()?);
        }
    }
    Some(sum)
}
