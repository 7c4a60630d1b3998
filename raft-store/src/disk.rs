//! The one layer through which the log and the node's identity reach files, so that faults can be put into it.
//!
//! Four disks stand behind [`Disk`]: [`RealDisk`]; [`PowerLossDisk`], where what was not synced is gone when the
//! process is killed; [`MemoryDisk`], where tests fail the n-th call and choose which unsynced blocks survive; and
//! [`HookedDisk`] over one of them, which is slow, stands still or fails as a test says.
//! RocksDB is not behind it: its rows are flushed only after the log was synced, and its WAL is off. What of its files a
//! power loss would take, tests learn from a library that they preload (`tests/disk-journal`).

mod hooked;
mod memory;
mod power_loss;
mod real;

pub use hooked::{Call, HookedDisk};
pub use memory::{Cut, Fault, MemoryDisk, Unsynced};
pub use power_loss::PowerLossDisk;
pub use real::RealDisk;

use std::fmt;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Environment variable that makes [`from_env`] lose what was not synced when the process dies. For tests.
pub const POWER_LOSS_VARIABLE: &str = "RAFTMQ_TEST_POWER_LOSS";

/// Environment variable with the ms that each sync of content takes longer in that mode: a slow disk has much to lose.
pub const SYNC_DELAY_VARIABLE: &str = "RAFTMQ_TEST_SYNC_DELAY_MS";

/// Environment variable that names a file for [`from_env`]: each sync takes as many milliseconds longer as the file
/// says at that moment. For tests.
pub const SYNC_DELAY_FILE_VARIABLE: &str = "RAFTMQ_TEST_SYNC_DELAY_FILE";

/// What an opened file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// A file that must not exist yet, to read and write. Its directory entry lasts once the directory is synced.
    Create,
}

/// A file system, as far as the log and the identity need one.
///
/// Names (creation, rename, removal) are durable once [`Disk::sync_dir`] returned for their directory; content
/// once [`DiskFile::sync_data`] returned. Every method returns the operating system's error unchanged.
#[allow(clippy::missing_errors_doc, reason = "the errors of all methods are the operating system's")]
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a directory and its parents where missing.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of the files in a directory, sorted. Subdirectories are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Names of the directories in a directory, sorted.
    fn list_dirs(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file another name in the same directory, replacing what had it, in one step.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file's name. Who has it open can still read it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all it holds.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Makes names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Bytes that may still be allocated in the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Bytes of the file system of `dir`, used or not.
    fn total_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Takes the exclusive lock of a file, which is created when missing. It ends when the value is dropped.
    ///
    /// `WouldBlock` when another process, or this one, holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// An open file. Shared by the writer and readers; positions are explicit.
#[allow(clippy::missing_errors_doc, reason = "the errors of all methods are the operating system's")]
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reserves blocks for the first `bytes` bytes and makes the file at least that long. New bytes read as zeros.
    ///
    /// `StorageFull` leaves the file as it was.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;
    /// Writes all the parts one after another from `offset`.
    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Reads into `buffer` until it is full or the file ends; gives the bytes read.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Makes content and length durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
}

/// A held file lock; dropping it gives it back.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// The disk that a node uses: the real one, or in tests the one that forgets what was not synced or is slow.
#[must_use]
pub fn from_env() -> Arc<dyn Disk> {
    let disk = kept_from_env();
    match std::env::var_os(SYNC_DELAY_FILE_VARIABLE) {
        Some(file) => {
            tracing::warn!(variable = SYNC_DELAY_FILE_VARIABLE, "TEST MODE: syncs take as long as a file says");
            Arc::new(HookedDisk::slow(disk, file.into()))
        }
        None => disk,
    }
}

fn kept_from_env() -> Arc<dyn Disk> {
    match std::env::var(POWER_LOSS_VARIABLE) {
        Ok(value) if value == "1" => {
            let delay_ms = std::env::var(SYNC_DELAY_VARIABLE).ok().and_then(|ms| ms.parse().ok()).unwrap_or_default();
            tracing::warn!(
                variable = POWER_LOSS_VARIABLE,
                delay_ms,
                "TEST MODE: unsynced writes live in memory only and are lost when this process is killed"
            );
            Arc::new(PowerLossDisk::new(Duration::from_millis(delay_ms)))
        }
        _ => Arc::new(RealDisk),
    }
}

/// Reads exactly `buffer.len()` bytes.
///
/// # Errors
/// `UnexpectedEof` when the file ends before, else the operating system's error.
pub fn read_exact_at(file: &dyn DiskFile, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let wanted = buffer.len();
    let got = file.read_at(offset, buffer)?;
    if got == wanted {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("file ends {got} bytes after {offset}, {wanted} were asked for"),
        ))
    }
}
