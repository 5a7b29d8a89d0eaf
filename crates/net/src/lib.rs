//! The shell shared by both servers: bytes and time in, bytes out.
//!
//! - [`listener`]: accepts connections, within a limit, until told to stop.
//! - [`connection`]: one connection: its buffers, and the loop that decodes everything that has arrived, executes it,
//!   and writes all answers with one system call. `stalled` handles clients that read nothing.
//! - [`access`]: the password of a process. [`gate`]: a connection until its client has authenticated.
//! - [`descriptors`]: how many files the process may open.
//! - [`flags`]: values of flags, with errors that say what is expected.
//! - [`in_use`]: waiting at startup for a data directory that another process still uses.
//! - [`latency`]: how long requests take.
//! - [`processors`]: what is done differently on a single processor.
//! - [`shutdown`]: signals, and how the tasks of a process end together.
//! - [`clock`]: the clock for the engine. [`random`]: random bits.
//! - [`logging`]: where log events go, and the flags for it.
//! - [`program`]: how a server runs from its flags to its exit code.

pub mod access;
pub mod clock;
pub mod connection;
pub mod descriptors;
pub mod flags;
pub mod gate;
pub mod in_use;
pub mod latency;
pub mod listener;
pub mod logging;
pub mod processors;
pub mod program;
pub mod random;
pub mod shutdown;
mod stalled;
