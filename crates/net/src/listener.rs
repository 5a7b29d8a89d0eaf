//! Accepting connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use password::{Password, PasswordError};
use proto::error::ErrorReply;
use proto::frame::{Encoding, Frame, FrameDecoder};
use proto::limits;
use proto::peer::is_greeting;
use proto::request::{Auth, verbs};
use proto::response::Response;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::access::Access;
use crate::connection::let_the_answer_arrive;
use crate::descriptors;
use crate::flags;
use crate::shutdown::Shutdown;

/// The longest pause after a failed accept. The usual cause is that the process has run out of descriptors, which
/// passes.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Failures to accept are logged at most once in this time.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How long a connection beyond the limit has to show what it is.
const FIRST_BYTES: Duration = Duration::from_millis(200);

/// Enough to recognize a connection of a node: the longest password and the first word of the greeting.
const OPENING_BYTES: usize = 1024;

/// TCP keepalive: after this much idle time, and then at the interval below, the other end is probed. The system gives
/// up after several probes, on Linux nine.
pub const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How much of what was written may wait in the system for the peer to make room. Less than half of it waits before the
/// socket takes more.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNSENT_BYTES: u32 = 128 * 1024;

/// Binds a port on the first address of `host` that accepts it.
///
/// # Errors
/// The name does not resolve, or the port is not available; the text says which.
pub async fn bind(host: &str, port: u16) -> anyhow::Result<TcpListener> {
    let mut addrs = tokio::net::lookup_host((bare(host), port))
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
        io::ErrorKind::AddrNotAvailable => anyhow::bail!("{addr} is not an address of this machine; see --host"),
        _ => Err(anyhow::Error::new(error).context(format!("cannot listen on {addr}"))),
    }
}

/// A host without the brackets of an IPv6 address.
#[must_use]
pub fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

/// The command-line flags for accepting connections.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectionFlags {
    /// Maximum number of connections at once. Nodes are let in beyond it.
    #[arg(long, default_value_t = limits::CLIENTS, value_parser = flags::number(1..=1_000_000_usize))]
    pub max_clients: usize,

    /// Bytes of answers buffered for a client that does not read them, such as 64MiB. A client over the limit that
    /// reads nothing for 10 s is disconnected.
    #[arg(long, default_value = "64MiB", value_name = "BYTES", value_parser = flags::size::<usize>("1KiB", "1TiB"))]
    pub client_output_limit: usize,

    /// Disconnect a client that is silent for this long; 0 for never.
    #[arg(long, default_value = "0", value_name = "TIME", value_parser = idle_timeout)]
    pub idle_timeout: Duration,

    /// File with the password that clients and the other processes of the cluster must give, and that this process
    /// gives them. Without it everyone is let in.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Also treat a request without a newline as complete after 20 ms of silence, answer it and close, as the first
    /// version's programs expect. Not for slow networks: a request split in two would be taken for a shorter one.
    #[arg(long)]
    pub original_framing: bool,
}

impl ConnectionFlags {
    /// Reads the password, if there is to be one.
    ///
    /// # Errors
    /// The file cannot be read, or holds no password.
    pub fn password(&self) -> Result<Option<Password>, PasswordError> {
        self.password_file.as_deref().map(Password::read).transpose()
    }

    /// These flags, with no more connections than this process can have open.
    #[must_use]
    pub fn fitting(self) -> Self {
        Self { max_clients: descriptors::for_connections(self.max_clients), ..self }
    }
}

impl Default for ConnectionFlags {
    /// The default flags.
    fn default() -> Self {
        Self {
            max_clients: limits::CLIENTS,
            client_output_limit: 64 * 1024 * 1024,
            idle_timeout: Duration::ZERO,
            password_file: None,
            original_framing: false,
        }
    }
}

/// State shared by all connections of a process: the operator's settings, and counters.
#[derive(Debug, Default)]
pub struct Shared {
    /// The operator's settings.
    pub flags: ConnectionFlags,
    /// The password check.
    pub access: Arc<Access>,
    /// Connections served since the start.
    pub accepted: AtomicU64,
    /// Connections refused since the start, because there were too many.
    pub refused: AtomicU64,
    /// Connections cut off since the start, because their clients read nothing.
    pub cut_off: AtomicU64,
    /// Connections closed since the start, because their clients sent nothing.
    pub idle: AtomicU64,
    /// Bytes of answers waiting for clients that read none.
    pub(crate) waiting: AtomicUsize,
}

