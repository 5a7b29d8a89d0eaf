//! The coordinator of the key-value store. `coordinator --help` lists its flags.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use coordinator::config::Config;
use coordinator::driver::Driver;
use coordinator::session;
use net::shutdown::{self, Shutdown};

fn main() -> ExitCode {
    let config = Config::parse();
    let outcome = net::logging::start(&config.log).and_then(|()| {
        shutdown::abort_on_panic();
        let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
        runtime.block_on(run(config))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coordinator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let listener = net::listener::bind(&config.host, config.port).await?;
    let addr = listener.local_addr().context("the socket has no address")?;
    let shutdown = Shutdown::new();
    let driver = Driver::start(&config, addr, &shutdown);

    // Whoever started this program may be waiting for this very line.
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "[Coordinator] Started on {addr}").context("cannot write to standard output")?;
    stdout.flush().context("cannot write to standard output")?;
    drop(stdout);

    let accepting = net::listener::accept(listener, config.max_clients, &shutdown, &shutdown, |stream| {
        session::serve(stream, driver.clone(), config.original_framing, shutdown.clone())
    });
    tokio::select! {
        () = accepting => {}
        signal = shutdown::signal() => signal.context("cannot wait for signals")?,
    }
    tracing::info!("stopping");
    shutdown.begin();
    shutdown.all_ended().await;
    Ok(())
}
