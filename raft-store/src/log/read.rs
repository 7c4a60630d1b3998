//! Reading entries: the tail first, segment files for what is older.

use super::frame::{Frame, HEADER_BYTES, Kind, frame_bytes, read_u32, seed};
use super::segment::Offsets;
use super::{Entry, EntryKind, Log, Shared};
use crate::disk::{DiskFile, read_exact_at};
use crate::types::LogIndex;
use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Entries looked up at once.
const ENTRIES_MAX: u64 = 1024;
/// Bytes read with the last entry of a lookup, whose length is not known before.
const LAST_BYTES: u64 = 16 << 10;

/// Entries of one segment, to be read without holding the lock.
struct Plan {
    number: u64,
    entries: Range<u64>,
    /// Offsets of the entries, or where the footer has them.
    offsets: Found,
    /// Bytes written to the file.
    bytes: u64,
}

enum Found {
    Known(Vec<u32>),
    Table { file: u64, at: u64 },
}

enum Step {
    /// These were in memory, and nothing more is to be had.
    Ready,
    Read(Plan),
    Missing,
}

impl Log {
    /// Entries from `range.start` on without a gap: as many of the range as exist and fit `max_bytes` of payload,
    /// but at least one when the first exists. Written or not makes no difference.
    ///
    /// # Errors
    /// `InvalidData` when what is on disk does not pass its checksum; else the operating system's error.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let handle = self.handle();
        let shared = &handle.shared;
        let mut entries = Vec::new();
        let mut bytes = 0;
        loop {
            let at = range.start + entries.len() as u64;
            if at >= range.end || (bytes >= max_bytes && !entries.is_empty()) {
                return Ok(entries);
            }
            match shared.step(at, range.end, max_bytes, &mut entries, &mut bytes) {
                Step::Ready | Step::Missing => return Ok(entries),
                Step::Read(plan) => {
                    let before = entries.len();
                    if let Err(error) = shared.read_plan(&plan, max_bytes, &mut entries, &mut bytes) {
                        if error.kind() == io::ErrorKind::NotFound && shared.is_trimmed(plan.number) {
                            return Ok(entries);
                        }
                        return Err(error);
                    }
                    if entries.len() - before < (plan.entries.end - plan.entries.start) as usize {
                        return Ok(entries);
                    }
                }
            }
        }
    }

    /// Whether the entry at `index` is in memory, so that reading it does not touch the disk.
    #[must_use]
    pub fn is_in_memory(&self, index: u64) -> bool {
        self.handle().shared.core.lock().tail.get(index).is_some()
    }

    /// The payload of an entry, also of one below the purge point that was not trimmed yet.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn payload(&self, index: LogIndex) -> io::Result<Option<Bytes>> {
        let entries = self.read(index.0..index.0.saturating_add(1), 0)?;
        Ok(entries.into_iter().next().map(|entry| entry.payload))
    }
}

impl Shared {
    fn step(&self, at: u64, end: u64, max_bytes: usize, entries: &mut Vec<Entry>, bytes: &mut usize) -> Step {
        let core = self.core.lock();
        if at >= core.tail.first() {
            for entry in core.tail.from(at).take_while(|entry| entry.id.index < end) {
                if !entries.is_empty() && *bytes + entry.payload.len() > max_bytes {
                    break;
                }
                *bytes += entry.payload.len();
                entries.push(entry.clone());
            }
            return Step::Ready;
        }
        let Some(segment) = core.catalog.find(at) else { return Step::Missing };
        let end = end.min(segment.end()).min(core.tail.first()).min(at + ENTRIES_MAX);
        let from = (at - segment.first) as usize;
        let offsets = match &segment.offsets {
            Offsets::Memory(offsets) => Found::Known(offsets[from..(end - segment.first) as usize].to_vec()),
            Offsets::Table { file, at, .. } => Found::Table { file: *file, at: at + from as u64 * 4 },
        };
        Step::Read(Plan { number: segment.number, entries: at..end, offsets, bytes: segment.bytes })
    }

    fn is_trimmed(&self, number: u64) -> bool {
        self.core.lock().catalog.segments.front().is_none_or(|oldest| oldest.number > number)
    }

