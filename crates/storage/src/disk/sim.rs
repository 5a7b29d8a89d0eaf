//! A disk in memory whose power can be cut.
//!
//! It keeps what programs see apart from what is on the medium. A crash keeps any subset of what was not synced: of
//! each 512-byte sector either the old content or a version written since, of each change to a directory either all or
//! nothing, of a file length either the old or the new one. All randomness comes from a seed, so that a run is
//! reproducible.
//!
//! Faults are injected in advance ([`SimDisk::inject`]) and strike after a given number of calls. For a full disk, set
//! a capacity ([`SimDisk::set_capacity`]).

mod entries;
mod image;
mod state;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use entries::FileNumber;
use seeded::Random;
use state::{State, injected, split};

use super::{Disk, DiskFile, DiskLock, Mode, Place};
/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails; a failed write may have written any prefix. What a failed sync was to make durable is lost at
    /// the next crash, and no later sync reports it.
    Io,
    /// The call fails for lack of space; nothing was written.
    NoSpace,
    /// A write takes only some of the bytes. Other calls succeed.
    Short,
    /// The call succeeds after a delay; [`SimDisk::take_delay_micros`] returns it.
    Slow {
        /// The delay.
        micros: u64,
    },
    /// The power is cut: this call and all others before [`SimDisk::crash`] fail and do nothing.
    PowerCut,
}

/// Which calls a fault applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// [`Disk::create_directory`].
    CreateDirectory,
    /// [`Disk::open`].
    Open,
    /// [`Disk::list`].
    List,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::sync_directory`].
    SyncDirectory,
    /// [`Disk::lock`].
    Lock,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::preallocate`].
    Preallocate,
    /// [`DiskFile::sync_data`].
    SyncData,
}

/// What a power cut loses of the unsynced data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Everything,
    /// None of it.
    Nothing,
    /// Any subset.
    Random,
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    number: FileNumber,
    run: u64,
    writable: bool,
}

#[derive(Debug)]
struct SimLock {
    disk: SimDisk,
    file: PathBuf,
    run: u64,
}

impl SimDisk {
    /// An empty disk without limits, seeded for reproducible faults.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed))))
    }

    /// A copy of the disk as it is now, which continues with another seed. No process has it in use.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let mut state = self.state().clone();
        state.random = Random::new(seed);
        state.end_run();
        Self(Arc::new(Mutex::new(state)))
    }

    /// Cuts the power: handles and locks are gone, and any subset of the unsynced data is lost.
    pub fn crash(&self) {
        self.crash_losing(Loss::Random);
    }

    /// Cuts the power, and chooses what is lost.
    pub fn crash_losing(&self, loss: Loss) {
        self.state().crash(loss);
    }

    /// Kills the process: handles and locks are gone, nothing else.
    pub fn kill(&self) {
        self.state().end_run();
    }

    /// Injects a fault that strikes after `calls` successful calls: of one operation, or of all.
    pub fn inject(&self, operation: Option<Operation>, calls: u64, fault: Fault) {
        self.state().inject(operation, calls, fault);
    }

    /// Removes all faults that have not struck yet, and stops short writes.
    pub fn clear_faults(&self) {
        self.state().clear_faults();
    }

    /// Cuts one in `one_in` writes short, at random; 0 for none.
    pub fn set_short_writes(&self, one_in: u64) {
        self.state().short_writes = one_in;
    }

    /// Refuses to open files from now on, as if too many were open, or allows it again.
    pub fn refuse_opens(&self, refuses: bool) {
        self.state().refuses_opens = refuses;
    }

    /// Sets the capacity of the disk in bytes; `None` for no limit. If the files already take more, nothing more fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Whether a [`Fault::PowerCut`] has struck.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// How many bytes the files take.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// How many calls were made.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// The total delay by [`Fault::Slow`] since the last call of this. The caller advances its clock by that much.
    #[must_use]
    pub fn take_delay_micros(&self) -> u64 {
        std::mem::take(&mut self.state().delay_micros)
    }

    /// The content of a file; `None` if it does not exist.
    #[must_use]
    pub fn content(&self, file: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let number = state.find(file)?;
        Some(state.files.get(&number)?.content())
    }

    /// Sets the content of a file, durably, without counting a call.
    ///
    /// # Errors
    /// The directory of the file does not exist.
    pub fn set_content(&self, file: &Path, content: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let number = match state.find(file) {
            Some(number) => number,
            None => state.create(file)?,
        };
        state.file(number)?.set(content);
        let (directory, _) = split(file)?;
        state.entries(&directory)?.sync();
        Ok(())
    }

    /// Flips one bit of a file, on the medium. Does nothing if there is no such file or byte.
    pub fn flip_bit(&self, file: &Path, offset: u64, bit: u8) {
        let mut state = self.state();
        if let Some(number) = state.find(file)
            && let Ok(image) = state.file(number)
            && offset < image.length()
        {
            image.flip(offset, bit);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // After a panic in a test, the state of the disk is as good as any.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.enter_whole(Operation::CreateDirectory)?;
        state.directories.entry(directory.to_owned()).or_default();
        Ok(())
    }

    fn open(&self, file: &Path, mode: Mode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.enter_whole(Operation::Open)?;
        let number = match mode {
            Mode::Create => state.create(file)?,
            Mode::Read | Mode::Write => state.find(file).ok_or(ErrorKind::NotFound)?,
        };
        let run = state.run;
        Ok(Arc::new(SimFile { disk: self.clone(), number, run, writable: mode != Mode::Read }))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.enter_whole(Operation::List)?;
        Ok(state.entries(directory)?.names())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.enter_whole(Operation::Rename)?;
        let ((directory, from), (target, to)) = (split(from)?, split(to)?);
        if directory != target {
            return Err(ErrorKind::CrossesDevices.into());
        }
        state.entries(&directory)?.rename(&from, &to).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.enter_whole(Operation::Remove)?;
        let (directory, name) = split(file)?;
        state.entries(&directory)?.remove(&name).map(drop).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.enter_whole(Operation::SyncDirectory)?;
        state.entries(directory)?.sync();
        Ok(())
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(self.state().free())
    }

    fn lock(&self, file: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut state = self.state();
        state.enter_whole(Operation::Lock)?;
        if state.find(file).is_none() {
            state.create(file)?;
        }
        let run = state.run;
        let free = state.locks.insert(file.to_owned());
        Ok(free.then(|| Box::new(SimLock { disk: self.clone(), file: file.to_owned(), run }) as Box<dyn DiskLock>))
    }

    fn boot_id(&self) -> Option<String> {
        Some(format!("simulated-boot-{}", self.state().boot))
    }

    fn place(&self, directory: &Path) -> io::Result<Place> {
        // The path stands for the directory: nothing moves directories here.
        let inode = u64::from(crc32c::crc32c(directory.as_os_str().as_encoded_bytes())) + 1;
        Ok(Place { number: inode, inode })
    }
}

