//! The first reason to stop, kept for ever: nothing is acknowledged after storage failed or was found wrong.

use std::sync::Arc;
use tokio::sync::watch;

/// Shared by everything that can meet a storage failure.
#[derive(Debug, Clone)]
pub(crate) struct Halt {
    reason: Arc<watch::Sender<Option<Arc<str>>>>,
}

impl Halt {
    pub(crate) fn new() -> Halt {
        Halt { reason: Arc::new(watch::Sender::new(None)) }
    }

    /// Only the first reason stays; later failures follow from it.
    pub(crate) fn stop(&self, reason: impl Into<Arc<str>>) {
        let reason = reason.into();
        self.reason.send_if_modified(|kept| {
            if kept.is_some() {
                return false;
            }
            tracing::error!(%reason, "stopping, nothing is acknowledged from here on");
            *kept = Some(reason);
            true
        });
    }

    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        self.reason.borrow().clone()
    }

    /// Waits for the reason, for ever when there is none.
    pub(crate) async fn stopped(&self) -> Arc<str> {
        let mut watched = self.reason.subscribe();
        loop {
            if let Some(reason) = watched.borrow_and_update().clone() {
                return reason;
            }
            if watched.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
