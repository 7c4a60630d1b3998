//! A disk over another one whose syncs take longer, by as much as a file says at that moment.

use super::{Disk, DiskFile, DiskLock, OpenMode};
use std::fs;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A disk with slow syncs of content. See [`super::SYNC_DELAY_FILE_VARIABLE`].
#[derive(Debug)]
pub struct SlowDisk {
    inner: Arc<dyn Disk>,
    delay: Arc<PathBuf>,
}

#[derive(Debug)]
struct SlowFile {
    inner: Arc<dyn DiskFile>,
    delay: Arc<PathBuf>,
}

impl SlowDisk {
    /// A disk that reads the milliseconds to wait before each sync from the file `delay`; none while there is no
    /// such file.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, delay: PathBuf) -> Self {
        SlowDisk { inner, delay: Arc::new(delay) }
    }
}

impl Disk for SlowDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir_all(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile { inner: self.inner.open(path, mode)?, delay: Arc::clone(&self.delay) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list_dirs(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
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

impl DiskFile for SlowFile {
    fn size(&self) -> io::Result<u64> {
        self.inner.size()
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.inner.preallocate(bytes)
    }

    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.inner.write_at(offset, parts)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buffer)
    }

    fn sync_data(&self) -> io::Result<()> {
        let said = fs::read_to_string(self.delay.as_path()).unwrap_or_default();
        if let Ok(delay_ms) = said.trim().parse() {
            std::thread::sleep(Duration::from_millis(delay_ms));
        }
        self.inner.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }
}
