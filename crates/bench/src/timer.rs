//! Wakes the generator when a request is due: to the microsecond, whereas waiting for sockets alone has only
//! millisecond resolution.

use std::time::{Duration, Instant};

use mio::{Registry, Token};

/// The token of the timer's events, which no connection has.
pub(crate) const TOKEN: Token = Token(usize::MAX);

/// One alarm at a time.
#[derive(Debug)]
pub(crate) struct Timer {
    #[cfg(target_os = "linux")]
    fd: nix::sys::timerfd::TimerFd,
    set: Option<Instant>,
}

#[cfg(target_os = "linux")]
impl Timer {
    pub(crate) fn new(registry: &Registry) -> std::io::Result<Self> {
        use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
        use std::os::fd::{AsFd as _, AsRawFd as _};

        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let source = fd.as_fd().as_raw_fd();
        registry.register(&mut mio::unix::SourceFd(&source), TOKEN, mio::Interest::READABLE)?;
        Ok(Self { fd, set: None })
    }

    /// Sets the alarm; returns the longest that the wait for sockets may take.
    pub(crate) fn wake_at(&mut self, when: Instant, now: Instant) -> std::io::Result<Duration> {
        use nix::sys::time::TimeSpec;
        use nix::sys::timerfd::{Expiration, TimerSetTimeFlags};

        let left = when.saturating_duration_since(now);
        if self.set != Some(when) && !left.is_zero() {
            self.fd.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
            self.set = Some(when);
        }
        // That wait is rounded up to milliseconds; it only matters if the alarm was missed.
        Ok(left)
    }
}

#[cfg(not(target_os = "linux"))]
impl Timer {
    pub(crate) fn new(_: &Registry) -> std::io::Result<Self> {
        Ok(Self { set: None })
    }

    /// Returns the longest that the wait for sockets may take.
    pub(crate) fn wake_at(&mut self, when: Instant, now: Instant) -> std::io::Result<Duration> {
        self.set = Some(when);
        Ok(when.saturating_duration_since(now))
    }
}
