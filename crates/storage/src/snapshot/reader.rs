//! Reads a snapshot, one block at a time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BLOCK_BYTES, BLOCK_HEADER_BYTES, FOOTER_BYTES, HEADER_BYTES, Kind, Totals, decode_header};
use crate::disk::{Disk, DiskFile, Mode, read_full};
use crate::error::{Damage, Flaw, IoContext as _, ReadError};
use crate::fields::{u32_at, u64_at};
use crate::journal::BATCH_BYTES;
use crate::position::{DirectoryId, Position};

/// The blocks of a snapshot; verifies each against its checksum, and all of them against the footer.
#[derive(Debug)]
pub(crate) struct Blocks {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    length: u64,
    position: Position,
    /// Where the next block begins.
    offset: u64,
    totals: Totals,
    /// The block that was read last, header included.
    block: Vec<u8>,
}

/// A block that was read: its bytes are in [`Blocks::stored`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) offset: u64,
    kind: Kind,
    raw: usize,
    records: u32,
}

impl Blocks {
    pub(crate) fn open(disk: &dyn Disk, path: &Path, id: DirectoryId) -> Result<Self, ReadError> {
        let file = disk.open(path, Mode::Read).io_context("open", path)?;
        let length = file.length().io_context("inspect", path)?;
        let mut header = [0; HEADER_BYTES];
        let flaw = |error: io::Error| Flaw::Unreadable(error.to_string());
        let damage = |flaw: Flaw| Damage { file: path.to_owned(), offset: 0, flaw };
        read_full(file.as_ref(), 0, &mut header).map_err(|error| damage(flaw(error)))?;
        let position = decode_header(&header, id)
            .and_then(|position| {
                let named = path.file_name().and_then(|name| name.to_str()).and_then(super::parse_name);
                if named == Some(position) { Ok(position) } else { Err(Flaw::OtherName(Position(position))) }
            })
            .map_err(damage)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            length,
            position: Position(position),
            offset: HEADER_BYTES as u64,
            totals: Totals { checksum: crc32c::crc32c(&header), ..Totals::default() },
            block: Vec::new(),
        })
    }

    /// Reads all remaining blocks to verify that the snapshot is whole. Returns how many payloads it holds.
    pub(crate) fn verify(mut self) -> Result<u64, ReadError> {
        while self.next()?.is_some() {}
        Ok(self.totals.records)
    }

    /// Reads the next block; `None` when the footer confirms that all were read.
    pub(crate) fn next(&mut self) -> Result<Option<Block>, ReadError> {
        let offset = self.offset;
        let mut header = [0; BLOCK_HEADER_BYTES];
        let read = read_full(self.file.as_ref(), offset, &mut header).map_err(|error| self.unreadable(&error))?;
        if read < BLOCK_HEADER_BYTES {
            return Err(self.damaged(offset, Flaw::Footer));
        }
        let Some((block, stored)) = self.parse(&header) else { return Err(self.damaged(offset, Flaw::Block)) };
        self.block.clear();
        self.block.extend_from_slice(&header);
        self.block.resize(BLOCK_HEADER_BYTES + stored, 0);
        let body = self.block.get_mut(BLOCK_HEADER_BYTES..).unwrap_or_default();
        let read = read_full(self.file.as_ref(), offset + BLOCK_HEADER_BYTES as u64, body);
        let read = read.map_err(|error| self.unreadable(&error))?;
        let checksum = crc32c::crc32c(self.block.get(4..).unwrap_or_default());
        if read < stored || u32_at(&header, 0) != Some(checksum) {
            return Err(self.damaged(offset, Flaw::Block));
        }
        self.offset += self.block.len() as u64;
        if block.kind == Kind::Footer {
            return if self.footer_fits() { Ok(None) } else { Err(self.damaged(offset, Flaw::Footer)) };
        }
        self.totals.blocks += 1;
        self.totals.records += u64::from(block.records);
        self.totals.raw_bytes += block.raw as u64;
        self.totals.checksum = crc32c::crc32c_append(self.totals.checksum, &self.block);
        Ok(Some(block))
    }

    /// Parses a block header. Returns it with the number of bytes that follow; `None` if these are impossible.
    fn parse(&self, header: &[u8; BLOCK_HEADER_BYTES]) -> Option<(Block, usize)> {
        let kind = match u32_at(header, 4)? {
            0 => Kind::Plain,
            1 => Kind::Lz4,
            2 => Kind::Footer,
            _ => return None,
        };
        let (stored, raw) = (u32_at(header, 8)?, u32_at(header, 12)?);
        // IMPORTANT: this bounds the memory allocated before the checksum is verified.
        if u64::from(stored) > self.length.saturating_sub(self.offset) || u64::from(raw) > BATCH_BYTES + 4 {
            return None;
        }
        let (stored, raw) = (usize::try_from(stored).ok()?, usize::try_from(raw).ok()?);
        let records = u32_at(header, 16)?;
        Some((Block { offset: self.offset, kind, raw, records }, stored))
    }

    fn footer_fits(&self) -> bool {
        let footer = self.stored();
        let said = || {
            let (blocks, records, raw_bytes) = (u64_at(footer, 0)?, u64_at(footer, 8)?, u64_at(footer, 16)?);
            Some(Totals { blocks, records, raw_bytes, checksum: u32_at(footer, 24)? })
        };
        footer.len() == FOOTER_BYTES && said() == Some(self.totals) && self.offset == self.length
    }

    fn stored(&self) -> &[u8] {
        self.block.get(BLOCK_HEADER_BYTES..).unwrap_or_default()
    }

    /// The disk does not return the next block. Like any other damage, an older snapshot and the log make up for it.
    fn unreadable(&self, error: &io::Error) -> ReadError {
        self.damaged(self.offset, Flaw::Unreadable(error.to_string()))
    }

    fn damaged(&self, offset: u64, flaw: Flaw) -> ReadError {
        Damage { file: self.path.clone(), offset, flaw }.into()
    }

    /// Unpacks the block that was read last.
    fn unpack(&self, block: Block, raw: &mut Vec<u8>) -> Option<()> {
        raw.clear();
        if block.kind == Kind::Plain {
            raw.extend_from_slice(self.stored());
        } else {
            raw.resize(block.raw, 0);
            let unpacked = lz4_flex::block::decompress_into(self.stored(), raw).ok()?;
            raw.truncate(unpacked);
        }
        (raw.len() == block.raw).then_some(())
    }
}

