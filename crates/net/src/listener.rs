//! Accepting connections.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use proto::error::ErrorReply;
use proto::frame::Encoding;
use proto::limits;
use proto::response::Response;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::connection::let_the_answer_arrive;
use crate::shutdown::Shutdown;

/// The longest pause after a failed accept. The usual reason is that the process is out of descriptors, and it passes.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many clients beyond the limit are told so at once. More are let go without a word.
const REFUSALS: usize = 64;

/// Binds a port on every address that `host` resolves to until one takes it.
///
/// # Errors
/// The name does not resolve, or the port cannot be had; the text says which.
pub async fn bind(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let mut addrs = tokio::net::lookup_host((bare, port))
        .await
        .map_err(|error| anyhow::anyhow!("the host {host} does not resolve: {error}"))?
        .peekable();
    anyhow::ensure!(addrs.peek().is_some(), "the host {host} has no address");
    let mut failure = None;
    for addr in addrs {
        match TcpListener::bind(addr).await {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = Some((addr, error)),
        }
    }
    let Some((addr, error)) = failure else { anyhow::bail!("the host {host} has no address") };
    match error.kind() {
        io::ErrorKind::AddrInUse => anyhow::bail!(
            "{addr} is taken by another program; stop it, or choose another port with --port (0 picks a free one)"
        ),
        io::ErrorKind::AddrNotAvailable => anyhow::bail!("{addr} is no address of this machine; see --host"),
        _ => Err(anyhow::Error::new(error).context(format!("cannot listen on {addr}"))),
    }
}

/// The flags of whoever accepts connections.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectionFlags {
    /// How many connections are served at once.
    #[arg(long, default_value_t = limits::CLIENTS, value_parser = max_clients)]
    pub max_clients: usize,

    /// Also take a request without a newline for whole after 20 ms of silence, answer it and close, as the first
    /// version's programs expect. Not for slow networks: a request cut in two would be taken for a shorter one.
    #[arg(long)]
    pub original_framing: bool,
}

fn max_clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=1_000_000).contains(&number) => Ok(number),
        _ => Err("a number from 1 to 1000000 is expected".to_owned()),
    }
}

/// Accepts connections until `accepting` ends and serves each in a task of `connections`, at most `limit` at a time.
/// Whoever comes beyond that is told so and let go.
pub async fn accept<F>(
    listener: TcpListener,
    limit: usize,
    accepting: &Shutdown,
    connections: &Shutdown,
    serve: impl Fn(TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limit));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let mut pause = Duration::from_millis(5);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = accepting.begun() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = Duration::from_millis(5);
                // Answers are small and awaited: none of them should wait for the one before to be acknowledged.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!("a connection was gone before it was served: {error}");
                    continue;
                }
                match Arc::clone(&permits).try_acquire_owned() {
                    Ok(permit) => {
                        let task = serve(stream);
                        connections.spawn(async move {
                            task.await;
                            drop(permit);
                        });
                    }
                    Err(_) => {
                        if let Ok(permit) = Arc::clone(&refusals).try_acquire_owned() {
                            connections.spawn(async move {
                                refuse(stream, limit).await;
                                drop(permit);
                            });
                        }
                    }
                }
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection, trying again in {pause:?}: {error}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Tells a client that there is no room.
async fn refuse(mut stream: TcpStream, limit: usize) {
    let mut answer = Vec::new();
    Response::Error(ErrorReply::too_many_clients(limit)).encode(Encoding::Line, &mut answer);
    // The text fits the socket's empty buffer, so nothing waits for the client.
    match stream.try_write(&answer) {
        Ok(_) => let_the_answer_arrive(&mut stream).await,
        Err(error) => tracing::debug!("a client beyond the limit was not told so: {error}"),
    }
}
