//! openraft's own conformance suite, on the real log and the real rows; once more with the log in memory.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use raft_store::disk::{Disk, MemoryDisk, RealDisk};
use raft_store::{
    Committed, FlushMode, LogIndex, LogStore, Machine, RaftConfig, Replica, StateBatch, StateError, StateOptions,
    Types, open_storage,
};
use std::sync::Arc;
use tempfile::TempDir;

struct Nothing;

impl Machine for Nothing {
    fn tables(&self) -> &'static [&'static str] {
        &["nothing"]
    }

    fn apply(&mut self, _entry: &Committed, _state: &mut StateBatch<'_>) -> Result<(), StateError> {
        Ok(())
    }

    fn applied(&mut self, _index: LogIndex) {}

    fn restored(&mut self, _index: LogIndex) {}
}

/// A fresh folder for every case.
struct Builder {
    disk: fn() -> Arc<dyn Disk>,
    flush: FlushMode,
}

impl StoreBuilder<Types, LogStore, Replica, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Replica), StorageError<Types>> {
        let folder = tempfile::tempdir().expect("folder");
        let mut config = RaftConfig::new("cluster", "group", "n0", folder.path().join("n0"));
        config.flush = self.flush;
        config.segment_bytes = 256 << 10;
        // Small, for a new store is made for each of some seventy cases.
        config.state =
            StateOptions { write_buffer_bytes: 4 << 20, block_cache_bytes: 1 << 20, ..StateOptions::default() };
        config.state_flush_bytes = 1 << 20;
        let (store, replica) = open_storage(config, (self.disk)(), Nothing).expect("a fresh folder opens");
        Ok((folder, store, replica))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_real_store_passes_the_suite() {
    let builder = Builder { disk: || Arc::new(RealDisk), flush: FlushMode::Sync };
    Suite::test_all(builder).await.expect("the suite passes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_that_does_not_wait_for_syncs_passes_the_suite() {
    let builder = Builder { disk: || Arc::new(MemoryDisk::new()), flush: FlushMode::Async };
    Suite::test_all(builder).await.expect("the suite passes");
}
