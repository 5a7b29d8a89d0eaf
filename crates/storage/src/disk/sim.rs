//! A disk in memory whose power can be cut.
//!
//! It keeps what programs see apart from what is on the medium. A crash leaves any subset of what was not synced: of
//! each 512-byte sector the old content or one written since, of each change of a directory's entries whether it
//! happened, of a length the old or the new. Everything that is random comes from a seed, so that a run repeats itself.
//!
//! Faults are put in ahead ([`SimDisk::inject`]), and strike at a call that is counted off. A full disk is one with a
//! capacity ([`SimDisk::set_capacity`]).

mod entries;
mod image;
mod state;

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use entries::FileNumber;
use state::{State, injected, split};

use super::{Disk, DiskFile, DiskLock, Mode};
use crate::random::Random;

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails; of a write any first part may be there. What a failed sync was to make last is lost at the next crash,
    /// and no later sync says so.
    Io,
    /// It fails for want of room; nothing was written.
    NoSpace,
    /// A write takes only a part. Other calls go well.
    Short,
    /// It goes well and takes so long; [`SimDisk::take_delay_micros`] says how long.
    Slow {
        /// The delay.
        micros: u64,
    },
    /// The power is cut: this call does nothing, nor does any that comes before [`SimDisk::crash`], and all fail.
    PowerCut,
}

/// Which calls a fault waits for.
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

/// What a power cut takes of what was not synced.
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
    /// An empty disk without limits.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed))))
    }

    /// Another disk that is as this one is now, and goes on from another seed. No process has a hold of it.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let mut state = self.state().clone();
        state.random = Random::new(seed);
        state.end_run();
        Self(Arc::new(Mutex::new(state)))
    }

    /// Cuts the power: handles and locks are gone, and of what was not synced any subset.
    pub fn crash(&self) {
        self.crash_losing(Loss::Random);
    }

    /// Cuts the power, and chooses what that takes.
    pub fn crash_losing(&self, loss: Loss) {
        self.state().crash(loss);
    }

    /// The process is killed: handles and locks are gone, and nothing else.
    pub fn kill(&self) {
        self.state().end_run();
    }

    /// Lets a fault strike after so many calls that go well: of one operation, or of all.
    pub fn inject(&self, operation: Option<Operation>, calls: u64, fault: Fault) {
        self.state().inject(operation, calls, fault);
    }

    /// Takes back all faults that have not struck, and short writes.
    pub fn clear_faults(&self) {
        self.state().clear_faults();
    }

    /// Cuts one in so many writes short; 0 for none.
    pub fn set_short_writes(&self, one_in: u64) {
        self.state().short_writes = one_in;
    }

    /// From now on no more files can be open, or they can again.
    pub fn refuse_opens(&self, refuses: bool) {
        self.state().refuses_opens = refuses;
    }

    /// Sets how many bytes the disk holds; `None` for no limit. Below what is there, nothing more fits.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Whether a [`Fault::PowerCut`] has struck.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().is_off
    }

    /// How many bytes its files take.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// How many calls there were.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// How long [`Fault::Slow`] has held calls up since this was asked last. Who has a clock lets it pass.
    #[must_use]
    pub fn take_delay_micros(&self) -> u64 {
        std::mem::take(&mut self.state().delay_micros)
    }

    /// What a file holds; `None` where it is not there.
    #[must_use]
    pub fn content(&self, file: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        let number = state.find(file)?;
        Some(state.files.get(&number)?.content())
    }

    /// Gives a file a content, made to last, without a call that would count.
    ///
    /// # Errors
    /// Its directory is not there.
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

    /// Turns one bit of a file over, on the medium. Without such a file or byte, does nothing.
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
        // What a panic of a test leaves is as good a disk as any.
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

    fn place(&self, directory: &Path) -> io::Result<u64> {
        // The path stands for the directory: here none is ever moved.
        Ok(u64::from(crc32c::crc32c(directory.as_os_str().as_encoded_bytes())) + 1)
    }
}

impl SimFile {
    /// The disk, if the process that opened this file still runs.
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
            // At least one byte, so that who tries again gets on.
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
