//! Calling the other programs of a cluster: in plaintext, or over TLS that proves both ends.
//!
//! A program that is on its way from plaintext to TLS (`tls.server.mode = permissive`) calls in plaintext whom it does not
//! reach by TLS, with a warning that says why, and refuses nobody: so the cluster goes on whatever is wrong with a
//! certificate, and the warnings say what to repair before plaintext is given up.

use std::{collections::HashMap, fmt, io, pin::Pin, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cluster_tls::{ClusterTls, MEMBER_ALPN, WELCOME};

/// It is told so often that a node is called in plaintext.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Nodes that it is remembered of.
const TOLD_MAX: usize = 1024;

/// A connection that was made.
pub trait Dialled: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Dialled for T {}

/// Makes connections to the other programs of the cluster. Clones share what they know.
#[derive(Clone, Default)]
pub struct Dialer {
    tls: Option<ClusterTls>,
    told: Arc<Mutex<HashMap<String, Instant>>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Dialer {
    /// In plaintext without `tls`.
    pub fn new(tls: Option<ClusterTls>) -> Self {
        Self { tls, told: Arc::default() }
    }

    /// Whether TLS is spoken at all.
    pub fn speaks_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// A channel to `address` (`host:port`) with the settings of `endpoint`, whose own address does not matter. Nothing
    /// is resolved or connected before it is used.
    pub fn channel(&self, endpoint: &Endpoint, address: &str) -> Channel {
        if self.tls.is_none() {
            return endpoint.connect_lazy();
        }
        let (dialer, address) = (self.clone(), address.to_owned());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (dialer, address) = (dialer.clone(), address.clone());
            async move { dialer.connect(&address).await.map(TokioIo::new) }
        }))
    }

    /// Connects to `host:port`.
    ///
    /// # Errors
    /// It is not reached; or not by TLS, in a sentence that says what to repair on which side.
    pub async fn connect(&self, address: &str) -> io::Result<Pin<Box<dyn Dialled>>> {
        let Some(tls) = &self.tls else { return Ok(Box::pin(tcp(address).await?)) };
        let plain = tcp(address).await?;
        let why = match secure(tls, address, plain).await {
            Ok(stream) => return Ok(Box::pin(stream)),
            Err(why) => why,
        };
        if tls.is_enforcing() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{address} is not called: {why}")));
        }
        let plain = tcp(address).await?;
        if self.tells(address) {
            tracing::warn!(address, "called in plaintext, as tls.server.mode = permissive allows: {why}");
        }
        Ok(Box::pin(plain))
    }

    fn tells(&self, address: &str) -> bool {
        let mut told = self.told.lock();
        if told.get(address).is_some_and(|at| at.elapsed() < TOLD_EVERY) {
            return false;
        }
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert(address.to_owned(), Instant::now());
        true
    }
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn secure(
    tls: &ClusterTls,
    address: &str,
    plain: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("{host} is nothing that a certificate names"))?;
    let connector = TlsConnector::from(tls.client().await);
    let refused = |error: io::Error| tls.called_refused(host, &error);
    let mut stream = connector.connect(name, plain).await.map_err(refused)?;
    if stream.get_ref().1.alpn_protocol() != Some(MEMBER_ALPN) {
        return Err("what answers there takes TLS, and is no port of a node".to_owned());
    }
    match stream.read_u8().await.map_err(refused)? {
        WELCOME => Ok(stream),
        other => Err(format!("it answers with {other:#04x}, as no node does")),
    }
}