/// The payloads of a snapshot, in the order in which they were added. Holds one block in memory, stored and unpacked.
#[derive(Debug)]
pub struct SnapshotReader {
    blocks: Blocks,
    raw: Vec<u8>,
    at: usize,
    /// Where the current block begins.
    block: u64,
}

impl SnapshotReader {
    pub(crate) fn open(disk: &dyn Disk, path: &Path, id: DirectoryId) -> Result<Self, ReadError> {
        let blocks = Blocks::open(disk, path, id)?;
        Ok(Self { blocks, raw: Vec::with_capacity(BLOCK_BYTES), at: 0, block: 0 })
    }

    /// The snapshot has everything that the log says below this position.
    #[must_use]
    pub fn position(&self) -> Position {
        self.blocks.position
    }

    /// Where the block of the last payload begins in the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.block
    }

    /// The next payload; `None` after the last one, once the footer was found and matches all that was read.
    ///
    /// # Errors
    /// The snapshot is damaged or cannot be read. Payloads returned before are correct.
    pub fn next_payload(&mut self) -> Result<Option<&[u8]>, ReadError> {
        while self.at >= self.raw.len() {
            let Some(block) = self.blocks.next()? else { return Ok(None) };
            self.at = 0;
            self.block = block.offset;
            if self.blocks.unpack(block, &mut self.raw).is_none() {
                return Err(self.blocks.damaged(block.offset, Flaw::Block));
            }
        }
        let start = self.at + 4;
        let length = u32_at(&self.raw, self.at).and_then(|length| usize::try_from(length).ok());
        let end = length.and_then(|length| start.checked_add(length)).filter(|&end| end <= self.raw.len());
        let Some(end) = end else { return Err(self.blocks.damaged(self.block, Flaw::Block)) };
        self.at = end;
        Ok(self.raw.get(start..end))
    }
}
