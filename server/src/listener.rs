//! The one listener of all ports: accept, look at the first bytes, hand over.
//!
//! ```text
//! accept ─▶ peek ─┬─ PROXY v1/v2 ─▶ drop the header, keep its addresses, peek again
//!                 ├─ TLS ─▶ handshake (ALPN h2, or as a member of the cluster) ─┐
//!                 ├─ HTTP/2 ────────────────────────────────────────────────────┴─▶ Incoming ─▶ tonic
//!                 └─ other ─▶ one log line, closed
//! ```
//!
//! Peeking leaves the bytes in the socket, so a plaintext connection is handed over as the bare socket. Connections
//! that have not said what they speak are bounded in number and time, and so are open ones in number.

mod authority;
mod connection;
mod handshake;
mod protocol;
mod socket;
mod tls;

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

pub use connection::{Arrival, Connection, Peer};
use protocol::{PEEK_BYTES, PROXY_V2_BYTES_MAX, Protocol, Proxied, ProxyFault, ProxyHeader, Verdict};
pub use socket::Outgoing;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
pub use tls::Tls;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;

use crate::{cluster_tls::ClusterTls, logs::Limited};

/// Connections the system keeps for us until we accept them.
const BACKLOG: i32 = 1024;

/// Handshakes that are done and wait for the server to take them.
const READY_MAX: usize = 64;

/// Silence after which the system probes a connection, and between its probes.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Probes that go unanswered before a connection counts as dead.
const KEEPALIVE_PROBES: u32 = 3;

/// Sent bytes that are not acknowledged for this long end the connection: nobody else cuts half-open ones.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);

/// Pause after a failed accept (mostly: no file descriptors left), so that failing does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Shortest and longest pause between looks at a connection that has sent too little to be recognised.
const PEEK_PAUSE_MIN: Duration = Duration::from_millis(1);
const PEEK_PAUSE_MAX: Duration = Duration::from_millis(100);

/// What a port accepts, and how much of it.
#[derive(Clone)]
pub struct ListenerOptions {
    /// For errors and logs: the configuration key of the port, such as `grpcServerPort`.
    pub name: String,
    /// Shown to clients that ask for TLS; without it they are refused.
    pub tls: Option<Tls>,
    /// Shown to callers from inside the cluster, who show theirs; without `tls` to whoever asks for TLS.
    pub members: Option<ClusterTls>,
    /// Whether others than those are refused: whoever speaks plaintext, or shows no certificate of the cluster.
    pub members_only: bool,
    /// Whether a PROXY header is believed. It names any address, so only where addresses decide nothing by
    /// themselves; [`Peer::is_local`] holds regardless.
    pub proxy_headers: bool,
    /// From accept to the first request's bytes, TLS handshake included.
    pub handshake_timeout: Duration,
    /// Connections between accept and handover; more wait in the system's backlog.
    pub half_open_max: usize,
    /// Open connections; more are closed at once.
    pub connections_max: usize,
    /// Whether HTTP/1 is spoken too, for people and for Prometheus.
    pub http1: bool,
}

impl ListenerOptions {
    /// Plaintext and PROXY headers, 10 s for a handshake, 1,024 half-open and 65,536 open connections.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            tls: None,
            members: None,
            members_only: false,
            proxy_headers: true,
            handshake_timeout: Duration::from_secs(10),
            half_open_max: 1024,
            connections_max: 65_536,
            http1: false,
        }
    }

    /// The same with HTTP/1.
    #[must_use]
    pub fn with_http1(self) -> Self {
        Self { http1: true, ..self }
    }

    /// The same with TLS beside plaintext.
    pub fn with_tls(self, tls: Tls) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The same for callers from inside the cluster alone, who prove themselves when `tls` enforces it.
    #[must_use]
    pub fn for_members(self, tls: Option<&ClusterTls>) -> Self {
        Self { members: tls.cloned(), members_only: tls.is_some_and(ClusterTls::is_enforcing), ..self }
    }

    /// The same for callers from inside the cluster beside everybody else.
    #[must_use]
    pub fn with_members(self, tls: Option<&ClusterTls>) -> Self {
        Self { members: tls.cloned(), ..self }
    }
}

