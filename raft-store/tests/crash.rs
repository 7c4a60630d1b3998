//! What the log keeps when writes fail, power goes, sectors are lost and bits flip.
//!
//! A run is a list of operations. Whatever happens to it, a log that opens afterwards must show the state after
//! some prefix of the operations, and the prefix includes every operation whose callback was called.

#![expect(clippy::panic, reason = "a failed check says where in the run it was")]

use bytes::Bytes;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use raft_store::disk::{Disk, DiskFile, Fault, MemoryDisk, OpenMode, Unsynced};
use raft_store::log::frame::{Frame, HEADER_BYTES};
use raft_store::log::{Entry, EntryKind, Log, LogOptions, LogOwner, OpenError, Recovery, SyncMode, WriterMode};
use raft_store::{LogId, Vote};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const DIR: &str = "/log";

#[derive(Debug, Clone)]
enum Operation {
    Append(Vec<Entry>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
    Sync,
}

/// What Raft sees of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Append(entries) => {
                for entry in entries {
                    self.entries.insert(entry.id.index, entry.clone());
                    self.last = Some(entry.id);
                }
            }
            Operation::Vote(vote) => self.vote = Some(*vote),
            Operation::Truncate(after) => {
                self.entries.split_off(&after.map_or(0, |after| after.index + 1));
                self.last = *after;
            }
            Operation::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(*upto);
                if self.last.is_none_or(|last| last.index < upto.index) {
                    self.last = Some(*upto);
                }
            }
            Operation::Sync => {}
        }
    }

    fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }
}

/// The state after every prefix of what was asked for, and how far it was promised.
struct Run {
    states: Vec<Model>,
    /// Operations that were asked for and called back.
    acked: Arc<AtomicUsize>,
    /// Of them, those whose callback promises that power loss cannot undo them, in either mode.
    forced: Arc<AtomicUsize>,
}

impl Run {
    fn new() -> Self {
        Run { states: vec![Model::default()], acked: Arc::default(), forced: Arc::default() }
    }

    fn now(&self) -> &Model {
        self.states.last().expect("never empty")
    }

    fn acked(&self) -> usize {
        self.acked.load(Ordering::SeqCst)
    }

    /// Asks for an operation; gives whether the log took it.
    fn ask(&mut self, log: &Log, operation: &Operation) -> bool {
        // Entries that are appended together are kept up to some one of them.
        let parts = match operation {
            Operation::Append(entries) => entries.iter().map(|entry| Operation::Append(vec![entry.clone()])).collect(),
            other => vec![other.clone()],
        };
        for part in &parts {
            let mut next = self.now().clone();
            next.apply(part);
            self.states.push(next);
        }
        let number = self.states.len() - 1;
        let forced = matches!(operation, Operation::Vote(_) | Operation::Sync);
        let marks = (Arc::clone(&self.acked), Arc::clone(&self.forced));
        let done = Box::new(move |result: io::Result<()>| {
            if result.is_ok() {
                let before = marks.0.swap(number, Ordering::SeqCst);
                assert!(before < number, "callbacks come in order");
                if forced {
                    marks.1.store(number, Ordering::SeqCst);
                }
            }
        });
        match operation {
            Operation::Append(entries) => log.append(entries.clone(), done),
            Operation::Vote(vote) => log.save_vote(*vote, done),
            Operation::Sync => log.sync(done),
            Operation::Truncate(after) => return log.truncate_after(*after).is_ok(),
            Operation::Purge(upto) => return log.purge_upto(*upto).is_ok(),
        }
        log.failure().is_none()
    }

    /// The log must show the state after a prefix that includes `promised` operations; goes on from there.
    fn check(&mut self, log: &Log, promised: usize, context: &dyn Fn() -> String) {
        let seen = observe(log).unwrap_or_else(|error| panic!("{}: cannot read: {error}", context()));
        let found = (promised..self.states.len()).rev().find(|&number| self.states[number] == seen);
        assert!(
            found.is_some(),
            "{}: promised {promised} of {}, but the log shows {}\nnot {}",
            context(),
            self.states.len() - 1,
            brief(&seen),
            brief(&self.states[promised])
        );
        // What survived is durable now: opening syncs it.
        self.states = vec![seen];
        self.acked.store(0, Ordering::SeqCst);
        self.forced.store(0, Ordering::SeqCst);
    }
}

fn brief(model: &Model) -> String {
    let ids: Vec<String> = model.entries.values().map(|entry| entry.id.to_string()).collect();
    format!("vote {:?} purged {:?} last {:?} entries {ids:?}", model.vote, model.purged, model.last)
}

fn observe(log: &Log) -> io::Result<Model> {
    let state = log.state();
    let from = state.purged.map_or(0, |purged| purged.index + 1);
    let until = state.last.map_or(0, |last| last.index + 1);
    let mut model = Model { vote: state.vote, purged: state.purged, last: state.last, entries: BTreeMap::new() };
    let mut at = from;
    while at < until {
        let read = log.read(at..until, 1500)?;
        assert!(!read.is_empty(), "a hole at {at} of {from}..{until}");
        for entry in read {
            assert_eq!(entry.id.index, at, "entries follow one another");
            assert_eq!(log.log_id(at), Some(entry.id));
            model.entries.insert(at, entry);
            at += 1;
        }
    }
    if let Some(committed) = state.committed {
        assert!(state.last.is_some_and(|last| committed.index <= last.index), "committed beyond the log");
    }
    Ok(model)
}

