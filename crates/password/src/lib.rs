//! The password shared by the processes and clients of a cluster: read from a file, compared in constant time, and
//! never shown.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The longest password, in bytes.
pub const PASSWORD_BYTES: usize = 512;

/// A password: one word of printable ASCII, so that both a protocol line and an array can carry it. Cloning is cheap.
#[derive(Clone)]
pub struct Password {
    text: Arc<str>,
    digest: [u8; 32],
}

/// Why a password is not valid, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The file does not exist, or cannot be read.
    #[error("the password file {} cannot be read: {why}; nothing was done", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        why: io::Error,
    },
    /// The file does not hold a valid password.
    #[error("the password file {} holds no valid password: {what}; nothing was done", path.display())]
    InFile {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        what: Box<PasswordError>,
    },
    /// It is empty.
    #[error("it is empty; expected one line with the password")]
    Empty,
    /// It is too long.
    #[error("it is longer than {PASSWORD_BYTES} bytes, the limit")]
    TooLong,
    /// It has a character that is not allowed.
    #[error("byte {at} is not printable ASCII; blanks and further lines are not allowed")]
    Odd {
        /// Its position, counted from 1.
        at: usize,
    },
}

impl Password {
    /// Creates a password from its text.
    ///
    /// # Errors
    /// It is empty, longer than [`PASSWORD_BYTES`], or has characters other than printable ASCII without blanks.
    pub fn new(text: impl AsRef<[u8]>) -> Result<Self, PasswordError> {
        let bytes = text.as_ref();
        if bytes.is_empty() {
            return Err(PasswordError::Empty);
        }
        if bytes.len() > PASSWORD_BYTES {
            return Err(PasswordError::TooLong);
        }
        if let Some(at) = bytes.iter().position(|byte| !byte.is_ascii_graphic()) {
            return Err(PasswordError::Odd { at: at + 1 });
        }
        Ok(Self { text: String::from_utf8_lossy(bytes).into(), digest: Sha256::digest(bytes).into() })
    }

    /// Reads the password from a file, with or without a line end after it. Logs a warning if other users of the
    /// machine may read or change the file.
    ///
    /// # Errors
    /// The file cannot be read, or does not hold a valid password. The text names the file and never shows its
    /// contents.
    pub fn read(path: &Path) -> Result<Self, PasswordError> {
        let unreadable = |why| PasswordError::Unreadable { path: path.to_owned(), why };
        let file = File::open(path).map_err(unreadable)?;
        warn_of_readers(path, &file);
        let mut bytes = Vec::new();
        // Room for a line end; anything longer is too long anyway.
        file.take(PASSWORD_BYTES as u64 + 3).read_to_end(&mut bytes).map_err(unreadable)?;
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Self::new(line).map_err(|what| PasswordError::InFile { path: path.to_owned(), what: Box::new(what) })
    }

    /// Whether `given` is this password. Takes the same time whatever differs: it compares digests of equal length,
    /// all of their bytes.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(given).into();
        self.digest.ct_eq(&given).into()
    }

    /// The password itself, to be sent but never shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(unix)]
fn warn_of_readers(path: &Path, file: &File) {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(metadata) = file.metadata() else { return };
    let may = match metadata.permissions().mode() & 0o006 {
        _ if !metadata.is_file() => return,
        0 => return,
        0o004 => "read",
        0o002 => "change",
        _ => "read and change",
    };
    tracing::warn!("every user of this machine can {may} the password file {0}; run: chmod 600 {0}", path.display());
}

#[cfg(not(unix))]
fn warn_of_readers(_: &Path, _: &File) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<Password, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, content).unwrap();
        Password::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_holds_one_password_with_or_without_a_line_end() {
        for content in [&b"se:cret~"[..], b"se:cret~\n", b"se:cret~\r\n"] {
            assert_eq!(read(content).unwrap().as_str(), "se:cret~");
        }
        let longest = [b'x'; PASSWORD_BYTES];
        assert_eq!(read(&[&longest[..], b"\r\n"].concat()).unwrap().as_str().len(), PASSWORD_BYTES);
    }

    #[test]
    fn what_is_no_password_is_said_to_be_none_and_not_shown() {
        for (content, what) in [
            (&b""[..], "it is empty"),
            (b"\n", "it is empty"),
            (b"two words", "byte 4 is not printable"),
            (b"two\nlines\n", "byte 4 is not printable"),
            (b"\xff\xfe", "byte 1 is not printable"),
            (b"caf\xc3\xa9", "byte 4 is not printable"),
            (&[b'x'; PASSWORD_BYTES + 1], "longer than 512 bytes"),
            (&[b'x'; 100_000], "longer than 512 bytes"),
        ] {
            let error = read(content).unwrap_err();
            assert!(error.contains(what) && error.ends_with("; nothing was done"), "{error}");
            assert!(!error.contains("two") && !error.contains("xxx"), "{error}");
        }
        let error = Password::read(Path::new("/no/such/file")).unwrap_err().to_string();
        assert!(error.starts_with("the password file /no/such/file cannot be read: "), "{error}");
    }

    #[test]
    fn only_the_password_itself_matches_and_it_is_not_shown() {
        let password = Password::new("secret").unwrap();
        assert!(password.matches(b"secret"));
        for other in [&b""[..], b"secre", b"secret\n", b"Secret", b"secrets", &[b'x'; 10_000]] {
            assert!(!password.matches(other));
        }
        assert_eq!(format!("{password:?}"), "Password(..)");
    }
}