/// A port that cannot be had.
#[derive(Debug, Error)]
#[error("{name}: cannot listen on {address}: {error}; stop what uses it, or choose another {name}")]
pub struct BindError {
    /// The configuration key of the port.
    pub name: String,
    /// What was asked for.
    pub address: SocketAddr,
    /// From the system.
    #[source]
    pub error: io::Error,
}

/// A port that is taken. Nothing is accepted before [`Listener::incoming`].
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
    options: ListenerOptions,
}

impl Listener {
    /// Binds a port; port 0 lets the system choose. Needs no runtime, so that a daemon binds before it does any work;
    /// clients already queue.
    pub fn bind(address: SocketAddr, options: ListenerOptions) -> Result<Self, BindError> {
        let listener = Self::reserve(address, options)?;
        match listener.socket.listen(BACKLOG) {
            Ok(()) => Ok(listener),
            Err(error) => Err(BindError { name: listener.options.name, address: listener.address, error }),
        }
    }

    /// As [`Listener::bind`], but connections are refused until [`Listener::incoming`]: no client waits on a daemon
    /// that may take long to be ready for it.
    pub fn reserve(address: SocketAddr, options: ListenerOptions) -> Result<Self, BindError> {
        let bound = bind_socket(address).and_then(|socket| {
            let bound = socket.local_addr()?.as_socket();
            Ok((bound.unwrap_or(address), socket))
        });
        match bound {
            Ok((address, socket)) => Ok(Self { socket, address, options }),
            Err(error) => Err(BindError { name: options.name, address, error }),
        }
    }

    /// Where it listens, with the port the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it accepts.
    pub fn options(&self) -> &ListenerOptions {
        &self.options
    }

    /// Starts to accept on the current runtime. Dropping the stream closes the port and ends handshakes; connections
    /// that were handed over live on.
    pub fn incoming(self) -> io::Result<Incoming> {
        self.socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(self.socket.into())?;
        let (ready, connections) = mpsc::channel(READY_MAX);
        let door = Arc::new(Door {
            limited: Limited::every(Duration::from_secs(10)),
            open: Arc::new(Semaphore::new(self.options.connections_max)),
            options: self.options,
            address: self.address,
            ready,
        });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(socket, door)));
        Ok(Incoming { connections, _accepting: accepting })
    }
}

/// The connections of a port, ready for `serve_with_incoming`.
pub struct Incoming {
    connections: mpsc::Receiver<Connection>,
    _accepting: AbortOnDropHandle<()>,
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx).map(|connection| connection.map(Ok))
    }
}

/// What the handshakes of one port share.
struct Door {
    options: ListenerOptions,
    address: SocketAddr,
    open: Arc<Semaphore>,
    ready: mpsc::Sender<Connection>,
    limited: Limited,
}

/// Why a connection was not handed over.
enum Closed {
    /// The other end left, or never said anything.
    Silently,
    /// Somebody may want to know.
    Because(String),
}

impl From<io::Error> for Closed {
    fn from(_: io::Error) -> Self {
        Self::Silently
    }
}

