//! When to stop: Ctrl-C or SIGTERM, once to drain and twice to leave at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A request to stop that many parts can wait for. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// One that only [`Shutdown::request`] triggers.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that SIGINT and SIGTERM trigger too. The second signal ends the process at once, with status 130.
    ///
    /// Call it once per process, inside a Tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let watched = shutdown.clone();
        // Lives as long as the process: there is no moment at which a second signal should not be heard.
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                };
                if watched.is_requested() {
                    tracing::warn!(signal = name, "second signal: leaving at once");
                    std::process::exit(130);
                }
                tracing::info!(signal = name, "stopping; a second signal leaves at once");
                watched.request();
            }
        });
        Ok(shutdown)
    }

    /// Asks everybody who waits to stop.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns once a stop is asked for. The future owns its handle, so it can be given to a server.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + 'static {
        self.token.clone().cancelled_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::Shutdown;

    #[tokio::test]
    async fn a_request_wakes_everybody() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone().requested();
        assert!(!shutdown.is_requested());
        shutdown.request();
        other.await;
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }
}
