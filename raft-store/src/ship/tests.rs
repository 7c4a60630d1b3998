//! What a node has after any end of a transfer: its old log or the new one, whole, and its vote.

use super::staging::{Offer, OfferedFile, Place, Staging, wait};
use super::{Transfer, entries_crc};
use crate::disk::{Disk, Fault, MemoryDisk};
use crate::identity::Home;
use crate::log::{Entry, EntryKind, Log, LogOptions, LogOwner, Recovery, WriterMode};
use crate::raft_types::log_entry_to_wire;
use crate::types::{LogId, Vote};
use bytes::Bytes;
use std::io;
use std::path::Path;
use std::sync::Arc;

const FILES: [(&str, usize); 3] = [("CURRENT", 16), ("000007.sst", 700_000), ("MANIFEST-000004", 0)];

/// What the leader ships: entries 40 up to 90, of terms 3 and 5.
const FIRST: u64 = 40;
const END: u64 = 90;

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 7, index }
}

/// An entry of the leader's log.
fn shipped(index: u64) -> Entry {
    let term = if index < 60 { 3 } else { 5 };
    Entry::new(id(term, index), EntryKind::Command, Bytes::from(vec![index as u8; 3000]))
}

fn end() -> LogId {
    shipped(END).id
}

fn offer(transfer: u64) -> Offer {
    let files = FILES.map(|(name, bytes)| OfferedFile { name: name.to_owned(), bytes: bytes as u64 });
    Offer { transfer, end: end(), first: FIRST, files: files.into() }
}

fn content(file: usize) -> Bytes {
    Bytes::from((0..FILES[file].1).map(|at| (at * (file + 3)) as u8).collect::<Vec<_>>())
}

fn options(number_after: u64) -> LogOptions {
    let writer = WriterMode::Inline;
    LogOptions { segment_bytes: 64 << 10, reserve_segments: 1, number_after, writer, ..LogOptions::default() }
}

/// A node's storage without rows.
struct Node {
    home: Arc<Home>,
    log: Log,
    recovery: Recovery,
    place: Place,
}

impl Node {
    fn open(disk: &MemoryDisk) -> io::Result<Node> {
        let folder = Path::new("/nowhere/n0");
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let home = Home::open(shared.clone(), folder, folder, "c", "g", "n0").map_err(io::Error::other)?;
        let home = Arc::new(home);
        let owner = LogOwner { group: "g".to_owned(), disk_id: home.identity().disk.0 };
        let opened = Log::open(shared, &home.log_path(), owner.clone(), options(0)).map_err(io::Error::other)?;
        let (log, recovery) = opened;
        let place = Place { home: home.clone(), owner, log: options(recovery.first_segment_number) };
        Ok(Node { home, log, recovery, place })
    }

    /// A node with these entries of its own and a vote.
    fn with(disk: &MemoryDisk, entries: Vec<Entry>, vote: Vote) -> Node {
        let node = Node::open(disk).expect("opens");
        wait(&node.log, |done| node.log.save_vote(vote, done)).expect("kept");
        if !entries.is_empty() {
            wait(&node.log, |done| node.log.append(entries, done)).expect("kept");
        }
        node
    }

    /// Receives what is missing, as if from a leader, and installs it.
    fn fill(&self, transfer: u64) -> io::Result<()> {
        let mut staging = self.receive(transfer, END + 1)?;
        staging.check_whole()?;
        self.install(&mut staging)
    }

    /// Receives all files, and entries below `until`.
    fn receive(&self, transfer: u64, until: u64) -> io::Result<Staging> {
        let mut staging = Staging::begin(&self.place, offer(transfer), None)?;
        let ours = |id: &LogId| (FIRST..=END).contains(&id.index) && shipped(id.index).id == *id;
        let same = staging.has(&self.log).into_iter().filter(ours).max_by_key(|id| id.index);
        staging.go_on_after(same, &self.log)?;
        let complete = staging.complete();
        for file in (0..FILES.len()).filter(|file| !complete.contains(&(*file as u32))) {
            let content = content(file);
            let (mut offset, mut crc) = (0, 0);
            loop {
                let chunk = content.slice(offset..(offset + 300_000).min(content.len()));
                crc = crc32c::crc32c_append(crc, &chunk);
                staging.take_chunk(file as u32, offset as u64, &chunk, crc)?;
                offset += chunk.len();
                if offset == content.len() {
                    break;
                }
            }
        }
        while staging.next() < until {
            let next = staging.next();
            wait(staging.log(), |done| {
                staging
                    .take_entries((next..(next + 9).min(until)).map(shipped).collect(), done)
                    .expect("the next ones");
            })?;
        }
        Ok(staging)
    }

