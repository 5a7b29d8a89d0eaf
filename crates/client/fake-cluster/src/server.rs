//! A listener with its connections, which can be stopped and restarted on the same port.

use std::sync::Arc;

use proto::error::ErrorReply;
use proto::frame::{Frame, FrameDecoder};
use proto::id::NodeAddr;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

/// What a server does with a connection.
pub(crate) trait Serve: Send + Sync + 'static {
    fn serve(self: Arc<Self>, stream: TcpStream) -> impl Future<Output = ()> + Send;
}

/// A running server, or one that was stopped.
#[derive(Debug)]
pub(crate) struct Server {
    addr: NodeAddr,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Server {
    pub(crate) async fn start<S: Serve>(serve: Arc<S>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of the loopback is free");
        let port = listener.local_addr().expect("a listener has an address").port();
        let addr = NodeAddr::new("127.0.0.1", port).expect("a bound port is not 0");
        Self { addr, running: Some(run(listener, serve)) }
    }

    pub(crate) fn addr(&self) -> &NodeAddr {
        &self.addr
    }

    /// Closes the listener and all connections; once it returns, connections are refused.
    pub(crate) async fn stop(&mut self) {
        if let Some((stop, task)) = self.running.take() {
            drop(stop);
            task.await.expect("a server does not panic");
        }
    }

    /// Listens again on the same address.
    pub(crate) async fn restart<S: Serve>(&mut self, serve: Arc<S>) {
        self.stop().await;
        let listener = TcpListener::bind(self.addr.as_str()).await.expect("nobody has taken the port meanwhile");
        self.running = Some(run(listener, serve));
    }
}

fn run<S: Serve>(listener: TcpListener, serve: Arc<S>) -> (oneshot::Sender<()>, JoinHandle<()>) {
    let (stop, mut stopped) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                accepted = listener.accept() => {
                    if let Ok((stream, _)) = accepted {
                        connections.spawn(Arc::clone(&serve).serve(stream));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        connections.shutdown().await;
    });
    (stop, task)
}

/// The requests of one connection.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    received: Vec<u8>,
    decoder: FrameDecoder,
    consumed: usize,
}

impl Requests {
    /// The next request; `None` at the end of the connection.
    pub(crate) async fn next(&mut self, stream: &mut TcpStream) -> Option<Result<Frame<'_>, ErrorReply>> {
        self.received.drain(..self.consumed);
        self.consumed = 0;
        // The frame is decoded twice, since it borrows the buffer that more bytes are read into.
        loop {
            match FrameDecoder::new().decode(&self.received) {
                Ok(None) => match stream.read_buf(&mut self.received).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                },
                Ok(Some((_, consumed))) => {
                    self.consumed = consumed;
                    break;
                }
                Err(error) => return Some(Err(error)),
            }
        }
        let frame = self.decoder.decode(&self.received).expect("it decoded before").expect("it was whole before").0;
        Some(Ok(frame))
    }
}
