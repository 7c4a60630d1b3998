//! The log on real files and on a disk in memory: what is promised when nothing goes wrong.

use bytes::Bytes;
use raft_store::disk::{Disk, MemoryDisk, OpenMode, PowerLossDisk, RealDisk};
use raft_store::log::{Done, Entry, EntryKind, Log, LogOptions, LogOwner, Recovery, SyncMode, WriterMode};
use raft_store::{LogId, LogIndex, Vote};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

fn owner() -> LogOwner {
    LogOwner { group: "g".to_owned(), disk_id: 7 }
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, tail_cache_bytes: 4 << 10, ..LogOptions::default() }
}

fn inline() -> LogOptions {
    LogOptions { writer: WriterMode::Inline, ..options() }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 1, index }
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let payload: Vec<u8> = (0..bytes).map(|n| (n as u64 + index + term) as u8).collect();
    Entry::new(id(term, index), EntryKind::Command, Bytes::from(payload))
}

fn open(disk: &Arc<dyn Disk>, dir: &Path, options: LogOptions) -> (Log, Recovery) {
    Log::open(Arc::clone(disk), dir, owner(), options).expect("the log opens")
}

fn wait() -> (Done, mpsc::Receiver<std::io::Result<()>>) {
    let (send, receive) = mpsc::channel();
    (Box::new(move |result| send.send(result).expect("the test waits")), receive)
}

fn append_all(log: &Log, entries: Vec<Entry>) {
    let (done, durable) = wait();
    log.append(entries, done);
    log.run_pending();
    durable.recv().expect("called").expect("durable");
}

fn check_read(log: &Log, range: std::ops::Range<u64>, term: u64, bytes: usize) {
    let mut at = range.start;
    while at < range.end {
        let read = log.read(at..range.end, 3000).expect("readable");
        assert!(!read.is_empty(), "nothing at {at}");
        for found in read {
            assert_eq!(found, entry(term, at, bytes));
            at += 1;
        }
    }
}

fn fills_segments_and_reopens(disk: &Arc<dyn Disk>, dir: &Path, options: LogOptions) {
    let (log, recovery) = open(disk, dir, options.clone());
    assert_eq!((recovery.last, recovery.first_segment_number), (None, 1));
    let vote = Vote { term: 3, node: 1, committed: true };
    let (done, durable) = wait();
    log.save_vote(vote, done);
    log.run_pending();
    durable.recv().expect("called").expect("durable");
    for index in 0..200 {
        append_all(&log, vec![entry(3, index, 400)]);
    }
    append_all(&log, (200..220).map(|index| entry(3, index, 5000)).collect());
    log.note_committed(id(3, 150));
    append_all(&log, vec![entry(3, 220, 100_000)]);
    check_read(&log, 0..200, 3, 400);
    check_read(&log, 200..220, 3, 5000);
    check_read(&log, 220..221, 3, 100_000);
    assert!(log.read(221..300, 100).expect("readable").is_empty());
    log.purge_upto(id(3, 100)).expect("open");
    let before = log.state();
    assert!(before.segments > 8, "{before:?}");
    log.close().expect("clean");
    drop(log);

    let (log, again) = open(disk, dir, options.clone());
    assert_eq!(again.vote, Some(vote));
    assert_eq!(again.purged, Some(id(3, 100)));
    assert_eq!(again.last, Some(id(3, 220)));
    assert_eq!(again.committed, Some(id(3, 150)));
    assert_eq!(again.cut_bytes, 0);
    assert!(again.first_segment_number > recovery.first_segment_number);
    check_read(&log, 0..200, 3, 400);
    check_read(&log, 200..220, 3, 5000);
    assert!(log.payload(LogIndex(5)).expect("readable").is_some());
    assert_eq!(log.key_log_ids(101..221), vec![id(3, 101), id(3, 220)]);

    // The branch is replaced from 180 on, and the segments below the purge point go.
    log.truncate_after(Some(id(3, 179))).expect("open");
    append_all(&log, vec![entry(4, 180, 20), entry(4, 181, 20)]);
    assert_eq!(log.key_log_ids(101..221), vec![id(3, 101), id(4, 180), id(4, 181)]);
    let trimmed = log.trim(1000).expect("open");
    assert!(trimmed > 0);
    assert!(log.read(0..10, 100).expect("readable").is_empty());
    check_read(&log, 101..180, 3, 400);
    check_read(&log, 180..182, 4, 20);
    drop(log);

    let (log, again) = open(disk, dir, options);
    assert_eq!(again.last, Some(id(4, 181)));
    check_read(&log, 101..180, 3, 400);
    check_read(&log, 180..182, 4, 20);
    // A snapshot takes the place of the log.
    log.purge_upto(id(5, 1000)).expect("open");
    append_all(&log, vec![entry(6, 1001, 10)]);
    check_read(&log, 101..180, 3, 400);
    check_read(&log, 1001..1002, 6, 10);
    assert_eq!(log.log_id(1000), Some(id(5, 1000)));
}

