//! What a member has received so far: files of rows, and a log that is not in use yet.

use super::Transfer;
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::identity::Home;
use crate::log::{Done, Entry, Log, LogOptions, LogOwner};
use crate::types::LogId;
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

/// Ending of the name of a file that is not complete.
const PART: &str = ".part";

/// Files of rows that an offer may list.
const FILES_MAX: usize = 100_000;

/// Entries are taken over from one log to another in groups of so many bytes.
const COPY_BYTES: usize = 1 << 20;

/// Bytes that stay free when all files are there: what opening the rows writes.
const ROOM_BYTES: u64 = 64 << 20;

/// A log on a full disk waits for room; whoever waits for the log does not for longer than this.
const WRITE_WAIT: Duration = Duration::from_secs(120);

/// What a leader offers.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) transfer: u64,
    pub(crate) end: LogId,
    pub(crate) first: u64,
    pub(crate) files: Vec<OfferedFile>,
}

#[derive(Debug, Clone)]
pub(crate) struct OfferedFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// Where a node keeps what it receives.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) home: Arc<Home>,
    pub(crate) owner: LogOwner,
    /// How its log is kept.
    pub(crate) log: LogOptions,
}

/// A file that is being written.
struct Part {
    number: usize,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    bytes: u64,
    crc: u32,
}

/// What was received. Nothing of it is in use.
pub(crate) struct Staging {
    place: Place,
    transfer: Transfer,
    files: Vec<OfferedFile>,
    complete: Vec<bool>,
    part: Option<Part>,
    log: Log,
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Waits for an operation of a log. Blocks.
pub(super) fn wait(log: &Log, ask: impl FnOnce(Done)) -> io::Result<()> {
    let (tell, told) = mpsc::channel();
    ask(Box::new(move |result| {
        // The receiver waits below.
        let _ = tell.send(result);
    }));
    // For a log without a thread of its own.
    log.run_pending();
    told.recv_timeout(WRITE_WAIT)
        .unwrap_or_else(|_| Err(io::Error::other(format!("the log was not written within {WRITE_WAIT:?}"))))
}

/// Appends the entries of `from` in `first..=last` to `to`, as far as they are there. Blocks.
fn take_over(from: &Log, to: &Log, first: u64, last: u64) -> io::Result<u64> {
    let mut next = first;
    while next <= last {
        let entries = from.read(next..last + 1, COPY_BYTES)?;
        let Some(end) = entries.last().map(|entry| entry.id.index + 1) else { break };
        wait(to, |done| to.append(entries, done))?;
        next = end;
    }
    Ok(next)
}

impl Offer {
    fn check(&self) -> io::Result<()> {
        if self.first > self.end.index || self.files.is_empty() || self.files.len() > FILES_MAX {
            return Err(invalid("the offer makes no sense"));
        }
        for file in &self.files {
            let plain = file.name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            if !plain || file.name.is_empty() || file.name.starts_with('.') || file.name.ends_with(PART) {
                return Err(invalid(format!("the offer lists a file {:?}", file.name)));
            }
        }
        let mut names: Vec<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(invalid(format!("the offer lists {} twice", pair[0]))),
            None => Ok(()),
        }
    }
}

impl Staging {
    /// Goes on with what was received, as far as it belongs to the offer; the rest is deleted. `held` is what this
    /// process has open of it. Blocks.
    ///
    /// # Errors
    /// `InvalidData` for an offer that makes no sense; else the operating system's.
    pub(crate) fn begin(place: &Place, offer: Offer, held: Option<Staging>) -> io::Result<Staging> {
        offer.check()?;
        let disk = place.home.disk();
        let incoming = place.home.incoming();
        disk.create_dir_all(&incoming)?;
        let kept = match held {
            Some(staging) => Some((staging.transfer, staging.log)),
            None => Transfer::read(disk.as_ref(), &incoming).ok().flatten().and_then(|transfer| {
                let staged = transfer.log != place.home.log_name();
                let log = staged.then(|| open_log(place, &transfer.log).ok()).flatten()?;
                Some((transfer, log))
            }),
        };
        // Entries are the same in every log that has the last of them: the leader is asked whether its own has.
        let kept = kept.filter(|(_, log)| fits(log, &offer));
        let (transfer, log) = match kept {
            Some((transfer, log)) => {
                let name = transfer.log.clone();
                let next = Transfer { id: offer.transfer, end: offer.end, first: offer.first, log: name };
                if next != transfer {
                    next.write(disk.as_ref(), &incoming)?;
                }
                (next, log)
            }
            None => fresh(place, &offer)?,
        };
        let folder = incoming.join(transfer.folder());
        for stale in disk.list_dirs(&incoming)?.iter().filter(|name| **name != transfer.folder()) {
            disk.remove_dir_all(&incoming.join(stale))?;
        }
        disk.create_dir_all(&folder)?;
        disk.sync_dir(&incoming)?;
        let complete: Vec<bool> = offer.files.iter().map(|file| is_there(disk.as_ref(), &folder, file)).collect();
        let missing = offer.files.iter().zip(&complete).filter(|(_, complete)| !**complete);
        let needed = missing.map(|(file, _)| file.bytes).fold(ROOM_BYTES, u64::saturating_add);
        let free = disk.free_bytes(&folder)?;
        if free < needed {
            // An installation that fails would stop the node.
            let text = format!("{free} bytes are free in {}, its rows need {needed}", folder.display());
            return Err(io::Error::new(io::ErrorKind::StorageFull, text));
        }
        Ok(Staging { place: place.clone(), transfer, files: offer.files, complete, part: None, log })
    }

