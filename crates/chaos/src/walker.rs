//! Walks through all keys, one walk after another and page by page, while faults come and nodes go.
//!
//! Besides the keys of the load, which come and go, there are permanent keys that are written before the first fault. A
//! walk must find each of these exactly once, and everything it finds in order, whoever leads a slot when its turn
//! comes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use client::{AckLevel, Client, ReadLevel};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::load;

/// The number of permanent keys per key of the load.
const STAY: usize = 3;

/// The prefix of all keys.
const PREFIX: &str = "g";

/// The number of keys per page: few, so that a walk spans several faults.
const PAGE: usize = 100;

/// The pause between two pages; every node works on each page.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a page may take before it counts as refused and is requested again.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How many faulty walks are reported.
const TOLD: usize = 5;

/// The permanent keys, in order.
pub(crate) fn keys() -> Vec<String> {
    let mut keys: Vec<_> = load::keys().flat_map(|key| (0..STAY).map(move |at| format!("{key}.{at}"))).collect();
    keys.sort_unstable();
    keys
}

/// The outcome of walks.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Walks that reached the end.
    pub(crate) whole: usize,
    /// Pages that were refused and requested again.
    pub(crate) refused: usize,
    /// The page that took longest.
    pub(crate) slowest: Duration,
    /// What was wrong with walks.
    pub(crate) wrong: Vec<String>,
}

/// The walks in progress.
#[derive(Debug)]
pub(crate) struct Walker {
    tasks: Vec<JoinHandle<Walked>>,
    end: Arc<AtomicBool>,
}

impl Walker {
    /// Writes the permanent keys and begins to walk, at each level, since at one of them replicas answer for their
    /// primaries.
    pub(crate) fn start(runtime: &Runtime, coordinator: &str) -> anyhow::Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let connect = |level| {
            let builder = Client::builder().timeout(TIMEOUT).ack(AckLevel::Quorum).read(level);
            runtime.block_on(builder.connect(coordinator)).context("a client that walks cannot connect")
        };
        let levels = [ReadLevel::Linear, ReadLevel::Local];
        let clients =
            levels.into_iter().map(|level| Ok((level, connect(level)?))).collect::<anyhow::Result<Vec<_>>>()?;
        if let Some((_, client)) = clients.first() {
            runtime.block_on(async {
                for key in keys() {
                    client.put(&key, "stays").await.with_context(|| format!("{key} cannot be written"))?;
                }
                anyhow::Ok(())
            })?;
        }
        let tasks = clients.into_iter().map(|(level, client)| runtime.spawn(walk_on(client, level, Arc::clone(&end))));
        Ok(Self { tasks: tasks.collect(), end })
    }

    /// Ends each walk after the page it is waiting for, and returns the outcome of all.
    pub(crate) fn finish(self, runtime: &Runtime) -> anyhow::Result<Walked> {
        self.end.store(true, Ordering::Relaxed);
        let mut all = Walked::default();
        for task in self.tasks {
            let walked = runtime.block_on(task).context("a task that walks has failed")?;
            all.whole += walked.whole;
            all.refused += walked.refused;
            all.slowest = all.slowest.max(walked.slowest);
            all.wrong.extend(walked.wrong);
        }
        Ok(all)
    }
}

impl Walked {
    /// Why the run has failed, if it has.
    pub(crate) fn failures(&self) -> Vec<String> {
        let never = (self.whole == 0).then(|| "no walk ever came to its end".to_owned());
        self.wrong.iter().cloned().chain(never).collect()
    }

    /// The summary if no walk was wrong.
    pub(crate) fn describe(&self) -> String {
        let Self { whole, refused, slowest, .. } = self;
        format!(
            "walks: {whole} with each of {} keys exactly once; {refused} pages were refused and asked for again, the slowest \
             took {} ms",
            keys().len(),
            slowest.as_millis()
        )
    }
}

