//! A storage node of the key-value store. `node --help` lists its flags.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use engine::node::Turn;
use net::access::Access;
use net::clock::Clock;
use net::in_use;
use net::listener::Shared;
use net::processors;
use net::program;
use net::random;
use net::shutdown::{self, Shutdown};
use node::clients::Clients;
use node::config::{Command, Config};
use node::dismissal;
use node::driver::Driver;
use node::membership::{self, Farewell, Notice};
use node::session;
use node::store::{self, Fsync, OpenedStore};
use storage::directory::LOCK_NAME;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long requests in flight may take to finish once the node has left.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);

/// How long this node keeps answering after it has left, so that the other nodes can learn of it.
const FAREWELL: Duration = Duration::from_millis(200);

/// How long messages queued for replicas may take to arrive while the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the disk may take, while the node stops, to store what is left.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the coordinator may take to learn that the node is stopping.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let config: Config = program::flags();
    let log = config.log.clone();
    program::run("node", &log, processors::runtime(), || async move {
        match &config.command {
            None => run(config).await,
            Some(Command::Check { dir }) => program::say(&store::check(dir)?),
            Some(Command::Repair { dir, .. }) => program::say(&store::repair(dir, random_id())?),
        }
    })
}

/// 128 random bits.
fn random_id() -> u128 {
    (u128::from(random::bits()) << 64) | u128::from(random::bits())
}

async fn run(config: Config) -> anyhow::Result<()> {
    // Check this before anything else: a password that cannot be read aborts the start.
    let access = Access::new(config.connections.password()?);
    if let Some(directory) = &config.data_dir {
        in_use::wait_for_predecessor(&config.host, config.port(), directory, &directory.join(LOCK_NAME)).await;
    }
    let listener = net::listener::bind(&config.host, config.port()).await?;
    let bound = listener.local_addr().context("the socket has no address")?;
    let addr = config.advertised(bound.port())?;
    let clock = Clock::start();
    let (found, journal) = match open_data(&config, clock, bound).await? {
        Some(OpenedStore { node, store, journal, snapshot, .. }) => (Some((node, store)), Some((journal, snapshot))),
        None => (None, None),
    };

    let memory = (config.max_memory.unwrap_or(0), config.evict.into());
    let serving = Serving::start(&config)?;
    // Shutdown order: first accepting, then the connections, then the node's background tasks.
    let (accepting, connections) = (Shutdown::new(), Shutdown::on(serving.handle()));
    let background = if serving.is_apart() { Shutdown::on(Handle::current()) } else { Shutdown::new() };
    let driver = Driver::new(addr, clock, found, memory, config.request_timeout, Arc::clone(&access), &background);
    driver.node().compare_every(config.compare_every);
    driver.node().set_move_rate(u64::from(config.move_rate) << 20);
    let writing = match (driver.store(), journal) {
        (Some(store), Some((journal, snapshot))) => {
            Some(store.start(driver.clone(), journal, snapshot, config.fsync_interval, serving.handle())?)
        }
        _ => None,
    };
    let clients = Clients::new(Shared::new(config.connections.clone().fitting(), access));
    connections.spawn(accept(listener, driver.clone(), clients, accepting.clone(), connections.clone()));
    let (notify, notices) = mpsc::channel(16);
    let (leave, left) = oneshot::channel();
    start_membership(&config, &driver, notify, left, &background);

    let why = end_of(&driver, serve(notices, config.join_timeout, bound)).await?;
    if let End::Asked = why {
        if driver.node().slots_led() > 0 {
            tracing::info!("stopping: handing slots over to other nodes");
        }
        hand_over(&driver).await;
    }
    accepting.begin();
    if let End::Dismissed = why {
        return dismissal::end(&driver, &connections, &background, writing, leave).await;
    }
    tracing::info!("stopping");
    stop(&driver, &connections, &background, leave).await;
    if let End::DiskFailed(why) = why {
        anyhow::bail!(
            "the data directory {} has failed, and the node has stopped so that its replicas take over: {why}. \
             Replace the disk, and start with an empty directory: the others fill it",
            driver.store().map(|store| store.path().display().to_string()).unwrap_or_default()
        );
    }
    if let Some(writing) = writing {
        match timeout(CLOSE_TIMEOUT, tokio::task::spawn_blocking(|| writing.close())).await {
            Ok(closed) => closed.context("cannot close the data")??,
            Err(_) => anyhow::bail!(
                "the disk has not stored what was left within {} s; the node stops without it, and its next start treats \
                 this as a crash",
                CLOSE_TIMEOUT.as_secs()
            ),
        }
    }
    match why {
        End::Refused(why) => anyhow::bail!(why),
        End::Asked | End::DiskFailed(_) | End::Dismissed => Ok(()),
    }
}