    /// Deletes all that was received.
    ///
    /// # Errors
    /// The operating system's; what is left is deleted by the next start.
    pub(crate) fn discard(place: &Place, held: Option<Staging>) -> io::Result<()> {
        let disk = place.home.disk();
        let incoming = place.home.incoming();
        let transfer = Transfer::read(disk.as_ref(), &incoming).ok().flatten();
        // In this order: nothing may refer to what is half deleted.
        Transfer::remove(disk.as_ref(), &incoming)?;
        let log = held.map(|staging| staging.transfer.log).or(transfer.map(|transfer| transfer.log));
        match disk.remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        match log {
            Some(log) => place.home.remove_log(&log),
            None => Ok(()),
        }
    }

    pub(crate) fn end(&self) -> LogId {
        self.transfer.end
    }

    /// Places of the files that are complete.
    pub(crate) fn complete(&self) -> Vec<u32> {
        let places = (0_u32..).zip(&self.complete);
        places.filter(|(_, complete)| **complete).map(|(place, _)| place).collect()
    }

    /// Ids of entries up to which nothing has to be sent, if the leader has them too: of the last that was received, or
    /// else the last of each leader in the node's own log.
    pub(crate) fn has(&self, own: &Log) -> Vec<LogId> {
        if let Some(last) = self.log.state().last {
            return vec![last];
        }
        let (first, end) = (self.transfer.first, self.transfer.end.index);
        if own.readable_from() > first {
            return Vec::new();
        }
        let firsts = own.key_log_ids(first..end + 1);
        let changes = firsts.windows(2).filter(|pair| (pair[0].term, pair[0].node) != (pair[1].term, pair[1].node));
        let lasts = changes.map(|pair| LogId { index: pair[1].index - 1, ..pair[0] });
        lasts.chain(firsts.last().copied()).collect()
    }

