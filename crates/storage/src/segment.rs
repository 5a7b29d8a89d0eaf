//! The files of the log: their names, their headers, and how they are created.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::FORMAT_VERSION;
use crate::bugs::{Bug, Bugs};
use crate::disk::{Disk, DiskFile, Mode, read_full, read_whole, write_full};
use crate::error::{Damage, FileError, Flaw, IoContext as _, ReadError};
use crate::fields::{self, u32_at, u64_at, u128_at};
use crate::position::{DirectoryId, Position};

/// The length of a segment's header, in bytes.
pub(crate) const HEADER_BYTES: usize = 64;

/// The smallest size of a segment, in bytes.
pub const SEGMENT_BYTES_LEAST: u64 = 1024;

/// The largest configurable size of a segment, in bytes.
pub const SEGMENT_BYTES_MOST: u64 = 512 * 1024 * 1024;

/// A larger file is not one of ours. In bytes.
pub(crate) const FILE_BYTES_MOST: u64 = 1024 * 1024 * 1024;

/// How many zeros are written and synced at a time, in bytes: a few milliseconds of disk time.
const ZEROS_STEP: u64 = 1024 * 1024;

const MAGIC: &[u8; 8] = b"kv-log\r\n";

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) directory: DirectoryId,
    /// The position of its first byte.
    pub(crate) first: u64,
    /// Its length in bytes, header included. The next segment begins at `first + size`.
    pub(crate) size: u64,
}

impl Header {
    pub(crate) fn end(self) -> u64 {
        self.first + self.size
    }

    /// The position of the first frame.
    pub(crate) fn body(self) -> u64 {
        self.first + HEADER_BYTES as u64
    }

    /// Checks that the file is at least as long as its header says.
    pub(crate) fn check_length(self, file: &Path, length: u64) -> Result<(), Damage> {
        if length >= self.size {
            return Ok(());
        }
        Err(Damage { file: file.to_owned(), offset: length, flaw: Flaw::Short { size: self.size } })
    }

    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.directory.0.to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.resize(HEADER_BYTES - 4, 0);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&bytes);
        header
    }

    fn decode(bytes: &[u8]) -> Result<Self, Flaw> {
        let header = bytes.get(..HEADER_BYTES).ok_or(Flaw::Header)?;
        let sealed = header.get(..HEADER_BYTES - 4).ok_or(Flaw::Header)?;
        if !header.starts_with(MAGIC) || u32_at(header, HEADER_BYTES - 4) != Some(crc32c::crc32c(sealed)) {
            return Err(Flaw::Header);
        }
        let version = u32_at(header, 8).ok_or(Flaw::Header)?;
        if version != FORMAT_VERSION {
            return Err(Flaw::Version(version));
        }
        let fields = (u128_at(header, 12), u64_at(header, 28), u64_at(header, 36));
        let (Some(directory), Some(first), Some(size)) = fields else { return Err(Flaw::Header) };
        if first >= Position::LIMIT.0 || !(SEGMENT_BYTES_LEAST..=FILE_BYTES_MOST).contains(&size) {
            return Err(Flaw::Header);
        }
        Ok(Self { directory: DirectoryId(directory), first, size })
    }
}

/// The name of the segment that begins at a position.
pub(crate) fn name(first: u64) -> String {
    format!("log-{first:020}.seg")
}

/// Where a segment of this name begins; `None` for other files.
pub(crate) fn parse_name(file: &str) -> Option<u64> {
    let digits = file.strip_prefix("log-")?.strip_suffix(".seg")?;
    let first = digits.parse().ok()?;
    (name(first) == file).then_some(first)
}

/// An open segment.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    /// Zeros have been written to all of it, and are on disk.
    pub(crate) is_zeroed: bool,
}

/// A segment that is on disk under a temporary name and is not part of the log yet.
#[derive(Debug)]
pub(crate) struct Draft {
    segment: Segment,
    written: PathBuf,
}