/// Opens the data directory, if the node has one, and prints what was found there.
async fn open_data(config: &Config, clock: Clock, bound: SocketAddr) -> anyhow::Result<Option<OpenedStore>> {
    let Some(path) = &config.data_dir else {
        program::say(&format!("[Node {}] Memory only: its data is lost when it stops", bound.port()))?;
        return Ok(None);
    };
    let settings = store::Settings { path: path.clone(), fsync: config.fsync, interval: config.fsync_interval };
    let open = move || store::open(&settings, clock.now(), random::bits(), random_id());
    let opened = tokio::task::spawn_blocking(open).await.context("cannot open the data")??;
    let (path, fsync) = (opened.store.path().display(), opened.store.fsync());
    program::say(&format!("[Node {}] Data in {path}, fsync {fsync}: {}", bound.port(), opened.found))?;
    Ok(Some(opened))
}

/// Where clients are served. With `--fsync always`, nearly all of their requests wait for the log thread. They then have
/// a runtime of their own, which leaves that thread a processor, if there are several: otherwise the end of each sync
/// wakes threads that take the processor from it.
struct Serving(Option<Runtime>);

impl Serving {
    fn start(config: &Config) -> anyhow::Result<Self> {
        let is_apart = config.fsync == Fsync::Always && !processors::is_one();
        let runtime = is_apart.then(processors::runtime_for_connections).transpose();
        Ok(Self(runtime.context("cannot start the runtime for connections")?))
    }

    fn is_apart(&self) -> bool {
        self.0.is_some()
    }

