//! `client bench`: puts a load on a cluster or a single server and reports the results. The generator is the library
//! `bench`.
//!
//! - `args`: the flags, and the load they describe.
//! - `report`: the tables, the histogram, and the same as JSON.

pub(crate) mod args;
mod report;

use std::io::{self, IsTerminal as _, Write as _};
use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench::request::Dialect;
use bench::target::{self, NotAdmitted, Place};
use bench::workload::Action;
use bench::{Interrupt, Interval, Load, NotBegun, Outcome, Target, Until, Why};
use client::Password;
use proto::cluster_map::MapError;
use proto::frame::Encoding;

use crate::args::Args;
use crate::one_shot;
use crate::output::{Exit, Report, to_stderr, visible};
use args::BenchArgs;

/// How often a run reports its progress.
const TELL: Duration = Duration::from_secs(1);

/// Measures and prints the results; progress goes to standard error.
pub(crate) fn run(args: &Args, bench: &BenchArgs) -> anyhow::Result<Exit> {
    let load = bench.load(args.levels());
    let password = match args.password() {
        Ok(password) => password,
        Err(error) => {
            to_stderr(&format!("client: {error}"));
            return Ok(Exit::Usage);
        }
    };
    let target = match find_target(args, bench, &load, password.as_ref()) {
        Ok(target) => target,
        Err(NoTarget::NotReached(error)) => {
            to_stderr(&visible(&format!("client: {error:#}")));
            return Ok(Exit::NotReached);
        }
        Err(NoTarget::Refused(why)) => {
            to_stderr(&visible(&format!("client: {why}")));
            return Ok(Exit::Refused);
        }
    };
    let interrupt = on_ctrl_c()?;
    let outcome = match measure(bench, &load, &target, &interrupt) {
        Ok(outcome) => outcome,
        Err(_) if interrupt.load(Ordering::Relaxed) => {
            to_stderr("client: interrupted before anything was measured; some of the keys may be stored");
            return Ok(Exit::Interrupted);
        }
        Err(error) => {
            to_stderr(&visible(&format!("client: {error:#}")));
            let is_reached = !error.is::<NotBegun>() || error.is::<NotAdmitted>();
            return Ok(if is_reached { Exit::Refused } else { Exit::NotReached });
        }
    };
    let text = if args.json {
        report::json(bench, &load, &target, &outcome)
    } else {
        report::text(bench, &load, &target, &outcome)
    };
    let exit = match &outcome.cut_short {
        Some(cut) if cut.why == Why::Interrupted => Exit::Interrupted,
        Some(_) => Exit::Refused,
        None if outcome.refused > 0 => Exit::Refused,
        None => Exit::Done,
    };
    one_shot::print(Report { result: text.into_bytes(), error: None, exit })
}

/// Returns what the first Ctrl-C sets, so that the run ends and is reported. The second ends the program at once.
fn on_ctrl_c() -> anyhow::Result<Arc<Interrupt>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start a runtime that waits for Ctrl-C")?;
    let interrupt = Arc::new(Interrupt::new(false));
    let told = Arc::clone(&interrupt);
    let wait = move || {
        // Where Ctrl-C cannot be waited for, it ends the program, as without this.
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            told.store(true, Ordering::Relaxed);
            if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                process::exit(Exit::Interrupted as i32);
            }
        }
    };
    thread::Builder::new().name("ctrl-c".to_owned()).spawn(wait).context("cannot start a thread")?;
    Ok(interrupt)
}

/// Stores the keys if requested, and puts the load on the target.
///
/// # Errors
/// If the keys cannot be stored, or the run cannot begin or is interrupted before anything was measured. Some keys may
/// be stored all the same.
fn measure(bench: &BenchArgs, load: &Load, target: &Target, interrupt: &Interrupt) -> anyhow::Result<Outcome> {
    if !bench.no_preload {
        let mut progress = Progress::new(format!("storing {} keys", bench.keys));
        let filled = bench::fill(target, load, Some(interrupt), &mut |interval| progress.tell(&interval));
        progress.end();
        filled.context("cannot store the keys")?;
    }
    let mut progress = Progress::new(match load.until {
        Until::Elapsed(time) => format!("of {} s", time.as_secs_f64()),
        _ => "so far".to_owned(),
    });
    let outcome = bench::run(target, load, TELL, Some(interrupt), &mut |interval| progress.tell(&interval));
    progress.end();
    let outcome = outcome.context("the run failed")?;
    match &outcome.cut_short {
        Some(cut) if outcome.operations == 0 && cut.why == Why::Interrupted => Err(anyhow::anyhow!("interrupted")),
        _ => Ok(outcome),
    }
}

/// Why there is no target.
enum NoTarget {
    NotReached(anyhow::Error),
    Refused(String),
}

impl From<anyhow::Error> for NoTarget {
    fn from(error: anyhow::Error) -> Self {
        if !error.is::<NotAdmitted>() {
            return Self::NotReached(error);
        }
        let why = format!("{error:#}");
        let advice = if why.contains("NOAUTH") { ": give the file that contains it with --password-file" } else { "" };
        Self::Refused(format!("{why}{advice}"))
    }
}

