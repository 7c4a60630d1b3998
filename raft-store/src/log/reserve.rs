//! The reserve: segments preallocated, with durable names, before they are needed.
//!
//! Rotation then never waits for the file system, and a full disk is noticed while there still is room for what
//! must go on. Blocks are reserved but not zeroed beforehand (fallocate): every byte is written once.

use super::segment::segment_path;
use super::{Core, Shared};
use crate::disk::{Disk, DiskFile, OpenMode};
use parking_lot::MutexGuard;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Pause after a failed preallocation.
const RETRY: Duration = Duration::from_secs(1);

/// A preallocated segment whose name is durable and that nothing was written to.
#[derive(Debug)]
pub struct Reserve {
    pub number: u64,
    pub file: Arc<dyn DiskFile>,
    pub bytes: u64,
}

/// Why there is no new segment.
pub enum NoReserve {
    /// The disk is full or refuses; it may do better later. Nothing is left behind.
    Refused(io::Error),
    /// A sync failed: what the file system holds is not known any more.
    Broken(io::Error),
}

/// Preallocates a segment that leaves `keep_free` bytes of the disk to others.
pub fn create(disk: &dyn Disk, dir: &Path, number: u64, bytes: u64, keep_free: u64) -> Result<Reserve, NoReserve> {
    if keep_free > 0 {
        let free = disk.free_bytes(dir).map_err(NoReserve::Refused)?;
        if free < bytes.saturating_add(keep_free) {
            let text = format!("{free} bytes are free, a segment of {bytes} must leave {keep_free} of them");
            return Err(NoReserve::Refused(io::Error::new(io::ErrorKind::StorageFull, text)));
        }
    }
    let path = segment_path(dir, number);
    let file = disk.open(&path, OpenMode::Create).map_err(NoReserve::Refused)?;
    if let Err(error) = file.preallocate(bytes) {
        // The file is empty; should the removal fail too, the next start finds and reuses it.
        let _ = disk.remove(&path);
        return Err(NoReserve::Refused(error));
    }
    file.sync_data().map_err(NoReserve::Broken)?;
    disk.sync_dir(dir).map_err(NoReserve::Broken)?;
    Ok(Reserve { number, file, bytes })
}

/// Segments that the reserve is to have.
fn wanted(shared: &Shared) -> usize {
    shared.options.reserve_segments.max(1)
}

/// Keeps the reserve full until the log closes; the body of its thread.
pub fn keep(shared: &Shared) {
    let mut core = shared.core.lock();
    while core.failure.is_none() && core.closing.is_none() {
        if core.reserves.len() >= wanted(shared) {
            shared.reserve.wait(&mut core);
            continue;
        }
        if !add(shared, &mut core) {
            shared.reserve.wait_for(&mut core, RETRY);
        }
    }
}

/// Adds a segment to the reserve; the lock is given back meanwhile. `false` when there is no room.
pub fn add(shared: &Shared, core: &mut MutexGuard<'_, Core>) -> bool {
    let number = core.next_number;
    core.next_number += 1;
    let options = &shared.options;
    let created = MutexGuard::unlocked(core, || {
        create(shared.disk.as_ref(), &shared.dir, number, options.segment_bytes, options.keep_free_bytes)
    });
    match created {
        Ok(reserve) => {
            // The keeper and a closing writer may both have been at it: the order is that of the numbers.
            let place = core.reserves.partition_point(|known| known.number < reserve.number);
            core.reserves.insert(place, reserve);
            // Not before the reserve is complete: a segment's worth of room comes and goes.
            if core.full && core.reserves.len() >= wanted(shared) {
                tracing::info!(dir = %shared.dir.display(), "there is room for log segments again");
                core.full = false;
            }
            shared.reserve.notify_all();
            true
        }
        Err(NoReserve::Refused(error)) => {
            if !core.full {
                tracing::error!(dir = %shared.dir.display(), %error, "no room for another log segment");
            }
            core.full = true;
            false
        }
        Err(NoReserve::Broken(error)) => {
            MutexGuard::unlocked(core, || shared.fail(&error, Vec::new()));
            false
        }
    }
}

/// Takes the segment that comes after number `after`. Waits for room when there is none, except under an inline
/// writer.
pub fn take(shared: &Shared, after: u64, inline: bool) -> io::Result<Reserve> {
    let mut core = shared.core.lock();
    loop {
        if let Some(failure) = &core.failure {
            return Err(failure.to_io());
        }
        while let Some(reserve) = core.reserves.pop_front() {
            shared.reserve.notify_all();
            // Numbers only rise. A late one stays a blank file, which the next start uses again.
            if reserve.number > after {
                return Ok(reserve);
            }
        }
        if inline || core.closing.is_some() {
            // The keeper does not run, or has gone.
            if !add(shared, &mut core) && core.reserves.is_empty() {
                return Err(match &core.failure {
                    Some(failure) => failure.to_io(),
                    None => io::Error::new(io::ErrorKind::StorageFull, "no room for another log segment"),
                });
            }
        } else {
            shared.reserve.wait_for(&mut core, RETRY);
        }
    }
}

/// Makes a segment's file longer for a frame that is larger than a segment. Waits for room, as [`take`] does.
pub fn extend(shared: &Shared, file: &dyn DiskFile, bytes: u64, inline: bool) -> io::Result<()> {
    loop {
        let error = match file.preallocate(bytes) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::StorageFull && !inline => error,
            Err(error) => return Err(error),
        };
        let mut core = shared.core.lock();
        if core.failure.is_some() || core.closing.is_some() {
            return Err(error);
        }
        if !core.full {
            tracing::error!(dir = %shared.dir.display(), bytes, %error, "no room for a large log segment");
        }
        core.full = true;
        shared.reserve.wait_for(&mut core, RETRY);
    }
}