    fn install(&self, staging: &mut Staging) -> io::Result<()> {
        staging.take_the_place_of(&self.log)?;
        self.home.set_world(self.home.state_number() + 1, staging.log_name(), Some(staging.end()))?;
        self.log.replace(staging.log());
        Ok(())
    }

    fn is_filled(&self) -> bool {
        self.home.installed() == Some(end())
    }

    /// Entries `first..` of the log, all of them.
    fn entries(&self, first: u64) -> Vec<Entry> {
        self.log.read(first..u64::MAX, usize::MAX).expect("legible")
    }
}

fn vote(term: u64) -> Vote {
    Vote { term, node: 7, committed: true }
}

fn own(indexes: std::ops::RangeInclusive<u64>, term: u64) -> Vec<Entry> {
    indexes.map(|index| Entry::new(id(term, index), EntryKind::Command, Bytes::from(vec![0xAA; 500]))).collect()
}

/// A node that was away, one with a tail that lost, one that has a part of it, one that has more than is shipped.
fn nodes() -> Vec<(&'static str, Vec<Entry>, Vec<Entry>)> {
    let ours = |indexes: std::ops::RangeInclusive<u64>| indexes.map(shipped).collect::<Vec<_>>();
    let part: Vec<Entry> = own(0..=39, 3).into_iter().chain(ours(40..=70)).collect();
    let more: Vec<Entry> = own(0..=39, 3).into_iter().chain(ours(40..=90)).chain(own(91..=97, 5)).collect();
    let lost: Vec<Entry> = own(0..=39, 3).into_iter().chain(ours(40..=59)).chain(own(60..=75, 4)).collect();
    vec![
        ("new", Vec::new(), Vec::new()),
        ("away", own(0..=20, 2), Vec::new()),
        ("part", part, Vec::new()),
        ("lost", lost, Vec::new()),
        ("more", more, own(91..=97, 5)),
    ]
}

#[test]
fn a_filled_node_has_what_was_shipped_its_vote_and_what_follows() {
    for (name, entries, tail) in nodes() {
        let disk = MemoryDisk::new();
        let node = Node::with(&disk, entries, vote(6));
        let boot = node.recovery.first_segment_number;
        // What is the same is not sent: taken from its own log.
        let start = {
            let mut staging = Staging::begin(&node.place, offer(1), None).expect("begins");
            let has = staging.has(&node.log);
            let same = has.into_iter().filter(|id| shipped(id.index).id == *id).max_by_key(|id| id.index);
            staging.go_on_after(same, &node.log).expect("goes on")
        };
        assert_eq!(
            start,
            match name {
                "part" => 71,
                "lost" => 60,
                "more" => 91,
                _ => FIRST,
            },
            "{name}"
        );
        node.fill(1).expect("filled");
        let old = node.home.log_folder("log-1");
        assert!(!disk.list_dirs(Path::new("/nowhere/n0")).expect("listed").contains(&"log-1".to_owned()), "{old:?}");
        for node in [node, Node::open(&disk.after_power_loss(&|_| false)).expect("opens again")] {
            let state = node.log.state();
            assert_eq!((state.vote, state.purged), (Some(vote(6)), Some(end())), "{name}");
            let expected: Vec<Entry> = (FIRST..=END).map(shipped).chain(tail.clone()).collect();
            assert!(node.entries(FIRST) == expected, "{name}");
            assert_eq!(node.log.log_id(END), Some(end()));
            assert!(node.is_filled());
            let again = node.recovery.first_segment_number;
            assert!(again >= boot, "boots are numbered upwards");
            // It goes on as any log does.
            let next = state.last.expect("entries").index + 1;
            wait(&node.log, |done| node.log.append(own(next..=next + 3, 6), done)).expect("appended");
            assert!(node.log.trim(60).expect("trimmed") > 0);
        }
    }
}

/// Any call fails, once or for ever; the power goes, or only the process.
#[test]
fn any_failure_leaves_the_old_log_or_the_new_one() {
    for (name, entries, tail) in nodes() {
        let mut finished = 0;
        for call in 0.. {
            let disk = MemoryDisk::new();
            let node = Node::with(&disk, entries.clone(), vote(6));
            let boot = node.recovery.first_segment_number;
            let fault = if call % 2 == 0 { Fault::Halt } else { Fault::Fail(io::ErrorKind::Other) };
            disk.fail_at(disk.calls() + call, fault);
            let filled = node.fill(1).is_ok();
            drop(node);
            for after in [disk.after_kill(), disk.after_power_loss(&|_| false), disk.after_power_loss(&|_| true)] {
                let node = Node::open(&after).expect("opens again");
                assert!(node.recovery.first_segment_number > boot, "{name}: a boot number came again, call {call}");
                assert!(node.is_filled() || !filled, "{name}: what was filled is not, call {call}");
                let (state, first) = (node.log.state(), if node.is_filled() { FIRST } else { 0 });
                assert_eq!(state.vote, Some(vote(6)), "{name}: call {call}");
                let expected: Vec<Entry> = if node.is_filled() {
                    (FIRST..=END).map(shipped).chain(tail.clone()).collect()
                } else {
                    entries.clone()
                };
                assert!(node.entries(first) == expected, "{name}: neither the old log nor the new one, call {call}");
                if !node.is_filled() {
                    // The transfer is gone on with, or begins again, whichever leader offers.
                    node.fill(1 + call % 3).expect("filled");
                    let expected: Vec<Entry> = (FIRST..=END).map(shipped).chain(tail.clone()).collect();
                    assert!(node.entries(FIRST) == expected && node.is_filled(), "{name}: call {call}");
                }
            }
            finished = if filled { finished + 1 } else { 0 };
            if finished == 4 {
                assert!(call > 60, "the faults were never met");
                break;
            }
        }
    }
}