    fn read_plan(&self, plan: &Plan, max_bytes: usize, out: &mut Vec<Entry>, total: &mut usize) -> io::Result<()> {
        let file = self.files.get(plan.number)?;
        let seed = seed(self.owner.disk_id, plan.number);
        let table;
        let offsets = match &plan.offsets {
            Found::Known(offsets) => offsets,
            Found::Table { file, at } => {
                let mut bytes = vec![0; (plan.entries.end - plan.entries.start) as usize * 4];
                read_exact_at(self.files.get(*file)?.as_ref(), *at, &mut bytes)?;
                table = bytes.chunks_exact(4).map(|offset| read_u32(offset, 0)).collect();
                &table
            }
        };
        // One read for as many as may fit; distances between offsets are the lengths, other frames included.
        let Some(&start) = offsets.first() else { return Ok(()) };
        let left = (max_bytes - (*total).min(max_bytes)) as u64;
        let start = u64::from(start);
        let wanted = offsets.partition_point(|&offset| u64::from(offset).saturating_sub(start) <= left).max(1);
        let region_end = match offsets.get(wanted) {
            // What the offsets of a damaged footer ask for is no more than there is.
            Some(&next) => u64::from(next).min(plan.bytes),
            None => (u64::from(offsets[wanted - 1]) + LAST_BYTES).min(plan.bytes),
        };
        let mut region = vec![0; region_end.saturating_sub(start) as usize];
        read_exact_at(file.as_ref(), start, &mut region)?;
        let region = Bytes::from(region);
        for (&offset, index) in offsets[..wanted].iter().zip(plan.entries.clone()) {
            let at = (u64::from(offset).saturating_sub(start)) as usize;
            let entry = match region.get(at..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>()) {
                None => read_entry(&file, u64::from(offset), seed, index)?,
                Some(header) => {
                    let frame = decode_entry(header, seed, index, offset.into())?;
                    let body = at + HEADER_BYTES;
                    let end = body + frame.payload_bytes as usize;
                    if end <= region.len() {
                        entry_of(&frame, region.slice(body..end), offset.into())?
                    } else {
                        read_entry(&file, u64::from(offset), seed, index)?
                    }
                }
            };
            if !out.is_empty() && *total + entry.payload.len() > max_bytes {
                return Ok(());
            }
            *total += entry.payload.len();
            out.push(entry);
        }
        Ok(())
    }
}

fn corrupt(offset: u64, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} at offset {offset} of a log segment"))
}

/// Reads what must be there.
fn read_within(file: &Arc<dyn DiskFile>, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    read_exact_at(file.as_ref(), offset, buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => corrupt(offset, "the end of the file"),
        _ => error,
    })
}

fn decode_entry(header: &[u8; HEADER_BYTES], seed: u32, index: u64, offset: u64) -> io::Result<Frame> {
    match Frame::decode(header, seed) {
        Ok((frame, _)) if frame.kind.is_entry() && frame.id.index == index => Ok(frame),
        Ok(_) => Err(corrupt(offset, "another frame")),
        Err(_) => Err(corrupt(offset, "no valid frame")),
    }
}

fn entry_of(frame: &Frame, payload: Bytes, offset: u64) -> io::Result<Entry> {
    let kind = match frame.kind {
        Kind::Blank => EntryKind::Blank,
        Kind::Membership => EntryKind::Membership,
        _ => EntryKind::Command,
    };
    let entry = Entry { id: frame.id, kind, payload, crc: frame.payload_crc };
    if entry.is_intact() { Ok(entry) } else { Err(corrupt(offset, "a payload that fails its checksum")) }
}

fn read_entry(file: &Arc<dyn DiskFile>, offset: u64, seed: u32, index: u64) -> io::Result<Entry> {
    let mut header = [0; HEADER_BYTES];
    read_within(file, offset, &mut header)?;
    let frame = decode_entry(&header, seed, index, offset)?;
    debug_assert!(frame_bytes(frame.payload_bytes as usize) >= HEADER_BYTES as u64);
    let mut payload = vec![0; frame.payload_bytes as usize];
    read_within(file, offset + HEADER_BYTES as u64, &mut payload)?;
    entry_of(&frame, Bytes::from(payload), offset)
}
