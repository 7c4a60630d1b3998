//! TRANSFER: what lies under `incoming/`, and which log folder belongs to it.

use crate::disk::Disk;
use crate::identity::{id_text, parse_id, read_lines, write_lines};
use crate::types::LogId;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

const TRANSFER: &str = "TRANSFER";

/// What is being received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// As the leader calls it.
    pub(crate) id: u64,
    /// The rows are as of this entry, and it is the last one.
    pub(crate) end: LogId,
    /// The first entry.
    pub(crate) first: u64,
    /// Name of the log folder that gets the entries.
    pub(crate) log: String,
}

impl Transfer {
    /// The transfer of the folder `incoming`, if there is one.
    ///
    /// # Errors
    /// When the file is not legible.
    pub(crate) fn read(disk: &dyn Disk, incoming: &Path) -> io::Result<Option<Transfer>> {
        let path = incoming.join(TRANSFER);
        let Some(lines) = read_lines(disk, &path)? else { return Ok(None) };
        let parsed = Transfer::parse(&lines);
        parsed.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it names no transfer"))
    }

    /// Makes it the transfer of the folder `incoming`, durably.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn write(&self, disk: &dyn Disk, incoming: &Path) -> io::Result<()> {
        let lines = [
            ("transfer", self.folder()),
            ("end", id_text(self.end)),
            ("first", self.first.to_string()),
            ("log", self.log.clone()),
        ];
        let lines: BTreeMap<String, String> = lines.map(|(key, value)| (key.to_owned(), value)).into();
        write_lines(disk, &incoming.join(TRANSFER), &lines)
    }

    /// Leaves the folder `incoming` without a transfer, durably: nothing refers to what was received any more.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn remove(disk: &dyn Disk, incoming: &Path) -> io::Result<()> {
        match disk.remove(&incoming.join(TRANSFER)) {
            Ok(()) => disk.sync_dir(incoming),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Name of the folder of its files below `incoming`.
    pub(crate) fn folder(&self) -> String {
        format!("{:016x}", self.id)
    }

    fn parse(lines: &BTreeMap<String, String>) -> Option<Transfer> {
        Some(Transfer {
            id: u64::from_str_radix(lines.get("transfer")?, 16).ok()?,
            end: parse_id(lines.get("end")?)?,
            first: lines.get("first")?.parse().ok()?,
            log: lines.get("log")?.clone(),
        })
    }
}
