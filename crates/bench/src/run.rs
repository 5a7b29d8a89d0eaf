//! A run: all connections on one thread.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mio::{Events, Interest, Poll, Token};

use crate::connection::{Connection, Pace};
use crate::cpu;
use crate::keys::Distribution;
use crate::load::{Load, Until};
use crate::outcome::{CutShort, Interval, Outcome, Recorder, Why};
use crate::target::Target;
use crate::timer::Timer;
use crate::zipfian::Zipfian;

/// An answer that takes longer than this ends the run.
const ANSWER: Duration = Duration::from_secs(10);

/// Roughly how many bytes of values are in flight per connection while keys are stored before the measurement.
const FILL_BYTES: usize = 16 * 1024;

/// How soon a run notices that it was interrupted.
const NOTICE: Duration = Duration::from_millis(100);

/// The run could not begin, and nothing was sent: a server cannot be reached, or refuses what each connection asks for
/// first.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the connections")]
pub struct NotBegun;

/// Ends a run: set it from another thread or task, and the run returns within a tenth of a second.
pub type Interrupt = AtomicBool;

/// Stores every key at the server that leads it.
///
/// # Errors
/// As [`run`] with [`Load::strict`]; some keys may be stored.
pub fn fill(
    target: &Target,
    load: &Load,
    interrupt: Option<&Interrupt>,
    observe: &mut dyn FnMut(Interval<'_>),
) -> anyhow::Result<Outcome> {
    let load = Load {
        connections: target.servers.len(),
        pipeline: (FILL_BYTES / load.sizes.value.max(1)).clamp(1, 128),
        until: Until::AllKeys,
        warm_up: Duration::ZERO,
        rate: None,
        strict: true,
        distribution: Distribution::Uniform,
        ..load.clone()
    };
    run(target, &load, Duration::from_secs(1), interrupt, observe)
}

/// Puts load on a target until it is time to stop. Reports the measurements of each interval when it ends; never with
/// an interval of [`Duration::MAX`].
///
/// A run is cut short if it is interrupted, if a connection breaks, or if an answer is missing for ten seconds or does
/// not match its request. What was measured until then is returned, with the reason in [`Outcome::cut_short`].
///
/// # Errors
/// If the connections cannot be opened, which is a [`NotBegun`]; with [`Load::strict`], also if the run is cut short or
/// an answer is wrong.
pub fn run(
    target: &Target,
    load: &Load,
    interval: Duration,
    interrupt: Option<&Interrupt>,
    observe: &mut dyn FnMut(Interval<'_>),
) -> anyhow::Result<Outcome> {
    let poll = Poll::new().context("cannot wait for sockets")?;
    let connections = open(target, load, &poll).context(NotBegun)?;
    let timer = load.rate.map(|_| Timer::new(poll.registry())).transpose().context("cannot make a timer")?;

    let (server_cpu, own_cpu) = (cpu::used(&target.pids), cpu::used(&[std::process::id()]));
    let begin = Instant::now();
    let start = begin + load.warm_up;
    let stop = match load.until {
        Until::Elapsed(time) => Some(start + time),
        Until::AllKeys | Until::Operations(_) => None,
    };
    let schedule = load.rate.zip(timer).map(|(rate, timer)| Schedule { begin, rate, next: 0, timer });
    let mut run = Run { poll, connections, schedule, recorder: Recorder::new(start, stop), begin, stop, interrupt };
    let failed = run.drive(interval, observe).err();
    if load.strict
        && let Some(error) = failed
    {
        return Err(error);
    }
    let ended = Instant::now();
    let cut_short = failed.map(|error| CutShort {
        at: ended,
        why: if error.is::<Interrupted>() { Why::Interrupted } else { Why::Failed(format!("{error:#}")) },
        unanswered: run.connections.iter().map(Connection::unanswered).sum(),
    });
    let until = stop.map(|stop| if cut_short.is_some() { stop.min(ended) } else { stop });
    let unsent =
        until.map_or(0, |until| run.connections.iter().map(|connection| connection.unsent(start, until)).sum());
    let since = |pids: &[u32], before: Option<Duration>| Some(cpu::used(pids)?.saturating_sub(before?));
    let used = [since(&target.pids, server_cpu), since(&[std::process::id()], own_cpu)];
    Ok(run.recorder.outcome(unsent, used, cut_short))
}

/// The run was told to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
struct Interrupted;

/// A run in progress.
struct Run<'a> {
    poll: Poll,
    connections: Vec<Connection<'a>>,
    schedule: Option<Schedule>,
    recorder: Recorder,
    begin: Instant,
    /// `None` means no end.
    stop: Option<Instant>,
    interrupt: Option<&'a Interrupt>,
}

impl Run<'_> {
    /// Sends and receives until all connections are done.
    fn drive(&mut self, interval: Duration, observe: &mut dyn FnMut(Interval<'_>)) -> anyhow::Result<()> {
        let count = self.connections.len() as u64;
        for (at, connection) in self.connections.iter_mut().enumerate() {
            if let Some(schedule) = &self.schedule {
                let (due, step) = (schedule.due(at as u64), schedule.due(count) - self.begin);
                connection.set_pace(Pace::Open { due, step });
            }
            connection.pump(&self.recorder, self.begin)?;
        }
        let mut beat = Beat { from: self.begin, every: interval };
        let mut events = Events::with_capacity(self.connections.len() + 1);
        let (mut looked, mut ended) = (self.begin, false);
        let mut open = self.open();
        while open > 0 {
            if self.interrupt.is_some_and(|interrupt| interrupt.load(Ordering::Relaxed)) {
                return Err(Interrupted.into());
            }
            let wait = self.wait(&beat)?;
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot wait for sockets"),
            }
            for event in &events {
                let Some(connection) = self.connections.get_mut(event.token().0) else { continue };
                let was_done = connection.is_done;
                connection.ready(&mut self.recorder)?;
                open -= usize::from(connection.is_done && !was_done);
            }
            let now = Instant::now();
            if self.recorder.is_over(now) && !ended {
                // Connections with nothing in flight, which no event will end.
                ended = true;
                self.connections.iter_mut().try_for_each(|connection| connection.pump(&self.recorder, now))?;
                open = self.open();
            }
            if now >= looked + NOTICE {
                looked = now;
                let is_late =
                    |connection: &Connection<'_>| connection.waits_since().is_some_and(|at| now >= at + ANSWER);
                anyhow::ensure!(!self.connections.iter().any(is_late), "no answer within {ANSWER:?}");
            }
            beat.tell(&mut self.recorder, now, observe);
        }
        Ok(())
    }

    /// How many connections are not done.
    fn open(&self) -> usize {
        self.connections.iter().filter(|connection| !connection.is_done).count()
    }

    /// Sends what is due, and returns how long to wait for sockets.
    fn wait(&mut self, beat: &Beat) -> anyhow::Result<Duration> {
        let now = Instant::now();
        let mut wait = beat.left(now).min(ANSWER);
        if let Some(schedule) = self.schedule.as_mut().filter(|_| !self.recorder.is_over(now)) {
            wait = wait.min(schedule.send_due(&mut self.connections, &self.recorder, now)?);
        }
        if let Some(stop) = self.stop.filter(|stop| now < *stop) {
            wait = wait.min(stop - now);
        }
        Ok(if self.interrupt.is_some() { wait.min(NOTICE) } else { wait })
    }
}