fn bind_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A restarted daemon gets its port back although connections of the old one linger in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn accept(socket: TcpListener, door: Arc<Door>) {
    let half_open = Arc::new(Semaphore::new(door.options.half_open_max));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(permit) = half_open.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(_) = handshakes.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                let door = door.clone();
                handshakes.spawn(async move {
                    door.admit(stream, peer).await;
                    drop(permit);
                });
            }
            Err(error) => {
                door.log(&format!("cannot accept: {error}"), None);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Door {
    /// From accept to handover; logs why it does not come to that.
    async fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let deadline = Instant::now() + self.options.handshake_timeout;
        match timeout_at(deadline, self.handshake(stream, peer)).await {
            // A server that stopped takes no more: dropping the connection closes it.
            Ok(Ok(connection)) => drop(self.ready.send(connection).await),
            Ok(Err(Closed::Because(reason))) => self.log(&reason, Some(peer)),
            Ok(Err(Closed::Silently)) => {}
            Err(_) => self.log("closed a connection that did not finish its handshake in time", Some(peer)),
        }
    }

    async fn handshake(&self, mut stream: TcpStream, socket: SocketAddr) -> Result<Connection, Closed> {
        let Ok(open) = self.open.clone().try_acquire_owned() else {
            return Err(Closed::Because(format!(
                "closed a connection: {} are open, the limit of this port",
                self.options.connections_max
            )));
        };
        tune(&stream)?;
        let mut peer = Peer { address: socket, dialled: stream.local_addr()?, socket, tls: false };
        let mut may_be_proxied = true;
        loop {
            let protocol = recognise(&stream).await?;
            let header = match protocol {
                Protocol::Http2 => match &self.options.members {
                    Some(members) if self.options.members_only => {
                        return Err(handshake::refuse_plaintext(stream, members).await);
                    }
                    _ => return Ok(Connection::plain(socket::Socket::new(stream), peer, open)),
                },
                Protocol::Http1 if self.options.http1 => {
                    return Ok(Connection::http1(socket::Socket::new(stream), peer, open));
                }
                Protocol::Http1 => {
                    return Err(Closed::Because(
                        "closed a connection that speaks HTTP/1: this port is for gRPC, pages are on metricsPromExporterPort"
                            .to_owned(),
                    ));
                }
                Protocol::Tls => {
                    let stream = handshake::tls(socket::Socket::new(stream), &self.options).await?;
                    return Ok(Connection::tls(stream, Peer { tls: true, ..peer }, open));
                }
                Protocol::ProxyV1 | Protocol::ProxyV2 if !(self.options.proxy_headers && may_be_proxied) => {
                    return Err(Closed::Because(
                        "closed a connection with a PROXY header that is not wanted".to_owned(),
                    ));
                }
                Protocol::ProxyV1 => proxy_header(&mut stream, protocol::proxy_v1).await?,
                Protocol::ProxyV2 => proxy_header(&mut stream, protocol::proxy_v2).await?,
            };
            may_be_proxied = false;
            if let Proxied::Client { peer: client, local } = header.proxied {
                peer = Peer { address: client, dialled: local, ..peer };
            }
        }
    }

    fn log(&self, what: &str, peer: Option<SocketAddr>) {
        if let Some(suppressed) = self.limited.pass() {
            let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
            tracing::warn!(listener = %self.options.name, address = %self.address, peer, suppressed, "{what}");
        }
    }
}

/// Small packets go out at once, and a peer that vanished is noticed.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(())
}

/// Looks at the first bytes, which stay in the socket.
async fn recognise(stream: &TcpStream) -> Result<Protocol, Closed> {
    let mut bytes = [0; PEEK_BYTES];
    let mut pause = PEEK_PAUSE_MIN;
    loop {
        let seen = stream.peek(&mut bytes).await?;
        if seen == 0 {
            return Err(Closed::Silently);
        }
        match protocol::recognise(&bytes[..seen]) {
            Verdict::Speaks(protocol) => return Ok(protocol),
            Verdict::Unknown => {
                return Err(Closed::Because(format!(
                    "closed a connection that speaks neither gRPC nor TLS; it begins with \"{}\"",
                    bytes[..seen].escape_ascii()
                )));
            }
            // The socket stays readable, so only time can pass.
            Verdict::NeedsMore => wait(&mut pause).await,
        }
    }
}

/// Reads a whole PROXY header and drops its bytes from the connection.
async fn proxy_header(
    stream: &mut TcpStream,
    parse: fn(&[u8]) -> Result<ProxyHeader, ProxyFault>,
) -> Result<ProxyHeader, Closed> {
    let mut bytes = vec![0; PROXY_V2_BYTES_MAX];
    let mut pause = PEEK_PAUSE_MIN;
    loop {
        let seen = stream.peek(&mut bytes).await?;
        match parse(&bytes[..seen]) {
            Ok(header) => {
                stream.read_exact(&mut bytes[..header.bytes]).await?;
                return Ok(header);
            }
            Err(ProxyFault::Bad(reason)) => return Err(Closed::Because(format!("closed a connection with {reason}"))),
            Err(ProxyFault::NeedsMore(_)) if seen == 0 => return Err(Closed::Silently),
            Err(ProxyFault::NeedsMore(_)) => wait(&mut pause).await,
        }
    }
}

async fn wait(pause: &mut Duration) {
    sleep(*pause).await;
    *pause = (*pause * 2).min(PEEK_PAUSE_MAX);
}
