//! The load: groups of client tasks, each group with its own keys and its own client.
//!
//! At most [`TASKS`] tasks use a key, so that the search over its operations stays short. Each task has one operation
//! in flight. Each value is written only once: it names its task and a number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use client::{AckLevel, Client, ReadLevel, Version};
use seeded::Random;
use sim::history::Action;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::record::{Call, Clock, Record};
/// The number of groups.
const GROUPS: usize = 12;

/// The number of tasks per group.
const TASKS: usize = 4;

/// The number of keys per group. Every other key is only put and read.
const KEYS: usize = 34;

/// How many of them are hot, and how many operations of a thousand choose one of these.
const HOT: usize = 2;
const HOT_PER_MILLE: u64 = 400;

/// How many reads of a thousand are at level local.
const LOCAL_PER_MILLE: u64 = 200;

/// The timeout of a call. Shorter than the longest faults, so that some outcomes stay unknown.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The timeout of a call once all faults are over.
const FINAL_TIMEOUT: Duration = Duration::from_secs(20);

/// The levels that clients ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) ack: AckLevel,
    pub(crate) read: ReadLevel,
}

/// The running tasks.
#[derive(Debug)]
pub(crate) struct Load {
    tasks: Vec<JoinHandle<Record>>,
    end: Arc<AtomicBool>,
}

/// All keys.
pub(crate) fn keys() -> impl Iterator<Item = String> {
    (0..GROUPS).flat_map(|group| (0..KEYS).map(move |number| key(group, number)))
}

fn key(group: usize, number: usize) -> String {
    format!("g{group}:{number}")
}

/// Whether a key is also deleted and written conditionally.
fn is_rich(number: usize) -> bool {
    number % 2 == 1
}

impl Load {
    /// Starts all tasks, which together start at most `rate` operations per second.
    pub(crate) fn start(
        runtime: &Runtime,
        coordinator: &str,
        asked: Asked,
        rate: u32,
        random: &mut Random,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let tasks_in_all = u32::try_from(GROUPS * TASKS)?;
        let pause = Duration::from_secs(1) * tasks_in_all / rate;
        let mut tasks = Vec::new();
        for group in 0..GROUPS {
            let connect = |read| {
                let builder = Client::builder().timeout(TIMEOUT).ack(asked.ack).read(read);
                runtime.block_on(builder.connect(coordinator)).context("a client cannot connect")
            };
            let (client, local) = (connect(asked.read)?, connect(ReadLevel::Local)?);
            for number in group * TASKS..(group + 1) * TASKS {
                let task = Task {
                    client: client.clone(),
                    local: local.clone(),
                    number: u32::try_from(number)?,
                    group,
                    random: random.fork(),
                    clock,
                    pause,
                    written: 0,
                    record: Record::default(),
                };
                tasks.push(runtime.spawn(task.run(Arc::clone(&end))));
            }
        }
        Ok(Self { tasks, end })
    }

    /// Ends all tasks, waits for their last operations, and returns what all of them did and saw.
    pub(crate) fn finish(self, runtime: &Runtime) -> anyhow::Result<Record> {
        self.end.store(true, Ordering::Relaxed);
        let mut all = Record::default();
        for task in self.tasks {
            all.add(runtime.block_on(task).context("a client task has failed")?);
        }
        Ok(all)
    }
}

/// Reads the final value of every key.
pub(crate) fn final_reads(runtime: &Runtime, coordinator: &str) -> anyhow::Result<Vec<(String, Option<String>)>> {
    runtime.block_on(async {
        let builder = Client::builder().timeout(FINAL_TIMEOUT).read(ReadLevel::Linear);
        let client = builder.connect(coordinator).await.context("the last client cannot connect")?;
        let mut finals = Vec::new();
        for key in keys() {
            let value = client.get(&key).await.with_context(|| format!("{key} cannot be read in the end"))?;
            finals.push((key, value.map(|value| String::from_utf8_lossy(&value).into_owned())));
        }
        Ok(finals)
    })
}

struct Task {
    client: Client,
    /// A client that reads at level local.
    local: Client,
    number: u32,
    group: usize,
    random: Random,
    clock: Clock,
    pause: Duration,
    /// How many values it has made.
    written: u64,
    record: Record,
}

impl Task {
    async fn run(mut self, end: Arc<AtomicBool>) -> Record {
        let mut next = Instant::now() + Duration::from_millis(self.random.between(0, 100));
        while !end.load(Ordering::Relaxed) {
            tokio::time::sleep_until(next.into()).await;
            // Delays caused by a fault are not made up for.
            next = (next + self.pause).max(Instant::now());
            self.operate().await;
        }
        self.record
    }

    async fn operate(&mut self) {
        let hot = self.random.chance(HOT_PER_MILLE);
        let number = if hot { self.random.index(HOT) } else { HOT + self.random.index(KEYS - HOT) };
        let key = key(self.group, number);
        match (is_rich(number), self.random.index(100)) {
            (false, 0..55) | (true, 0..35) if self.random.chance(LOCAL_PER_MILLE) => self.get_locally(&key).await,
            (false, 0..55) | (true, 0..35) => self.get(&key).await,
            (false, _) | (true, 35..55) => self.put(&key).await,
            (true, 55..70) => self.delete(&key).await,
            (true, 70..80) => self.put_if_absent(&key).await,
            (true, _) => self.compare_and_set(&key).await,
        }
    }

    async fn get(&mut self, key: &str) {
        let call = self.call(key);
        let told = self.client.read(key).await;
        let end = self.clock.micros();
        self.record.read(&call, end, told);
    }

    async fn get_locally(&mut self, key: &str) {
        let told = self.local.read(key).await;
        let end = self.clock.micros();
        self.record.read_locally(key, end, told);
    }

    async fn put(&mut self, key: &str) {
        let (value, call) = (self.value(), self.call(key));
        let told = self.client.put(key, &value).await;
        let end = self.clock.micros();
        self.record.wrote(&call, end, "put", Action::Put { value }, told);
    }

    async fn delete(&mut self, key: &str) {
        let call = self.call(key);
        let told = self.client.delete(key).await;
        let end = self.clock.micros();
        self.record.wrote(&call, end, "delete", Action::Delete, told);
    }

    async fn put_if_absent(&mut self, key: &str) {
        let (value, call) = (self.value(), self.call(key));
        let told = self.client.put_if_absent(key, &value).await;
        let end = self.clock.micros();
        let action = |outcome| Action::PutIfAbsent { value: value.clone(), outcome };
        self.record.wrote_if(&call, end, "put-if-absent", (Version::NONE, &value), action, told);
    }

    /// Reads a value with its version, and replaces it.
    async fn compare_and_set(&mut self, key: &str) {
        let call = self.call(key);
        let told = self.client.read_versioned(key).await;
        let end = self.clock.micros();
        let Some((version, expected)) = self.record.read(&call, end, told) else { return };
        let (value, call) = (self.value(), self.call(key));
        let told = self.client.compare_and_set(key, version, &value).await;
        let end = self.clock.micros();
        let action = |outcome| Action::Swap { expected: expected.clone(), value: value.clone(), outcome };
        self.record.wrote_if(&call, end, "compare-and-set", (version, &value), action, told);
    }

    fn call<'a>(&self, key: &'a str) -> Call<'a> {
        Call { client: self.number, key, call: self.clock.micros() }
    }

    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.number, self.written)
    }
}
