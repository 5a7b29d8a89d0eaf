//! Whose data a directory holds, and how far that can be trusted.
//!
//! The file `identity` is a text of two parts: a line with its format version, length and checksum, then one line for
//! each fact. It is always replaced as a whole. docs/storage-format.md has the exact format.

use std::fmt::Write as _;
use std::path::Path;

use crate::bugs::Bugs;
use crate::disk::{Disk, Place, read_own, replace_file_with};
use crate::error::{Damage, FileError, Flaw, ReadError};
use crate::position::{DirectoryId, Position};
use crate::sealed::{seal, unseal};

/// The file's name.
pub const NAME: &str = "identity";

/// How the file begins.
const HEAD: &str = "node-identity";

/// How many incarnations are remembered; the newest are kept.
pub const INCARNATIONS: usize = 64;

/// The longest name of a cluster or a boot, in bytes.
pub const NAME_BYTES: usize = 64;

/// A longer file is not one of ours. In bytes.
const FILE_BYTES_MOST: u64 = 16 * 1024;

/// Stands in place of an unknown name.
const NONE: &str = "-";

/// Whose data a directory holds.
///
/// A copied directory has the same identity as its original, but another [`Disk::place`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Drawn when the directory was created.
    pub directory: DirectoryId,
    /// The cluster whose data this is, by the name that its coordinator gave it; `None` until the node has joined one.
    /// Up to [`NAME_BYTES`] of letters, digits and `. : _ -`; other characters are dropped.
    pub cluster: Option<String>,
    /// The incarnations that wrote here and some of whose data may be missing, oldest first. Together with
    /// [`Identity::incarnations`], at most [`INCARNATIONS`] are kept.
    pub unproven: Vec<u64>,
    /// The incarnations that wrote here after those, oldest first. At a start, the last one is the proof shown to the
    /// coordinator.
    pub incarnations: Vec<u64>,
    /// The [`Disk::boot_id`] when the last process began to write here.
    pub boot: Option<String>,
    /// [`Place::number`] when the directory was last opened.
    pub place: u64,
    /// Where the log ended when the last process stopped with everything on disk; `None` while a process runs, and
    /// after a crash.
    pub stopped_at: Option<Position>,
    /// A log was begun here: from then on, a missing log is damage.
    pub log_begun: bool,
}

impl Identity {
    /// The identity of a new directory.
    pub(crate) fn new(directory: DirectoryId) -> Self {
        Self {
            directory,
            cluster: None,
            unproven: Vec::new(),
            incarnations: Vec::new(),
            boot: None,
            place: 0,
            stopped_at: None,
            log_begun: false,
        }
    }

    /// The incarnation that wrote here last.
    #[must_use]
    pub fn last_incarnation(&self) -> Option<u64> {
        self.incarnations.last().copied()
    }

    /// Whether a directory with this place is a copy of the one in which this was written; `false` where the system
    /// does not tell.
    pub(crate) fn is_copied(&self, place: Place) -> bool {
        let is_known = self.place != 0 && place.number != 0;
        is_known && self.place != place.number && self.place != place.inode
    }

    /// Records the incarnation of this start, unless it is recorded already.
    pub fn begin_incarnation(&mut self, incarnation: u64) {
        if self.last_incarnation() == Some(incarnation) {
            return;
        }
        self.incarnations.push(incarnation);
        let surplus = (self.unproven.len() + self.incarnations.len()).saturating_sub(INCARNATIONS);
        let unproven = surplus.min(self.unproven.len());
        self.unproven.drain(..unproven);
        self.incarnations.drain(..surplus - unproven);
    }

    /// Some of what was written so far may be missing, so no later start may present it as proof.
    pub fn lose_proof(&mut self) {
        self.unproven.append(&mut self.incarnations);
    }

    /// Reduces this to what the file can hold, so that it reads back the same.
    pub(crate) fn keep_to_limits(&mut self) {
        for name in [&mut self.cluster, &mut self.boot] {
            *name = name.as_deref().map(safe).filter(|name| name != NONE);
        }
    }

    /// Reads the identity of a directory; `None` if there is none.
    pub(crate) fn load(disk: &dyn Disk, directory: &Path) -> Result<Option<Self>, ReadError> {
        let path = directory.join(NAME);
        let Some(bytes) = read_own(disk, &path, FILE_BYTES_MOST, Flaw::Identity)? else { return Ok(None) };
        match decode(&bytes) {
            Ok(identity) => Ok(Some(identity)),
            Err(flaw) => Err(Damage { file: path, offset: 0, flaw }.into()),
        }
    }