impl SimFile {
    /// The disk, if the process that opened this file is still running.
    fn enter(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.run == self.run {
            Ok(state)
        } else {
            Err(io::Error::other("the process that opened this file of the simulated disk is gone"))
        }
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.enter()?.file(self.number)?.length())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.enter()?;
        state.enter_whole(Operation::Read)?;
        Ok(state.file(self.number)?.read(offset, buffer))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.enter()?;
        if !self.writable {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let fault = state.enter(Operation::Write);
        match fault {
            Some(Fault::NoSpace) => return Err(ErrorKind::StorageFull.into()),
            Some(Fault::PowerCut) => return Err(injected()),
            None | Some(Fault::Io | Fault::Short | Fault::Slow { .. }) => {}
        }
        let mut taken = bytes.len() as u64;
        if matches!(fault, Some(Fault::Short | Fault::Io)) {
            // At least one byte, so that a retry makes progress.
            taken = 1 + state.random.below(taken.saturating_sub(1));
        }
        let free = state.free();
        let image = state.file(self.number)?;
        let room = image.room();
        if image.room_with(offset + taken) - room > free {
            taken = (room + free).saturating_sub(offset).min(taken);
            if taken == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
        }
        let taken = usize::try_from(taken).unwrap_or(usize::MAX).min(bytes.len());
        image.write(offset, bytes.get(..taken).unwrap_or_default());
        if fault == Some(Fault::Io) { Err(injected()) } else { Ok(taken) }
    }

    fn preallocate(&self, length: u64) -> io::Result<()> {
        let mut state = self.enter()?;
        state.enter_whole(Operation::Preallocate)?;
        let free = state.free();
        let image = state.file(self.number)?;
        if image.room_with(length) - image.room() > free {
            return Err(ErrorKind::StorageFull.into());
        }
        image.preallocate(length);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.enter()?;
        let outcome = state.enter_whole(Operation::SyncData);
        let is_off = state.is_off;
        let image = state.file(self.number)?;
        match outcome {
            Ok(()) => image.sync(),
            Err(_) if is_off => {}
            Err(_) => image.fail_sync(),
        }
        outcome
    }
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.run == self.run {
            state.locks.remove(&self.file);
        }
    }
}
