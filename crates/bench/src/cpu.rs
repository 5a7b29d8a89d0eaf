//! Processor time used by other processes. On a busy machine it says more than wall-clock time.

use std::fs;
use std::time::Duration;

/// The time that processes have run, summed over all their current threads, in nanoseconds. `None` if the system does
/// not report it (only Linux does), or there are no processes to ask about.
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
                // The thread has just ended.
                Err(_) if !thread.exists() => continue,
                Err(_) => return None,
            };
            // The first number on the line is nanoseconds on a processor.
            sum += Duration::from_nanos(line.split(' ').next()?.parse().ok()?);
        }
    }
    Some(sum)
}