    /// Replaces the stored identity. The new one is durable when this returns.
    pub(crate) fn store<B: Bugs>(&self, disk: &dyn Disk, directory: &Path, bugs: B) -> Result<(), FileError> {
        replace_file_with(disk, directory, NAME, self.encode().as_bytes(), bugs)
    }

    fn encode(&self) -> String {
        let name = |name: &Option<String>| name.as_deref().map_or(NONE.to_owned(), safe);
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(text, "directory {}", self.directory);
        let _ = writeln!(text, "cluster {}", name(&self.cluster));
        let _ = writeln!(text, "boot {}", name(&self.boot));
        let _ = writeln!(text, "place {}", self.place);
        let _ = writeln!(text, "log {}", if self.log_begun { "begun" } else { NONE });
        match self.stopped_at {
            Some(position) => _ = writeln!(text, "stopped {position}"),
            None => _ = writeln!(text, "stopped {NONE}"),
        }
        for incarnation in &self.unproven {
            let _ = writeln!(text, "unproven {incarnation}");
        }
        for incarnation in &self.incarnations {
            let _ = writeln!(text, "incarnation {incarnation}");
        }
        seal(HEAD, &text)
    }
}

/// Reduces a name to the characters that a line can hold.
fn safe(name: &str) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || ".:_-".contains(*c);
    let name: String = name.chars().filter(allowed).take(NAME_BYTES).collect();
    if name.is_empty() { NONE.to_owned() } else { name }
}

fn decode(bytes: &[u8]) -> Result<Identity, Flaw> {
    let body = unseal(HEAD, bytes, Flaw::Identity)?;
    let identity = decode_body(body).ok_or(Flaw::Identity)?;
    // Text that differs from what we would write was written by somebody else.
    if identity.encode().as_bytes() == bytes { Ok(identity) } else { Err(Flaw::Identity) }
}

fn decode_body(body: &str) -> Option<Identity> {
    let mut lines = body.lines();
    let mut next = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
    let known = |word: &str| Some(word.to_owned()).filter(|word| word != NONE);
    let directory = DirectoryId(u128::from_str_radix(next("directory")?, 16).ok()?);
    let cluster = known(next("cluster")?);
    let boot = known(next("boot")?);
    let place = next("place")?.parse().ok()?;
    let log_begun = next("log")? == "begun";
    let stopped_at = match next("stopped")? {
        NONE => None,
        position => Some(Position(position.parse().ok()?)),
    };
    let (mut unproven, mut incarnations) = (Vec::new(), Vec::new());
    for line in lines {
        match line.split_once(' ')? {
            ("unproven", incarnation) => unproven.push(incarnation.parse().ok()?),
            ("incarnation", incarnation) => incarnations.push(incarnation.parse().ok()?),
            _ => return None,
        }
    }
    Some(Identity { directory, cluster, unproven, incarnations, boot, place, stopped_at, log_begun })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Identity {
        let mut identity = Identity::new(DirectoryId(0xfeed));
        identity.cluster = Some("c-1".to_owned());
        identity.boot = Some("0b5c-77".to_owned());
        identity.stopped_at = Some(Position(4_711));
        identity.log_begun = true;
        identity.begin_incarnation(3);
        identity.lose_proof();
        identity.begin_incarnation(9);
        identity
    }

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        for identity in [example(), Identity::new(DirectoryId(1))] {
            assert_eq!(decode(identity.encode().as_bytes()), Ok(identity));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_an_identity_is_noticed() {
        let bytes = example().encode().into_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn the_newest_incarnations_are_kept() {
        let mut identity = example();
        (10..200).for_each(|incarnation| identity.begin_incarnation(incarnation));
        assert_eq!((identity.unproven.len(), identity.incarnations.len()), (0, INCARNATIONS));
        assert_eq!(identity.last_incarnation(), Some(199));
        identity.lose_proof();
        identity.begin_incarnation(200);
        assert_eq!((identity.unproven.len(), identity.incarnations.len()), (INCARNATIONS - 1, 1));
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let mut identity = example();
        identity.cluster = Some("a\nincarnation 99".to_owned());
        let read = decode(identity.encode().as_bytes()).expect("it is whole");
        assert_eq!(read.cluster.as_deref(), Some("aincarnation99"));
    }
}
