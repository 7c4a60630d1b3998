//! A disk over another one that asks before each call that changes something: what it asks may wait, or have the call
//! fail. Slow, failing and standing disks are one each of its questions.

use super::{Disk, DiskFile, DiskLock, OpenMode};
use std::fmt;
use std::fs;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A call that changes a disk, about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Disk::create_dir_all`].
    CreateDir,
    /// [`Disk::open`] of a file that must not exist yet.
    Create,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`] or [`Disk::remove_dir_all`].
    Remove,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::preallocate`].
    Preallocate,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::sync_data`].
    SyncData,
    /// [`DiskFile::set_len`].
    SetLen,
}

type Hook = Arc<dyn Fn(Call) -> io::Result<()> + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct HookedDisk {
    inner: Arc<dyn Disk>,
    before: Hook,
}

struct HookedFile {
    inner: Arc<dyn DiskFile>,
    before: Hook,
}

impl HookedDisk {
    /// A disk that asks `before` each call, and makes it when the answer is Ok.
    pub fn new(inner: Arc<dyn Disk>, before: impl Fn(Call) -> io::Result<()> + Send + Sync + 'static) -> Self {
        HookedDisk { inner, before: Arc::new(before) }
    }

    /// A disk whose syncs of content wait first, for the milliseconds that the file `delay` says at that moment; none
    /// while there is no such file. See [`super::SYNC_DELAY_FILE_VARIABLE`].
    #[must_use]
    pub fn slow(inner: Arc<dyn Disk>, delay: PathBuf) -> Self {
        Self::new(inner, move |call| {
            let said =
                if call == Call::SyncData { fs::read_to_string(&delay).unwrap_or_default() } else { String::new() };
            if let Ok(delay_ms) = said.trim().parse() {
                std::thread::sleep(Duration::from_millis(delay_ms));
            }
            Ok(())
        })
    }
}

impl fmt::Debug for HookedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HookedDisk").field(&self.inner).finish()
    }
}

impl fmt::Debug for HookedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HookedFile").field(&self.inner).finish()
    }
}

impl Disk for HookedDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        (self.before)(Call::CreateDir)?;
        self.inner.create_dir_all(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if mode == OpenMode::Create {
            (self.before)(Call::Create)?;
        }
        Ok(Arc::new(HookedFile { inner: self.inner.open(path, mode)?, before: Arc::clone(&self.before) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list_dirs(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.before)(Call::Rename)?;
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        (self.before)(Call::Remove)?;
        self.inner.remove(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        (self.before)(Call::Remove)?;
        self.inner.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        (self.before)(Call::SyncDir)?;
        self.inner.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.inner.free_bytes(dir)
    }

    fn total_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.inner.total_bytes(dir)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.inner.lock(path)
    }
}

impl DiskFile for HookedFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        (self.before)(Call::Preallocate)?;
        self.inner.preallocate(bytes)
    }

    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        (self.before)(Call::Write)?;
        self.inner.write_at(offset, parts)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn sync_data(&self) -> io::Result<()> {
        (self.before)(Call::SyncData)?;
        self.inner.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        (self.before)(Call::SetLen)?;
        self.inner.set_len(bytes)
    }
}