fn find_target(args: &Args, bench: &BenchArgs, load: &Load, password: Option<&Password>) -> Result<Target, NoTarget> {
    let deadline = Instant::now() + args.timeout;
    let mut target = match &bench.address {
        Some(address) => {
            let place = Place { addr: target::resolve(address.as_str(), deadline)?, pids: Vec::new() };
            if load.encoding == Encoding::Line && target::answers_in_resp(place.addr, password, deadline)? {
                let why = format!("{address} answers a line in RESP, as Redis does: use --protocol resp");
                return Err(NoTarget::Refused(format!("{why}. Nothing was stored")));
            }
            let writes = bench.writes(load);
            let dialect = if writes { dialect(&place, password, deadline, load)? } else { Dialect::Put };
            Target::single(address.as_str(), &place, dialect, 0..bench.keys)
        }
        None => {
            let coordinator = args.coordinator();
            let map = target::resolve(&coordinator, deadline)
                .and_then(|addr| target::serving_map(addr, password, deadline))
                .map_err(|error| without_map(&coordinator, error))?;
            let name = format!("the cluster of {coordinator}");
            Target::of_map(name, map, Vec::new(), 0..bench.keys, load.sizes, args.timeout)?
        }
    };
    target.password = password.cloned();
    // Without the time that it took to place the keys.
    let deadline = Instant::now() + args.timeout;
    let ack = load.ack.map(|level| ["ACK".to_owned(), level.to_string()]);
    let read = load.read.map(|level| ["READ".to_owned(), level.to_string()]);
    for (server, words) in target.servers.iter().flat_map(|server| [(server, &ack), (server, &read)]) {
        let Some(words) = words else { continue };
        let answer = target::ask(server.addr, password, deadline, words)?;
        if answer != "+OK" {
            return Err(NoTarget::Refused(format!("{} refuses {}: {answer}", server.addr, words.join(" "))));
        }
    }
    if load.mix.has(Action::Scan) {
        for server in &target.servers {
            let answer = target::ask(
                server.addr,
                password,
                deadline,
                &[&b"RANGE"[..], &load.sizes.make_key(0), b"bench;", b"LIMIT", b"1"],
            )?;
            if answer.starts_with('-') {
                let why = format!("{} cannot list keys in order, which this workload needs: {answer}", server.addr);
                return Err(NoTarget::Refused(why));
            }
        }
    }
    Ok(target)
}

/// Why the coordinator gave no map, and what the user can do about it.
fn without_map(coordinator: &str, error: anyhow::Error) -> anyhow::Error {
    // Whoever is busy or silent is there.
    let is_gone = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() != io::ErrorKind::TimedOut);
    let is_other = error.is::<MapError>() || error.to_string().contains("is not a coordinator");
    let advice = if is_gone || is_other {
        " (start it with `coordinator`, or name it with --host and --port; --address drives one server without it)"
    } else {
        ""
    };
    error.context(format!("cannot get the map of the cluster from {coordinator}{advice}"))
}

/// How a single server is told to store a value: our nodes take PUT in either encoding, Redis takes SET in arrays.
/// Stores the first key of the load.
fn dialect(place: &Place, password: Option<&Password>, deadline: Instant, load: &Load) -> Result<Dialect, NoTarget> {
    if load.encoding == Encoding::Line {
        return Ok(Dialect::Put);
    }
    let key = load.sizes.make_key(0);
    let value = load.sizes.make_value(&key);
    for (word, dialect) in [(&b"SET"[..], Dialect::Set), (b"PUT", Dialect::Put)] {
        let answer = target::ask(place.addr, password, deadline, &[word, &key, &value])?;
        if answer == "+OK" {
            return Ok(dialect);
        }
        if !answer.to_ascii_lowercase().contains("unknown command") {
            let wants_password = answer.starts_with("-NOAUTH");
            let advice = if wants_password { "; give the file that contains it with --password-file" } else { "" };
            return Err(NoTarget::Refused(format!("{} refuses to store a key: {answer}{advice}", place.addr)));
        }
    }
    Err(NoTarget::Refused(format!("{} knows neither SET nor PUT", place.addr)))
}

/// Progress on standard error during a run: one line that is updated on a terminal, otherwise one line per second.
struct Progress {
    what: String,
    is_terminal: bool,
    told: bool,
    answered: u64,
}

impl Progress {
    fn new(what: String) -> Self {
        Self { what, is_terminal: io::stderr().is_terminal(), told: false, answered: 0 }
    }

    fn tell(&mut self, interval: &Interval<'_>) {
        self.answered += interval.latency.len();
        let line = match interval.at {
            None => "warming up".to_owned(),
            Some(at) => {
                let micros = |percent| interval.latency.value_at_percentile(percent) as f64 / 1e3;
                format!(
                    "{:5.1} s {}: {} answers, {:.0} ops/s, p50 {:.0} us, p99 {:.0} us, {} errors",
                    at.as_secs_f64(),
                    self.what,
                    self.answered,
                    interval.latency.len() as f64 / interval.elapsed.as_secs_f64(),
                    micros(50.0),
                    micros(99.0),
                    interval.refused
                )
            }
        };
        // Standard error may be closed; nobody is there to be told.
        let _ =
            if self.is_terminal { write!(io::stderr(), "\r\x1b[K{line}") } else { writeln!(io::stderr(), "{line}") };
        self.told = true;
    }

    fn end(&self) {
        if self.is_terminal && self.told {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
