//! Snapshots: everything that the log says up to a position, so that the log below it need not be kept.
//!
//! This module does not interpret the content. It stores payloads in blocks, compressed where that helps and each under
//! a checksum, and a footer with the totals. A snapshot is written under a temporary name while the log continues, and
//! is complete once it is renamed. docs/storage-format.md has the bytes.

mod reader;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use reader::Blocks;
pub use reader::SnapshotReader;

use crate::FORMAT_VERSION;
use crate::bugs::{Bug, Bugs, NoBugs};
use crate::disk::{Disk, DiskFile, Mode, write_full};
use crate::error::{FileError, Flaw, IoContext as _};
use crate::fields::{u32_at, u64_at, u128_at};
use crate::journal::BATCH_BYTES;
use crate::position::{DirectoryId, Position};

/// The size of the payloads in one block, in bytes. A larger payload gets a block of its own.
pub const BLOCK_BYTES: usize = 64 * 1024;

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const BLOCK_HEADER_BYTES: usize = 20;
pub(crate) const FOOTER_BYTES: usize = 28;

const MAGIC: &[u8; 8] = b"kv-snap\n";

/// How a block is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain = 0,
    Lz4 = 1,
    Footer = 2,
}

/// Why there is no snapshot. What was written is removed now or at the next start.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk failed or is full ([`FileError::is_no_space`]). A later snapshot may succeed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Sync the journal before finishing the snapshot.
    #[error("the log is on disk up to position {synced} only, but the snapshot is of position {position}")]
    LogBehind {
        /// How far the log is on disk.
        synced: Position,
        /// What the snapshot stands for.
        position: Position,
    },
    /// The payload is too large. Nothing was added.
    #[error("a payload of {bytes} bytes, the limit is {BATCH_BYTES}")]
    TooLarge {
        /// How large it is, in bytes.
        bytes: usize,
    },
}

/// A snapshot that is on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Where it is.
    pub file: PathBuf,
    /// It has everything that the log says below this position.
    pub position: Position,
    /// How many payloads it holds.
    pub records: u64,
    /// How long the file is, in bytes.
    pub bytes: u64,
}

/// A snapshot being written, at the speed at which its owner calls [`SnapshotWriter::add`]. Holds a block in memory,
/// plain and compressed. If it is dropped before it is finished, it leaves no trace.
#[derive(Debug)]
pub struct SnapshotWriter<B: Bugs = NoBugs> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    bugs: B,
    position: Position,
    written: PathBuf,
    file: Arc<dyn DiskFile>,
    offset: u64,
    /// Payloads that are not in a block yet, each preceded by its length.
    raw: Vec<u8>,
    raw_records: u32,
    /// The block being written.
    block: Vec<u8>,
    totals: Totals,
    finished: bool,
}

/// The totals in the footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) blocks: u64,
    pub(crate) records: u64,
    /// The size of all payloads with their lengths, in bytes.
    pub(crate) raw_bytes: u64,
    /// The checksum of all bytes of the file before the footer.
    pub(crate) checksum: u32,
}

impl<B: Bugs> SnapshotWriter<B> {
    pub(crate) fn create(
        disk: Arc<dyn Disk>,
        directory: &Path,
        id: DirectoryId,
        position: Position,
        bugs: B,
    ) -> Result<Self, SnapshotError> {
        let written = directory.join(name(position.0)).with_extension("tmp");
        let file = disk.open(&written, Mode::Create).io_context("make", &written)?;
        let mut writer = Self {
            disk,
            directory: directory.to_owned(),
            bugs,
            position,
            written,
            file,
            offset: 0,
            raw: Vec::new(),
            raw_records: 0,
            block: Vec::new(),
            totals: Totals::default(),
            finished: false,
        };
        writer.block.extend_from_slice(&encode_header(id, position.0));
        writer.write()?;
        Ok(writer)
    }

