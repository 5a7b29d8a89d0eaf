//! Our nodes against Redis: the pairs to measure, and their goals.
//!
//! The same generator drives both: ours, with SET for Redis where our nodes take PUT, or redis-benchmark.

use std::time::Duration;

use anyhow::Context as _;
use bench::Target;
use bench::keys::Sizes;
use bench::request::{Dialect, Verb};
use bench::target::{Cluster, Place};
use proto::frame::Encoding;

use crate::Pace;
use crate::memory;
use crate::pairs::{self, Generator, Goal, Measured, Pair, Side};
use crate::redis_benchmark;
use crate::shape::{SIZES, Shape, fill};

/// The number of connections in each measurement.
const CONNECTIONS: usize = 50;

/// The number of keys with values of 1 KiB.
const LARGE_KEYS: u32 = 100_000;

/// The sizes of those keys and values.
const LARGE: Sizes = Sizes { value: 1_024, ..SIZES };

/// How many replicas each write waits for at `quorum`.
const REPLICAS: u8 = 2;

/// Settings for a run with everything in memory.
#[derive(Debug, clap::Args)]
pub(crate) struct InMemory {
    /// The echo server, and its process.
    #[arg(long, value_name = "HOST:PORT/PID")]
    echo: Place,
    /// An echo server for values of 1 KiB.
    #[arg(long, value_name = "HOST:PORT/PID")]
    large_echo: Place,
    /// A cluster of one empty node.
    #[arg(long, value_name = "1@HOST:PORT/PID")]
    one: Cluster,
    /// A cluster of three empty nodes whose writes are answered at quorum.
    #[arg(long, value_name = "3@HOST:PORT/PID,PID,PID")]
    quorum: Cluster,
    /// An empty Redis that keeps nothing on disk.
    #[arg(long, value_name = "HOST:PORT/PID")]
    redis: Place,
    /// An empty Redis with two replicas.
    #[arg(long, value_name = "HOST:PORT/PID,PID,PID")]
    replicated: Place,
    /// The number of keys of 16 bytes to store, with values of 100 bytes.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    keys: u32,
    /// Another cluster of one empty node, for redis-benchmark.
    #[arg(long, value_name = "1@HOST:PORT/PID")]
    second_one: Cluster,
    /// Another such Redis, for redis-benchmark.
    #[arg(long, value_name = "HOST:PORT/PID")]
    second_redis: Place,
    #[command(flatten)]
    pace: Pace,
}

/// Settings for a run with data on disk.
#[derive(Debug, clap::Args)]
pub(crate) struct Durable {
    /// A node without a data directory.
    #[arg(long, value_name = "1@HOST:PORT/PID")]
    memory: Cluster,
    /// A node with a data directory and `--fsync interval`.
    #[arg(long, value_name = "1@HOST:PORT/PID")]
    interval: Cluster,
    /// A node with a data directory and `--fsync always`.
    #[arg(long, value_name = "1@HOST:PORT/PID")]
    always: Cluster,
    /// Redis with `appendfsync always`.
    #[arg(long, value_name = "HOST:PORT/PID")]
    redis: Place,
    /// The number of keys to store.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    keys: u32,
    #[command(flatten)]
    pace: Pace,
}

/// Measures nodes and Redis without disks, and returns tables in Markdown.
pub(crate) fn in_memory(run: &InMemory) -> anyhow::Result<String> {
    let keys = 0..run.keys;
    let mut one = Target::cluster(&run.one, keys.clone(), SIZES).context("the cluster of one node")?;
    one.name = "one node".to_owned();
    let redis = Target::single("Redis", &run.redis, Dialect::Set, keys.clone());
    eprintln!("storing {} keys in one node and in Redis", run.keys);
    let memory = memory::table(memory::fill(&one, true)?, memory::fill(&redis, false)?);

    let large = run.keys..run.keys + LARGE_KEYS;
    let mut large_one = Target::cluster(&run.one, large.clone(), LARGE)?;
    large_one.name.clone_from(&one.name);
    let large_redis = Target::single("Redis", &run.redis, Dialect::Set, large);
    for target in [&large_one, &large_redis] {
        fill(target, LARGE.value).with_context(|| format!("cannot fill {}", target.name))?;
    }

    let mut quorum = Target::cluster(&run.quorum, keys.clone(), SIZES).context("the cluster at quorum")?;
    quorum.name = "three nodes, quorum".to_owned();
    let filling = Target::single("Redis with two replicas", &run.replicated, Dialect::Set, keys.clone());
    eprintln!("storing {} keys in three nodes and in Redis with two replicas", run.keys);
    fill(&quorum, SIZES.value).context("cannot fill the cluster at quorum")?;
    fill(&filling, SIZES.value).context("cannot fill Redis with two replicas")?;
    let replicated = Target::single("Redis, WAIT 2", &run.replicated, Dialect::SetAndWait(REPLICAS), keys);
    let mut second_one =
        Target::cluster(&run.second_one, 0..run.keys, SIZES).context("the second cluster of one node")?;
    second_one.name.clone_from(&one.name);
    let second_redis = Target::single("Redis", &run.second_redis, Dialect::Set, 0..run.keys);
    eprintln!("storing {} keys in both again, by redis-benchmark", run.keys);
    for target in [&second_one, &second_redis] {
        let put = shape(Verb::Put, Encoding::Array, 1);
        redis_benchmark::fill(target, put, run.keys).with_context(|| format!("cannot fill {}", target.name))?;
    }
    let [echo, large_echo] = [&run.echo, &run.large_echo].map(crate::echo::target);

    let mut all = by_redis_benchmark(beside_redis(&second_one, &second_redis), run.keys);
    all.extend(beside_redis(&one, &redis));
    all.extend(beside_redis_large(&large_one, &large_redis));
    all.extend(lines_beside_arrays(&one));
    all.extend(at_quorum(&quorum, &replicated, &one));
    // The upper bound for any store: the speed of a server that does nothing.
    all.extend(by_redis_benchmark(beside_redis(&echo, &second_redis), run.keys));
    all.extend(beside_redis(&echo, &redis));
    all.extend(beside_redis_large(&large_echo, &large_redis));
    Ok(format!("{}\n{memory}", measured(&all, &run.pace)?))
}