    /// Goes on after the entry that the leader has too; gives the index of the next entry. Takes over from the node's
    /// own log what was not received. Blocks.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn go_on_after(&mut self, same: Option<LogId>, own: &Log) -> io::Result<u64> {
        match (self.log.state().last, same) {
            (None, None) => {}
            (Some(last), same) if Some(last) == same => {}
            (Some(_), _) => {
                // It was another history after all.
                let (transfer, log) = fresh(&self.place, &self.as_offer())?;
                let old = std::mem::replace(&mut self.transfer, transfer).log;
                self.log = log;
                self.place.home.remove_log(&old)?;
            }
            (None, Some(same)) => {
                take_over(own, &self.log, self.transfer.first, same.index.min(self.transfer.end.index))?;
            }
        }
        Ok(self.next())
    }

    fn as_offer(&self) -> Offer {
        let Transfer { id, end, first, .. } = self.transfer;
        Offer { transfer: id, end, first, files: Vec::new() }
    }

    /// Index of the next entry that is wanted.
    pub(crate) fn next(&self) -> u64 {
        self.log.state().last.map_or(self.transfer.first, |last| last.index + 1)
    }

    /// Adds a piece of a file; the last one completes the file, durably. Blocks.
    ///
    /// # Errors
    /// `InvalidData` for a piece that is not the next one or fails its checksum; else the operating system's.
    pub(crate) fn take_chunk(&mut self, file: u32, offset: u64, content: &Bytes, crc: u32) -> io::Result<()> {
        let number = file as usize;
        let Some(offered) = self.files.get(number).filter(|_| !self.complete[number]) else {
            return Err(invalid(format!("file {number} is not wanted")));
        };
        let disk = self.place.home.disk().clone();
        let folder = self.folder();
        if offset == 0 {
            self.part = Some(Part::create(disk.as_ref(), &folder, number, &offered.name)?);
        }
        let part = self.part.as_mut().filter(|part| part.number == number && part.bytes == offset);
        let Some(part) = part else {
            return Err(invalid(format!("byte {offset} of {} is not the next one", offered.name)));
        };
        let end = offset + content.len() as u64;
        let sum = crc32c::crc32c_append(part.crc, content);
        if end > offered.bytes || sum != crc {
            let what = format!("{} fails its checksum at byte {offset}: it was damaged on its way", offered.name);
            return Err(invalid(what));
        }
        part.file.write_at(offset, &mut [IoSlice::new(content)])?;
        (part.bytes, part.crc) = (end, sum);
        if end == offered.bytes {
            part.file.sync_data()?;
            disk.rename(&part.path, &folder.join(&offered.name))?;
            disk.sync_dir(&folder)?;
            self.complete[number] = true;
            self.part = None;
        }
        Ok(())
    }

    /// Adds entries, which must be the next ones; `done` is called once they are kept.
    ///
    /// # Errors
    /// `InvalidData` when they are not; nothing was added.
    pub(crate) fn take_entries(&self, entries: Vec<Entry>, done: Done) -> io::Result<()> {
        for (entry, index) in entries.iter().zip(self.next()..) {
            let end = self.transfer.end;
            if entry.id.index != index || index > end.index || (index == end.index) != (entry.id == end) {
                return Err(invalid(format!("entry {} comes where {index} must, of {end}", entry.id)));
            }
        }
        self.log.append(entries, done);
        Ok(())
    }

    /// Whether all is there; the entries are durable then. Blocks.
    ///
    /// # Errors
    /// `InvalidData` when something is missing; else the operating system's.
    pub(crate) fn check_whole(&self) -> io::Result<()> {
        if let Some(number) = self.complete.iter().position(|complete| !complete) {
            return Err(invalid(format!("{} is not complete", self.files[number].name)));
        }
        let (last, first) = (self.log.state().last, self.log.readable_from());
        if last != Some(self.transfer.end) || first > self.transfer.first {
            let text = last.map_or_else(|| "nothing".to_owned(), |last| last.to_string());
            return Err(invalid(format!("entries are there from {first} to {text}, not to {}", self.transfer.end)));
        }
        wait(&self.log, |done| self.log.sync(done))
    }

    /// Folder of the files.
    pub(crate) fn folder(&self) -> PathBuf {
        self.place.home.incoming().join(self.transfer.folder())
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn log_name(&self) -> &str {
        &self.transfer.log
    }

    /// Gives the received log what `own`, which it is about to replace, has beside entries up to the end: the vote, and
    /// what follows the end. Durable on return. Blocks.
    ///
    /// # Errors
    /// The operating system's; neither log is harmed.
    pub(crate) fn take_the_place_of(&self, own: &Log) -> io::Result<()> {
        let (end, log) = (self.transfer.end, &self.log);
        let now = own.state();
        if let Some(vote) = now.vote {
            wait(log, |done| log.save_vote(vote, done))?;
        }
        if let Some(last) = now.last.filter(|_| own.log_id(end.index) == Some(end)) {
            let next = take_over(own, log, end.index + 1, last.index)?;
            if next <= last.index {
                return Err(io::Error::other(format!("the log has no entry {next} where it must have one")));
            }
        }
        log.purge_upto(end)?;
        wait(log, |done| log.sync(done))
    }
}

impl Part {
    fn create(disk: &dyn Disk, folder: &Path, number: usize, name: &str) -> io::Result<Part> {
        let path = folder.join(format!("{name}{PART}"));
        match disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = disk.open(&path, OpenMode::Create)?;
        Ok(Part { number, path, file, bytes: 0, crc: 0 })
    }
}

fn open_log(place: &Place, name: &str) -> io::Result<Log> {
    let folder = place.home.log_folder(name);
    let opened = Log::open(place.home.disk().clone(), &folder, place.owner.clone(), place.log.clone());
    let (log, _) = opened.map_err(|error| io::Error::other(format!("{}: {error}", folder.display())))?;
    if let Some((end, last)) = log.state().purged.zip(log.state().last)
        && last.index > end.index
    {
        // An installation that was cut short had added what followed in the node's own log.
        log.truncate_after(Some(end))?;
    }
    Ok(log)
}

/// An empty log for the offer, and the TRANSFER that says so. What was received before is nobody's then.
fn fresh(place: &Place, offer: &Offer) -> io::Result<(Transfer, Log)> {
    let log = place.home.fresh_log_name()?;
    let transfer = Transfer { id: offer.transfer, end: offer.end, first: offer.first, log };
    let earlier = Transfer::read(place.home.disk().as_ref(), &place.home.incoming()).ok().flatten();
    transfer.write(place.home.disk().as_ref(), &place.home.incoming())?;
    if let Some(earlier) = earlier {
        place.home.remove_log(&earlier.log)?;
    }
    let log = open_log(place, &transfer.log)?;
    Ok((transfer, log))
}

/// What was received may be the beginning of what is offered.
fn fits(log: &Log, offer: &Offer) -> bool {
    let begins = |last: LogId| last.index <= offer.end.index && log.readable_from() <= offer.first;
    log.failure().is_none() && log.state().last.is_none_or(begins)
}

fn is_there(disk: &dyn Disk, folder: &Path, file: &OfferedFile) -> bool {
    let opened = disk.open(&folder.join(&file.name), OpenMode::Read);
    opened.and_then(|opened| opened.size()).is_ok_and(|bytes| bytes == file.bytes)
}
