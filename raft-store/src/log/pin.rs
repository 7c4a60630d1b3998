//! A log that is read as a whole, and one that takes the place of another.

use super::{Core, Handle, Log};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Keeps the segments that hold what can be read now, until it is dropped.
pub struct LogPin {
    handle: Arc<Handle>,
    number: u64,
    first: u64,
}

impl LogPin {
    /// Index of the first entry that is kept. From there on no entry is missing.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }
}

impl fmt::Debug for LogPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogPin(from {})", self.first)
    }
}

impl Drop for LogPin {
    fn drop(&mut self) {
        self.handle.shared.core.lock().pins.retain(|(number, _)| *number != self.number);
    }
}

impl Log {
    /// Keeps what can be read now: no segment of it is trimmed before the pin is dropped.
    #[must_use]
    pub fn pin(&self) -> LogPin {
        let handle = self.handle();
        let (number, first) = {
            let mut core = handle.shared.core.lock();
            let first = core.readable_from();
            let number = core.next_pin;
            core.next_pin += 1;
            core.pins.push((number, first));
            (number, first)
        };
        LogPin { handle, number, first }
    }

    /// The lowest index that a pin keeps.
    #[must_use]
    pub fn pinned(&self) -> Option<u64> {
        self.handle().shared.core.lock().pinned()
    }

    /// Index of the first entry from which on none is missing; of the next entry when there is none.
    #[must_use]
    pub fn readable_from(&self) -> u64 {
        self.handle().shared.core.lock().readable_from()
    }

    /// Puts `other` behind every clone of this log. What was queued here is still carried out, and the folder of this
    /// log is deleted when its last user is done. The caller sees to it that nothing is asked of either meanwhile that
    /// the other one must know.
    pub fn replace(&self, other: &Log) {
        let next = other.handle();
        let old = std::mem::replace(&mut *self.current.write(), next);
        old.retired.store(true, Ordering::Relaxed);
    }
}

impl Core {
    pub(super) fn pinned(&self) -> Option<u64> {
        self.pins.iter().map(|(_, first)| *first).min()
    }

    fn readable_from(&self) -> u64 {
        let mut first = self.tail.first();
        for segment in self.catalog.segments.iter().rev().filter(|segment| segment.entries() > 0) {
            if segment.end() < first {
                break;
            }
            first = first.min(segment.first);
        }
        first
    }
}
