//! Measures this disk: how long fdatasync takes, and what the log makes of it.
//!
//! `fsync [directory] [seconds per measurement]`; writes below the directory and cleans up.

use bytes::Bytes;
use raft_store::LogId;
use raft_store::disk::{Disk, DiskFile, OpenMode, RealDisk};
use raft_store::log::{Entry, EntryKind, Log, LogOptions, LogOwner, SyncMode};
use std::error::Error;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Room that the plain files get.
const FILE_BYTES: u64 = 64 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let base = PathBuf::from(arguments.next().unwrap_or_else(|| ".".to_owned()));
    let seconds = arguments.next().map_or(Ok(2.0), |text| text.parse())?;
    let period = Duration::from_secs_f64(seconds);
    let dir = base.join(format!("raftmq-fsync-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let measured = measure(&dir, period);
    std::fs::remove_dir_all(&dir)?;
    measured
}

fn measure(dir: &Path, period: Duration) -> Result<(), Box<dyn Error>> {
    println!("fdatasync after a write of 4 KiB");
    plain_file(dir, "growing file", period, &|_| Ok(()))?;
    plain_file(dir, "preallocated", period, &|file| file.preallocate(FILE_BYTES))?;
    plain_file(dir, "zeroed before", period, &|file| {
        let zeros = vec![0; FILE_BYTES as usize];
        file.write_at(0, &mut [IoSlice::new(&zeros)])
    })?;
    println!("log");
    for (mode, sync) in [("sync each group", SyncMode::Every), ("sync votes only", SyncMode::Votes)] {
        for (payload, outstanding) in [(1 << 10, 1), (1 << 10, 64), (1 << 10, 1024), (256 << 10, 16)] {
            log(dir, mode, sync, payload, outstanding, period)?;
        }
    }
    Ok(())
}

fn quantile(sorted: &[Duration], quantile: f64) -> Duration {
    let at = (sorted.len() as f64 * quantile) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

fn plain_file(
    dir: &Path,
    name: &str,
    period: Duration,
    prepare: &dyn Fn(&dyn DiskFile) -> std::io::Result<()>,
) -> Result<(), Box<dyn Error>> {
    let path = dir.join("plain");
    let file = RealDisk.open(&path, OpenMode::Create)?;
    prepare(file.as_ref())?;
    file.sync_data()?;
    RealDisk.sync_dir(dir)?;
    let block = [0x5A; 4096];
    let mut latencies = Vec::new();
    let start = Instant::now();
    while start.elapsed() < period && latencies.len() as u64 * 4096 < FILE_BYTES {
        file.write_at(latencies.len() as u64 * 4096, &mut [IoSlice::new(&block)])?;
        let before = Instant::now();
        file.sync_data()?;
        latencies.push(before.elapsed());
    }
    latencies.sort();
    let (p50, p99) = (quantile(&latencies, 0.5), quantile(&latencies, 0.99));
    println!("  {name:16} p50 {p50:>10.2?}  p99 {p99:>10.2?}  ({} calls)", latencies.len());
    std::fs::remove_file(path)?;
    Ok(())
}

fn log(
    dir: &Path,
    mode: &str,
    sync: SyncMode,
    payload: usize,
    outstanding: u64,
    period: Duration,
) -> Result<(), Box<dyn Error>> {
    let dir = dir.join("log");
    let owner = LogOwner { group: "fsync".to_owned(), disk_id: 1 };
    let (log, _) = Log::open(Arc::new(RealDisk), &dir, owner, LogOptions { sync, ..LogOptions::default() })?;
    let body = Bytes::from(vec![0xA5; payload]);
    let crc = crc32c::crc32c(&body);
    let called = Arc::new(AtomicU64::new(0));
    let (permits, taken) = mpsc::channel();
    for _ in 0..outstanding {
        permits.send(Instant::now())?;
    }
    let mut index = 0;
    let start = Instant::now();
    while start.elapsed() < period {
        taken.recv()?;
        let id = LogId { term: 1, node: 1, index };
        let entry = Entry { id, kind: EntryKind::Command, payload: body.clone(), crc };
        let (called, permits) = (Arc::clone(&called), permits.clone());
        log.append(
            vec![entry],
            Box::new(move |result| {
                called.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
                // The measurement may be over.
                let _ = permits.send(Instant::now());
            }),
        );
        index += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    let done = called.load(Ordering::Relaxed) as f64;
    let fsync = log.state().fsync;
    println!(
        "  {mode}, {outstanding:>4} x {payload:>6} B: {:>9.0} appends/s {:>7.1} MB/s, fdatasync p50 {:?} p99 {:?} ({})",
        done / elapsed,
        done * payload as f64 / elapsed / 1e6,
        fsync.p50,
        fsync.p99,
        fsync.count,
    );
    log.close()?;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
