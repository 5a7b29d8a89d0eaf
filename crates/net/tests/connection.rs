//! The connection loop over real sockets, with a session that echoes.

use std::sync::Arc;
use std::time::Duration;

use engine::record::Record;
use net::connection::{Body, Connection, Ended, Flow, Session};
use net::listener::{ConnectionFlags, Shared};
use net::shutdown::Shutdown;
use proto::frame::Frame;
use proto::id::Version;
use proto::limits;
use proto::peer::Effect;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Echoes a line; answers `later X` only when settled, three at a time, and `body N` with N bytes stored elsewhere;
/// `quit` closes.
#[derive(Default)]
struct Echo {
    later: Vec<String>,
    is_half_settled: bool,
    body: Option<Body>,
}

impl Session for Echo {
    fn request(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) -> Flow {
        let Frame::Line(line) = frame else { return Flow::Upgrade };
        let line = String::from_utf8_lossy(line).into_owned();
        if let Some(later) = line.strip_prefix("later ") {
            self.later.push(later.to_owned());
            return Flow::Next;
        }
        if !self.later.is_empty() {
            return Flow::Settle;
        }
        if let Some(len) = line.strip_prefix("body ") {
            let value = vec![b'b'; len.parse().expect("a length")];
            let record = Record::entry(Version::NONE, b"key", Effect::Put(&value));
            self.body = Some(Body { record, end: b"\n" });
            return Flow::Body;
        }
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
        if line == "quit" { Flow::Close } else { Flow::Next }
    }

    async fn settle(&mut self, _: &TcpStream, out: &mut Vec<u8>) -> std::io::Result<()> {
        for later in self.later.drain(..self.later.len().min(3)) {
            tokio::task::yield_now().await;
            out.extend_from_slice(format!("settled {later}\n").as_bytes());
        }
        self.is_half_settled = !self.later.is_empty();
        Ok(())
    }

    fn is_half_settled(&self) -> bool {
        self.is_half_settled
    }

