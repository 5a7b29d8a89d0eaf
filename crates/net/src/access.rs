//! Access control: the password of a process, and how it reports password mismatches with others.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use password::Password;
use proto::error::ErrorReply;
use proto::frame::encode_array;
use proto::request::{Auth, verbs};
use tokio::time::Instant;

/// Password mismatches are logged at most once in this time.
const WARN_EVERY: Duration = Duration::from_secs(5);

/// The password of this process, if it has one.
#[derive(Debug, Default)]
pub struct Access {
    password: Option<Password>,
    /// How often a wrong password was given.
    wrong: AtomicU64,
    warned: Mutex<Option<Instant>>,
}

impl Access {
    /// Creates the access check. Without a password everyone is let in.
    #[must_use]
    pub fn new(password: Option<Password>) -> Arc<Self> {
        Arc::new(Self { password, ..Self::default() })
    }

    /// The password that this process requires, and gives to the others of its cluster.
    #[must_use]
    pub fn password(&self) -> Option<&Password> {
        self.password.as_ref()
    }

    /// Appends what this process says to another one first: the password, if there is one. Returns whether there is.
    pub fn encode_auth(&self, out: &mut Vec<u8>) -> bool {
        let Some(password) = &self.password else { return false };
        encode_array(&[verbs::AUTH, password.as_str()], out);
        true
    }

    /// How often a wrong password was given.
    #[must_use]
    pub fn wrong(&self) -> u64 {
        self.wrong.load(Ordering::Relaxed)
    }

    /// Checks a client's credentials. `from` is where it connects from, for the log.
    ///
    /// # Errors
    /// The client is not let in; the error is worded as in Redis.
    pub fn admit(&self, auth: Auth<'_>, from: Option<SocketAddr>) -> Result<(), ErrorReply> {
        let is_default = auth.user.is_none_or(|user| user == b"default");
        let is_right = match &self.password {
            Some(password) => password.matches(auth.password) && is_default,
            None if auth.user.is_none() => {
                self.warn(|| {
                    format!("{} sent a password, but this process was started without one", DisplayAddr(from))
                });
                return Err(ErrorReply::redis(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                     configuration is correct?",
                ));
            }
            // As in Redis, a user without a password is let in with any.
            None => is_default,
        };
        if is_right {
            return Ok(());
        }
        self.wrong.fetch_add(1, Ordering::Relaxed);
        self.warn(|| format!("{} sent a wrong password or user", DisplayAddr(from)));
        Err(ErrorReply::redis("WRONGPASS invalid username-password pair or user is disabled."))
    }

    /// Logs a password mismatch, unless one was logged a moment ago.
    pub fn warn(&self, what: impl FnOnce() -> String) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            *warned = Some(Instant::now());
            tracing::warn!("{}; start all processes and clients of a cluster with the same --password-file", what());
        }
    }
}

/// An optional address, for use in a sentence.
#[derive(Debug)]
pub struct DisplayAddr(pub Option<SocketAddr>);

impl std::fmt::Display for DisplayAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(addr) => write!(f, "{addr}"),
            None => f.write_str("somebody"),
        }
    }
}

/// Why another process refuses this one, in words for an operator; `None` if the reason is not a password. `whom` is
/// the other process, `refusal` its answer.
#[must_use]
pub fn disagreement(whom: &str, refusal: &str) -> Option<String> {
    let refusal = refusal.trim_start_matches('-');
    let what = if refusal.starts_with("WRONGPASS") {
        "uses a different password than this process"
    } else if refusal.starts_with("NOAUTH") {
        "requires a password, but this process was started without one"
    } else if refusal.starts_with("ERR AUTH") {
        "was started without a password, but this process with one"
    } else {
        return None;
    };
    Some(format!("{whom} {what}"))
}
