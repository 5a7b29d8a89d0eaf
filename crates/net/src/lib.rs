//! The shell that both servers share: bytes and time in, bytes out.
//!
//! - [`listener`]: accepts connections, within a limit, until told to stop.
//! - [`connection`]: one connection: its buffers, and the loop that decodes everything that has arrived, executes it, and
//!   writes all answers with one system call.
//!   `stalled` is what it does with a client that reads nothing.
//! - [`access`]: the password of a process. [`gate`]: a connection until its client has given it.
//! - [`descriptors`]: how many files the process may open.
//! - [`latency`]: how long requests take.
//! - [`shutdown`]: signals, and how the tasks of a process end together.
//! - [`clock`]: the clock that the engine is told.
//! - [`logging`]: where log events go, and the flags that say so.
//! - [`program`]: how a server runs from its flags to its exit code.

pub mod access;
pub mod clock;
pub mod connection;
pub mod descriptors;
pub mod gate;
pub mod latency;
pub mod listener;
pub mod logging;
pub mod processors;
pub mod program;
pub mod shutdown;
mod stalled;
