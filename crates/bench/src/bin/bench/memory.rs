//! How much memory a server uses per key.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context as _;
use bench::Target;
use bench::target::in_words;

use crate::pairs::{Bound, verdict};
use crate::shape::{self, SIZES};

/// How long the first page of keys may take.
const FIRST_PAGE: Duration = Duration::from_secs(60);

/// Bytes of memory per key, beyond the key and the value themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PerKey {
    /// With all keys stored.
    pub(crate) stored: f64,
    /// With all keys stored and then listed in order; not for Redis.
    pub(crate) ordered: Option<f64>,
}

/// Stores all keys of a target and measures the memory they take. Meaningful only if the target was empty.
///
/// # Errors
/// If the target cannot be filled, or the system does not report the memory of its processes.
pub(crate) fn fill(target: &Target, can_list: bool) -> anyhow::Result<PerKey> {
    let keys = target.keys.len();
    let before = resident(&target.pids)?;
    shape::fill(target, SIZES.value).with_context(|| format!("cannot fill {}", target.name))?;
    let over = |now: u64| now.saturating_sub(before) as f64 / keys as f64 - (SIZES.key + SIZES.value) as f64;
    let stored = over(resident(&target.pids)?);
    let ordered = can_list.then(|| first_page(target).and_then(|()| resident(&target.pids)).map(over)).transpose()?;
    Ok(PerKey { stored, ordered })
}

/// Asks the first server for one key in order, which makes it sort all of them.
fn first_page(target: &Target) -> anyhow::Result<()> {
    let server = target.servers.first().context("there is no server")?;
    let mut stream = TcpStream::connect(server.addr).context("cannot connect to a node")?;
    stream.set_read_timeout(Some(FIRST_PAGE)).context("cannot set up a connection")?;
    stream.write_all(b"PREFIX bench: LIMIT 1\n").context("cannot ask for a page of keys")?;
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer).map_err(|error| in_words(error, FIRST_PAGE));
    read.context("no answer to PREFIX")?;
    anyhow::ensure!(answer.starts_with("OK 1"), "PREFIX was answered with {answer:?}");
    Ok(())
}

/// The resident memory of processes, in bytes. Linux reports it, in units of 1 KiB.
fn resident(pids: &[u32]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("cannot see the memory of a server")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a server has ended")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("cannot parse a server's VmRSS")?;
        sum += kib * 1024;
    }
    Ok(sum)
}

/// A table in Markdown; the goals are for our node.
pub(crate) fn table(ours: PerKey, redis: PerKey) -> String {
    let stored = Bound::AtMost(60.0);
    let ordered = Bound::AtMost(75.0);
    let mut text =
        "| memory, bytes a key beyond key and value | one node | Redis | goal | met |\n|---|---:|---:|---:|---|\n"
            .to_owned();
    let mut row = |what: &str, ours: f64, redis: String, goal: Bound| {
        text += &format!("| {what} | {ours:.1} | {redis} | {goal} | {} |\n", verdict(goal.is_met(ours)));
    };
    row("all keys stored", ours.stored, format!("{:.1}", redis.stored), stored);
    if let Some(with_order) = ours.ordered {
        row("and listed in order", with_order, "-".to_owned(), ordered);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_for_our_node() {
        let ours = PerKey { stored: 59.96, ordered: Some(75.06) };
        let table = table(ours, PerKey { stored: 80.0, ordered: None });
        let rows = "| all keys stored | 60.0 | 80.0 | <= 60 | yes |\n\
                    | and listed in order | 75.1 | - | <= 75 | **no** |\n";
        assert!(table.ends_with(rows), "{table}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_memory() {
        assert!(resident(&[std::process::id()]).unwrap() > 1_000_000);
    }
}
