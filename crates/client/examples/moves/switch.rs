//! How long writes of a slot stall when its primary hands it over because it is stopped by SIGTERM or decommissioned.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use client::{Client, NodeAddr};
use proto::slot::{Position, SLOT_BITS};
use tokio::runtime::Runtime;

use crate::load::{HeldUp, Writers};
use crate::servers::{SIZES, Servers, healthy};
use crate::{Config, Goal, Row};

/// How many slots are written to in each round.
const SLOTS: usize = 32;

/// How many keys are stored.
const KEYS: u32 = 50_000;

/// How long writes run before a node goes, and at least how long while it does.
const REST: Duration = Duration::from_secs(2);

/// Rounds of this measurement per round of the others: these rounds are short.
const ROUNDS: u32 = 3;

/// The most time, in milliseconds, from the last write answered by one primary to the first answered by the next.
const HELD_UP: Goal = Goal::AtMost(20.0);

pub(crate) fn measure(runtime: &Runtime, config: &Config) -> anyhow::Result<Vec<Row>> {
    let (servers, mut nodes) = Servers::start(&config.programs, 4, None)?;
    servers.fill(nodes.len(), KEYS)?;
    let client = servers.client(runtime)?;
    healthy(runtime, &client)?;
    let (mut calm, mut stopped, mut left) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=config.rounds * ROUNDS {
        for (is_stop, held_up) in [(true, &mut stopped), (false, &mut left)] {
            eprintln!("a node hands over, round {round} of {}", config.rounds * ROUNDS);
            let mut node = nodes.remove(0);
            let keys = runtime.block_on(keys_led_by(&client, &node.addr))?;
            let writers = Writers::start(runtime, &client, keys.clone());
            std::thread::sleep(REST);
            calm.extend(writers.finish(runtime)?);
            let writers = Writers::start(runtime, &client, keys);
            if is_stop {
                node.terminate()?;
            } else {
                runtime.block_on(client.decommission(&node.addr)).context("a node cannot be decommissioned")?;
            }
            node.wait()?;
            held_up.extend(writers.finish(runtime)?);
            nodes.push(servers.node(node.addr.port(), None)?);
            healthy(runtime, &client)?;
        }
    }
    let switched = |times: &[HeldUp]| times.iter().all(|times| !times.at_the_switch.is_zero());
    anyhow::ensure!(switched(&stopped) && switched(&left), "a slot has kept its primary");
    let slots = stopped.len();
    let row = |what: &str, times: Vec<Duration>, goal| Row::new(what, vec![p99(times)], goal);
    let longest = |times: &[HeldUp]| times.iter().map(|times| times.longest).collect();
    let at_the_switch = |times: &[HeldUp]| times.iter().map(|times| times.at_the_switch).collect();
    Ok(vec![
        row(
            &format!(
                "ms between two answered writes of a slot over the change of its primary, p99 of {slots} slots: SIGTERM"
            ),
            at_the_switch(&stopped),
            Some(HELD_UP),
        ),
        row("the same: DECOMMISSION", at_the_switch(&left), Some(HELD_UP)),
        row("ms between two answered writes of a slot, the longest, p99 of slots: nothing moves", longest(&calm), None),
        row("the same until a node has ended after SIGTERM", longest(&stopped), None),
        row("the same until a node has ended after DECOMMISSION", longest(&left), None),
    ])
}

/// The 99th percentile in milliseconds.
fn p99(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    let at = (times.len() * 99).div_ceil(100).saturating_sub(1);
    times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
}

/// Keys in different slots that a node leads.
async fn keys_led_by(client: &Client, node: &NodeAddr) -> anyhow::Result<Vec<Vec<u8>>> {
    let (mut keys, mut slots) = (Vec::new(), BTreeSet::new());
    for number in 0..KEYS {
        if keys.len() == SLOTS {
            break;
        }
        let key = SIZES.make_key(number);
        let primary = client.nodes_for_key(&key).await.context("cannot find out who leads a key")?.primary;
        if primary.as_ref() == Some(node) && slots.insert(SLOT_BITS.slot(&Position::of(&key))) {
            keys.push(key);
        }
    }
    Ok(keys)
}