#[test]
fn on_real_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    fills_segments_and_reopens(&disk, &dir.path().join("log"), options());
}

#[test]
fn on_files_that_lose_power() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(PowerLossDisk::default());
    fills_segments_and_reopens(&disk, &dir.path().join("log"), options());
}

#[test]
fn in_memory_and_inline() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    fills_segments_and_reopens(&disk, Path::new("/log"), inline());
}

#[test]
fn without_a_sync_for_each() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let options = LogOptions { sync: SyncMode::Votes, ..options() };
    fills_segments_and_reopens(&disk, Path::new("/log"), options);
}

#[test]
fn power_loss_keeps_what_was_synced_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("log");
    let options = LogOptions { sync: SyncMode::Votes, ..inline() };
    let disk: Arc<dyn Disk> = Arc::new(PowerLossDisk::default());
    let (log, _) = open(&disk, &dir, options.clone());
    append_all(&log, (0..10).map(|index| entry(1, index, 100)).collect());
    let vote = Vote { term: 2, node: 1, committed: false };
    let (done, durable) = wait();
    log.save_vote(vote, done);
    log.run_pending();
    durable.recv().expect("called").expect("durable");
    append_all(&log, vec![entry(2, 10, 100)]);
    assert_eq!((log.durable(), log.state().last), (Some(9), Some(id(2, 10))));
    check_read(&log, 10..11, 2, 100);
    let unsynced = disk.open(&dir.join("note"), OpenMode::Create).expect("created");
    unsynced.sync_data().expect("synced");
    assert!(disk.list(&dir).expect("listed").contains(&"note".to_owned()));

    // Another disk over the same files knows what a process knows that starts after a kill.
    let disk: Arc<dyn Disk> = Arc::new(PowerLossDisk::default());
    let (log, recovery) = open(&disk, &dir, options);
    assert_eq!((recovery.vote, recovery.last), (Some(vote), Some(id(1, 9))));
    check_read(&log, 0..10, 1, 100);
    assert!(!disk.list(&dir).expect("listed").iter().any(|name| name.starts_with("note")));
}

#[tokio::test]
async fn waiting_for_durability_follows_the_log_as_it_is() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let one_by_one = LogOptions { group_bytes: 1, ..inline() };
    let (log, _) = open(&disk, Path::new("/log"), one_by_one);
    log.append((0..5).map(|index| entry(1, index, 10)).collect(), Box::new(|result| result.expect("durable")));
    assert_eq!(log.durable(), None);
    log.run_pending();
    log.wait_durable(4).await.expect("durable");
    log.truncate_after(Some(id(1, 2))).expect("open");
    log.append(vec![entry(2, 3, 10)], Box::new(|result| result.expect("durable")));
    // Entry 3 of the branch that is gone was durable; the one that replaced it is not.
    assert_eq!(log.durable(), Some(2));
    log.run_pending();
    log.wait_durable(3).await.expect("durable");
    assert_eq!(log.durable(), Some(3));

    // Nor does an append count that is written after it was truncated.
    let seen = {
        let (log, (done, seen)) = (log.clone(), mpsc::channel());
        let append = move |result: std::io::Result<()>| done.send(result.map(|()| log.durable())).expect("heard");
        (append, seen)
    };
    log.append((4..8).map(|index| entry(2, index, 10)).collect(), Box::new(seen.0));
    log.truncate_after(Some(id(2, 5))).expect("open");
    log.run_pending();
    assert_eq!(seen.1.recv().expect("called").expect("durable"), Some(3));
    assert_eq!(log.durable(), Some(5));
    log.close().expect("clean");
    assert!(log.wait_durable(6).await.is_err());
    assert_eq!(log.failed().await.kind(), std::io::ErrorKind::BrokenPipe);
}

#[test]
fn entries_that_do_not_follow_are_refused() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let (log, _) = open(&disk, Path::new("/log"), inline());
    append_all(&log, vec![entry(1, 0, 10)]);
    for wrong in [vec![entry(1, 2, 10)], vec![entry(1, 0, 10)], vec![entry(1, 1, 10), entry(1, 3, 10)]] {
        let (done, refused) = wait();
        log.append(wrong, done);
        assert_eq!(refused.recv().expect("called").expect_err("refused").kind(), std::io::ErrorKind::InvalidInput);
    }
    assert!(log.truncate_after(Some(id(1, 5))).is_err());
    append_all(&log, vec![entry(1, 1, 10)]);
}

#[test]
fn a_callback_that_panics_closes_the_log() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new());
    let (log, _) = open(&disk, Path::new("/log"), options());
    log.append(vec![entry(1, 0, 10)], Box::new(|result| assert!(result.is_err(), "a test's panic")));
    let (done, told) = wait();
    log.sync(done);
    assert!(told.recv().map_or(true, |result| result.is_err()), "nobody is left waiting");
    assert!(log.close().is_err());
}
