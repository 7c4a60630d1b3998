//! The tail: recent entries in memory, bounded by bytes. It always holds what is not written to a file yet.

use super::Entry;
use std::collections::VecDeque;

/// Bytes that an entry costs beside its payload.
const ENTRY_BYTES: usize = size_of::<Entry>();

/// Entries `first..first + len`, the newest of the log.
#[derive(Debug, Default)]
pub struct Tail {
    first: u64,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Tail {
    /// A tail without entries, for a log whose next entry is `first`.
    pub fn starting_at(first: u64) -> Self {
        Tail { first, ..Tail::default() }
    }

    /// Index of the oldest entry held; of the next entry when there is none.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next entry.
    pub fn push(&mut self, entry: Entry) {
        if self.entries.is_empty() {
            self.first = entry.id.index;
        }
        self.bytes += entry.payload.len() + ENTRY_BYTES;
        self.entries.push_back(entry);
    }

    /// Entries from `index` on, as far as they are held.
    pub fn from(&self, index: u64) -> impl Iterator<Item = &Entry> {
        let skip = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.entries.len());
        self.entries.range(skip..)
    }

    /// The entry at `index`.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// Forgets entries at and after `index`.
    pub fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.id.index >= index) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= entry.payload.len() + ENTRY_BYTES;
            }
        }
        self.first = self.first.min(index);
    }

    /// Forgets all entries; the next one is `first`.
    pub fn reset(&mut self, first: u64) {
        *self = Tail::starting_at(first);
    }

    /// Forgets the oldest entries until at most `bytes` are held, but none at or after `unwritten`.
    pub fn shrink(&mut self, bytes: usize, unwritten: u64) {
        while self.bytes > bytes && self.first < unwritten {
            match self.entries.pop_front() {
                Some(entry) => {
                    self.bytes -= entry.payload.len() + ENTRY_BYTES;
                    self.first = entry.id.index + 1;
                }
                None => break,
            }
        }
    }
}
