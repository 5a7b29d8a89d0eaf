//! The library client's load while slots move. A request that fails fails the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use client::{Cas, Client};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::servers::SIZES;

/// How many tasks have a request in flight.
const TASKS: u32 = 50;

/// Tasks that get and put keys, each one request at a time.
#[derive(Debug)]
pub(crate) struct Foreground {
    tasks: Vec<JoinHandle<anyhow::Result<()>>>,
    end: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Foreground {
    /// Starts the tasks on `keys` keys: as many GETs as PUTs, at quorum.
    pub(crate) fn start(runtime: &Runtime, client: &Client, keys: u32) -> Self {
        let (end, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let spawn =
            |number: u32| runtime.spawn(get_and_put(client.clone(), number, keys, Arc::clone(&end), Arc::clone(&done)));
        Self { tasks: (0..TASKS).map(spawn).collect(), end, done }
    }

    /// Operations per second from now until `what` has finished.
    pub(crate) fn rate_during<T>(&self, what: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
        let (begin, before) = (Instant::now(), self.done.load(Ordering::Relaxed));
        let told = what()?;
        let done = self.done.load(Ordering::Relaxed) - before;
        Ok((done as f64 / begin.elapsed().as_secs_f64(), told))
    }

    /// Ends the tasks.
    ///
    /// # Errors
    /// The first request that failed.
    pub(crate) fn finish(self, runtime: &Runtime) -> anyhow::Result<()> {
        self.end.store(true, Ordering::Relaxed);
        for task in self.tasks {
            runtime.block_on(task).context("a task has failed")??;
        }
        Ok(())
    }
}

async fn get_and_put(
    client: Client,
    number: u32,
    keys: u32,
    end: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> anyhow::Result<()> {
    // Weyl's sequence: every key comes up, and neighbors are far apart.
    let mut at = number.wrapping_mul(0x9e37_79b9);
    while !end.load(Ordering::Relaxed) {
        for is_put in [false, true] {
            at = at.wrapping_add(0x9e37_79b9);
            let key = SIZES.make_key(((u64::from(at) * u64::from(keys)) >> 32) as u32);
            if is_put {
                client.put(&key, SIZES.make_value(&key)).await.context("a PUT has failed")?;
            } else {
                let value = client.get(&key).await.context("a GET has failed")?;
                anyhow::ensure!(value.is_some_and(|value| value == SIZES.make_value(&key)), "a GET has given no value");
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

/// Writes one key in each of several slots continuously, and records for how long no write was answered.
#[derive(Debug)]
pub(crate) struct Writers {
    tasks: Vec<JoinHandle<anyhow::Result<HeldUp>>>,
    end: Arc<AtomicBool>,
}

/// Times between two answered writes of a slot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HeldUp {
    /// The longest.
    pub(crate) longest: Duration,
    /// From the last write answered by one primary to the first answered by the next; zero if none took over.
    pub(crate) at_the_switch: Duration,
}

/// The pause between an answer and the next write of the same slot. It counts toward the time between two answers.
const PAUSE: Duration = Duration::from_millis(4);

impl Writers {
    /// Starts one writer per key. The keys must be stored already.
    pub(crate) fn start(runtime: &Runtime, client: &Client, keys: Vec<Vec<u8>>) -> Self {
        let end = Arc::<AtomicBool>::default();
        let spawn = |key: Vec<u8>| runtime.spawn(write_on(client.clone(), key, Arc::clone(&end)));
        Self { tasks: keys.into_iter().map(spawn).collect(), end }
    }

    /// Ends the writers and returns the times of each.
    ///
    /// # Errors
    /// The first request that failed.
    pub(crate) fn finish(self, runtime: &Runtime) -> anyhow::Result<Vec<HeldUp>> {
        self.end.store(true, Ordering::Relaxed);
        let joined = self.tasks.into_iter().map(|task| runtime.block_on(task).context("a task has failed")?);
        joined.collect()
    }
}

async fn write_on(client: Client, key: Vec<u8>, end: Arc<AtomicBool>) -> anyhow::Result<HeldUp> {
    let value = SIZES.make_value(&key);
    let stored = client.get_versioned(&key).await.context("a GET has failed")?;
    let mut version = stored.context("the key is missing")?.0;
    let (mut held_up, mut answered) = (HeldUp::default(), None);
    while !end.load(Ordering::Relaxed) {
        // The epoch in the version tells which primary wrote it.
        let written = client.compare_and_set(&key, version, &value).await.context("a write has failed")?;
        let Cas::Written(next) = written else { anyhow::bail!("a key has changed that nobody else writes") };
        let now = Instant::now();
        if let Some(before) = answered.replace(now) {
            held_up.longest = held_up.longest.max(now - before);
            if next.epoch != version.epoch {
                held_up.at_the_switch = held_up.at_the_switch.max(now - before);
            }
        }
        version = next;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(held_up)
}
