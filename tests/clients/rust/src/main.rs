//! `foreign-clients redis|fred ADDRESS,ADDRESS,... calls|kill SECONDS`: see the README next to this crate.

mod with_fred;
mod with_redis;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// What a client does.
enum Work {
    /// Every ordinary call.
    Calls,
    /// Writes for this long while a node is killed.
    Kill(Duration),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: foreign-clients redis|fred ADDRESS,ADDRESS,... calls|kill SECONDS";
    let (library, addresses, work) = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [library, addresses, "calls"] => (*library, *addresses, Work::Calls),
        [library, addresses, "kill", seconds] => {
            (*library, *addresses, Work::Kill(Duration::from_secs(seconds.parse().context(usage)?)))
        }
        _ => anyhow::bail!(usage),
    };
    let addresses: Vec<&str> = addresses.split(',').collect();
    let said = match (library, work) {
        ("redis", Work::Calls) => with_redis::calls(&addresses)?,
        ("redis", Work::Kill(time)) => with_redis::kill(&addresses, time)?,
        ("fred", Work::Calls) => with_fred::calls(&addresses).await?,
        ("fred", Work::Kill(time)) => with_fred::kill(&addresses, time).await?,
        _ => anyhow::bail!(usage),
    };
    println!("{library}: {said}");
    Ok(())
}

/// What a client was told while a node was killed.
#[derive(Default)]
struct Told {
    /// Keys whose writes were acknowledged, with their values.
    stored: BTreeMap<String, String>,
    /// How many increments of the number were acknowledged.
    added: i64,
    /// How many calls were answered with an error, or not at all.
    errors: i64,
}

impl Told {
    /// How long to go on: a busy machine gets more time, so that there is something to judge.
    fn time(&self, time: Duration) -> Duration {
        if self.stored.len() > 100 { time } else { time.max(Duration::from_secs(60)) }
    }

    /// Compares what was acknowledged with what is there now.
    fn judge(&self, values: &[(String, Option<String>)], number: i64) -> anyhow::Result<String> {
        for (key, found) in values {
            let stored = self.stored.get(key);
            ensure!(found.as_ref() == stored, "{key} was answered as {stored:?} and is {found:?}");
        }
        let (least, most) = (self.added, self.added + self.errors);
        ensure!((least..=most).contains(&number), "the number is {number}: from {least} to {most} was expected");
        ensure!(values.len() > 100, "only {} writes were answered", values.len());
        let answered = values.len() as i64 + self.added;
        Ok(format!("{answered} writes were answered and are there, {} calls failed", self.errors))
    }
}