    fn handle(&self) -> Handle {
        self.0.as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // The other runtime waits for nobody here either.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves connections until `accepting` shuts down.
async fn accept(
    listener: TcpListener,
    driver: Driver,
    clients: Arc<Clients>,
    accepting: Shutdown,
    connections: Shutdown,
) {
    let (shared, served) = (Arc::clone(&clients.shared), connections.clone());
    net::listener::accept(listener, &shared, &accepting, &connections, move |stream| {
        session::serve(stream, driver.clone(), Arc::clone(&clients), served.clone())
    })
    .await;
}

/// Starts the session with the coordinator, which runs until `background` shuts down.
fn start_membership(
    config: &Config,
    driver: &Driver,
    notices: mpsc::Sender<Notice>,
    left: oneshot::Receiver<Farewell>,
    background: &Shutdown,
) {
    let settings = membership::Settings {
        host: net::listener::bare(&config.coordinator_host).to_owned(),
        port: config.coordinator_port,
        heartbeat_interval: config.heartbeat_interval,
        weight: config.weight,
    };
    let (membership, end) = (membership::run(driver.clone(), settings, notices, left), background.clone());
    background.spawn(async move {
        tokio::select! {
            () = membership => {}
            () = end.begun() => {}
        }
    });
}

/// Waits until the node must stop: `serve` says so, a signal arrives, or the disk fails.
async fn end_of(driver: &Driver, serve: impl Future<Output = anyhow::Result<End>>) -> anyhow::Result<End> {
    let failed = async {
        match driver.store() {
            Some(store) => {
                let why = store.failed().await;
                store.lose_proof().await;
                why
            }
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        end = serve => end,
        signal = shutdown::signal() => {
            signal.context("cannot wait for signals")?;
            Ok(End::Asked)
        }
        why = failed => Ok(End::DiskFailed(why)),
    }
}

/// Why a node stops.
enum End {
    /// A signal asked it to.
    Asked,
    /// It is not a member of its cluster and cannot become one; the text says what to do.
    Refused(String),
    DiskFailed(String),
    /// It was decommissioned and has handed everything over.
    Dismissed,
}

/// Reports when the node has joined. Returns only when the node must stop; from then on nobody listens to notices.
async fn serve(mut notices: mpsc::Receiver<Notice>, patience: Duration, bound: SocketAddr) -> anyhow::Result<End> {
    match joined(&mut notices, patience).await {
        Ok(response) => {
            program::say(&format!("[Node {}] Coordinator response: {response}", bound.port()))?;
            program::say(&format!("[Node {}] Started on {bound}", bound.port()))?;
        }
        Err(why) => return Ok(End::Refused(format!("{why:#}"))),
    }
    loop {
        match notices.recv().await {
            Some(Notice::Rejected(why)) => return Ok(End::Refused(why)),
            Some(Notice::Dismissed) => return Ok(End::Dismissed),
            Some(Notice::Joined(_) | Notice::Unreachable(_) | Notice::Refused(_)) => {}
            None => return std::future::pending().await,
        }
    }
}

/// Waits until the coordinator has registered this node, and returns the coordinator's text.
async fn joined(notices: &mut mpsc::Receiver<Notice>, patience: Duration) -> anyhow::Result<String> {
    let deadline = Instant::now() + patience;
    let mut last = "the coordinator does not answer. Start it again, or name another one with --coordinator-host and \
                    --coordinator-port"
        .to_owned();
    loop {
        match timeout_at(deadline, notices.recv()).await {
            Ok(Some(Notice::Joined(response))) => return Ok(response),
            Ok(Some(Notice::Unreachable(why))) => {
                tracing::warn!("{why}; trying again");
                last =
                    format!("{why}. Start the coordinator, or name it with --coordinator-host and --coordinator-port");
            }
            Ok(Some(Notice::Refused(why))) => {
                tracing::warn!("{why}; trying again");
                last = why;
            }
            Ok(Some(Notice::Rejected(why))) => anyhow::bail!(why),
            // A node is never dismissed before it has joined.
            Ok(Some(Notice::Dismissed)) => {}
            Ok(None) => anyhow::bail!("the session with the coordinator has ended: {last}"),
            Err(_) => anyhow::bail!("gave up joining after {}: {last}", humantime::format_duration(patience)),
        }
    }
}

/// Hands this node's slots over to other nodes, where there are any, so that no request waits for it. The node keeps
/// serving meanwhile.
async fn hand_over(driver: &Driver) {
    driver.node().prepare_to_stop(driver.clock().now());
    driver.propose();
    while !driver.node().is_handed_over(driver.clock().now()) {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Shuts down gracefully, within ten seconds: stops taking writes, drains the replica queues, tells the coordinator,
/// and forwards or finishes requests in flight. A write that arrives meanwhile waits for the next primary; none is cut
/// off.
async fn stop(driver: &Driver, connections: &Shutdown, background: &Shutdown, leave: oneshot::Sender<Farewell>) {
    let mut turn = Turn::default();
    driver.node().close(driver.clock().now(), &mut turn);
    driver.finish(&mut turn);
    let drained = async {
        while driver.node().lag().items > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    if timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!("{} messages were not acknowledged by every replica", driver.node().lag().items);
    }
    let (tell, told) = oneshot::channel();
    if leave.send(Farewell { cleared: false, told: tell }).is_err() || timeout(LEAVE_TIMEOUT, told).await.is_err() {
        tracing::warn!(
            "could not tell the coordinator that this node is stopping; it will notice the missing heartbeats"
        );
    }
    sleep(FAREWELL).await;
    connections.begin();
    if timeout(FINISH_TIMEOUT, connections.all_ended()).await.is_err() {
        tracing::warn!("some requests did not finish in time and were dropped");
    }
    background.begin();
    if timeout(LEAVE_TIMEOUT, background.all_ended()).await.is_err() {
        tracing::warn!("some tasks did not end in time");
    }
}
