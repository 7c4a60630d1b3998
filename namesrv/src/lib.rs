//! The name server: a stateless registry that broker nodes keep fed by heartbeats.
//!
//! ```text
//! broker node ── Report, ReportTopics ─▶ grpc ─▶ route_table ◀─ grpc ◀── Route, ListTopics, ListNodes ── brokers, mqadmin
//!                                                    ▲
//!                                                 expire
//! ```
//!
//! It knows nothing that a heartbeat did not tell it, writes nothing to disk, and may lose its memory: it is right
//! again after one report of each node. Clients never talk to it; brokers answer their route queries.

mod access;
mod config;
mod expire;
mod grpc;
mod live;
pub mod route_table;

pub use access::Access;
pub use config::{ALIASES, Config};

use grpc::{Service, Shared};
use live::Live;
use raftmq_proto::namesrv::name_server_server::NameServerServer;
use raftmq_server::cluster_tls::{ClusterTlsFiles, TlsError};
use raftmq_server::listener::{BindError, Listener, ListenerOptions};
use raftmq_server::shutdown::Shutdown;
use route_table::RouteTable;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tonic::service::interceptor::InterceptedService;

/// Open requests get this long to end after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(3);

/// Why the name server stopped without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port cannot be listened on.
    #[error("cannot accept connections: {0}")]
    Accept(#[from] std::io::Error),
    /// The gRPC server failed.
    #[error("the gRPC server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Why the name server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A name server whose port is bound and which does not answer yet.
pub struct NameServer {
    listener: Listener,
    config: Config,
}

impl NameServer {
    /// Binds the port.
    ///
    /// # Errors
    /// The key, and the address or file that cannot be had and why.
    pub fn bind(config: Config) -> Result<NameServer, StartError> {
        let address = SocketAddr::new(config.bind, config.listen_port);
        let tls = config.cluster_tls.clone().map(ClusterTlsFiles::load).transpose()?;
        let options = ListenerOptions::new("listenPort").for_members(tls.as_ref());
        let listener = Listener::bind(address, options)?;
        Ok(NameServer { listener, config })
    }

    /// Where it listens, with the port that the system chose when `listenPort` is 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Serves until a stop is asked for, then lets open requests end.
    ///
    /// # Errors
    /// [`ServeError`] when it cannot go on.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ServeError> {
        let shared = Arc::new(Shared::new(RouteTable::new(self.config.limits), self.config.scan_every));
        let incoming = self.listener.incoming()?;
        let live = Live::new(self.config.layers, self.config.entries);
        let service = NameServerServer::new(Service::new(shared.clone(), live));
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .add_service(InterceptedService::new(service, self.config.access.guard()))
            .serve_with_incoming_shutdown(incoming, shutdown.requested());
        let late = async {
            shutdown.requested().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            served = server => served?,
            () = late => {}
            () = expire::run(&shared) => {}
        }
        Ok(())
    }
}
