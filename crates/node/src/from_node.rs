//! A connection that another node has opened.

use std::io;

use net::connection::Connection;
use net::shutdown::Shutdown;
use proto::id::Incarnation;
use proto::peer::LinkKind;
use tokio::net::TcpStream;

use crate::driver::Driver;
use crate::{replication, serve_forwards};

/// What a connection turned out to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upgrade {
    pub(crate) kind: LinkKind,
    /// The start of the node that has opened it.
    pub(crate) from: Incarnation,
}

/// Serves it until it ends. If clients' connections have a runtime of their own, it leaves that.
pub(crate) async fn serve(
    connection: Connection,
    upgrade: Upgrade,
    driver: Driver,
    shutdown: Shutdown,
) -> io::Result<()> {
    let Some(runtime) = driver.background().runtime().cloned() else {
        return serve_here(connection, upgrade, driver, shutdown).await;
    };
    let Connection { stream, reader, output } = connection;
    let stream = stream.into_std()?;
    let there = runtime.spawn(async move {
        let connection = Connection { stream: TcpStream::from_std(stream)?, reader, output };
        serve_here(connection, upgrade, driver, shutdown).await
    });
    there.await.map_err(io::Error::other)?
}

async fn serve_here(
    mut connection: Connection,
    Upgrade { kind, from }: Upgrade,
    driver: Driver,
    shutdown: Shutdown,
) -> io::Result<()> {
    match kind {
        LinkKind::Replication => replication::receive(&mut connection, &driver, from, &shutdown).await,
        LinkKind::Forward => serve_forwards::serve(&mut connection, &driver, &shutdown).await,
    }
}