fn owner() -> LogOwner {
    LogOwner { group: "broker-a".to_owned(), disk_id: 0x1234 }
}

fn clock() -> u64 {
    1_790_000_000_123
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 16 << 10,
        tail_cache_bytes: 1000,
        group_bytes: 6000,
        reserve_segments: 1,
        writer: WriterMode::Inline,
        clock,
        ..LogOptions::default()
    }
}

fn open(disk: &MemoryDisk, options: LogOptions) -> Result<(Log, Recovery), OpenError> {
    Log::open(Arc::new(disk.clone()), Path::new(DIR), owner(), options)
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 0xA1, index }
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let payload: Vec<u8> = (0..bytes).map(|n| (n as u64 * 7 + index * 31 + term) as u8 | 1).collect();
    let kind = match index % 11 {
        3 => EntryKind::Membership,
        7 => EntryKind::Blank,
        _ => EntryKind::Command,
    };
    Entry::new(id(term, index), kind, Bytes::from(payload))
}

fn entries(term: u64, range: std::ops::Range<u64>, bytes: usize) -> Operation {
    Operation::Append(range.map(|index| entry(term, index, bytes)).collect())
}

fn vote(term: u64) -> Operation {
    Operation::Vote(Vote { term, node: 0xA1, committed: term.is_multiple_of(2) })
}

/// A run with every kind of frame, over four segments. Each inner list is asked for at once.
fn script() -> Vec<Vec<Operation>> {
    vec![
        vec![vote(1)],
        vec![entries(1, 0..4, 300)],
        vec![vote(2), entries(2, 4..10, 500)],
        vec![entries(2, 10..30, 450)],
        vec![Operation::Truncate(Some(id(2, 24))), entries(3, 25..28, 450)],
        vec![Operation::Purge(id(1, 3)), vote(4)],
        vec![entries(4, 28..31, 2500), Operation::Sync],
        vec![Operation::Truncate(Some(id(2, 8))), entries(4, 9..12, 90), vote(5)],
        vec![Operation::Purge(id(5, 60))],
        vec![entries(5, 61..66, 200)],
        vec![vote(6), Operation::Truncate(Some(id(5, 62))), entries(6, 63..69, 700)],
        vec![entries(6, 69..71, 0)],
        vec![entries(6, 71..74, 333)],
    ]
}

/// Asks for a script; stops where the log fails.
fn carry_out(run: &mut Run, log: &Log, script: &[Vec<Operation>]) {
    carry_out_and(run, log, script, |_| Ok(()));
}

/// The same, with something done after each step.
fn carry_out_and(run: &mut Run, log: &Log, script: &[Vec<Operation>], after: impl Fn(&Log) -> io::Result<()>) {
    for step in script {
        for operation in step {
            if !run.ask(log, operation) {
                return;
            }
            if let Operation::Append(entries) = operation {
                log.note_committed(entries[0].id);
            }
        }
        log.run_pending();
        if log.failure().is_some() || after(log).is_err() {
            return;
        }
        log.run_idle();
    }
}

/// Unlinks what may go.
fn trim(log: &Log) -> io::Result<()> {
    log.trim(u64::MAX).map(|_| ())
}

/// A run of which nothing is truncated or purged, over three segments.
fn plain_script() -> Vec<Vec<Operation>> {
    vec![vec![vote(1)], vec![entries(1, 0..20, 700)], vec![entries(1, 20..45, 600)], vec![entries(1, 45..48, 333)]]
}

/// What [`script`] leaves.
fn recorded() -> (MemoryDisk, Run, Vec<PathBuf>) {
    recorded_of(&script())
}

/// A disk as a kill leaves it between the last write and its sync, the run on it, and the files.
fn recorded_of(script: &[Vec<Operation>]) -> (MemoryDisk, Run, Vec<PathBuf>) {
    let disk = MemoryDisk::new();
    let mut run = Run::new();
    let (log, _) = open(&disk, options()).expect("an empty disk");
    let (last, before) = script.split_last().expect("not empty");
    carry_out(&mut run, &log, before);
    assert_eq!(run.acked(), run.states.len() - 1);
    // The next changing call writes; the one after it syncs.
    disk.fail_at(disk.calls() + 1, Fault::Halt);
    carry_out(&mut run, &log, std::slice::from_ref(last));
    assert_eq!(run.acked(), run.states.len() - 4, "the last three entries are written and not synced");
    let image = disk.after_kill();
    let files = image.list(Path::new(DIR)).expect("listed").into_iter().map(|name| Path::new(DIR).join(name)).collect();
    (image, run, files)
}

impl Run {
    fn copy(&self) -> Run {
        let acked = self.acked();
        Run {
            states: self.states.clone(),
            acked: Arc::new(AtomicUsize::new(acked)),
            forced: Arc::new(AtomicUsize::new(acked)),
        }
    }
}

