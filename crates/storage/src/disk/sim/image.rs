//! One file of the simulated disk: what programs see, what is on the medium, and the pending writes.

use std::collections::BTreeMap;

use seeded::Random;

use super::Loss;
/// The unit that a disk writes atomically, in bytes.
pub(super) const SECTOR_BYTES: usize = 512;

/// How many versions of a sector are remembered between two syncs, including the newest.
const VERSIONS: usize = 4;

type Sector = [u8; SECTOR_BYTES];

/// The bytes of a file. Bytes past `written` and below `length` read as zeros.
#[derive(Debug, Clone, Default)]
struct Bytes {
    written: Vec<u8>,
    length: u64,
}

impl Bytes {
    fn sector(&self, sector: u64) -> Sector {
        let start = usize::try_from(sector).unwrap_or(usize::MAX).saturating_mul(SECTOR_BYTES);
        let mut content = [0; SECTOR_BYTES];
        let there = self.written.get(start..).unwrap_or_default();
        for (to, from) in content.iter_mut().zip(there) {
            *to = *from;
        }
        content
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        if self.written.len() < end {
            self.written.resize(end, 0);
        }
        if let Some(place) = self.written.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
        self.length = self.length.max(end as u64);
    }

    fn set_length(&mut self, length: u64) {
        self.length = length;
        self.written.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    }
}

/// One file.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    live: Bytes,
    durable: Bytes,
    /// The versions of each sector written since the last sync, oldest first; the last one is what programs see.
    pending: BTreeMap<u64, Vec<Sector>>,
    /// Space allocated in advance, in bytes.
    reserved: u64,
}

impl Image {
    pub(super) fn length(&self) -> u64 {
        self.live.length
    }

    /// The disk space that the file takes, in bytes.
    pub(super) fn room(&self) -> u64 {
        self.reserved.max(self.live.written.len() as u64)
    }

    /// The space that the file would take after a write that ends at `end`.
    pub(super) fn room_with(&self, end: u64) -> u64 {
        self.room().max(end)
    }

    pub(super) fn content(&self) -> Vec<u8> {
        let mut content = self.live.written.clone();
        content.resize(usize::try_from(self.live.length).unwrap_or(usize::MAX), 0);
        content
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let left = self.live.length.saturating_sub(offset);
        let read = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let there = self.live.written.get(start..).unwrap_or_default();
        let (copied, zeros) = buffer.split_at_mut(read.min(there.len()));
        copied.copy_from_slice(there.get(..copied.len()).unwrap_or_default());
        zeros.get_mut(..read - copied.len()).unwrap_or_default().fill(0);
        read
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.live.put(offset, bytes);
        let last = offset + bytes.len() as u64 - 1;
        for sector in offset / SECTOR_BYTES as u64..=last / SECTOR_BYTES as u64 {
            let versions = self.pending.entry(sector).or_default();
            if versions.len() == VERSIONS {
                versions.remove(0);
            }
            versions.push(self.live.sector(sector));
        }
    }

    pub(super) fn preallocate(&mut self, length: u64) {
        self.reserved = self.reserved.max(length);
        self.live.length = self.live.length.max(length);
    }

    /// Puts everything that was written on the medium.
    pub(super) fn sync(&mut self) {
        for sector in std::mem::take(&mut self.pending).into_keys() {
            self.durable.put(sector * SECTOR_BYTES as u64, &self.live.sector(sector));
        }
        self.durable.set_length(self.live.length);
    }

    /// A sync failed: the kernel treats the lost writes as written, and shows them until the machine stops.
    pub(super) fn fail_sync(&mut self) {
        self.pending.clear();
    }

    /// The power was cut.
    pub(super) fn crash(&mut self, loss: Loss, random: &mut Random) {
        for (sector, versions) in std::mem::take(&mut self.pending) {
            let kept = match loss {
                Loss::Everything => 0,
                Loss::Nothing => versions.len(),
                Loss::Random => random.below(versions.len() as u64 + 1) as usize,
            };
            // Version 0 is the old content of the medium.
            if let Some(version) = kept.checked_sub(1).and_then(|index| versions.get(index)) {
                let length = self.durable.length;
                self.durable.put(sector * SECTOR_BYTES as u64, version);
                self.durable.length = length;
            }
        }
        let keeps_length = match loss {
            Loss::Everything => false,
            Loss::Nothing => true,
            Loss::Random => random.coin(),
        };
        let length = if keeps_length { self.live.length } else { self.durable.length };
        self.durable.set_length(length);
        self.live = self.durable.clone();
        self.reserved = self.reserved.min(length);
    }

    /// The medium flips a bit silently.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) {
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        for bytes in [&mut self.live, &mut self.durable] {
            if offset < bytes.length && bytes.written.len() <= at {
                bytes.written.resize(at + 1, 0);
            }
            if let Some(byte) = bytes.written.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
        let sector = self.live.sector(offset / SECTOR_BYTES as u64);
        if let Some(last) = self.pending.get_mut(&(offset / SECTOR_BYTES as u64)).and_then(|all| all.last_mut()) {
            *last = sector;
        }
    }

    /// Sets the whole content, on the medium too.
    pub(super) fn set(&mut self, content: &[u8]) {
        *self = Self::default();
        self.write(0, content);
        self.reserved = content.len() as u64;
        self.sync();
    }
}
