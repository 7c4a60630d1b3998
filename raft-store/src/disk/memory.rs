//! A disk in memory for tests: it fails the call that a test names, and after a simulated power loss keeps exactly
//! those unsynced blocks and names that a test chooses.

use super::{Disk, DiskFile, DiskLock, OpenMode};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Unit in which unsynced content survives or is lost; a block is never torn.
pub const BLOCK_BYTES: usize = 512;

/// How a disk goes wrong at a given call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// That one call fails with this kind, without effect, and later ones work.
    Fail(io::ErrorKind),
    /// A write stops half way and fails; other calls fail without effect.
    HalfWrite,
    /// The call fails without effect and so does every later one: power is gone, or the process.
    Halt,
}

/// Something that was not synced when the power went.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unsynced {
    /// Content of one block of the file that had this name.
    Block {
        /// Name of the file when the power went.
        path: PathBuf,
        /// Number of the block, from 0.
        block: u64,
    },
    /// Length of a file.
    Length(PathBuf),
    /// The n-th change of names since each was synced.
    Name(usize),
}

/// Which unsynced things a power loss keeps.
pub type Cut<'c> = &'c dyn Fn(&Unsynced) -> bool;

/// A file system in memory with faults. Clones share it.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    files: Arc<Mutex<Files>>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Bind(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

#[derive(Default, Clone)]
struct Content {
    /// What is written, synced or not.
    now: Vec<u8>,
    /// What was synced.
    durable: Vec<u8>,
    /// Blocks of `now` that differ, or may differ, from `durable`.
    dirty: BTreeSet<u64>,
}

#[derive(Default, Clone)]
struct Files {
    contents: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    changes: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    /// Calls that change something, so far.
    calls: u64,
    fault: Option<(u64, Fault)>,
    halted: bool,
    /// Bytes that may be allocated in all; `None` is no limit.
    capacity: Option<u64>,
    /// Bytes given to writes, for measuring write amplification.
    written: u64,
}

struct MemoryFile {
    files: Arc<Mutex<Files>>,
    content: usize,
}

struct MemoryLock {
    files: Arc<Mutex<Files>>,
    path: PathBuf,
}

impl fmt::Debug for MemoryDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDisk").field("names", &self.files.lock().names.keys()).finish_non_exhaustive()
    }
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryFile({})", self.content)
    }
}

impl fmt::Debug for MemoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryLock({})", self.path.display())
    }
}

impl MemoryDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls so far that change something: create, allocate, write, sync, cut, rename, remove, directory sync.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.files.lock().calls
    }

    /// Bytes given to writes so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.files.lock().written
    }

    /// Lets the changing call number `call` (from 0, see [`MemoryDisk::calls`]) go wrong.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        self.files.lock().fault = Some((call, fault));
    }

    /// Limits what all files together may occupy; beyond it allocation fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.files.lock().capacity = bytes;
    }

    /// A disk as the process left it: all that was written is there, synced or not, and faults are off.
    #[must_use]
    pub fn after_kill(&self) -> MemoryDisk {
        let mut files = self.files.lock().clone();
        files.fault = None;
        files.halted = false;
        files.locked.clear();
        MemoryDisk { files: Arc::new(Mutex::new(files)) }
    }

    /// What was not synced, in a fixed order.
    #[must_use]
    pub fn unsynced(&self) -> Vec<Unsynced> {
        let files = self.files.lock();
        let mut found = Vec::new();
        for (path, &content) in &files.names {
            let file = &files.contents[content];
            found.extend(file.changed_blocks().map(|block| Unsynced::Block { path: path.clone(), block }));
            if file.now.len() != file.durable.len() {
                found.push(Unsynced::Length(path.clone()));
            }
        }
        found.extend((0..files.changes.len()).map(Unsynced::Name));
        found
    }

    /// A disk as a power loss leaves it: what was synced, and of the rest what `keep` chooses.
    #[must_use]
    pub fn after_power_loss(&self, keep: Cut<'_>) -> MemoryDisk {
        let mut files = self.files.lock().clone();
        let paths: BTreeMap<usize, PathBuf> = files.names.iter().map(|(path, &id)| (id, path.clone())).collect();
        for (id, file) in files.contents.iter_mut().enumerate() {
            let path = paths.get(&id).cloned().unwrap_or_default();
            let mut survived = file.durable.clone();
            if file.now.len() != file.durable.len() && keep(&Unsynced::Length(path.clone())) {
                survived.resize(file.now.len(), 0);
            }
            let changed: Vec<u64> = file.changed_blocks().collect();
            for block in changed {
                if keep(&Unsynced::Block { path: path.clone(), block }) {
                    let from = block as usize * BLOCK_BYTES;
                    let until = (from + BLOCK_BYTES).min(survived.len()).min(file.now.len());
                    if from < until {
                        survived[from..until].copy_from_slice(&file.now[from..until]);
                    }
                }
            }
            file.durable.clone_from(&survived);
            file.now = survived;
            file.dirty.clear();
        }
        let mut names = files.durable_names.clone();
        for (number, change) in files.changes.iter().enumerate() {
            if keep(&Unsynced::Name(number)) {
                change.carry_out(&mut names);
            }
        }
        files.durable_names.clone_from(&names);
        files.names = names;
        files.changes.clear();
        files.fault = None;
        files.halted = false;
        files.locked.clear();
        MemoryDisk { files: Arc::new(Mutex::new(files)) }
    }

    /// The bytes of a file.
    #[must_use]
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let files = self.files.lock();
        files.names.get(path).map(|&content| files.contents[content].now.clone())
    }

    /// Replaces the bytes of a file durably, bypassing faults: a cut or a flipped bit.
    pub fn replace(&self, path: &Path, bytes: Vec<u8>) {
        let mut files = self.files.lock();
        if let Some(&content) = files.names.get(path) {
            files.contents[content] = Content { now: bytes.clone(), durable: bytes, dirty: BTreeSet::new() };
        }
    }

    /// An independent disk with the same content.
    #[must_use]
    pub fn copy(&self) -> MemoryDisk {
        MemoryDisk { files: Arc::new(Mutex::new(self.files.lock().clone())) }
    }
}

