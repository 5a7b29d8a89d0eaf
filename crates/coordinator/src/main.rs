//! The coordinator of the key-value store. `coordinator --help` lists its flags.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coordinator::config::Config;
use coordinator::driver::Driver;
use coordinator::session;
use net::access::Access;
use net::in_use;
use net::listener::Shared;
use net::program;
use net::shutdown::{self, Shutdown};
use tokio::runtime::Builder;
use tokio::time::timeout;

/// How long connections may take to end.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let config: Config = program::flags();
    let log = config.log.clone();
    program::run("coordinator", &log, Builder::new_multi_thread(), || run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    // Check this before anything else: a password that cannot be read aborts the start.
    let access = Access::new(config.connections.password()?);
    if let Some(directory) = &config.data_dir {
        let lock = directory.join(storage::coordinator::LOCK_NAME);
        in_use::wait_for_predecessor(&config.host, config.port, directory, &lock).await;
    }
    let listener = net::listener::bind(&config.host, config.port).await?;
    let addr = listener.local_addr().context("the socket has no address")?;
    let shutdown = Shutdown::new();
    let driver = Driver::start(&config, addr, &shutdown)?;
    if config.data_dir.is_none() {
        tracing::info!("no --data-dir: a restart takes the state over from the nodes");
    }

    program::say(&format!("[Coordinator] Started on {addr}"))?;

    let shared = Shared::new(config.connections.fitting(), access);
    let (serving, connections) = (Arc::clone(&shared), shutdown.clone());
    let accepting = net::listener::accept(listener, &shared, &shutdown, &shutdown, move |stream| {
        session::serve(stream, driver.clone(), Arc::clone(&serving), connections.clone())
    });
    tokio::select! {
        () = accepting => {}
        signal = shutdown::signal() => signal.context("cannot wait for signals")?,
    }
    tracing::info!("stopping");
    shutdown.begin();
    // A peer that takes no answers must not delay another coordinator that waits for the directory.
    if timeout(FINISH_TIMEOUT, shutdown.all_ended()).await.is_err() {
        tracing::warn!("some connections did not end in time and were dropped");
    }
    Ok(())
}