/// Options for opening a damaged log: the fewest calls.
fn checking() -> LogOptions {
    LogOptions { reserve_segments: 0, ..options() }
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Verdict {
    Quarantined,
    /// The log opened, and reading refused an entry.
    Refused,
    /// The log shows a prefix with all that was promised.
    Kept,
    /// The log shows a prefix without something that was promised.
    Lost,
}

fn verdict(image: &MemoryDisk, run: &Run, context: &dyn Fn() -> String) -> Verdict {
    let log = match open(image, checking()) {
        Ok((log, _)) => log,
        Err(OpenError::Corrupt { .. }) => return Verdict::Quarantined,
        Err(error) => panic!("{}: {error}", context()),
    };
    match observe(&log) {
        Ok(seen) => match (0..run.states.len()).rev().find(|&number| run.states[number] == seen) {
            Some(number) if number >= run.acked() => Verdict::Kept,
            Some(_) => Verdict::Lost,
            None => panic!("{}: {} is the state after no prefix", context(), brief(&seen)),
        },
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Verdict::Refused,
        Err(error) => panic!("{}: {error}", context()),
    }
}

/// The newest segment, and the offset up to which it is durable: its last group was written and not synced.
fn newest(files: &[PathBuf], image: &MemoryDisk) -> (PathBuf, u64) {
    let used = |path: &&PathBuf| image.bytes(path).is_some_and(|bytes| bytes.iter().any(|&byte| byte != 0));
    let path = files.iter().rfind(used).expect("a segment").clone();
    let (log, _) = open(&image.copy(), checking()).expect("intact");
    let segments = log.segments();
    let written = segments[segments.len() - 2].bytes;
    // Three entries of 333 bytes, and a hint before them.
    (path, written - 3 * 392 - 56)
}

#[test]
fn a_recorded_log_has_every_kind_of_frame() {
    let (image, run, files) = recorded();
    let mut kinds = std::collections::BTreeSet::new();
    let mut total = 0;
    for (number, path) in files.iter().enumerate() {
        let bytes = image.bytes(path).expect("there");
        total += bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let seed = raft_store::log::frame::seed(owner().disk_id, number as u64 + 1);
        for at in (4096..bytes.len() - 56).step_by(8) {
            let header = bytes[at..].first_chunk().expect("long enough");
            if let Ok((frame, _)) = raft_store::log::frame::Frame::decode(header, seed) {
                kinds.insert(frame.kind as u8);
            }
        }
    }
    assert_eq!(kinds.len(), 9, "{kinds:x?}");
    assert!(total <= 64 << 10, "{total} bytes");
    assert_eq!(verdict(&image.copy(), &run, &|| "untouched".to_owned()), Verdict::Kept);
}

/// What a byte of a recorded log is part of.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
enum Part {
    /// Nothing reads it: space that was reserved, or what fills a frame up.
    Idle,
    /// What a segment that was sealed had of entries that are gone, of other records, and of its footer.
    Past,
    /// An entry that the log shows, in a segment that was sealed.
    Sealed,
    /// A frame of the newest segment that was written and not synced.
    Unsynced,
    /// One that was synced.
    Synced,
    /// The header of a segment.
    Header,
}

impl Part {
    /// Whether `found` is what damage in it must come to. Damage is no torn tail: a frame that is there as a whole and wrong
    /// was not left so by a power loss, so that the log is not used, below the durable mark and above. A sealed segment is
    /// trusted by its footer; what is wrong in it shows when it is read.
    fn allows(self, found: Verdict) -> bool {
        match self {
            Part::Idle => found == Verdict::Kept,
            Part::Past => found != Verdict::Lost,
            Part::Sealed => found == Verdict::Refused,
            Part::Unsynced | Part::Synced | Part::Header => found == Verdict::Quarantined,
        }
    }
}

/// The frames of a segment, and where they are.
fn frames(bytes: &[u8], number: u64) -> Vec<(usize, Frame)> {
    let seed = raft_store::log::frame::seed(owner().disk_id, number);
    let mut frames = Vec::new();
    let mut at = 4096;
    while let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk())
        && let Ok((frame, _)) = Frame::decode(header, seed)
    {
        frames.push((at, frame));
        at += frame.bytes() as usize;
    }
    frames
}

/// Each byte of each file.
fn parts(image: &MemoryDisk, run: &Run, files: &[PathBuf]) -> Vec<Vec<Part>> {
    let (newest, durable) = newest(files, image);
    let shown = &run.states[run.acked()].entries;
    let of_file = |(number, path): (usize, &PathBuf)| {
        let bytes = image.bytes(path).expect("there");
        let mut parts = vec![Part::Idle; bytes.len()];
        if bytes.iter().all(|&byte| byte == 0) {
            return parts;
        }
        parts[..512].fill(Part::Header);
        for (at, frame) in frames(&bytes, number as u64 + 1) {
            let is_shown =
                frame.kind.is_entry() && shown.get(&frame.id.index).is_some_and(|entry| entry.id == frame.id);
            let part = match path == &newest {
                true if (at as u64) < durable => Part::Synced,
                true => Part::Unsynced,
                false if is_shown => Part::Sealed,
                false => Part::Past,
            };
            parts[at..at + HEADER_BYTES + frame.payload_bytes as usize].fill(part);
        }
        parts
    };
    files.iter().enumerate().map(of_file).collect()
}