impl Shared {
    /// Starts with all counters at zero.
    #[must_use]
    pub fn new(flags: ConnectionFlags, access: Arc<Access>) -> Arc<Self> {
        Arc::new(Self { flags, access, ..Self::default() })
    }

    /// Appends the figures, each as a name, a space and a number.
    pub fn describe(&self, lines: &mut Vec<String>) {
        for (name, count) in [
            ("connections_accepted", &self.accepted),
            ("connections_refused", &self.refused),
            ("connections_cut_off", &self.cut_off),
            ("connections_idle", &self.idle),
        ] {
            lines.push(format!("{name} {}", count.load(Ordering::Relaxed)));
        }
        lines.push(format!("wrong_passwords {}", self.access.wrong()));
    }
}

fn idle_timeout(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match humantime::parse_duration(text) {
        Ok(time) if (Duration::from_millis(100)..=Duration::from_secs(365 * 24 * 3600)).contains(&time) => Ok(time),
        _ => Err("expected 0 or a time from 100ms to 365d (examples: 10m, 500ms)".to_owned()),
    }
}

/// Accepts connections until `accepting` begins to shut down, and serves each in a task of `connections`, up to
/// `max_clients` at a time. Further ones are served if they come from nodes of the cluster, since clients must not keep
/// nodes from each other; others are refused.
pub async fn accept<F>(
    listener: TcpListener,
    shared: &Arc<Shared>,
    accepting: &Shutdown,
    connections: &Shutdown,
    serve: impl Fn(TcpStream) -> F + Clone + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(shared.flags.max_clients));
    let from_nodes = Arc::new(Semaphore::new(descriptors::for_nodes(shared.flags.max_clients)));
    // Those beyond these are closed without a word; nodes try again.
    let (examined, refused) = descriptors::for_unserved(shared.flags.max_clients);
    let (examined, refused) = (Arc::new(Semaphore::new(examined)), Arc::new(Semaphore::new(refused)));
    let mut pause = Duration::from_millis(5);
    let mut warned = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = accepting.begun() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = Duration::from_millis(5);
                if let Err(error) = prepare(&stream) {
                    tracing::debug!("a connection closed before it was served: {error}");
                    continue;
                }
                if let Ok(permit) = Arc::clone(&permits).try_acquire_owned() {
                    shared.accepted.fetch_add(1, Ordering::Relaxed);
                    let task = serve(stream);
                    connections.spawn(async move {
                        task.await;
                        drop(permit);
                    });
                } else if let Ok(examining) = Arc::clone(&examined).try_acquire_owned() {
                    let (shared, from_nodes, serve) = (Arc::clone(shared), Arc::clone(&from_nodes), serve.clone());
                    let refused = Arc::clone(&refused);
                    connections.spawn(async move {
                        let opening = opening(&stream).await;
                        // IMPORTANT: not kept while a stranger is refused, which would keep nodes out meanwhile.
                        drop(examining);
                        if is_from_node(&opening, &shared.access, stream.peer_addr().ok())
                            && let Ok(permit) = from_nodes.try_acquire_owned()
                        {
                            shared.accepted.fetch_add(1, Ordering::Relaxed);
                            serve(stream).await;
                            drop(permit);
                        } else {
                            shared.refused.fetch_add(1, Ordering::Relaxed);
                            refuse(stream, &opening, shared.flags.max_clients, &refused).await;
                        }
                    });
                } else {
                    shared.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            Err(error) => {
                if is_due(&mut warned, Instant::now()) {
                    tracing::warn!("cannot accept a connection, trying again until it works: {error}");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Whether to log another failure to accept.
fn is_due(warned: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = warned.is_none_or(|at| now - at >= WARN_EVERY);
    if is_due {
        *warned = Some(now);
    }
    is_due
}

/// What a connection beyond the limit has sent first, without taking it from the socket.
async fn opening(stream: &TcpStream) -> Vec<u8> {
    let mut first = vec![0; OPENING_BYTES];
    let length = match timeout(FIRST_BYTES, stream.peek(&mut first)).await {
        Ok(Ok(length)) => length,
        Ok(Err(_)) | Err(_) => 0,
    };
    first.truncate(length);
    first
}

/// Whether a node of the cluster has sent `opening`. It sends the password, if there is one, and its greeting at once.
fn is_from_node(opening: &[u8], access: &Access, from: Option<SocketAddr>) -> bool {
    if is_greeting(opening) {
        return access.password().is_none();
    }
    let mut decoder = FrameDecoder::new();
    let Ok(Some((Frame::Array(mut words), length))) = decoder.decode(opening) else { return false };
    let (verb, password, end) = (words.next(), words.next(), words.next());
    let (Some(verb), Some(password), None) = (verb, password, end) else { return false };
    verb == verbs::AUTH.as_bytes()
        && opening.get(length..).is_some_and(is_greeting)
        && access.admit(Auth { user: None, password }, from).is_ok()
}

/// Sets the socket options of a connection.
///
/// # Errors
/// What the system reported.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Answers are small and awaited: none should wait for the one before to be acknowledged.
    stream.set_nodelay(true)?;
    // A peer that vanished is detected even if nobody writes to it.
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    // A client that reads slowly is seen to take something, before a third of a long send buffer is free. Without it, for
    // instance in a sandbox, all else works.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket.set_tcp_notsent_lowat(UNSENT_BYTES);
    Ok(())
}

/// Tells a client that there is no room, in the encoding of what it has sent first; a silent client gets a line. The
/// connection stays open for a moment only if there is a permit for it in `open`.
async fn refuse(mut stream: TcpStream, opening: &[u8], limit: usize, open: &Semaphore) {
    let (encoding, error) = if opening.starts_with(b"*") {
        (Encoding::Array, ErrorReply::redis("ERR max number of clients reached"))
    } else {
        (Encoding::Line, ErrorReply::too_many_clients(limit))
    };
    let mut answer = Vec::new();
    Response::Error(error).encode(encoding, &mut answer);
    // The text fits into the socket's empty buffer, so nothing waits for the client.
    if let Err(error) = stream.try_write(&answer) {
        tracing::debug!("cannot tell a client that it is over the limit: {error}");
    } else if let Ok(_permit) = open.try_acquire() {
        let_the_answer_arrive(&mut stream).await;
    } else {
        // The answer would be lost if what has arrived were left unread.
        let _ = stream.try_read(&mut [0; OPENING_BYTES]);
    }
}

#[cfg(test)]
mod tests {
    use proto::frame::encode_array;

    use super::*;

    #[test]
    fn a_node_is_known_by_its_greeting_and_a_wrong_password_before_it_counts() {
        let greeting = b"*6\r\n$4\r\nPEER\r\n";
        let opening = |words: &[&str]| {
            let mut bytes = Vec::new();
            encode_array(words, &mut bytes);
            [&bytes, &greeting[..]].concat()
        };
        let closed = Access::new(Some(Password::new("right").unwrap()));
        assert!(is_from_node(&opening(&["AUTH", "right"]), &closed, None));
        for others in [&greeting[..], b"", b"AUTH right\n", b"*2\r\n$4\r\nAUTH\r\n$5\r\nright\r\n"] {
            assert!(!is_from_node(others, &closed, None), "{others:?}");
        }
        assert_eq!(closed.wrong(), 0);
        for wrong in ["wrong", "righ", "rightt"] {
            assert!(!is_from_node(&opening(&["AUTH", wrong]), &closed, None), "{wrong}");
        }
        assert_eq!(closed.wrong(), 3);
        let open = Access::new(None);
        assert!(is_from_node(greeting, &open, None));
        assert!(!is_from_node(&opening(&["AUTH", "right"]), &open, None));
    }

    #[test]
    fn failures_to_accept_are_logged_once_a_minute() {
        let (start, mut warned) = (Instant::now(), None);
        let logged = (0..1_210).filter(|tenth| is_due(&mut warned, start + Duration::from_millis(100 * tenth)));
        assert_eq!(logged.count(), 3, "in two minutes and a second");
    }
}
