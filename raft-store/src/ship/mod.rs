//! Filling a member that needs entries which the log no longer has.
//!
//! ```text
//! leader                                                    member
//! pins its log from the first entry it can read, then       is asked by Raft's way of a snapshot
//! copies its rows by hard links, as of some entry E
//!    offer: E, first entry, files of rows  ──────────────▶
//!    ◀──────────────  what it has of the files; ids of entries it has
//!    which of these is the leader's too    ──────────────▶  takes over from its own log what is the same
//!    ◀──────────────  where it goes on
//!    files, entries, paced                 ──────────────▶  checks, writes and syncs under incoming/ and log-<n>
//!    ◀──────────────  kept so far
//!    end                                   ──────────────▶  checks the whole, hands it to Raft, which installs it
//! ```
//! Rows name entries, never places in files, so rows of one member are right on another that has the same entries. The
//! pin comes before the copy: what retention took by then, the rows of the copy do not name. Nothing is purged while
//! anything is pinned, so the member goes on after E from the leader's log.
//!
//! # Why a crash harms nobody
//!
//! - Up to the installation nothing of what is received is visible: it lies in `incoming/<transfer>/` and in a log
//!   folder that the MANIFEST does not name. Raft has acknowledged none of it. Anything of it may be lost or deleted at
//!   any time; a start goes on with it if TRANSFER is legible, and deletes it otherwise. A file of rows has its name
//!   only once its content is synced and its checksum was right. Entries are in a [`crate::log::Log`], whose recovery
//!   gives a prefix of what was written, and each carries the checksum of its proposer.
//! - A failed write or sync of any of it deletes all of it: what is in memory of the operating system cannot be told
//!   from what is on disk any more.
//! - The installation happens while Raft does nothing else with the log: openraft runs its commands in order, and the
//!   purge that follows an installation waits for it. It writes into the received log, in this order: the present vote;
//!   the entries after E, if the node's own log has E and goes on after it (they may have been acknowledged, and Raft
//!   keeps them); the purge up to E. All is synced. Then one rename of the MANIFEST names the new rows and the new log.
//!   Before it a start finds the old rows and the old log; after it the new ones; each pair belongs together, and both
//!   logs have the vote. A log of which E is no part is one that Raft gave up: it holds nothing that anybody relies on,
//!   for the leader has all that was committed.
//! - The boot number, which tells the answers of one run of a node from those of another, still rises: segments of the
//!   new log are numbered after those of this run.

mod pace;
mod receive;
mod send;
mod shipment;
mod staging;
#[cfg(test)]
mod tests;
mod transfer;

pub(crate) use pace::Pace;
pub use receive::Received;
pub(crate) use receive::{Receiver, replies};
pub(crate) use send::{Send, Taker, send};
pub use shipment::Shipment;
pub(crate) use shipment::tidy;
pub(crate) use staging::Place;
pub(crate) use transfer::Transfer;

use crate::log::Entry;
use raftmq_proto::raft as wire;
use std::time::Duration;

/// Bytes of a file in one message, and of entries unless one alone is larger.
pub(crate) const PART_BYTES: usize = 512 << 10;

/// Bytes that were sent and not acknowledged yet.
pub(crate) const WINDOW_BYTES: u64 = 8 << 20;

/// The other side has said nothing for so long: the transfer is given up, and goes on in another attempt.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Bytes of messages that count for the pace and the window.
pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    64 + entry.payload.len() as u64
}

/// Checksum of a message with entries: over what their own do not cover.
pub(crate) fn entries_crc(entries: &[wire::Entry]) -> u32 {
    entries.iter().fold(0, |crc, entry| {
        let id = entry.id.unwrap_or_default();
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&id.term.to_le_bytes());
        bytes[8..16].copy_from_slice(&id.node.to_le_bytes());
        bytes[16..24].copy_from_slice(&id.index.to_le_bytes());
        bytes[24..28].copy_from_slice(&entry.kind.to_le_bytes());
        bytes[28..].copy_from_slice(&entry.crc.to_le_bytes());
        crc32c::crc32c_append(crc, &bytes)
    })
}
