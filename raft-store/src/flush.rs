//! Flushes of the state, in the background, so that a restart replays seconds of traffic and not hours.
//!
//! With `ASYNC_FLUSH` the log is synced up to the applied index before each flush: once for the bulk while apply
//! goes on, then once more for the little that came since, with apply held at the gate until the rows to flush
//! are set aside.

use crate::disk::Disk;
use crate::log::Log;
use crate::state::{State, StateError};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, Notify, oneshot};

/// How often a flush under way is looked at.
const FLUSH_POLL: Duration = Duration::from_millis(10);

/// What a flush may write beside the rows: tables' indexes, the list of files.
const FLUSH_MARGIN_BYTES: u64 = 16 << 20;

/// Owns when the rows reach the disk.
pub(crate) struct Flusher {
    state: State,
    log: Log,
    disk: Arc<dyn Disk>,
    /// `SYNC_FLUSH`: apply waits for the log, so that a flush needs no care.
    sync: bool,
    trigger_bytes: usize,
    trigger_time: Duration,
    /// Bytes of batches written since the last flush began.
    unflushed: AtomicUsize,
    due: Notify,
    /// Held while a batch is written, and by a flush while it sets rows aside.
    gate: Mutex<()>,
    /// One flush at a time.
    flushing: Mutex<()>,
}

impl Flusher {
    pub(crate) fn new(
        state: State,
        log: Log,
        disk: Arc<dyn Disk>,
        sync: bool,
        trigger_bytes: usize,
        trigger_time: Duration,
    ) -> Flusher {
        Flusher {
            state,
            log,
            disk,
            sync,
            trigger_bytes,
            trigger_time,
            unflushed: AtomicUsize::new(0),
            due: Notify::new(),
            gate: Mutex::new(()),
            flushing: Mutex::new(()),
        }
    }

    /// Whether a chunk must be durable in the log before its rows are written.
    pub(crate) fn waits_for_log(&self) -> bool {
        self.sync
    }

    /// Held while rows are written; `None` where a flush may come at any time.
    pub(crate) async fn write_gate(&self) -> Option<MutexGuard<'_, ()>> {
        if self.sync { None } else { Some(self.gate.lock().await) }
    }

    /// Counts a batch that was written, and asks for a flush when enough have been.
    pub(crate) fn wrote(&self, bytes: usize) {
        let before = self.unflushed.fetch_add(bytes, Ordering::Relaxed);
        if before < self.trigger_bytes && before + bytes >= self.trigger_bytes {
            self.due.notify_one();
        }
    }

    /// Flushes when enough bytes have gathered or enough time has passed, until storage fails. On a full disk the
    /// rows stay in memory: a flush that fails would stop the node, and all that one left out costs is a longer
    /// replay.
    pub(crate) async fn run(&self) -> StateError {
        let mut put_off = false;
        loop {
            tokio::select! {
                () = self.due.notified() => {}
                () = tokio::time::sleep(self.trigger_time) => {}
            }
            if self.unflushed.load(Ordering::Relaxed) == 0 {
                continue;
            }
            if !self.has_room() {
                if !put_off {
                    tracing::error!("no room to flush the rows, they stay in memory until there is");
                }
                put_off = true;
                continue;
            }
            put_off = false;
            if let Err(error) = self.flush().await {
                return error;
            }
        }
    }

    /// Whether the rows of a flush fit on the disk, as far as can be told.
    pub(crate) fn has_room(&self) -> bool {
        let Some(free) = self.state.path().and_then(|path| self.disk.free_bytes(&path).ok()) else { return true };
        free >= self.unflushed.load(Ordering::Relaxed) as u64 + FLUSH_MARGIN_BYTES
    }

    /// Makes every row written so far durable, the log before it.
    pub(crate) async fn flush(&self) -> Result<(), StateError> {
        let _one = self.flushing.lock().await;
        self.unflushed.store(0, Ordering::Relaxed);
        if self.sync {
            return blocking(self.state.clone(), |state| state.flush()).await;
        }
        self.sync_log().await?;
        {
            let _closed = self.gate.lock().await;
            self.sync_log().await?;
            blocking(self.state.clone(), |state| state.start_flush()).await?;
        }
        while self.state.flushing()? {
            tokio::time::sleep(FLUSH_POLL).await;
        }
        Ok(())
    }

    /// Runs `work` on a state whose rows cannot be ahead of the log, whatever RocksDB flushes during it.
    pub(crate) async fn quiet<T: Send + 'static>(
        &self,
        work: impl FnOnce(State) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        self.flush().await?;
        let _closed = self.gate.lock().await;
        if !self.sync {
            self.sync_log().await?;
        }
        blocking(self.state.clone(), work).await
    }

    async fn sync_log(&self) -> Result<(), StateError> {
        let (done, synced) = oneshot::channel();
        self.log.sync(Box::new(move |result| {
            // The receiver is gone only when the group is being torn down.
            let _ = done.send(result);
        }));
        match synced.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(StateError::Io(format!("the log could not be synced: {error}"))),
            Err(_) => Err(StateError::Io("the log is closed".to_owned())),
        }
    }
}

async fn blocking<T: Send + 'static>(
    state: State,
    work: impl FnOnce(State) -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    tokio::task::spawn_blocking(move || work(state))
        .await
        .unwrap_or_else(|error| Err(StateError::Io(format!("a flush did not finish: {error}"))))
}