    fn body(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    fn take_body(&mut self) -> Option<Body> {
        self.body.take()
    }

    fn answered(&mut self) {}
}

/// A client's socket, and the server's loop on the other end of it.
async fn pair(original_framing: bool, shutdown: &Shutdown) -> (TcpStream, tokio::task::JoinHandle<Ended>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    let client = TcpStream::connect(addr).await.expect("a connection");
    let (server, _) = listener.accept().await.expect("a connection");
    let shutdown = shutdown.clone();
    let served = tokio::spawn(async move {
        let mut connection = Connection::new(server);
        let flags = ConnectionFlags { original_framing, ..ConnectionFlags::default() };
        connection
            .serve(&mut Echo::default(), &Shared::new(flags, Arc::default()), &shutdown)
            .await
            .expect("the client stays")
    });
    (client, served)
}

/// Sends everything, ends the input, and returns everything that comes back.
async fn ask(request: &[u8]) -> String {
    let (mut client, served) = pair(false, &Shutdown::new()).await;
    client.write_all(request).await.expect("the server takes it");
    client.shutdown().await.expect("half of a connection can be closed");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("the server answers");
    served.await.expect("no panic");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order() {
    let lines: String = (0..5_000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(ask(lines.as_bytes()).await, lines);
}

#[tokio::test]
async fn answers_that_must_wait_keep_their_place() {
    let answer = ask(b"a\nlater b\nlater c\nd\nbody 3\nlater e\n").await;
    assert_eq!(answer, "a\nsettled b\nsettled c\nd\nbbb\nsettled e\n");
    let laters = |count, word: &str| (0..count).map(|i| format!("{word} {i}\n")).collect::<String>();
    for count in [3, 4, 100] {
        let answer = ask(format!("{}end\n{}*x\r\n", laters(count, "later"), laters(count, "later")).as_bytes()).await;
        let settled = laters(count, "settled");
        let rest = answer.strip_prefix(&format!("{settled}end\n{settled}")).expect(&answer);
        assert!(rest.starts_with("-PROTOCOL ") && rest.lines().count() == 1, "the error comes once and last: {rest}");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_for_a_while_is_read_on_from_and_hears_everything_in_order() {
    let (mut client, served) = pair(false, &Shutdown::new()).await;
    let filler = "x".repeat(1_000);
    // More than the buffers of two sockets take, and less than is kept.
    let answers: String = (0..20_000).map(|i| format!("{}{i} {filler}\n", ["", "settled "][i % 2])).collect();
    client.write_all(answers.replace("settled", "later").as_bytes()).await.expect("the server reads on");
    client.write_all(b"*x\r\n").await.expect("the server reads on");
    // Longer than the server waits before it reads on, as with a client that is busy elsewhere.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.expect("the answers are not lost to a reset");
    let error = heard.strip_prefix(&answers).expect("every answer in its place");
    assert!(error.starts_with("-PROTOCOL ") && error.lines().count() == 1, "{error}");
    drop(client);
    assert_eq!(served.await.expect("no panic"), Ended::Closed);
}

#[tokio::test]
async fn a_body_longer_than_any_buffer_arrives_whole() {
    let answer = ask(b"body 5000000\nend\n").await;
    assert_eq!((answer.len(), answer.ends_with("b\nend\n")), (5_000_005, true));
}

#[tokio::test]
async fn input_that_ends_in_the_middle_of_a_request_says_so() {
    assert_eq!(ask(b"a\nhalf").await, "a\nERROR Incomplete command: a line must end with a newline\n");
    let array = ask(b"a\n*2\r\n$3\r\nGE").await;
    assert_eq!(array, "a\n-ERR Incomplete command: the input ended inside an array\r\n");
    assert_eq!(ask(b"").await, "");
}

#[tokio::test]
async fn what_is_no_frame_is_answered_and_the_connection_closed_although_more_comes() {
    let (mut client, served) = pair(false, &Shutdown::new()).await;
    let mut request = b"*1\r\n$99999999999\r\n".to_vec();
    request.extend_from_slice(&vec![b'x'; 1 << 20]);
    client.write_all(&request).await.expect("the server reads it");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("the answer is not lost to a reset");
    assert!(answer.starts_with("-TOOLONG value of 99999999999 bytes"), "{answer}");
    drop(client);
    assert_eq!(served.await.expect("no panic"), Ended::Closed);
}

#[tokio::test]
async fn whoever_quits_hears_every_answer_although_more_comes() {
    let (mut client, served) = pair(false, &Shutdown::new()).await;
    let request = [&b"body 5000000\nquit\n"[..], &vec![b'x'; 200_000]].concat();
    client.write_all(&request).await.expect("the buffers of two sockets take it");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.expect("the answers are not lost to a reset");
    assert_eq!((answer.len(), answer.ends_with(b"b\nquit\n")), (5_000_006, true));
    drop(client);
    assert_eq!(served.await.expect("no panic"), Ended::Closed);
}

#[tokio::test]
async fn a_line_without_end_is_refused_at_the_limit() {
    let (mut client, _served) = pair(false, &Shutdown::new()).await;
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..=limits::LINE_BYTES >> 20 {
        client.write_all(&chunk).await.expect("the server reads on");
    }
    let mut answer = vec![0; 13];
    client.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(String::from_utf8_lossy(&answer), "ERROR TOOLONG");
}

#[tokio::test]
async fn with_the_original_framing_silence_ends_a_request() {
    let (mut client, served) = pair(true, &Shutdown::new()).await;
    client.write_all(b"no newline").await.expect("the server takes it");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer, then the end");
    assert_eq!(answer, "no newline\n");
    assert_eq!(served.await.expect("no panic"), Ended::Closed);
}

#[tokio::test]
async fn closing_and_upgrading_are_up_to_the_session() {
    assert_eq!(ask(b"quit\nnot answered\n").await, "quit\n");
    let (mut client, served) = pair(false, &Shutdown::new()).await;
    client.write_all(b"*1\r\n$1\r\nx\r\n").await.expect("the server takes it");
    assert_eq!(served.await.expect("no panic"), Ended::Upgraded);
}

#[tokio::test]
async fn shutdown_ends_a_connection_that_waits_for_its_client() {
    let shutdown = Shutdown::new();
    let (mut client, served) = pair(false, &shutdown).await;
    client.write_all(b"a\n").await.expect("the server takes it");
    let mut answer = [0; 2];
    client.read_exact(&mut answer).await.expect("an answer");
    shutdown.begin();
    let ended = tokio::time::timeout(Duration::from_secs(10), served).await.expect("it ends");
    assert_eq!(ended.expect("no panic"), Ended::Closed);
}

#[tokio::test]
async fn shutdown_ends_a_connection_although_more_has_always_arrived() {
    let shutdown = Shutdown::new();
    let (mut client, served) = pair(false, &shutdown).await;
    let lines = b"a\n".repeat(50_000);
    client.write_all(&lines).await.expect("the buffers of two sockets take it");
    shutdown.begin();
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).await.expect("the answers are not lost to a reset");
    assert!(answers.len() < lines.len() && lines.starts_with(&answers), "{} bytes", answers.len());
    drop(client);
    assert_eq!(served.await.expect("no panic"), Ended::Closed);
}

/// What it has taken counts although most of a long send buffer still waits.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_that_reads_slowly_is_seen_to_take_something() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    let (server, _) = listener.accept().await.expect("a connection");
    net::listener::prepare(&server).expect("the system takes it");
    let second = Duration::from_secs(1);
    let chunk = [0; 64 * 1024];
    // Until nothing more has room on either side.
    while tokio::time::timeout(second, server.writable()).await.is_ok() {
        let _ = server.try_write(&chunk);
    }
    let mut taken = 0;
    while tokio::time::timeout(second / 10, server.writable()).await.is_err() {
        taken += client.read(&mut [0; 16 * 1024]).await.expect("it is there");
        assert!(taken < 512 * 1024, "it does not count");
    }
}

#[tokio::test]
async fn whoever_comes_beyond_the_limit_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    let shutdown = Shutdown::new();
    let server = shutdown.clone();
    let accepting = tokio::spawn(async move {
        let shared = Shared::new(ConnectionFlags { max_clients: 1, ..ConnectionFlags::default() }, Arc::default());
        let (serving, ending) = (std::sync::Arc::clone(&shared), server.clone());
        net::listener::accept(listener, &shared, &server, &server, move |stream| {
            let (server, shared) = (ending.clone(), std::sync::Arc::clone(&serving));
            async move {
                let _ = Connection::new(stream).serve(&mut Echo::default(), &shared, &server).await;
            }
        })
        .await;
    });
    let mut first = TcpStream::connect(addr).await.expect("a connection");
    first.write_all(b"a\n").await.expect("room for one");
    first.read_exact(&mut [0; 2]).await.expect("an answer");
    let mut second = TcpStream::connect(addr).await.expect("a connection");
    let mut answer = String::new();
    second.read_to_string(&mut answer).await.expect("an answer, then the end");
    assert!(answer.starts_with("ERROR BUSY 1 clients are connected"), "{answer}");
    shutdown.begin();
    accepting.await.expect("no panic");
    shutdown.all_ended().await;
}
