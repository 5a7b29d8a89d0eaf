//! A node with a data directory is away for ten seconds and is then brought up to date.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use client::Client;
use tokio::runtime::Runtime;

use crate::servers::{SIZES, Server, Servers, healthy};
use crate::{Config, Goal, Row};

/// How long it is away.
const AWAY: Duration = Duration::from_secs(10);

/// Keys written per second in the meantime: few, and more.
const RATES: [u32; 2] = [2_000, 8_000];

/// How many of them are in flight at once.
const AT_ONCE: usize = 32;

/// More bytes are sent than are written, since the metadata of each record and the position of each slot go along. The
/// more is written, the less the slots matter.
const MOST: f64 = 3.0;

pub(crate) fn measure(runtime: &Runtime, config: &Config) -> anyhow::Result<Vec<Row>> {
    let (servers, mut nodes) = Servers::start(&config.programs, 3, Some(&config.data_dir))?;
    eprintln!("storing {} keys at three nodes with data directories", config.keys);
    servers.fill(nodes.len(), config.keys)?;
    let client = servers.client(runtime)?;
    healthy(runtime, &client)?;
    let mut rows = Vec::new();
    for (rate, most) in RATES.into_iter().zip([None, Some(Goal::AtMost(MOST))]) {
        let (mut times, mut to_written, mut to_stored) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=config.rounds {
            eprintln!("a node is away while {rate} keys are written per second, round {round} of {}", config.rounds);
            let mut node = nodes.pop().context("there are three nodes")?;
            let port = node.addr.port();
            node.terminate()?;
            node.wait()?;
            let written = write(runtime, &client, rate, config.keys)?;
            let before = sent(runtime, &client, &nodes)?;
            let begin = Instant::now();
            nodes.push(servers.node(port, Some(&config.data_dir.join("node-2")))?);
            healthy(runtime, &client)?;
            times.push(begin.elapsed().as_secs_f64());
            let sent = (sent(runtime, &client, nodes.get(..2).unwrap_or_default())? - before) as f64;
            to_written.push(sent / (written as f64));
            to_stored.push(sent / bytes(config.keys) as f64);
        }
        let back =
            format!("a node back with its data after 10 s of {rate} writes a second: seconds until WAIT_HEALTHY");
        rows.extend([
            Row::new(back, times, None),
            Row::new("bytes sent to it over bytes written meanwhile", to_written, most),
            Row::new("bytes sent to it over bytes stored", to_stored, None),
        ]);
    }
    Ok(rows)
}

/// The bytes of this many keys and their values.
fn bytes(keys: u32) -> u64 {
    u64::from(keys) * (SIZES.key + SIZES.value) as u64
}

/// How many bytes nodes have sent to their replicas.
fn sent(runtime: &Runtime, client: &Client, nodes: &[Server]) -> anyhow::Result<u64> {
    let mut sent = 0;
    for node in nodes {
        let stats = runtime.block_on(client.node_stats(&node.addr)).context("a node reports no statistics")?;
        sent += stats.iter().find(|(name, _)| name == "sent_to_replicas_bytes").context("a figure is missing")?.1;
    }
    Ok(sent)
}

/// Writes at an even rate while the node is away. Returns the number of bytes written.
fn write(runtime: &Runtime, client: &Client, rate: u32, keys: u32) -> anyhow::Result<u64> {
    let (begin, mut written) = (Instant::now(), 0);
    let mut numbers = (0..keys).cycle().step_by(7);
    while begin.elapsed() < AWAY {
        let batch = numbers.by_ref().take(AT_ONCE).map(|number| SIZES.make_key(number));
        let batch: Vec<_> = batch.map(|key| (SIZES.make_value(&key), key)).map(|(value, key)| (key, value)).collect();
        written += u32::try_from(batch.len())?;
        for outcome in runtime.block_on(client.put_many(batch)) {
            outcome.context("a PUT has failed")?;
        }
        std::thread::sleep((begin + Duration::from_secs(1) * written / rate).saturating_duration_since(Instant::now()));
    }
    Ok(bytes(written))
}