impl NameChange {
    fn carry_out(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Bind(path, content) => {
                names.insert(path.clone(), *content);
            }
            NameChange::Rename(from, to) => {
                if let Some(content) = names.remove(from) {
                    names.insert(to.clone(), content);
                }
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }

    fn is_in(&self, dir: &Path) -> bool {
        let (NameChange::Bind(path, _) | NameChange::Rename(_, path) | NameChange::Remove(path)) = self;
        path.parent() == Some(dir)
    }
}

impl Content {
    fn changed_blocks(&self) -> impl Iterator<Item = u64> + '_ {
        self.dirty.iter().copied().filter(|&block| {
            let from = block as usize * BLOCK_BYTES;
            let now = self.now.get(from..(from + BLOCK_BYTES).min(self.now.len())).unwrap_or_default();
            let durable = self.durable.get(from..(from + BLOCK_BYTES).min(self.durable.len())).unwrap_or_default();
            // Compared as if zeros followed: a block beyond the durable length starts as zeros.
            let longest = now.len().max(durable.len());
            (0..longest).any(|at| now.get(at).copied().unwrap_or(0) != durable.get(at).copied().unwrap_or(0))
        })
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let from = offset as usize;
        let until = from + bytes.len();
        if self.now.len() < until {
            self.now.resize(until, 0);
        }
        self.now[from..until].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.dirty.extend((from / BLOCK_BYTES) as u64..=((until - 1) / BLOCK_BYTES) as u64);
        }
    }
}

impl Files {
    /// Counts a changing call and says how it is to go wrong, if so.
    fn call(&mut self) -> io::Result<Option<Fault>> {
        let number = self.calls;
        self.calls += 1;
        if self.halted {
            return Err(io::Error::other("the disk is halted"));
        }
        match self.fault {
            Some((at, Fault::Fail(kind))) if at == number => Err(io::Error::new(kind, format!("call {number} fails"))),
            Some((at, Fault::Halt)) if at == number => {
                self.halted = true;
                Err(io::Error::other("the disk halts"))
            }
            Some((at, Fault::HalfWrite)) if at == number => Ok(Some(Fault::HalfWrite)),
            _ => Ok(None),
        }
    }

    fn plain_call(&mut self) -> io::Result<()> {
        match self.call()? {
            None => Ok(()),
            Some(_) => Err(io::Error::other("the call fails")),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|&content| self.contents[content].now.len() as u64).sum()
    }

    fn allocate(&self, content: usize, bytes: u64) -> io::Result<()> {
        let more = bytes.saturating_sub(self.contents[content].now.len() as u64);
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more > capacity => {
                Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full"))
            }
            _ => Ok(()),
        }
    }
}

