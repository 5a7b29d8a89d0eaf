//! A TCP connection to a server, in both encodings of the protocol.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::wait;

/// A connection. Methods not named `try_...` panic if the server closes, or answers nothing within [`wait::SOON`].
#[derive(Debug)]
pub struct Connection {
    addr: String,
    stream: BufReader<TcpStream>,
}

/// An answer in the array encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Text(String),
    /// `-ERR ...`.
    Error(String),
    /// `$3`, and the bytes.
    Bulk(Vec<u8>),
    /// `:1`.
    Number(i64),
    /// `$-1`.
    Null,
    /// `*2`, and the items.
    Array(Vec<Reply>),
}

impl Reply {
    /// A bulk string with this text.
    #[must_use]
    pub fn bulk(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    /// `+OK`.
    #[must_use]
    pub fn ok() -> Self {
        Self::Text("OK".to_owned())
    }
}

/// A request in the array encoding.
#[must_use]
pub fn array<W: AsRef<[u8]>>(words: &[W]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.as_ref().len()).as_bytes());
        bytes.extend_from_slice(word.as_ref());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Sends all of `input`, ends it, and returns every byte received until the server closed.
///
/// # Panics
/// When there is no connection, or the server does not close.
#[must_use]
#[track_caller]
pub fn exchange(addr: &str, input: impl AsRef<[u8]>) -> String {
    let mut connection = Connection::open(addr);
    connection.send(input);
    connection.end_input();
    String::from_utf8_lossy(&connection.rest()).into_owned()
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// When nobody accepts the connection.
    #[must_use]
    #[track_caller]
    pub fn open(addr: &str) -> Self {
        Self::try_open(addr).unwrap_or_else(|error| panic!("no connection to {addr}: {error}"))
    }

    /// Connects.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_open(addr: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(wait::SOON))?;
        stream.set_write_timeout(Some(wait::SOON))?;
        Ok(Self { addr: addr.to_owned(), stream: BufReader::new(stream) })
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// When the server does not take them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = self.try_send(bytes.as_ref());
        sent.unwrap_or_else(|error| panic!("{} does not take what is sent: {error}", self.addr));
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The system's error; some of the bytes may have been sent.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Ends the input: nothing more will be sent. Answers can still be read.
    ///
    /// # Panics
    /// When the connection is broken.
    #[track_caller]
    pub fn end_input(&mut self) {
        let ended = self.stream.get_ref().shutdown(Shutdown::Write);
        ended.unwrap_or_else(|error| panic!("the connection to {} is broken: {error}", self.addr));
    }

    /// The next line, without its `\n`.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn line(&mut self) -> String {
        self.try_line().unwrap_or_else(|error| panic!("{} sends no line: {error}", self.addr))
    }

    /// The next line, without its `\n`.
    ///
    /// # Errors
    /// The system's error; [`ErrorKind::UnexpectedEof`] when the server has closed.
    pub fn try_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::Error::new(ErrorKind::UnexpectedEof, format!("closed after {line:?}"))),
        }
    }

    /// The lines of a multi-line answer, without the empty line that ends them.
    ///
    /// # Panics
    /// When they do not come.
    #[track_caller]
    pub fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.line() {
                line if line.is_empty() => return lines,
                line => lines.push(line),
            }
        }
    }

    /// Sends a line and returns the line that answers it.
    ///
    /// # Panics
    /// When none comes.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> String {
        self.try_ask(request).unwrap_or_else(|error| panic!("{} does not answer {request:?}: {error}", self.addr))
    }

    /// Sends a line and returns the line that answers it.
    ///
    /// # Errors
    /// The system's error.
    pub fn try_ask(&mut self, request: &str) -> io::Result<String> {
        self.try_send(format!("{request}\n").as_bytes())?;
        self.try_line()
    }

    /// Sends a line again until the answer is something other than that it cannot be done now and nothing was changed,
    /// and returns that answer. On a busy machine a replica may be silent for so long that it is out of sync for a
    /// moment.
    ///
    /// # Panics
    /// When no other answer comes.
    #[track_caller]
    pub fn insist(&mut self, request: &str) -> String {
        wait::eventually(&format!("{request:?} can be done"), wait::SOON, || {
            let answer = self.ask(request);
            if answer.starts_with("ERROR UNAVAILABLE ") { Err(answer) } else { Ok(answer) }
        })
    }

    /// Sends lines at once and returns the answer to each. Those that cannot be done now are sent again, as by
    /// [`Connection::insist`].
    ///
    /// # Panics
    /// When no answer comes, or only that one for too long.
    #[track_caller]
    pub fn insist_all(&mut self, requests: &[String]) -> Vec<String> {
        self.send(requests.iter().map(|request| format!("{request}\n")).collect::<String>());
        let answers: Vec<_> = requests.iter().map(|_| self.line()).collect();
        let again = |(request, answer): (&String, String)| {
            if answer.starts_with("ERROR UNAVAILABLE ") { self.insist(request) } else { answer }
        };
        requests.iter().zip(answers).map(again).collect()
    }

    /// Sends a line and returns the lines that answer it.
    ///
    /// # Panics
    /// When they do not come.
    #[track_caller]
    pub fn ask_lines(&mut self, request: &str) -> Vec<String> {
        self.send(format!("{request}\n"));
        self.lines()
    }

    /// Sends an array and returns its answer.
    ///
    /// # Panics
    /// When none comes, or what comes is not an answer in this encoding.
    #[track_caller]
    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Reply {
        self.send(array(words));
        self.reply()
    }

    /// The next answer in the array encoding.
    ///
    /// # Panics
    /// When none comes, or what comes is not an answer in this encoding.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        let line = self.line();
        let line = line.strip_suffix('\r').unwrap_or_else(|| panic!("an answer's line must end with CR LF: {line:?}"));
        let (mark, rest) = line.split_at_checked(1).unwrap_or_else(|| panic!("an answer has a first byte: {line:?}"));
        let count = || rest.parse::<usize>().unwrap_or_else(|error| panic!("no length in {line:?}: {error}"));
        match mark {
            "+" => Reply::Text(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Number(rest.parse().unwrap_or_else(|error| panic!("no number in {line:?}: {error}"))),
            "$" if rest == "-1" => Reply::Null,
            "$" => {
                let mut bytes = vec![0; count() + 2];
                let read = self.stream.read_exact(&mut bytes);
                read.unwrap_or_else(|error| panic!("{} sends no whole value: {error}", self.addr));
                assert!(bytes.ends_with(b"\r\n"), "a bulk string must end with CR LF: {bytes:?}");
                bytes.truncate(bytes.len() - 2);
                Reply::Bulk(bytes)
            }
            "*" => Reply::Array((0..count()).map(|_| self.reply()).collect()),
            _ => panic!("{line:?} is no answer of the array encoding"),
        }
    }

    /// Every byte received until the server closes.
    ///
    /// # Panics
    /// When it does not close.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes,
            // The server closed with bytes of ours unread; everything it had to say has arrived all the same.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes,
            Err(error) => panic!("{} does not close: {error}, after {:?}", self.addr, String::from_utf8_lossy(&bytes)),
        }
    }

    /// Asserts that the server closes without sending anything more.
    ///
    /// # Panics
    /// When it does not close, or sends more.
    #[track_caller]
    pub fn is_closed(&mut self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "more came before the end: {:?}", String::from_utf8_lossy(&rest));
    }

    /// Asserts that nothing comes for a while, and that the connection stays open.
    ///
    /// # Panics
    /// When something comes, or the server closes.
    #[track_caller]
    pub fn is_silent_for(&mut self, duration: Duration) {
        self.answers_within(duration);
        match self.stream.fill_buf() {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok([]) => panic!("{} closed", self.addr),
            Ok(bytes) => panic!("{} sent {:?}", self.addr, String::from_utf8_lossy(bytes)),
            Err(error) => panic!("the connection to {} broke: {error}", self.addr),
        }
        self.answers_within(wait::SOON);
    }

    /// Sets how long a read waits from now on, instead of [`wait::SOON`].
    ///
    /// # Panics
    /// When the system refuses.
    pub fn answers_within(&mut self, duration: Duration) {
        self.stream.get_ref().set_read_timeout(Some(duration)).expect("a socket takes a timeout above zero");
    }

    /// A second handle to the same connection, for writing from another thread.
    ///
    /// # Panics
    /// When the system has no descriptor left.
    #[must_use]
    pub fn writer(&self) -> TcpStream {
        self.stream.get_ref().try_clone().expect("a socket can be duplicated")
    }
}
