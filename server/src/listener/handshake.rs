//! Which certificate a TLS caller is shown, and how those are refused who may not come in.

use std::{io, time::Duration};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, server::TlsStream};

use super::{Closed, ListenerOptions, socket::Socket};
use crate::cluster_tls::{ClusterTls, MEMBER_ALPN, WELCOME};

/// A refused caller has this long to read why, and to go.
const FAREWELL: Duration = Duration::from_secs(1);

/// What it is told; its length fits in 7 bits.
const WHY: &str = "this port takes TLS alone, tls.server.mode is enforcing: call it with a certificate of the cluster";
const _: () = assert!(WHY.len() < 127);

/// Its first call is looked for in so many bytes.
const HEARD_BYTES_MAX: usize = 64 << 10;

/// Of HTTP/2: the length of what a client begins with, of a frame's head, two kinds of frames, and an empty SETTINGS frame,
/// with which a server begins.
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// The handshake of a caller that wants TLS.
pub(super) async fn tls(socket: Socket, options: &ListenerOptions) -> Result<TlsStream<Socket>, Closed> {
    let Some(members) = &options.members else {
        let Some(tls) = &options.tls else {
            return Err(Closed::Because(
                "closed a TLS connection: this port takes plaintext (tls.server.mode does not count for it, or is disabled)".to_owned(),
            ));
        };
        return TlsAcceptor::from(tls.current().await).accept(socket).await.map_err(failed);
    };
    let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await.map_err(failed)?;
    let is_member = hello.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == MEMBER_ALPN));
    if let (false, Some(tls)) = (is_member, &options.tls) {
        return hello.into_stream(tls.current().await).await.map_err(failed);
    }
    let accepted = hello.into_stream(members.server().await).await;
    let mut stream = accepted.map_err(|error| match is_gone(&error) {
        true => Closed::Silently,
        false => Closed::Because(members.caller_refused(&error)),
    })?;
    if is_member {
        stream.write_all(&[WELCOME]).await?;
        stream.flush().await?;
    }
    Ok(stream)
}

fn failed(error: io::Error) -> Closed {
    match is_gone(&error) {
        true => Closed::Silently,
        false => Closed::Because(format!("TLS handshake failed: {error}")),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
}

/// Answers the first call of a caller that speaks gRPC in plaintext: that this port wants TLS. A connection that just
/// closed would look like a node that is down.
pub(super) async fn refuse_plaintext(mut stream: TcpStream, members: &ClusterTls) -> Closed {
    let farewell = async {
        stream.write_all(&SETTINGS).await?;
        let mut heard = Vec::new();
        let call = loop {
            if let Some(call) = first_call(&heard) {
                break call;
            }
            if heard.len() > HEARD_BYTES_MAX || stream.read_buf(&mut heard).await? == 0 {
                return Ok(());
            }
        };
        stream.write_all(&refusal(call)).await?;
        stream.shutdown().await?;
        // Bytes that nobody reads would turn the close into a reset, which may overtake what was written.
        heard.clear();
        while stream.read_buf(&mut heard).await? > 0 {
            heard.clear();
        }
        Ok::<_, io::Error>(())
    };
    let _ = timeout(FAREWELL, farewell).await;
    Closed::Because(members.plaintext_refused())
}

/// The stream that the first HEADERS frame opens, once it has come.
fn first_call(heard: &[u8]) -> Option<[u8; 4]> {
    let mut rest = heard.get(PREFACE_BYTES..)?;
    loop {
        let (head, after) = rest.split_first_chunk::<FRAME_HEAD_BYTES>()?;
        if head[3] == HEADERS {
            return Some([head[5], head[6], head[7], head[8]]);
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        rest = after.get(usize::try_from(length).ok()?..)?;
    }
}

/// A gRPC answer without a message, then GOAWAY.
fn refusal(call: [u8; 4]) -> Vec<u8> {
    // `:status: 200` of HPACK's static table, then literals that are not remembered.
    let mut fields = vec![0x88];
    let refused = (tonic::Code::FailedPrecondition as i32).to_string();
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", &refused), ("grpc-message", WHY)] {
        fields.push(0);
        for text in [name, value] {
            // Below 127, so that one byte says it.
            fields.push(u8::try_from(text.len()).unwrap_or_default());
            fields.extend(text.as_bytes());
        }
    }
    const END: u8 = 0x5;
    let mut bytes = frame(HEADERS, END, call, &fields);
    bytes.extend(frame(GOAWAY, 0, [0; 4], &[call, [0; 4]].concat()));
    bytes
}

fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream);
    bytes.extend(payload);
    bytes
}