/// Flips a bit of each byte of a recorded log, of some that nothing reads; gives how often what was found where.
fn flip_bits(script: &[Vec<Operation>]) -> BTreeMap<(Part, String), usize> {
    let (image, run, files) = recorded_of(script);
    let parts = parts(&image, &run, &files);
    let mut counts = BTreeMap::new();
    for (path, parts) in files.iter().zip(parts) {
        let bytes = image.bytes(path).expect("there");
        let end = parts.iter().rposition(|part| *part != Part::Idle).map_or(0, |last| last + 1);
        for (at, part) in parts.into_iter().enumerate() {
            // Zeros that nothing reads, or that are all alike: a sample is enough.
            if ((512..4096).contains(&at) || at > end + 128) && at % 509 != 0 {
                continue;
            }
            let damaged = image.copy();
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            damaged.replace(path, changed);
            let context = || format!("bit {} of byte {at} of {}", at % 8, path.display());
            let found = verdict(&damaged, &run, &context);
            assert!(part.allows(found), "{}, which is {part:?}: {found:?}", context());
            *counts.entry((part, format!("{found:?}"))).or_insert(0) += 1;
        }
    }
    counts
}

#[test]
fn a_flipped_bit_at_every_byte() {
    let (whole, plain) = (flip_bits(&script()), flip_bits(&plain_script()));
    println!("part, verdict: bytes {whole:?}, {plain:?}");
    let count = |counts: &BTreeMap<(Part, String), usize>, part| {
        let of_part = counts.iter().filter(|((of, _), _)| *of == part);
        of_part.map(|(_, count)| count).sum::<usize>()
    };
    // Three entries and a hint.
    assert_eq!(count(&whole, Part::Unsynced), 3 * (56 + 333) + 56);
    assert!(count(&whole, Part::Header) >= 4 * 512 && count(&whole, Part::Header).is_multiple_of(512), "{whole:?}");
    assert!(count(&whole, Part::Synced) > 4000 && count(&whole, Part::Past) > 20_000, "{whole:?}");
    assert!(count(&plain, Part::Sealed) > 20_000 && count(&plain, Part::Synced) > 1000, "{plain:?}");
}

#[test]
fn zeros_from_every_byte_on_and_a_file_cut_at_every_byte() {
    let (image, run, files) = recorded();
    let (newest, durable) = newest(&files, &image);
    let mut doubtful = 0;
    for (number, path) in files.iter().enumerate().filter(|(_, path)| *path <= &newest) {
        let bytes = image.bytes(path).expect("there");
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let frames = frames(&bytes, number as u64 + 1);
        let sealed = frames.last().map_or(0, |(at, frame)| at + frame.bytes() as usize);
        for at in 0..end + 16 {
            let context = || format!("from byte {at} of {}", path.display());
            let torn = image.copy();
            let mut changed = bytes.clone();
            changed[at..].fill(0);
            torn.replace(path, changed);
            let found = verdict(&torn, &run, &|| format!("zeros {}", context()));
            if path == &newest && at as u64 >= durable {
                // Sectors are written as a whole. Where a tear inside one leaves out a single bit, which no disk
                // does, it cannot be told from damage.
                if found == Verdict::Quarantined && at % 512 != 0 {
                    doubtful += 1;
                } else {
                    assert_eq!(found, Verdict::Kept, "a torn tail is cut: zeros {}", context());
                }
            } else if path < &newest {
                assert_ne!(found, Verdict::Lost, "zeros {}", context());
            }

            let cut = image.copy();
            cut.replace(path, bytes[..at].to_vec());
            let found = verdict(&cut, &run, &|| format!("cut {}", context()));
            // Length was durable before the first frame: a shorter file lost what may have been promised. An empty
            // one looks like a reserve that was never used, and one that was sealed ended where its successor says.
            let shortened = if path == &newest { bytes.len() } else { sealed };
            match at {
                0 => {}
                at if at < shortened => assert_eq!(found, Verdict::Quarantined, "cut {}", context()),
                _ => assert_eq!(found, Verdict::Kept, "cut {}", context()),
            }
        }
    }
    assert!(doubtful <= 4, "{doubtful}: more than one place in each frame");
}