/// Walks again and again until told to end. A walk that is incomplete at that time is not judged.
async fn walk_on(client: Client, level: ReadLevel, end: Arc<AtomicBool>) -> Walked {
    let (stay, others) = (keys(), load::keys().collect());
    let mut walked = Walked::default();
    while let Some(found) = walk(&client, &mut walked, &end).await {
        walked.whole += 1;
        let wrong = judge(&stay, &others, &found).filter(|_| walked.wrong.len() < TOLD);
        walked.wrong.extend(wrong.map(|wrong| format!("walk {} at the level {level}: {wrong}", walked.whole)));
    }
    walked
}

/// Walks through all keys; `None` if it was ended before the last.
async fn walk(client: &Client, walked: &mut Walked, end: &AtomicBool) -> Option<Vec<String>> {
    let mut walk = client.prefix(PREFIX).page_size(PAGE);
    let mut found = Vec::new();
    while !end.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let page = walk.next_page().await;
        walked.slowest = walked.slowest.max(begin.elapsed());
        match page {
            Ok(Some(keys)) => found.extend(keys.iter().map(|key| String::from_utf8_lossy(key).into_owned())),
            Ok(None) => return Some(found),
            Err(_) => walked.refused += 1,
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

/// What is wrong with a walk: it must find every key in `stay`, nothing else but keys in `others`, and all in order.
fn judge(stay: &[String], others: &BTreeSet<String>, found: &[String]) -> Option<String> {
    let pairs = found.iter().zip(found.iter().skip(1));
    if let Some((key, next)) = pairs.into_iter().find(|(key, next)| key >= next) {
        return Some(match key == next {
            true => format!("{key} came twice"),
            false => format!("{next} came after {key}"),
        });
    }
    let all: BTreeSet<&String> = found.iter().collect();
    let missing: Vec<&String> = stay.iter().filter(|key| !all.contains(key)).collect();
    if let Some(first) = missing.first() {
        return Some(format!("{} of {} keys that stay are missing, the first is {first}", missing.len(), stay.len()));
    }
    let foreign = found.iter().find(|key| stay.binary_search(key).is_err() && !others.contains(*key))?;
    Some(format!("{foreign} was never written"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn judged(found: &str) -> Option<String> {
        judge(&words("a c e"), &words("b d").into_iter().collect(), &words(found))
    }

    #[test]
    fn a_walk_with_every_key_that_stays_is_right_whatever_else_came() {
        for found in ["a c e", "a b c e", "a b c d e"] {
            assert_eq!(judged(found), None);
        }
    }

    #[test]
    fn what_is_missing_doubled_out_of_order_or_foreign_is_found() {
        let wrong = |found| judged(found).unwrap_or_default();
        assert_eq!(wrong("a b e"), "1 of 3 keys that stay are missing, the first is c");
        assert_eq!(wrong("a c"), "1 of 3 keys that stay are missing, the first is e");
        assert_eq!(wrong(""), "3 of 3 keys that stay are missing, the first is a");
        assert_eq!(wrong("a c c e"), "c came twice");
        assert_eq!(wrong("a c e a"), "a came after e");
        assert_eq!(wrong("c a e"), "a came after c");
        assert_eq!(wrong("a c e f"), "f was never written");
    }

    #[test]
    fn a_run_in_which_no_walk_came_to_its_end_has_failed() {
        assert_eq!(Walked::default().failures(), ["no walk ever came to its end"]);
        assert_eq!(Walked { whole: 1, ..Walked::default() }.failures(), [""; 0]);
    }

    #[test]
    fn keys_that_stay_lie_among_the_others() {
        let (stay, mut all) = (keys(), keys());
        all.extend(load::keys());
        all.sort_unstable();
        let is_stay = |key: &String| stay.binary_search(key).is_ok();
        let runs = all.chunk_by(|one, next| is_stay(one) == is_stay(next)).count();
        assert!(runs > all.len() / 4, "{runs} runs of {} keys", all.len());
        assert!(all.iter().all(|key| key.starts_with(PREFIX)));
    }
}