/// Measures nodes and Redis with their disks, and returns a table in Markdown.
pub(crate) fn durable(run: &Durable) -> anyhow::Result<String> {
    let node = |at: &Cluster, name: &str| -> anyhow::Result<Target> {
        let mut target = Target::cluster(at, 0..run.keys, SIZES).with_context(|| format!("the node {name}"))?;
        name.clone_into(&mut target.name);
        Ok(target)
    };
    let always = node(&run.always, "fsync always")?;
    let interval = node(&run.interval, "fsync interval")?;
    let memory = node(&run.memory, "memory only")?;
    let redis = Target::single("Redis, appendfsync always", &run.redis, Dialect::Set, 0..run.keys);
    for target in [&always, &interval, &memory, &redis] {
        fill(target, SIZES.value).with_context(|| format!("cannot fill {}", target.name))?;
    }
    let put = |pipeline| shape(Verb::Put, Encoding::Array, pipeline);
    let all = [
        pair("SET", put(1), &always, &redis, vec![Goal::speed(1.3)]),
        pair("SET", put(16), &always, &redis, vec![Goal::speed(2.5)]),
        pair("PUT", put(1), &interval, &memory, vec![Goal::speed(0.85)]),
        pair("PUT", put(16), &interval, &memory, vec![Goal::speed(0.6)]),
    ];
    measured(&all, &run.pace)
}

fn shape(verb: Verb, encoding: Encoding, pipeline: usize) -> Shape {
    Shape { verb, encoding, value_bytes: SIZES.value, connections: CONNECTIONS, pipeline }
}

/// A pair with the same request to both targets.
fn pair<'a>(name: &str, shape: Shape, ours: &'a Target, base: &'a Target, goals: Vec<Goal>) -> Pair<'a> {
    let name = format!("{name}, {} in flight", shape.pipeline);
    let [ours, base] = [ours, base].map(|target| Side { target, shape });
    Pair { name, ours, base, generator: Generator::Ours, goals }
}

fn by_redis_benchmark(pairs: Vec<Pair<'_>>, keys: u32) -> Vec<Pair<'_>> {
    let generator = Generator::RedisBenchmark(keys);
    pairs.into_iter().map(|pair| Pair { name: format!("{}, redis-benchmark", pair.name), generator, ..pair }).collect()
}

fn beside_redis<'a>(ours: &'a Target, redis: &'a Target) -> Vec<Pair<'a>> {
    let mut all = Vec::new();
    for (name, verb) in [("GET", Verb::Get), ("SET", Verb::Put)] {
        for (pipeline, goals) in [
            (1, vec![Goal::speed(1.1), Goal::cpu(0.75), Goal::p99(0.8)]),
            (16, vec![Goal::speed(2.8), Goal::cpu(0.22)]),
        ] {
            all.push(pair(name, shape(verb, Encoding::Array, pipeline), ours, redis, goals));
        }
    }
    all
}

fn beside_redis_large<'a>(ours: &'a Target, redis: &'a Target) -> Vec<Pair<'a>> {
    let both = [("GET, 1 KiB", Verb::Get), ("SET, 1 KiB", Verb::Put)];
    let pairs = both.into_iter().map(|(name, verb)| {
        let shape = Shape { value_bytes: LARGE.value, ..shape(verb, Encoding::Array, 16) };
        pair(name, shape, ours, redis, vec![Goal::speed(2.0)])
    });
    pairs.collect()
}

fn lines_beside_arrays(one: &Target) -> Vec<Pair<'_>> {
    let mut all = Vec::new();
    for (name, verb) in [("GET", Verb::Get), ("PUT", Verb::Put)] {
        for pipeline in [1, 16] {
            let [ours, base] =
                [Encoding::Line, Encoding::Array].map(|it| Side { target: one, shape: shape(verb, it, pipeline) });
            let name = format!("{name} as a line over an array, {pipeline} in flight");
            all.push(Pair { name, ours, base, generator: Generator::Ours, goals: vec![Goal::speed(0.9)] });
        }
    }
    all
}

fn at_quorum<'a>(quorum: &'a Target, redis: &'a Target, one: &'a Target) -> Vec<Pair<'a>> {
    let mut all = Vec::new();
    for (pipeline, over_redis, over_one) in [(1, 2.2, 0.75), (16, 4.5, 0.4)] {
        let shape = shape(Verb::Put, Encoding::Array, pipeline);
        all.push(pair("SET", shape, quorum, redis, vec![Goal::speed(over_redis), Goal::cpu(0.4)]));
        all.push(pair("PUT", shape, quorum, one, vec![Goal::speed(over_one)]));
    }
    all
}

/// Measures all pairs, one after the other.
fn measured(all: &[Pair<'_>], pace: &Pace) -> anyhow::Result<String> {
    let time = Duration::from_secs_f64(pace.seconds);
    let chosen = all.iter().filter(|pair| pair.name.contains(&pace.only));
    let measured = chosen.map(|pair| pairs::measure(pair, pace.rounds, time));
    let measured: Vec<Measured<'_>> = measured.collect::<anyhow::Result<_>>()?;
    Ok(pairs::table(&measured))
}