#[test]
fn every_sector_zeroed() {
    let (image, run, files) = recorded();
    let parts = parts(&image, &run, &files);
    let mut counts = BTreeMap::new();
    for (path, parts) in files.iter().zip(parts) {
        let bytes = image.bytes(path).expect("there");
        for from in (0..bytes.len()).step_by(512) {
            let damaged = image.copy();
            let mut changed = bytes.clone();
            changed[from..from + 512].fill(0);
            damaged.replace(path, changed);
            let context = || format!("zeros at {from} of {}", path.display());
            let found = verdict(&damaged, &run, &context);
            // A sector below the durable mark that is lost looks like a torn tail, but for the frames after it. One above
            // it is a torn tail.
            let part = parts[from..from + 512].iter().max().expect("not empty");
            let expected = match part {
                Part::Idle | Part::Unsynced => found == Verdict::Kept,
                part => part.allows(found),
            };
            assert!(expected, "{}, which is {part:?}: {found:?}", context());
            *counts.entry((*part, format!("{found:?}"))).or_insert(0) += 1;
        }
    }
    println!("part, verdict: sectors {counts:?}");
    let count = |part, found: Verdict| counts.get(&(part, format!("{found:?}"))).copied().unwrap_or(0);
    assert!(count(Part::Synced, Verdict::Quarantined) >= 8 && count(Part::Unsynced, Verdict::Kept) >= 2, "{counts:?}");
}

/// Every way in which a call may fail.
const FAULTS: [Fault; 4] =
    [Fault::Halt, Fault::HalfWrite, Fault::Fail(io::ErrorKind::Other), Fault::Fail(io::ErrorKind::StorageFull)];

/// Pseudo-random choice of what survives.
fn some(seed: u64) -> impl Fn(&Unsynced) -> bool {
    move |unsynced| {
        use std::hash::{Hash, Hasher};
        let mut hasher = std::hash::DefaultHasher::new();
        seed.hash(&mut hasher);
        format!("{unsynced:?}").hash(&mut hasher);
        hasher.finish().is_multiple_of(2)
    }
}

/// A disk after a fault, under several ways to lose power.
fn outcomes(disk: &MemoryDisk, seeds: std::ops::Range<u64>) -> Vec<MemoryDisk> {
    let mut outcomes = vec![disk.after_kill(), disk.after_power_loss(&|_| false), disk.after_power_loss(&|_| true)];
    outcomes.extend(seeds.map(|seed| disk.after_power_loss(&some(seed))));
    outcomes
}

fn fail_at_every_call(script: &[Vec<Operation>], seeds: u64, after: impl Fn(&Log) -> io::Result<()>) {
    let whole = MemoryDisk::new();
    let (log, _) = open(&whole, options()).expect("an empty disk");
    carry_out_and(&mut Run::new(), &log, script, &after);
    log.close().expect("clean");
    let calls = whole.calls();
    assert!(calls > 20);
    for call in 0..calls {
        for fault in FAULTS {
            let disk = MemoryDisk::new();
            disk.fail_at(call, fault);
            let mut run = Run::new();
            if let Ok((log, _)) = open(&disk, options()) {
                carry_out_and(&mut run, &log, script, &after);
                if log.failure().is_some() {
                    // Poisoned for ever: nothing more is taken, nothing more is acknowledged.
                    let acked = run.acked();
                    assert!(!run.ask(&log, &vote(9)));
                    log.run_pending();
                    assert_eq!(run.acked(), acked);
                    run.states.pop();
                } else {
                    let _ = log.close();
                }
            }
            let acked = run.acked();
            for (number, outcome) in outcomes(&disk, 0..seeds).iter().enumerate() {
                let context = || format!("call {call} {fault:?} outcome {number}");
                let (log, _) = open(outcome, checking()).unwrap_or_else(|error| panic!("{}: {error}", context()));
                run.copy().check(&log, acked, &context);
            }
        }
    }
}

#[test]
fn a_failing_call_at_every_place() {
    fail_at_every_call(&script(), 3, |_| Ok(()));
}

/// Power goes, or a call fails, before, in and after every removal of a file: the log opens, with all that was promised.
#[test]
fn a_failing_call_at_every_place_of_a_trim() {
    let mut script = script();
    script.push(vec![entries(6, 74..110, 900), Operation::Sync]);
    script.push(vec![Operation::Purge(id(6, 100)), vote(7)]);
    script.push(vec![entries(7, 110..112, 50), Operation::Sync]);
    let disk = MemoryDisk::new();
    let (log, _) = open(&disk, options()).expect("an empty disk");
    carry_out_and(&mut Run::new(), &log, &script, trim);
    assert!(log.state().segments <= 3 && log.visible() == (101..112), "{:?}", log.state());
    fail_at_every_call(&script, 3, trim);
}

#[test]
fn a_crash_while_a_branch_is_replaced_by_equal_frames() {
    // The new leader's term is lower than the one left over, and every frame has the length of its predecessor.
    let script = vec![
        vec![entries(5, 0..5, 200)],
        vec![entries(7, 5..12, 200)],
        vec![Operation::Truncate(Some(id(5, 4)))],
        vec![entries(6, 5..12, 200)],
        vec![Operation::Truncate(Some(id(5, 2))), entries(6, 3..5, 200)],
        vec![entries(6, 5..9, 200)],
    ];
    fail_at_every_call(&script, 24, |_| Ok(()));
}

#[test]
fn crashes_while_opening() {
    let (image, run, _) = recorded();
    for call in 0..40 {
        let disk = image.copy();
        disk.fail_at(disk.calls() + call, Fault::Halt);
        let opened = open(&disk, options());
        for (number, outcome) in outcomes(&disk, 0..16).iter().enumerate() {
            let context = || format!("call {call} outcome {number}");
            let (log, recovery) = open(outcome, options()).unwrap_or_else(|error| panic!("{}: {error}", context()));
            run.copy().check(&log, run.acked(), &context);
            if let Ok((_, before)) = &opened {
                assert!(recovery.first_segment_number > before.first_segment_number, "{}", context());
            }
        }
    }
}

