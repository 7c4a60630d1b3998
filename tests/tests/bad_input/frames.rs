//! Calls that are HTTP/2 as it should be and wrong inside: a frame of gRPC that is none, a message that does not decode.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tonic::body::Body;
use tonic::codegen::{Body as _, Service, http};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// A call is answered within this, whatever is wrong with it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// What a call carries: all of it is wrong in a way of its own, and all of it is ASCII, since a text is a body.
const WRONG: [(&str, &str); 8] = [
    ("nothing at all", ""),
    ("a header that is cut", "\0\0\0"),
    ("a message that is cut", "\0\0\0\0\u{9}abc"),
    ("a message of 2 GiB that is cut", "\0\u{7f}\u{7f}\u{7f}\u{7f}abc"),
    ("a compression that nobody has", "\u{7}\0\0\0\u{1}a"),
    ("compressed where nothing was agreed on", "\u{1}\0\0\0\u{1}a"),
    ("a field that is longer than its message", "\0\0\0\0\u{3}\n\u{7f}a"),
    ("a field of a kind that there is not", "\0\0\0\0\u{2}\u{7}a"),
];

/// A call with an empty message, which is a good one of every type.
const EMPTY: &str = "\0\0\0\0\0";

/// How one call ended; none when it was answered well and not broken off.
async fn call(channel: &mut Channel, path: &str, body: &str) -> Result<Option<Status>> {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "3S")
        .body(Body::new(body.to_owned()))?;
    let ended = async {
        std::future::poll_fn(|context| channel.poll_ready(context)).await?;
        let answer = channel.call(request).await?;
        ensure!(answer.status() == http::StatusCode::OK, "HTTP says {}", answer.status());
        if let Some(status) = Status::from_header_map(answer.headers()) {
            return Ok(Some(status));
        }
        let mut body = answer.into_body();
        let mut status = None;
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            status = frame?.trailers_ref().and_then(Status::from_header_map);
        }
        Ok(status)
    };
    let ended = tokio::time::timeout(ANSWERED_WITHIN, ended).await.context("no answer")??;
    Ok(ended.filter(|status| status.code() != Code::Ok))
}

/// Each wrong call of `paths` is refused in time, and so are those with a `streams` of requests, or they end. The connection
/// that brought them goes on: a good call of the first path, which changes nothing, is answered on it.
pub async fn are_refused(address: SocketAddr, paths: &[&str], streams: &[&str]) -> Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(Duration::from_secs(1));
    let mut channel = endpoint.connect().await?;
    for path in paths.iter().chain(streams) {
        for (what, body) in WRONG {
            let ended = call(&mut channel, path, body).await.with_context(|| format!("{path}: {what}"))?;
            let refused = ended.as_ref().is_some_and(|status| {
                matches!(status.code(), Code::Internal | Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented)
                    || matches!(status.code(), Code::ResourceExhausted | Code::FailedPrecondition)
            });
            ensure!(refused || (ended.is_none() && streams.contains(path)), "{path}: {what}: {ended:?}");
        }
        let [good, ..] = paths else { continue };
        call(&mut channel, good, EMPTY).await.with_context(|| format!("{path}: a good call after the wrong ones"))?;
    }
    Ok(())
}