impl Draft {
    /// Writes an empty segment under its name with another ending.
    pub(crate) fn write<B: Bugs>(
        disk: &dyn Disk,
        directory: &Path,
        header: Header,
        ending: &str,
        bugs: B,
    ) -> Result<Self, FileError> {
        let path = directory.join(name(header.first));
        let written = path.with_extension(ending);
        let file = disk.open(&written, Mode::Create).io_context("make", &written)?;
        let filled = fill(file.as_ref(), &written, header, bugs);
        if filled.is_err() {
            // The remains would take the space that is missing. If this fails, recovery removes them.
            let _ = disk.remove(&written);
        }
        filled?;
        Ok(Self { segment: Segment { header, path, file, is_zeroed: false }, written })
    }

    pub(crate) fn header(&self) -> Header {
        self.segment.header
    }

    /// Fills the segment with zeros, step by step, each on disk before the next. Returns it, or removes it on failure.
    pub(crate) fn with_zeros(mut self, disk: &dyn Disk, mut between: impl FnMut()) -> Result<Self, FileError> {
        let Segment { header, file, .. } = &self.segment;
        let mut from = HEADER_BYTES as u64;
        while from < header.size {
            let upto = (from + ZEROS_STEP).min(header.size);
            let written = write_zeros(file.as_ref(), from, upto).io_context("write", &self.written);
            if let Err(error) = written.and_then(|()| file.sync_data().io_context("sync", &self.written)) {
                self.discard(disk);
                return Err(error);
            }
            from = upto;
            between();
        }
        self.segment.is_zeroed = true;
        Ok(self)
    }

    /// Makes it part of the log.
    ///
    /// IMPORTANT: the header is durable before the segment gets its name, and the name before the first record goes
    /// into it. So a segment of the log that is missing or has a bad header is damage: no crash leaves that.
    pub(crate) fn publish<B: Bugs>(self, disk: &dyn Disk, directory: &Path, bugs: B) -> Result<Segment, PublishError> {
        if let Err(error) = disk.rename(&self.written, &self.segment.path).io_context("name", &self.segment.path) {
            self.discard(disk);
            return Err(PublishError::NotNamed(error));
        }
        if !bugs.plants(Bug::NoDirectorySync) {
            disk.sync_directory(directory).io_context("sync", directory).map_err(PublishError::NotSynced)?;
        }
        if bugs.plants(Bug::RenameBeforeSync) {
            let synced = self.segment.file.sync_data().io_context("sync", &self.segment.path);
            synced.map_err(PublishError::NotSynced)?;
        }
        Ok(self.segment)
    }

    /// Removes a draft that nobody needs. If this fails, recovery removes it.
    pub(crate) fn discard(self, disk: &dyn Disk) {
        let _ = disk.remove(&self.written);
    }
}

fn fill<B: Bugs>(file: &dyn DiskFile, path: &Path, header: Header, bugs: B) -> Result<(), FileError> {
    file.preallocate(header.size).io_context("allocate space for", path)?;
    write_full(file, 0, &header.encode()).io_context("write", path)?;
    if bugs.plants(Bug::RenameBeforeSync) {
        return Ok(());
    }
    file.sync_data().io_context("sync", path)
}

/// Writes zeros between two offsets of a file.
pub(crate) fn write_zeros(file: &dyn DiskFile, from: u64, upto: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut at = from;
    while at < upto {
        let zeros = usize::try_from(upto - at).ok().and_then(|bytes| ZEROS.get(..bytes)).unwrap_or(&ZEROS);
        write_full(file, at, zeros)?;
        at += zeros.len() as u64;
    }
    Ok(())
}

/// Why a draft did not become part of the log.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// The rename failed; nothing was changed.
    NotNamed(FileError),
    /// The rename succeeded, but may not be durable.
    NotSynced(FileError),
}

impl From<PublishError> for FileError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NotNamed(error) | PublishError::NotSynced(error) => error,
        }
    }
}

/// The content of a segment, read into memory.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    /// The file, up to the size in its header.
    pub(crate) bytes: Vec<u8>,
    /// From this offset on, there are only zeros.
    pub(crate) used: usize,
}

