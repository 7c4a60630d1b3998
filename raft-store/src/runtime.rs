//! The threads of a group: Raft has a runtime of its own, so that no load elsewhere delays a heartbeat.
//!
//! A single thread runs its tasks in the order in which they were woken. Tokio's threads, even one of them, run what
//! a task woke last right after it; a connection is then written to for every answer instead of for all that are
//! ready, which costs a third of the sends where processors are few.

use parking_lot::Mutex;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// How long the end waits for what still runs: a disk may never answer.
const END_WAIT: Duration = Duration::from_secs(5);

/// A runtime that ends without waiting when it is dropped.
pub(crate) struct OwnRuntime(Mutex<Option<Threads>>);

enum Threads {
    /// Ends when the sender goes.
    One {
        stop: oneshot::Sender<()>,
        thread: JoinHandle<()>,
    },
    Many(Runtime),
}

impl OwnRuntime {
    /// Starts a runtime of this many threads.
    pub(crate) fn start(threads: usize) -> io::Result<(Handle, OwnRuntime)> {
        let (handle, threads) = if threads == 1 {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let (stop, stopped) = oneshot::channel();
            let thread = std::thread::Builder::new().name("raft".to_owned()).spawn(move || {
                // The sender says nothing; it only goes.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(END_WAIT);
            })?;
            (handle, Threads::One { stop, thread })
        } else {
            let runtime =
                Builder::new_multi_thread().worker_threads(threads).thread_name("raft").enable_all().build()?;
            (runtime.handle().clone(), Threads::Many(runtime))
        };
        Ok((handle, OwnRuntime(Mutex::new(Some(threads)))))
    }

    /// No runtime: the caller's is used.
    pub(crate) fn none() -> OwnRuntime {
        OwnRuntime(Mutex::new(None))
    }

    /// Ends what runs, and waits for it, at most five seconds for what cannot be interrupted.
    pub(crate) async fn end(&self) {
        let Some(threads) = self.0.lock().take() else { return };
        let ending = tokio::task::spawn_blocking(move || match threads {
            Threads::One { stop, thread } => {
                drop(stop);
                thread.join().map_err(|_| io::Error::other("its thread panicked"))
            }
            Threads::Many(runtime) => {
                runtime.shutdown_timeout(END_WAIT);
                Ok(())
            }
        });
        if let Err(error) = ending.await.map_err(io::Error::other).flatten() {
            tracing::error!(%error, "the group's runtime did not end well");
        }
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        // A single thread ends by itself once its sender is gone.
        if let Some(Threads::Many(runtime)) = self.0.get_mut().take() {
            runtime.shutdown_background();
        }
    }
}