fn absent(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl Disk for MemoryDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut files = self.files.lock();
        for dir in dir.ancestors() {
            files.dirs.insert(dir.to_path_buf());
        }
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut files = self.files.lock();
        let content = match (mode, files.names.get(path).copied()) {
            (OpenMode::Create, Some(_)) => {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists", path.display())));
            }
            (OpenMode::Create, None) => {
                files.plain_call()?;
                let content = files.contents.len();
                files.contents.push(Content::default());
                files.names.insert(path.to_path_buf(), content);
                files.changes.push(NameChange::Bind(path.to_path_buf(), content));
                content
            }
            (_, Some(content)) => content,
            (_, None) => return Err(absent(path)),
        };
        Ok(Arc::new(MemoryFile { files: Arc::clone(&self.files), content }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.files.lock();
        let inside = files.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.files.lock();
        let inside = files.dirs.iter().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock();
        if !files.names.contains_key(from) {
            return Err(absent(from));
        }
        files.plain_call()?;
        let change = NameChange::Rename(from.to_path_buf(), to.to_path_buf());
        change.carry_out(&mut files.names);
        files.changes.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut files = self.files.lock();
        if !files.names.contains_key(path) {
            return Err(absent(path));
        }
        files.plain_call()?;
        files.names.remove(path);
        files.changes.push(NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut files = self.files.lock();
        files.plain_call()?;
        files.names.retain(|path, _| !path.starts_with(dir));
        files.durable_names.retain(|path, _| !path.starts_with(dir));
        files.dirs.retain(|path| !path.starts_with(dir));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut files = self.files.lock();
        files.plain_call()?;
        let (synced, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut files.changes).into_iter().partition(|change| change.is_in(dir));
        for change in synced {
            change.carry_out(&mut files.durable_names);
        }
        files.changes = left;
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let files = self.files.lock();
        Ok(files.capacity.unwrap_or(u64::MAX).saturating_sub(files.used()))
    }

    fn total_bytes(&self, _dir: &Path) -> io::Result<u64> {
        Ok(self.files.lock().capacity.unwrap_or(u64::MAX))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut files = self.files.lock();
        if !files.locked.insert(path.to_path_buf()) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} is locked", path.display())));
        }
        Ok(Box::new(MemoryLock { files: Arc::clone(&self.files), path: path.to_path_buf() }))
    }
}

impl DiskLock for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.files.lock().locked.remove(&self.path);
    }
}

impl DiskFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.files.lock().contents[self.content].now.len() as u64)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let mut files = self.files.lock();
        files.plain_call()?;
        files.allocate(self.content, bytes)?;
        let content = &mut files.contents[self.content];
        if (content.now.len() as u64) < bytes {
            content.now.resize(bytes as usize, 0);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut bytes: Vec<u8> = Vec::new();
        for part in parts {
            bytes.extend_from_slice(part);
        }
        let mut files = self.files.lock();
        let fault = files.call()?;
        files.allocate(self.content, offset + bytes.len() as u64)?;
        files.written += bytes.len() as u64;
        let content = &mut files.contents[self.content];
        if fault.is_some() {
            content.write(offset, &bytes[..bytes.len() / 2]);
            return Err(io::Error::other("the write stops half way"));
        }
        content.write(offset, &bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let files = self.files.lock();
        let content = &files.contents[self.content].now;
        let from = (offset as usize).min(content.len());
        let until = (from + buffer.len()).min(content.len());
        buffer[..until - from].copy_from_slice(&content[from..until]);
        Ok(until - from)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut files = self.files.lock();
        files.plain_call()?;
        let content = &mut files.contents[self.content];
        // Only what changed is copied: a segment is large and most of it is zeros.
        content.durable.resize(content.now.len(), 0);
        for block in std::mem::take(&mut content.dirty) {
            let from = block as usize * BLOCK_BYTES;
            let until = (from + BLOCK_BYTES).min(content.now.len());
            if from < until {
                content.durable[from..until].copy_from_slice(&content.now[from..until]);
            }
        }
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut files = self.files.lock();
        files.plain_call()?;
        files.allocate(self.content, bytes)?;
        let content = &mut files.contents[self.content];
        let before = content.now.len();
        content.now.resize(bytes as usize, 0);
        if (bytes as usize) < before {
            // What was cut off must not come back when the file grows again before it is synced.
            content.dirty.extend((bytes / BLOCK_BYTES as u64)..=(before as u64 / BLOCK_BYTES as u64));
        }
        Ok(())
    }
}