/// Every subset of the blocks that were written and not synced when power went.
fn every_subset(before: &[Vec<Operation>], last: &[Operation]) -> usize {
    let disk = MemoryDisk::new();
    let mut run = Run::new();
    let (log, _) = open(&disk, options()).expect("an empty disk");
    carry_out(&mut run, &log, before);
    let promised = run.acked();
    assert_eq!(promised, run.states.len() - 1);
    // Power goes at the first sync after the last write; how many calls come before is found by trying.
    let mut checked = 0;
    for calls in 1..12 {
        let disk = disk.copy();
        let mut run = run.copy();
        let (log, _) = open(&disk.after_power_loss(&|_| true), options()).expect("intact");
        drop(log);
        let disk = disk.after_power_loss(&|_| true);
        let (log, _) = open(&disk, options()).expect("intact");
        disk.fail_at(disk.calls() + calls, Fault::Halt);
        carry_out(&mut run, &log, std::slice::from_ref(&last.to_vec()));
        let promised = run.acked();
        let unsynced = disk.unsynced();
        assert!(unsynced.len() <= 13, "{} things are too many for every subset", unsynced.len());
        for subset in 0_u32..1 << unsynced.len() {
            let keep = |thing: &Unsynced| {
                let number = unsynced.iter().position(|known| known == thing).expect("listed");
                subset & (1 << number) != 0
            };
            let outcome = disk.after_power_loss(&keep);
            let context = || format!("calls {calls}, subset {subset:b} of {unsynced:?}");
            let (log, _) = open(&outcome, checking()).unwrap_or_else(|error| panic!("{}: {error}", context()));
            run.copy().check(&log, promised, &context);
            checked += 1;
        }
        if log.failure().is_none() {
            break;
        }
    }
    checked
}

#[test]
fn every_subset_of_unsynced_blocks() {
    let start = vec![vec![vote(1), entries(1, 0..3, 700)]];
    let several = every_subset(&start, &[entries(1, 3..8, 640), vote(3), entries(3, 8..10, 100)]);
    assert!(several > 200, "{several}");
    every_subset(&start, &[Operation::Truncate(Some(id(1, 1))), entries(2, 2..4, 1400), vote(2)]);
    // Across the end of a segment: footer, sync, header and frames of the next.
    let full = vec![vec![entries(1, 0..20, 500)]];
    every_subset(&full, &[entries(1, 20..22, 900), vote(2)]);
    every_subset(&full, &[Operation::Purge(id(4, 50)), entries(4, 51..53, 900)]);
}

#[test]
fn a_foreign_log_is_refused() {
    let (image, _, _) = recorded();
    for owner in [LogOwner { disk_id: 9, ..owner() }, LogOwner { group: "broker-b".to_owned(), ..owner() }] {
        let opened = Log::open(Arc::new(image.copy()), Path::new(DIR), owner, options());
        assert!(matches!(opened, Err(OpenError::Foreign { disk_id: 0x1234, .. })), "{opened:?}");
    }
}

