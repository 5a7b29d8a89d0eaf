//! A node joins a cluster of three that is full and busy, and leaves it again.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::runtime::Runtime;

use crate::load::Foreground;
use crate::servers::{Servers, healthy};
use crate::{Config, Goal, Row};

/// How long the rate is measured before anything moves.
const BEFORE: Duration = Duration::from_secs(4);

/// How long the foreground runs before it is measured.
const SETTLE: Duration = Duration::from_millis(500);

pub(crate) fn measure(runtime: &Runtime, config: &Config) -> anyhow::Result<Vec<Row>> {
    let (servers, nodes) = Servers::start(&config.programs, 3, None)?;
    // Each key has three copies: of four nodes each holds three quarters of the keys.
    let keys = config.keys / 3 * 4;
    eprintln!("storing {keys} keys at three nodes");
    servers.fill(nodes.len(), keys)?;
    let client = servers.client(runtime)?;
    healthy(runtime, &client)?;
    let (mut times, mut kept, mut leave_times, mut leave_kept) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 1..=config.rounds {
        eprintln!("a node joins and leaves, round {round} of {}", config.rounds);
        let foreground = Foreground::start(runtime, &client, keys);
        std::thread::sleep(SETTLE);
        let rest = || {
            std::thread::sleep(BEFORE);
            Ok(())
        };
        let (before, ()) = foreground.rate_during(rest)?;
        let (during, (mut node, took)) = foreground.rate_during(|| {
            let begin = Instant::now();
            let node = servers.node(0, None)?;
            healthy(runtime, &client)?;
            Ok((node, begin.elapsed()))
        })?;
        times.push(took.as_secs_f64());
        kept.push(during / before);
        let (before, ()) = foreground.rate_during(rest)?;
        let (during, took) = foreground.rate_during(|| {
            let begin = Instant::now();
            runtime.block_on(client.decommission(&node.addr)).context("the node cannot be decommissioned")?;
            node.wait()?;
            Ok(begin.elapsed())
        })?;
        leave_times.push(took.as_secs_f64());
        leave_kept.push(during / before);
        healthy(runtime, &client)?;
        foreground.finish(runtime)?;
    }
    drop(nodes);
    let name = |what| format!("{} keys of 100 bytes onto a {what}", config.keys);
    Ok(vec![
        Row::new(name("node that joins: seconds until WAIT_HEALTHY"), times, Some(Goal::AtMost(20.0))),
        Row::new("rate of the foreground meanwhile, over before", kept, Some(Goal::AtLeast(0.7))),
        Row::new("the same node leaves: seconds from DECOMMISSION to its exit", leave_times, None),
        Row::new("rate of the foreground meanwhile, over before", leave_kept, Some(Goal::AtLeast(0.7))),
    ])
}
