//! When to stop: Ctrl-C or SIGTERM, once to drain and twice to leave at once.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals closer together than this are one request: a shell or a `timeout` may send it to a whole process group and
/// to the process once more.
const ONE_REQUEST: Duration = Duration::from_millis(500);

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

    /// One that SIGINT and SIGTERM trigger too. A second signal ends the process at once, with status 130.
    ///
    /// Call it once per process, inside a Tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        Self::on_signals_or_else(|| {})
    }

    /// As [`Shutdown::on_signals`]; `last_act` runs before the second signal ends the process.
    pub fn on_signals_or_else(last_act: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let shutdown = Self::new();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let watched = shutdown.clone();
        // Lives as long as the process: there is no moment at which a second signal should not be heard.
        tokio::spawn(async move {
            let mut first: Option<Instant> = None;
            loop {
                let name = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                };
                match first {
                    None => {
                        tracing::info!(signal = name, "stopping; a second signal leaves at once");
                        first = Some(Instant::now());
                        watched.request();
                    }
                    Some(at) if at.elapsed() < ONE_REQUEST => {}
                    Some(_) => break,
                }
            }
            tracing::warn!("second signal: leaving at once");
            last_act();
            std::process::exit(130);
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
