//! Signals to processes.

/// What a process is told to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    Terminate,
    Stop,
    Continue,
}

/// Sends a signal to a process.
#[cfg(unix)]
pub(crate) fn send(process: u32, signal: Signal) -> anyhow::Result<()> {
    use nix::sys::signal as system;
    let signal = match signal {
        Signal::Terminate => system::Signal::SIGTERM,
        Signal::Stop => system::Signal::SIGSTOP,
        Signal::Continue => system::Signal::SIGCONT,
    };
    Ok(system::kill(nix::unistd::Pid::from_raw(i32::try_from(process)?), signal)?)
}

/// This system has no signals.
#[cfg(not(unix))]
pub(crate) fn send(process: u32, signal: Signal) -> anyhow::Result<()> {
    anyhow::bail!("this system has no signals: {signal:?} for process {process}")
}
