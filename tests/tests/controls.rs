//! The power-loss runs notice what they are there for: made with a broker that breaks one promise of the log, or on
//! a disk that breaks its promise to RocksDB, they fail, and with the same broker that breaks none they pass. They are the
//! runs of `tests/power_loss.rs`, with the same cuts.
//!
//! `make controls` builds that broker, `mqbroker-faults`, and runs this; so does `make chaos`.

use anyhow::{Result, bail, ensure};
use raftmq_tests::power::{self, Build};

/// How often a run may fail to notice.
const ROUNDS: usize = 3;

/// What a broken promise is noticed by: a loss, as clients or the node itself see it. Whatever else fails a run says
/// nothing about the promise.
const SYMPTOMS: [&str; 6] = [
    "the rows are gone, and entries up to",
    "was acknowledged and never delivered",
    "was acknowledged and is not stored",
    "entries were lost that had been synced",
    "where the log has",
    "replicas agree: FALSE",
];

/// The run that is there for what `build` breaks. A sync that does nothing, and an OK before it, every cut under load can
/// show. Rows that are ahead of the log show only where the log's sync takes long, and a forgotten vote never where all
/// lose their power: each entry that it made possible stands behind it in the same log.
async fn run(build: Build) -> Result<()> {
    match build {
        Build::Control("sync_noop" | "append_unsynced") => power::at_any_moment(build, &power::SEEDS).await,
        Build::Control("vote_unsynced") => power::after_a_vote(build).await,
        Build::Control("state_folder_unsynced" | power::ROCKSDB_SYNC_NOOP) => power::after_a_trim(build).await,
        _ => power::all_at_once(build).await,
    }
}

async fn is_noticed(broken: &'static str) -> Result<()> {
    for round in 1..=ROUNDS {
        let Err(failure) = run(Build::Control(broken)).await else {
            println!("{broken}: round {round} noticed nothing");
            continue;
        };
        let text = format!("{failure:#}");
        if text.starts_with(power::NOT_CUT) {
            println!("{broken}: round {round} came to nothing: {text}");
            continue;
        }
        let found: Vec<_> = SYMPTOMS.iter().filter(|symptom| text.contains(**symptom)).collect();
        ensure!(!found.is_empty(), "{broken}: the run failed for another reason: {text}");
        println!("{broken}: noticed in round {round}: {found:?}");
        return Ok(());
    }
    bail!("{broken}: {ROUNDS} rounds noticed nothing: the power-loss runs are blind for it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a build of its own: make controls"]
async fn a_sync_that_does_nothing_is_noticed() -> Result<()> {
    is_noticed("sync_noop").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a build of its own: make controls"]
async fn an_ok_before_the_sync_is_noticed() -> Result<()> {
    is_noticed("append_unsynced").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a build of its own: make controls"]
async fn an_unsynced_vote_is_noticed() -> Result<()> {
    is_noticed("vote_unsynced").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a build of its own: make controls"]
async fn rows_ahead_of_the_log_are_noticed() -> Result<()> {
    is_noticed("apply_unsynced").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a build of its own: make controls"]
async fn a_lost_folder_of_rows_is_noticed() -> Result<()> {
    is_noticed("state_folder_unsynced").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a build of its own: make controls"]
async fn rows_that_were_never_synced_are_noticed() -> Result<()> {
    is_noticed(power::ROCKSDB_SYNC_NOOP).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a build of its own: make controls"]
async fn nothing_broken_is_nothing_noticed() -> Result<()> {
    power::at_any_moment(Build::Control(""), &power::SEEDS).await?;
    power::all_at_once(Build::Control("")).await?;
    power::after_a_vote(Build::Control("")).await?;
    power::after_a_trim(Build::Control("")).await
}
