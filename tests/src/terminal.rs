//! A program in a pseudo-terminal, with the screen that a user would see.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};

use nix::pty::{Winsize, openpty};

use crate::wait::{self, eventually};

const ROWS: NonZeroU16 = NonZeroU16::new(120).expect("not zero");
const COLUMNS: NonZeroU16 = NonZeroU16::new(160).expect("not zero");

/// Ctrl-C as the keyboard sends it.
pub const CTRL_C: &str = "\x03";
/// Ctrl-D as the keyboard sends it.
pub const CTRL_D: &str = "\x04";
/// Tab.
pub const TAB: &str = "\t";
/// Enter.
pub const ENTER: &str = "\r";
/// The arrow key that goes back in the history.
pub const UP: &str = "\x1b[A";

/// A running program that believes it is talking to a user at a terminal. Dropping it kills it.
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    /// Starts a command in a new pseudo-terminal.
    ///
    /// # Panics
    /// When the system has no pseudo-terminal, or the command cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: ROWS.get(), ws_col: COLUMNS.get(), ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).expect("the system has a pseudo-terminal");
        // Unlike the two descriptors of openpty, the duplicates are closed in every child.
        let duplicate = |fd: &OwnedFd| fd.try_clone().expect("a descriptor can be duplicated");
        let (keyboard, mut output) = (File::from(duplicate(&pair.master)), File::from(duplicate(&pair.master)));
        let [stdin, stdout, stderr] = std::array::from_fn(|_| duplicate(&pair.slave));
        drop(pair);
        command.stdin(stdin).stdout(stdout).stderr(stderr).env("TERM", "xterm-256color");
        let child = command.spawn().expect("the program starts");

        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        // The thread ends by itself, with the last process that has the other side open.
        std::thread::spawn({
            let screen = Arc::clone(&screen);
            move || {
                let mut chunk = [0; 4096];
                // At the end, Linux returns EIO where other systems return an empty read.
                while let Ok(length @ 1..) = output.read(&mut chunk) {
                    let read = chunk.get(..length).unwrap_or_default();
                    screen.lock().unwrap_or_else(PoisonError::into_inner).process(read);
                }
            }
        });
        Self { child, keyboard, screen }
    }

    /// Types keys.
    ///
    /// # Panics
    /// When the terminal is gone.
    #[track_caller]
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    /// What the screen shows now: its lines, without the blanks at their ends.
    #[must_use]
    pub fn screen(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner).screen().contents();
        screen.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    /// Waits until `shown` is true for the screen.
    ///
    /// # Panics
    /// With the screen, when that does not happen.
    #[track_caller]
    pub fn shows(&self, what: &str, shown: impl Fn(&str) -> bool) {
        eventually(&format!("the screen shows {what}"), wait::SOON, || {
            let screen = self.screen();
            if shown(&screen) { Ok(()) } else { Err(format!("\n{screen}")) }
        });
    }

    /// Waits until this exact line is somewhere on the screen.
    ///
    /// # Panics
    /// With the screen, when that does not happen.
    #[track_caller]
    pub fn shows_line(&self, line: &str) {
        self.shows(&format!("the line {line:?}"), |screen| screen.lines().any(|shown| shown == line));
    }

    /// Waits until this is the last line that is not empty.
    ///
    /// # Panics
    /// With the screen, when that does not happen.
    #[track_caller]
    pub fn last_line_is(&self, line: &str) {
        self.shows(&format!("{line:?} as its last line"), |screen| {
            screen.lines().rfind(|shown| !shown.is_empty()) == Some(line)
        });
    }

    /// Waits until the program ends by itself, and returns its exit code.
    ///
    /// # Panics
    /// When it does not end, or a signal ended it.
    #[track_caller]
    pub fn wait_for_end(&mut self) -> i32 {
        let status = eventually("the program ends", wait::SOON, || {
            self.child.try_wait().expect("a child can be asked for").ok_or_else(|| format!("\n{}", self.screen()))
        });
        status.code().expect("no signal ended the program")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- screen\n{}\n---", self.screen());
        }
    }
}