    /// Adds a payload. About every [`BLOCK_BYTES`], writes a block, to the kernel only.
    ///
    /// # Errors
    /// The snapshot is unusable, unless the error is [`SnapshotError::TooLarge`].
    pub fn add(&mut self, payload: &[u8]) -> Result<(), SnapshotError> {
        let length = u32::try_from(payload.len()).ok().filter(|&length| u64::from(length) <= BATCH_BYTES);
        let length = length.ok_or(SnapshotError::TooLarge { bytes: payload.len() })?;
        if !self.raw.is_empty() && self.raw.len() + size_of_val(&length) + payload.len() > BLOCK_BYTES {
            self.end_block()?;
        }
        self.raw.extend_from_slice(&length.to_le_bytes());
        self.raw.extend_from_slice(payload);
        self.raw_records += 1;
        if self.raw.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    /// How many bytes were written so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Makes the snapshot durable. Once this returns, the log below its position may be removed. Blocks on the disk.
    ///
    /// `synced` is the position up to which the log is on disk: a snapshot of something that the log itself may lose
    /// would leave a gap between the two.
    ///
    /// # Errors
    /// There is no snapshot, or it is unknown whether there is one: keep the log below.
    pub fn finish(mut self, synced: Position) -> Result<SnapshotInfo, SnapshotError> {
        if synced < self.position {
            return Err(SnapshotError::LogBehind { synced, position: self.position });
        }
        self.end_block()?;
        let totals = self.totals;
        let mut footer = Vec::new();
        for number in [totals.blocks, totals.records, totals.raw_bytes] {
            footer.extend_from_slice(&number.to_le_bytes());
        }
        footer.extend_from_slice(&totals.checksum.to_le_bytes());
        push_block(&mut self.block, Kind::Footer, &footer, FOOTER_BYTES, 0);
        self.write()?;
        // IMPORTANT: the content is durable before the name, and the name before anybody removes the log below.
        let early = self.bugs.plants(Bug::RenameBeforeSync);
        if !early {
            self.file.sync_data().io_context("sync", &self.written)?;
        }
        let file = self.directory.join(name(self.position.0));
        self.disk.rename(&self.written, &file).io_context("name", &file)?;
        self.finished = true;
        if !self.bugs.plants(Bug::NoDirectorySync) {
            self.disk.sync_directory(&self.directory).io_context("sync", &self.directory)?;
        }
        if early {
            self.file.sync_data().io_context("sync", &file)?;
        }
        Ok(SnapshotInfo { file, position: self.position, records: totals.records, bytes: self.offset })
    }

    fn end_block(&mut self) -> Result<(), SnapshotError> {
        if self.raw_records == 0 {
            return Ok(());
        }
        let raw = self.raw.len();
        let most = lz4_flex::block::get_maximum_output_size(raw);
        self.block.clear();
        self.block.resize(BLOCK_HEADER_BYTES + most, 0);
        let room = self.block.get_mut(BLOCK_HEADER_BYTES..).unwrap_or_default();
        match lz4_flex::block::compress_into(&self.raw, room) {
            // Compression must save an eighth, or unpacking is not worth the work.
            Ok(packed) if packed + raw / 8 <= raw => {
                self.block.truncate(BLOCK_HEADER_BYTES + packed);
                seal_block(&mut self.block, Kind::Lz4, raw, self.raw_records);
            }
            _ => {
                self.block.clear();
                push_block(&mut self.block, Kind::Plain, &self.raw, raw, self.raw_records);
            }
        }
        self.write()?;
        self.totals.blocks += 1;
        self.totals.records += u64::from(self.raw_records);
        self.totals.raw_bytes += raw as u64;
        self.raw.clear();
        self.raw.shrink_to(2 * BLOCK_BYTES);
        self.raw_records = 0;
        Ok(())
    }

    /// Writes the block out.
    fn write(&mut self) -> Result<(), SnapshotError> {
        write_full(self.file.as_ref(), self.offset, &self.block).io_context("write", &self.written)?;
        self.totals.checksum = crc32c::crc32c_append(self.totals.checksum, &self.block);
        self.offset += self.block.len() as u64;
        self.block.clear();
        self.block.shrink_to(2 * BLOCK_BYTES);
        Ok(())
    }
}

impl<B: Bugs> Drop for SnapshotWriter<B> {
    fn drop(&mut self) {
        if !self.finished {
            // If this fails, the next start removes the file.
            let _ = self.disk.remove(&self.written);
        }
    }
}

fn push_block(block: &mut Vec<u8>, kind: Kind, stored: &[u8], raw: usize, records: u32) {
    block.resize(BLOCK_HEADER_BYTES, 0);
    block.extend_from_slice(stored);
    seal_block(block, kind, raw, records);
}

/// Fills in the header of a block.
fn seal_block(block: &mut [u8], kind: Kind, raw: usize, records: u32) {
    let stored = block.len().saturating_sub(BLOCK_HEADER_BYTES);
    // The limit of a payload keeps both far smaller.
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let fields = [kind as u32, length(stored), length(raw), records];
    for (place, byte) in block.iter_mut().skip(4).zip(fields.into_iter().flat_map(u32::to_le_bytes)) {
        *place = byte;
    }
    let checksum = crc32c::crc32c(block.get(4..).unwrap_or_default());
    for (place, byte) in block.iter_mut().zip(checksum.to_le_bytes()) {
        *place = byte;
    }
}

fn encode_header(id: DirectoryId, position: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&id.0.to_le_bytes());
    bytes.extend_from_slice(&position.to_le_bytes());
    bytes.resize(HEADER_BYTES - 4, 0);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    let mut header = [0; HEADER_BYTES];
    header.copy_from_slice(&bytes);
    header
}

/// The position in a snapshot header, if it belongs to this directory.
pub(crate) fn decode_header(header: &[u8; HEADER_BYTES], id: DirectoryId) -> Result<u64, Flaw> {
    let sealed = header.get(..HEADER_BYTES - 4).unwrap_or_default();
    if !header.starts_with(MAGIC) || u32_at(header, HEADER_BYTES - 4) != Some(crc32c::crc32c(sealed)) {
        return Err(Flaw::Header);
    }
    let fields = (u32_at(header, 8), u128_at(header, 12), u64_at(header, 28));
    let (Some(version), Some(directory), Some(position)) = fields else { return Err(Flaw::Header) };
    if version != FORMAT_VERSION {
        return Err(Flaw::Version(version));
    }
    if DirectoryId(directory) != id {
        return Err(Flaw::OtherDirectory(DirectoryId(directory)));
    }
    Some(position).filter(|&position| position < Position::LIMIT.0).ok_or(Flaw::Header)
}

/// The name of the snapshot at a position.
pub(crate) fn name(position: u64) -> String {
    format!("snapshot-{position:020}.snap")
}

/// The position in the name of a snapshot; `None` for other files.
pub(crate) fn parse_name(file: &str) -> Option<u64> {
    let digits = file.strip_prefix("snapshot-")?.strip_suffix(".snap")?;
    let position = digits.parse().ok()?;
    (name(position) == file).then_some(position)
}