#[test]
fn a_missing_segment_is_a_loss() {
    let (image, run, files) = recorded();
    for path in &files {
        let damaged = image.copy();
        damaged.remove(path).expect("there");
        let found = verdict(&damaged, &run, &|| format!("without {}", path.display()));
        let oldest = path == &files[0];
        let blank = image.bytes(path).is_some_and(|bytes| bytes.iter().all(|&byte| byte == 0));
        // The oldest may have been trimmed; nobody can tell from the newest alone that there was a newer one.
        if !oldest && !blank && path != &newest(&files, &image).0 {
            assert_eq!(found, Verdict::Quarantined, "without {}", path.display());
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append { count: u64, bytes: usize },
    Vote,
    Truncate { back: u64 },
    Purge { of_eight: u64 },
    Reset { ahead: u64 },
    Sync,
    Trim,
    Hint,
    Run,
    Close,
    Kill,
    PowerLoss { seed: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..6_u64, 0..900_usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => (1..3_u64, 2000..20_000_usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        2 => Just(Step::Vote),
        2 => (1..12_u64).prop_map(|back| Step::Truncate { back }),
        1 => (0..9_u64).prop_map(|of_eight| Step::Purge { of_eight }),
        1 => (1..5_u64).prop_map(|ahead| Step::Reset { ahead }),
        1 => Just(Step::Sync),
        1 => Just(Step::Trim),
        2 => Just(Step::Hint),
        6 => Just(Step::Run),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        2 => any::<u64>().prop_map(|seed| Step::PowerLoss { seed }),
    ]
}

fn walk(steps: &[Step], sync: SyncMode) {
    let options = LogOptions { sync, ..options() };
    let mut disk = MemoryDisk::new();
    let mut run = Run::new();
    let (mut log, _) = open(&disk, options.clone()).expect("an empty disk");
    let mut term = 1;
    for (number, step) in steps.iter().enumerate() {
        let now = run.now().clone();
        let mut reopen = None;
        match step {
            Step::Append { count, bytes } => {
                let next = now.next();
                assert!(run.ask(&log, &entries(term, next..next + count, *bytes)));
            }
            Step::Vote => {
                term += 1;
                assert!(run.ask(&log, &vote(term)));
            }
            Step::Truncate { back } => {
                let to = now.next().saturating_sub(*back);
                let after = now.entries.get(&to.saturating_sub(1)).map(|entry| entry.id);
                let after = after.or(now.purged.filter(|purged| purged.index < now.next()));
                if after.is_some() || now.purged.is_none() {
                    assert!(run.ask(&log, &Operation::Truncate(after)));
                    term += 1;
                }
            }
            Step::Purge { of_eight } => {
                let ids: Vec<LogId> = now.entries.values().map(|entry| entry.id).collect();
                if let Some(&upto) = ids.get((ids.len() as u64 * of_eight / 8) as usize) {
                    assert!(run.ask(&log, &Operation::Purge(upto)));
                }
            }
            Step::Reset { ahead } => {
                assert!(run.ask(&log, &Operation::Purge(id(term, now.next() + ahead))));
            }
            Step::Sync => assert!(run.ask(&log, &Operation::Sync)),
            Step::Trim => {
                log.trim(u64::MAX).expect("open");
            }
            Step::Hint => {
                if let Some(last) = now.last {
                    log.note_committed(last);
                }
                log.run_pending();
                log.run_idle();
            }
            Step::Run => log.run_pending(),
            Step::Close => {
                log.close().expect("clean");
                // Purges and truncations have no callback; closing covers them too.
                reopen = Some((disk.after_power_loss(&|_| false), run.states.len() - 1));
            }
            Step::Kill => reopen = Some((disk.after_kill(), run.acked())),
            Step::PowerLoss { seed } => {
                let promised = if sync == SyncMode::Every { run.acked() } else { run.forced.load(Ordering::SeqCst) };
                reopen = Some((disk.after_power_loss(&some(*seed)), promised));
            }
        }
        let context = || format!("step {number} {step:?}");
        match reopen {
            Some((image, promised)) => {
                disk = image;
                let opened = open(&disk, options.clone());
                log = opened.unwrap_or_else(|error| panic!("{}: {error}", context())).0;
                run.check(&log, promised, &context);
            }
            None => {
                // Readers see everything at once, written or not.
                let seen = observe(&log).expect("readable");
                assert_eq!(&seen, run.now(), "{}", context());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations_and_crashes(steps in proptest::collection::vec(step(), 1..80)) {
        walk(&steps, SyncMode::Every);
    }

    #[test]
    fn random_operations_and_crashes_without_a_sync_for_each(steps in proptest::collection::vec(step(), 1..80)) {
        walk(&steps, SyncMode::Votes);
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 56..200),
        seed in any::<u32>(),
        from in 0..16384_usize,
    ) {
        let header = bytes.first_chunk().expect("long enough");
        let _ = raft_store::log::frame::Frame::decode(header, seed);
        let (image, run, files) = recorded();
        for path in &files {
            let damaged = image.copy();
            let mut content = image.bytes(path).expect("there");
            let until = (from + bytes.len()).min(content.len());
            content[from..until].copy_from_slice(&bytes[..until - from]);
            damaged.replace(path, content);
            verdict(&damaged, &run, &|| format!("{} bytes at {from} of {}", bytes.len(), path.display()));
        }
    }
}

#[test]
fn a_full_disk_is_noticed_while_there_is_room_and_a_stalled_log_goes_on() {
    let disk = MemoryDisk::new();
    disk.set_capacity(Some(4 * (16 << 10)));
    let options = LogOptions { writer: WriterMode::Thread, reserve_segments: 2, ..options() };
    let (log, _) = open(&disk, options).expect("room for three segments");
    let (send, receive) = std::sync::mpsc::channel();
    let mut noticed = None;
    let mut called = 0;
    for index in 0..120 {
        let send = send.clone();
        let done = Box::new(move |result: io::Result<()>| send.send(result).expect("the test listens"));
        log.append(vec![entry(1, index, 700)], done);
        while noticed.is_none() && called <= index {
            if log.space().full {
                noticed = Some(index);
            } else if let Ok(result) = receive.recv_timeout(Duration::from_millis(5)) {
                result.expect("there is room");
                called += 1;
            }
        }
    }
    let noticed = noticed.expect("the disk is full long before 84 KB are written");
    assert!(noticed < 70, "noticed at {noticed}");
    assert!(log.failure().is_none(), "a full disk is no failure");
    disk.set_capacity(None);
    for _ in called..120 {
        receive.recv().expect("called").expect("there is room again");
    }
    log.close().expect("clean");
}

#[test]
fn others_keep_their_room_and_the_disk_is_full_until_the_reserve_is_complete() {
    const SEGMENT: u64 = 16 << 10;
    let disk = MemoryDisk::new();
    let keep_free_bytes = 3 * SEGMENT;
    disk.set_capacity(Some(4 * SEGMENT + keep_free_bytes + 1));
    let options = LogOptions { reserve_segments: 2, keep_free_bytes, ..options() };
    let (log, _) = open(&disk, options.clone()).expect("room for three segments");
    assert!(!log.space().full);
    let mut index = 0;
    let mut fill = |log: &Log, reserve: usize| {
        while log.space().reserve_segments != reserve {
            assert!(index < 200, "the disk is larger than it is");
            log.append(vec![entry(1, index, 1000)], Box::new(|result| result.expect("there is a reserve")));
            log.run_pending();
            index += 1;
        }
    };
    fill(&log, 1);
    let free = disk.free_bytes(Path::new(DIR)).expect("known");
    assert!(log.space().full && free >= keep_free_bytes, "{free} bytes are left");
    // Room for one segment, where two are missing: full until there is none missing.
    fill(&log, 0);
    disk.set_capacity(Some(5 * SEGMENT + keep_free_bytes + 1));
    log.run_pending();
    assert_eq!((log.space().reserve_segments, log.space().full), (1, true));
    disk.set_capacity(Some(6 * SEGMENT + keep_free_bytes + 1));
    log.run_pending();
    assert_eq!((log.space().reserve_segments, log.space().full), (2, false));
    // A start needs one segment, whatever others may need.
    log.close().expect("clean");
    disk.set_capacity(Some(8 * SEGMENT));
    let (log, _) = open(&disk, options).expect("its own blank files are room enough");
    assert!(log.failure().is_none());
}

#[test]
fn what_is_queued_together_is_synced_once_and_written_once() {
    let disk = MemoryDisk::new();
    let options = LogOptions { segment_bytes: 4 << 20, group_bytes: 8 << 20, ..options() };
    let (log, _) = open(&disk, options).expect("an empty disk");
    log.run_pending();
    let (before, calls, written) = (log.state().fsync.count, disk.calls(), disk.written());
    for index in 0..500 {
        log.append(vec![entry(1, index, 4000)], Box::new(|result| result.expect("durable")));
    }
    log.run_pending();
    assert_eq!(log.state().fsync.count, before + 1);
    assert_eq!(disk.calls(), calls + 2, "one write and one sync");
    log.close().expect("clean");
    let amplification = (disk.written() - written) as f64 / (500.0 * 4000.0);
    assert!(amplification < 1.05, "{amplification}");
}

#[test]
fn readers_beside_the_writer_see_no_hole_and_no_stale_entry() {
    let disk = MemoryDisk::new();
    let options = LogOptions { writer: WriterMode::Thread, reserve_segments: 2, ..options() };
    let (log, _) = open(&disk, options).expect("an empty disk");
    let reads = Arc::new(AtomicUsize::new(0));
    let reader = {
        let (log, reads) = (log.clone(), Arc::clone(&reads));
        std::thread::spawn(move || {
            while log.failure().is_none() {
                let last = log.state().last.map_or(0, |last| last.index);
                let from = last.saturating_sub(reads.load(Ordering::SeqCst) as u64 % 60);
                let read = log.read(from..last + 1, 5000).expect("readable");
                let mut before: Option<LogId> = None;
                for (entry, index) in read.iter().zip(from..) {
                    assert_eq!(entry.id.index, index);
                    assert!(entry.is_intact());
                    assert!(before.is_none_or(|before| before.term <= entry.id.term), "a stale entry after a newer");
                    before = Some(entry.id);
                }
                reads.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let mut next = 0;
    for term in 1..150 {
        for _ in 0..4 {
            let Operation::Append(batch) = entries(term, next..next + 5, 300) else { continue };
            next += 5;
            log.append(batch, Box::new(|result| result.expect("durable")));
        }
        if term % 3 == 0 {
            let after = log.log_id(next - 8).expect("there");
            log.truncate_after(Some(after)).expect("open");
            next -= 7;
        }
        while reads.load(Ordering::SeqCst) < term as usize && !reader.is_finished() {
            std::thread::yield_now();
        }
    }
    log.close().expect("clean");
    reader.join().expect("no panic");
}

#[test]
fn the_memory_disk_forgets_what_was_not_synced() {
    let disk = MemoryDisk::new();
    let path = Path::new("/log/a");
    let file: Arc<dyn DiskFile> = disk.open(path, OpenMode::Create).expect("created");
    file.write_at(0, &mut [IoSlice::new(&[1; 600])]).expect("written");
    assert!(disk.after_power_loss(&|_| false).bytes(path).is_none(), "its name was not synced");
    disk.sync_dir(Path::new("/log")).expect("synced");
    assert_eq!(disk.after_power_loss(&|_| false).bytes(path), Some(Vec::new()));
    file.sync_data().expect("synced");
    file.write_at(0, &mut [IoSlice::new(&[2; 1024])]).expect("written");
    let second = |thing: &Unsynced| matches!(thing, Unsynced::Block { block: 1, .. } | Unsynced::Length(_));
    let mut expected = vec![1; 512];
    expected.extend([2; 512]);
    assert_eq!(disk.after_power_loss(&second).bytes(path), Some(expected));
}