/// Opens the connections of a load, spread evenly over the servers.
fn open<'a>(target: &'a Target, load: &'a Load, poll: &Poll) -> anyhow::Result<Vec<Connection<'a>>> {
    let mut ranks: HashMap<u32, Arc<Zipfian>> = HashMap::new();
    let mut connections = Vec::new();
    for at in 0..load.connections {
        let server = target.servers.get(at % target.servers.len().max(1)).context("there is no server")?;
        let zipfian = (load.distribution != Distribution::Uniform).then(|| {
            let count = server.numbers.len();
            Arc::clone(ranks.entry(count).or_insert_with(|| Zipfian::new(count.into())))
        });
        let mut connection = Connection::open(target, server, load, at, zipfian)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut connection.stream, Token(at), interest).context("cannot wait for a socket")?;
        connections.push(connection);
    }
    Ok(connections)
}

/// When requests are due, if there is a rate: one after the other, over all connections in turn.
struct Schedule {
    begin: Instant,
    rate: NonZeroU64,
    /// The first request that is not due yet.
    next: u64,
    timer: Timer,
}

impl Schedule {
    fn due(&self, number: u64) -> Instant {
        const SECOND: u128 = 1_000_000_000;
        self.begin + Duration::from_nanos((u128::from(number) * SECOND / u128::from(self.rate.get())) as u64)
    }

    /// Lets connections send what is due; returns how long to wait for the next.
    fn send_due(
        &mut self,
        connections: &mut [Connection<'_>],
        recorder: &Recorder,
        now: Instant,
    ) -> anyhow::Result<Duration> {
        let count = connections.len() as u64;
        // If all connections have something due, pumping each once is enough.
        if self.due(self.next + count) <= now {
            connections.iter_mut().try_for_each(|connection| connection.pump(recorder, now))?;
            let passed = (now - self.begin).as_nanos() * u128::from(self.rate.get()) / 1_000_000_000;
            self.next = self.next.max(passed as u64);
        }
        while self.due(self.next) <= now {
            if let Some(connection) = connections.get_mut((self.next % count) as usize) {
                connection.pump(recorder, now)?;
            }
            self.next += 1;
        }
        self.timer.wake_at(self.due(self.next), now).context("cannot set a timer")
    }
}

/// When to report on a run in progress.
struct Beat {
    from: Instant,
    every: Duration,
}

impl Beat {
    fn left(&self, now: Instant) -> Duration {
        self.from.checked_add(self.every).map_or(Duration::MAX, |next| next.saturating_duration_since(now))
    }

    fn tell(&mut self, recorder: &mut Recorder, now: Instant, observe: &mut dyn FnMut(Interval<'_>)) {
        if !self.left(now).is_zero() {
            return;
        }
        let latency = recorder.end_interval();
        let at = now.checked_duration_since(recorder.start);
        observe(Interval { at, elapsed: now - self.from, latency: &latency, refused: recorder.refused });
        self.from = now;
    }
}

#[cfg(test)]
mod tests;
