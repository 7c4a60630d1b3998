//! An accepted connection, ready for HTTP/2, and what is known about its other end.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::authority::Authorities;
use super::socket::{Outgoing, Socket};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The client: the socket's peer, or what a load balancer's PROXY header says.
    pub address: SocketAddr,
    /// The address the client dialled, as far as it is known: the socket's own, or the PROXY header's.
    pub dialled: SocketAddr,
    /// The socket's peer, whatever a PROXY header says.
    pub socket: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

impl Peer {
    /// Whether the caller is on this machine. A PROXY header cannot claim it for somebody else, and a load balancer
    /// on this machine does not lend it to its clients.
    pub fn is_local(&self) -> bool {
        self.address.ip().to_canonical().is_loopback() && self.socket.ip().to_canonical().is_loopback()
    }

    /// What the connection of a request says about its other end; `None` outside a server of this module.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<Self> {
        request.extensions().get::<Arrival>().map(|arrival| arrival.peer)
    }
}

/// The connection that a request came on. tonic puts it into each request's extensions.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Who is at its other end.
    pub peer: Peer,
    /// What goes back on it.
    pub outgoing: Outgoing,
}

/// An accepted connection. Plaintext goes straight to the socket.
pub struct Connection {
    stream: Stream,
    arrival: Arrival,
    /// `None` for HTTP/1, which has none.
    authorities: Option<Authorities>,
    /// Counts the connection against the listener's limit until it is closed.
    _open: OwnedSemaphorePermit,
}

enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Connection {
    pub(super) fn plain(socket: Socket, peer: Peer, open: OwnedSemaphorePermit) -> Self {
        let arrival = Arrival { peer, outgoing: socket.watch() };
        Self { stream: Stream::Plain(socket), arrival, authorities: Some(Authorities::new()), _open: open }
    }

    pub(super) fn http1(socket: Socket, peer: Peer, open: OwnedSemaphorePermit) -> Self {
        Self { authorities: None, ..Self::plain(socket, peer, open) }
    }

    pub(super) fn tls(stream: TlsStream<Socket>, peer: Peer, open: OwnedSemaphorePermit) -> Self {
        let arrival = Arrival { peer, outgoing: stream.get_ref().0.watch() };
        Self { stream: Stream::Tls(Box::new(stream)), arrival, authorities: Some(Authorities::new()), _open: open }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.arrival.peer
    }
}

impl Connected for Connection {
    type ConnectInfo = Arrival;

    fn connect_info(&self) -> Arrival {
        self.arrival.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if let Some(authorities) = &mut self.authorities {
            authorities.pass(&mut buf.filled_mut()[before..]);
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