impl Image {
    /// Reads the segment that begins at a position.
    pub(crate) fn load(disk: &dyn Disk, directory: &Path, id: DirectoryId, first: u64) -> Result<Self, ReadError> {
        let path = directory.join(name(first));
        let file = disk.open(&path, Mode::Read).io_context("open", &path)?;
        let mut bytes = read_whole(file.as_ref(), FILE_BYTES_MOST).io_context("read", &path)?;
        let header = match check_header(&bytes, id, first) {
            Ok(header) => header,
            Err(flaw) => return Err(Damage { file: path, offset: 0, flaw }.into()),
        };
        header.check_length(&path, bytes.len() as u64)?;
        bytes.truncate(usize::try_from(header.size).unwrap_or(usize::MAX));
        let used = fields::used(&bytes);
        Ok(Self { header, path, bytes, used })
    }

    /// The bytes from an offset on.
    pub(crate) fn rest(&self, offset: usize) -> &[u8] {
        self.bytes.get(offset..).unwrap_or_default()
    }
}

pub(crate) fn check_header(bytes: &[u8], id: DirectoryId, first: u64) -> Result<Header, Flaw> {
    let header = Header::decode(bytes)?;
    if header.directory != id {
        return Err(Flaw::OtherDirectory(header.directory));
    }
    if header.first != first {
        return Err(Flaw::OtherName(Position(header.first)));
    }
    Ok(header)
}

/// Opens a segment if its header is good and the file is as long as the header says.
pub(crate) fn open(
    disk: &dyn Disk,
    directory: &Path,
    id: DirectoryId,
    first: u64,
    mode: Mode,
) -> Result<Segment, ReadError> {
    let path = directory.join(name(first));
    let file = disk.open(&path, mode).io_context("open", &path)?;
    let mut bytes = [0; HEADER_BYTES];
    read_full(file.as_ref(), 0, &mut bytes).io_context("read", &path)?;
    match check_header(&bytes, id, first) {
        Ok(header) => {
            header.check_length(&path, file.length().io_context("inspect", &path)?)?;
            Ok(Segment { header, path, file, is_zeroed: false })
        }
        Err(flaw) => Err(Damage { file: path, offset: 0, flaw }.into()),
    }
}

/// Whether anything was ever written after the header of a segment. Stops reading at the first content.
pub(crate) fn has_content(disk: &dyn Disk, directory: &Path, first: u64) -> Result<bool, FileError> {
    const STEP: usize = 256 * 1024;
    let path = directory.join(name(first));
    let file = disk.open(&path, Mode::Read).io_context("open", &path)?;
    let mut buffer = vec![0; STEP];
    let mut offset = HEADER_BYTES as u64;
    loop {
        let read = read_full(file.as_ref(), offset, &mut buffer).io_context("read", &path)?;
        if fields::used(buffer.get(..read).unwrap_or_default()) > 0 {
            return Ok(true);
        }
        if read < STEP {
            return Ok(false);
        }
        offset += read as u64;
    }
}

/// The directory that the log belongs to, according to its newest readable segment.
pub(crate) fn owner(disk: &dyn Disk, directory: &Path, segment_starts: &[u64]) -> Option<DirectoryId> {
    segment_starts.iter().rev().find_map(|&first| {
        let file = disk.open(&directory.join(name(first)), Mode::Read).ok()?;
        let mut bytes = [0; HEADER_BYTES];
        read_full(file.as_ref(), 0, &mut bytes).ok()?;
        Header::decode(&bytes).ok().map(|header| header.directory)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_their_positions_and_no_others() {
        assert_eq!(name(67_108_864), "log-00000000000067108864.seg");
        assert_eq!(parse_name(&name(u64::MAX)), Some(u64::MAX));
        for other in
            ["log-1.seg", "log-00000000000067108864.tmp", "log-+0000000000000000001.seg", "log-.seg", "identity"]
        {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let header = Header { directory: DirectoryId(7), first: 0, size: 4096 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&damaged), Err(Flaw::Header), "bit {bit}");
        }
    }
}