#[test]
fn what_was_kept_is_not_wanted_again() {
    let disk = MemoryDisk::new();
    let node = Node::with(&disk, own(0..=20, 2), vote(6));
    drop(node.receive(1, 64).expect("received"));
    drop(node);
    let disk = disk.after_power_loss(&|_| false);
    let node = Node::open(&disk).expect("opens again");
    // The same leader goes on with files and entries.
    let mut staging = Staging::begin(&node.place, offer(1), None).expect("begins");
    assert_eq!(staging.complete(), [0, 1, 2]);
    assert_eq!(staging.has(&node.log), [shipped(63).id]);
    assert_eq!(staging.go_on_after(Some(shipped(63).id), &node.log).expect("goes on"), 64);
    // Another one has other files, and the same entries.
    let staging = Staging::begin(&node.place, offer(2), Some(staging)).expect("begins");
    assert_eq!((staging.complete(), staging.next()), (Vec::new(), 64));
    // One that has other entries begins anew.
    let mut staging = Staging::begin(&node.place, offer(3), Some(staging)).expect("begins");
    assert_eq!(staging.go_on_after(None, &node.log).expect("goes on"), FIRST);
    drop(staging);
    // A start deletes what nobody can go on with.
    Staging::discard(&node.place, None).expect("discarded");
    drop(node);
    let node = Node::open(&disk).expect("opens again");
    assert_eq!(disk.list_dirs(Path::new("/nowhere/n0")).expect("listed"), ["log-1"]);
    assert!(Transfer::read(&disk, &node.home.incoming()).expect("no file").is_none());
}

#[test]
fn what_is_damaged_or_out_of_turn_is_refused() {
    let disk = MemoryDisk::new();
    let node = Node::with(&disk, Vec::new(), vote(6));
    let refused = |result: io::Result<()>, what: &str| {
        let error = result.expect_err(what);
        assert!(error.kind() == io::ErrorKind::InvalidData && error.to_string().contains(what), "{error}");
    };
    for name in ["../IDENTITY", "", ".", "a/b", "000007.sst.part", "CURRENT"] {
        let mut offer = offer(1);
        offer.files.push(OfferedFile { name: name.to_owned(), bytes: 1 });
        refused(Staging::begin(&node.place, offer, None).map(|_| ()), "the offer lists");
    }
    let mut staging = Staging::begin(&node.place, offer(1), None).expect("begins");
    let chunk = content(1).slice(..1000);
    let crc = crc32c::crc32c(&chunk);
    refused(staging.take_chunk(1, 0, &chunk, crc ^ 4), "fails its checksum");
    refused(staging.take_chunk(1, 500, &chunk, crc), "is not the next one");
    refused(staging.take_chunk(9, 0, &chunk, crc), "is not wanted");
    refused(staging.take_chunk(0, 0, &chunk, crc), "fails its checksum");
    staging.take_chunk(1, 0, &chunk, crc).expect("right");
    for entries in
        [vec![shipped(41)], vec![shipped(40), shipped(42)], (40..=END).map(shipped).chain(own(91..=91, 5)).collect()]
    {
        refused(staging.take_entries(entries, Box::new(|_| ())), "comes where");
    }
    let mut other_end: Vec<Entry> = (40..=END).map(shipped).collect();
    other_end.last_mut().expect("some").id.term = 4;
    refused(staging.take_entries(other_end, Box::new(|_| ())), "comes where");
    refused(staging.check_whole(), "is not complete");

    let wire: Vec<_> = (40..44).map(|index| log_entry_to_wire(shipped(index))).collect();
    let crc = entries_crc(&wire);
    let mut damaged = wire.clone();
    damaged[2].kind = 2;
    assert_ne!(entries_crc(&damaged), crc);
    damaged = wire.clone();
    damaged[1].id.get_or_insert_default().term ^= 1;
    assert_ne!(entries_crc(&damaged), crc);
    assert_ne!(entries_crc(&wire[..3]), crc);
}
