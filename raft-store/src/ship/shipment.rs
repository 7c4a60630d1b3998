//! The leader's side: the copy of the rows that is shipped, and the entries that go with it, kept meanwhile.

use crate::log::LogPin;
use crate::raft_types::SnapshotMeta;
use crate::snapshot::{Checkpoint, Snapshots};
use crate::types::LogId;
use parking_lot::Mutex;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Nobody has taken anything of it for so long: it goes, and with it what only it holds of the disk.
const IDLE_MAX: Duration = Duration::from_secs(600);

/// Rows as of some entry, and the entries up to it. What is pinned goes with the last handle.
#[derive(Debug)]
pub struct Shipment {
    /// Its name between leader and members.
    pub(crate) transfer: u64,
    pub(crate) meta: SnapshotMeta,
    pub(crate) end: LogId,
    /// Names and bytes.
    pub(crate) files: Vec<(String, u64)>,
    copy: Checkpoint,
    pin: LogPin,
    /// Members that it is being sent to.
    takers: AtomicUsize,
    /// When a member took anything of it.
    taken: Mutex<Instant>,
}

impl Shipment {
    /// `pin` was made before `copy`.
    pub(crate) fn new(meta: SnapshotMeta, end: LogId, copy: Checkpoint, pin: LogPin) -> io::Result<Shipment> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(copy.path())? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| io::Error::other("a file of the rows has no plain name"))?;
            // What RocksDB wrote when the copy was looked into.
            if name.starts_with("LOG") || name == "LOCK" {
                continue;
            }
            files.push((name.to_owned(), entry.metadata()?.len()));
        }
        files.sort();
        Ok(Shipment {
            transfer: rand::random(),
            meta,
            end,
            files,
            copy,
            pin,
            takers: AtomicUsize::new(0),
            taken: Mutex::new(Instant::now()),
        })
    }

    pub(crate) fn path(&self, file: usize) -> PathBuf {
        self.copy.path().join(self.files.get(file).map_or(Path::new(""), |(name, _)| Path::new(name)))
    }

    /// The first entry that can be sent.
    pub(crate) fn first(&self) -> u64 {
        self.pin.first()
    }

    /// A member keeps more of it than before.
    pub(crate) fn taken(&self) {
        *self.taken.lock() = Instant::now();
    }

    /// A member is being sent it, until what is given is dropped.
    pub(crate) fn taking(self: &Arc<Self>) -> Taking {
        self.takers.fetch_add(1, Ordering::Relaxed);
        Taking(self.clone())
    }

    fn is_idle(&self) -> bool {
        self.taken.lock().elapsed() >= IDLE_MAX
    }

    fn is_being_taken(&self) -> bool {
        self.takers.load(Ordering::Relaxed) > 0
    }
}

/// A member is being sent a shipment.
pub(crate) struct Taking(Arc<Shipment>);

impl Taking {
    /// No other member is.
    pub(crate) fn is_last(&self) -> bool {
        self.0.takers.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.0.takers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Gives up a shipment that nobody takes any more, and on a full disk one that nobody takes at the moment.
pub(crate) fn tidy(snapshots: &Snapshots, full: bool) {
    if snapshots.drop_shipment(|shipment| shipment.is_idle() || (full && !shipment.is_being_taken())) {
        tracing::warn!("no member took what it is to be filled with; it is copied anew when one does");
    }
}
