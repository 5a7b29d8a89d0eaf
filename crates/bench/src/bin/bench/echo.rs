//! The server that does nothing: it shows what sockets, system calls and wake-ups cost, and nothing else.
//!
//! It runs on the same runtime as a node, and its loop has the shape of a node's: read what has arrived, answer all of
//! it, write once. It recognizes a request by its length alone and looks at nothing but the key, which it repeats in
//! the answer to a GET so that the generator can check it like a node's.

use std::io::{self, Write as _};

use anyhow::Context as _;
use bench::Target;
use bench::keys::Sizes;
use bench::request::{Dialect, Template, Verb};
use bench::target::Place;
use bytes::{Buf as _, BytesMut};
use proto::frame::Encoding;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::shape::KEYS;

/// The minimum that a read asks for, as in a node.
const READ_BYTES: usize = 16 * 1024;

/// How the requests begin by which redis-benchmark asks for settings, on a connection of its own. It goes on once one of
/// them is answered with an error.
const ASKED_FOR_SETTINGS: &[u8] = b"*3\r\n$6\r\nCONFIG\r\n";

/// The echo server as a target; it answers for every key.
pub(crate) fn target(at: &Place) -> Target {
    Target::single("the echo server", at, Dialect::Put, 0..KEYS)
}

/// Serves keys and values of these lengths until the process is killed.
pub(crate) fn run(port: u16, sizes: Sizes) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("cannot listen")?;
        let addr = listener.local_addr().context("the socket has no address")?;
        writeln!(io::stdout(), "[Echo] Started on {addr}").context("cannot write to standard output")?;
        accept(listener, sizes).await
    })
}

/// Accepts connections forever.
pub(crate) async fn accept(listener: TcpListener, sizes: Sizes) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        stream.set_nodelay(true).context("cannot set up a connection")?;
        tokio::spawn(async move {
            if let Err(error) = serve(stream, sizes).await {
                eprintln!("bench echo: a connection ended: {error}");
            }
        });
    }
}

async fn serve(mut stream: TcpStream, sizes: Sizes) -> io::Result<()> {
    let mut input = BytesMut::new();
    let mut output = Vec::new();
    let mut kind = None;
    loop {
        input.reserve(READ_BYTES);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        if kind.is_none() {
            if input.starts_with(ASKED_FOR_SETTINGS) {
                stream.write_all(b"-ERR it has no settings\r\n").await?;
                input.clear();
                continue;
            }
            kind = kind_of(&input, sizes);
        }
        // All requests on a connection have the same shape.
        let Some((request, answer)) = &kind else { continue };
        while let Some(bytes) = input.get(..request.bytes.len()) {
            let start = output.len();
            output.extend_from_slice(&answer.bytes);
            if let (Some(key), Some(copy)) = (request.key_in(bytes), output.get_mut(start..)) {
                answer.write_key(key, copy);
            }
            input.advance(request.bytes.len());
        }
        match stream.try_write(&output) {
            Ok(written) if written == output.len() => {}
            Ok(written) => stream.write_all(output.get(written..).unwrap_or_default()).await?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.write_all(&output).await?,
            Err(error) => return Err(error),
        }
        output.clear();
    }
}

/// The shape of a connection's requests, judged by how the first one begins.
fn kind_of(input: &[u8], sizes: Sizes) -> Option<(Template, Template)> {
    [Verb::Put, Verb::Get].into_iter().find_map(|verb| {
        [Encoding::Line, Encoding::Array].into_iter().find_map(|encoding| {
            let request = Template::request(verb, encoding, sizes, Dialect::Put);
            let begins = input.first_chunk::<3>()? == request.bytes.first_chunk::<3>()?;
            begins.then(|| (request, Template::answer(verb, encoding, sizes)))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{SIZES, fill, shapes};
    use bench::{Load, Until};
    use std::io::Read as _;
    use std::time::Duration;

    /// Starts an echo server on a thread of its own.
    fn start() -> std::net::SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { accept(TcpListener::from_std(listener).unwrap(), SIZES).await })
        });
        addr
    }

    #[test]
    fn redis_benchmark_is_told_that_there_are_no_settings() {
        let mut client = std::net::TcpStream::connect(start()).unwrap();
        client.write_all(b"*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nsave\r\n").unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"-ERR ");
    }

    #[test]
    fn every_shape_is_answered_by_the_echo_server() {
        let place = Place { addr: start(), pids: vec![std::process::id()] };
        let target = Target::single("the echo server", &place, Dialect::Put, 0..1_000);
        fill(&target, SIZES.value).unwrap();
        for shape in shapes() {
            let load = Load { until: Until::Operations(500), ..shape.load(Duration::ZERO) };
            let outcome = bench::run(&target, &load, Duration::MAX, None, &mut |_| ()).unwrap();
            assert_eq!(outcome.operations, 500, "{shape}");
            assert_eq!(outcome.server_cpu.is_some(), cfg!(target_os = "linux"), "{shape}");
        }
    }
}
