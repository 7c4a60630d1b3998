//! The socket of a connection, of which others may ask what has reached the other end.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A connected socket that is read and written in one place and watched from others.
#[derive(Debug)]
pub(super) struct Socket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stream: TcpStream,
    /// Bytes that the system took from us.
    written: AtomicU64,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Shared { stream, written: AtomicU64::new(0) }))
    }

    pub(super) fn watch(&self) -> Outgoing {
        Outgoing(Arc::downgrade(&self.0))
    }

    fn wrote(&self, written: io::Result<usize>) -> Poll<io::Result<usize>> {
        if let Ok(bytes) = &written {
            self.0.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        Poll::Ready(written)
    }
}

/// What goes out on a connection. It does not keep the connection open.
#[derive(Debug, Clone, Default)]
pub struct Outgoing(Weak<Shared>);

impl Outgoing {
    /// Bytes written to the connection so far; `None` once it is closed.
    pub fn written(&self) -> Option<u64> {
        self.0.upgrade().map(|shared| shared.written.load(Ordering::Relaxed))
    }

    /// Of these bytes, how many the system at the other end has acknowledged; `None` once the connection is closed.
    /// A machine that can not tell counts what was written.
    pub fn acknowledged(&self) -> Option<u64> {
        let shared = self.0.upgrade()?;
        // In this order: what is written in between is not acknowledged.
        let written = shared.written.load(Ordering::Relaxed);
        Some(written.saturating_sub(unacknowledged(&shared.stream)))
    }
}

#[cfg(target_os = "linux")]
fn unacknowledged(stream: &TcpStream) -> u64 {
    use std::os::fd::AsRawFd;
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the request writes one int.
    #[allow(unsafe_code, reason = "no library in the tree asks a socket this")]
    let asked = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    // A socket that does not answer is broken: nothing more is known to have arrived.
    if asked == 0 { u64::try_from(bytes).unwrap_or_default() } else { u64::MAX }
}

#[cfg(not(target_os = "linux"))]
fn unacknowledged(_stream: &TcpStream) -> u64 {
    0
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.stream.poll_read_ready(cx))?;
            match self.0.stream.try_read_buf(buf) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match self.0.stream.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return self.wrote(written),
            }
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(cx))?;
            match self.0.stream.try_write_vectored(bufs) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return self.wrote(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is kept back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match SockRef::from(&self.0.stream).shutdown(std::net::Shutdown::Write) {
            // The other end was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            shut => Poll::Ready(shut),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Socket;
    use std::time::Duration;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    #[tokio::test]
    async fn it_tells_what_has_arrived() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let mut server = Socket::new(listener.accept().await.expect("accepts").0);
        let outgoing = server.watch();
        assert_eq!((outgoing.written(), outgoing.acknowledged()), (Some(0), Some(0)));

        server.write_all(b"hello").await.expect("writes");
        let mut read = [0; 5];
        client.read_exact(&mut read).await.expect("reads");
        assert_eq!((&read, outgoing.written(), outgoing.acknowledged()), (b"hello", Some(5), Some(5)));
        client.write_all(b"back").await.expect("writes");
        server.read_exact(&mut read[..4]).await.expect("reads");
        assert_eq!(&read[..4], b"back");

        // More than the buffers of both ends take, to one that does not read.
        let written = tokio::time::timeout(Duration::from_millis(300), server.write_all(&vec![0; 64 << 20])).await;
        assert!(written.is_err(), "somebody read it all");
        let (written, acknowledged) = (outgoing.written().expect("open"), outgoing.acknowledged().expect("open"));
        if cfg!(target_os = "linux") {
            assert!(acknowledged < written, "{acknowledged} of {written} bytes");
        }
        drop(server);
        assert_eq!((outgoing.written(), outgoing.acknowledged()), (None, None));
    }
}
