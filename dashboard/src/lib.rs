//! The dashboard: web pages of a cluster, made on the server from the same calls that `mqadmin` makes.
//!
//! ```text
//! browser ─▶ door (host, session, form token, role) ─▶ page ─▶ admin-client ─▶ any node of each broker group
//!                                                       ▲
//!                        samples (a bounded ring) ◀─ sampler, every 2 s
//! ```
//!
//! It keeps nothing but sessions and the last minutes of figures, both in memory. What is not known is shown as `–`,
//! never as 0. Everything that comes from the cluster is escaped by the templates (`maud`).

mod access;
mod app;
mod chart;
mod config;
mod door;
mod form;
mod page;
mod phrase;
mod samples;
mod view;

pub use config::{ALIASES, Config};

use anyhow::Context as _;
use app::App;
use axum::Router;
use raftmq_server::listener::{Listener, ListenerOptions, Tls};
use raftmq_server::shutdown::Shutdown;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::Routes;

/// Open requests get this long to end after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(3);
/// How often the files of a certificate are looked at.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(1);

/// A dashboard whose port is bound and which does not answer yet.
pub struct Dashboard {
    listener: Listener,
    config: Config,
}

impl Dashboard {
    /// Binds the port.
    ///
    /// # Errors
    /// The port is taken, or the certificate cannot be used.
    pub fn bind(config: Config) -> anyhow::Result<Dashboard> {
        let address = SocketAddr::new(config.bind, config.port);
        let mut options = ListenerOptions::new("listenPort").with_http1();
        if let Some((certificate, key)) = &config.certificate {
            let tls = Tls::watching(certificate, key, CERTIFICATE_LOOK).context("tlsCertPath, tlsKeyPath")?;
            options = options.with_tls(tls);
        }
        Ok(Dashboard { listener: Listener::bind(address, options)?, config })
    }

    /// What to open in a browser.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.config.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.listener.address())
    }

    /// Serves until a stop is asked for, then lets open requests end.
    ///
    /// # Errors
    /// The port cannot be listened on, or the server fails.
    pub async fn run(self, shutdown: Shutdown) -> anyhow::Result<()> {
        let app = Arc::new(App::new(self.config)?);
        if !app.config.bind.is_loopback() && app.config.credentials.is_none() && !app.config.read_only {
            tracing::warn!(
                "bindAddress = {}: unless authenticationEnabled is on, whoever reaches this port may change the cluster; \
                 readOnly = true lets them only look",
                app.config.bind
            );
        }
        let incoming = self.listener.incoming()?;
        let pages = Router::new().fallback(door::answer).with_state(app.clone());
        let server = tonic::transport::Server::builder()
            .accept_http1(true)
            .add_routes(Routes::from(pages))
            .serve_with_incoming_shutdown(incoming, shutdown.requested());
        let late = async {
            shutdown.requested().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            served = server => served?,
            () = late => {}
            () = samples::keep_looking(&app) => {}
        }
        Ok(())
    }
}
