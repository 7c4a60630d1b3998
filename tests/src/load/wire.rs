//! gRPC calls over one HTTP/2 connection with as little work for each as possible: requests are encoded beforehand,
//! and nothing stands between the caller and the `h2` crate.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use prost::Message;
use tokio::net::TcpStream;

/// Bytes that the server may send ahead, for each call and for the whole connection.
const WINDOW_BYTES: u32 = 8 << 20;

/// One connection. Clones share it.
#[derive(Clone)]
pub struct Wire {
    sender: SendRequest<Bytes>,
    authority: String,
    headers: HeaderMap,
}

/// A call's path with everything else that is the same each time.
#[derive(Clone)]
pub struct Call {
    request: Request<()>,
}

impl Wire {
    /// Connects in plaintext. The connection lives as long as a clone of this does and the peer wants it.
    ///
    /// # Errors
    ///
    /// The address cannot be reached, or whoever listens there does not speak HTTP/2.
    pub async fn connect(address: SocketAddr, client_id: &str) -> Result<Self> {
        let stream = tokio::time::timeout(Duration::from_secs(3), TcpStream::connect(address))
            .await
            .context("connecting took more than 3 s")?
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .handshake::<_, Bytes>(stream)
            .await
            .with_context(|| format!("HTTP/2 handshake with {address}"))?;
        // It ends with the connection: calls that are under way then see the error.
        tokio::spawn(connection);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("x-mq-language", "RUST"),
            ("x-mq-client-version", "5.0.0"),
            ("x-mq-protocol-version", "2.0.0"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers.insert("x-mq-client-id", HeaderValue::from_str(client_id)?);
        Ok(Self { sender, authority: address.to_string(), headers })
    }

    /// Prepares calls of `path`, such as `/apache.rocketmq.v2.MessagingService/SendMessage`, with `deadline_s` seconds each.
    ///
    /// # Errors
    ///
    /// `path` cannot stand in a URI.
    pub fn call_of(&self, path: &str, deadline_s: u64) -> Result<Call> {
        let uri = Uri::builder().scheme("http").authority(self.authority.as_str()).path_and_query(path).build()?;
        let mut request = Request::builder().method(Method::POST).uri(uri).version(Version::HTTP_2).body(())?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_str(&format!("{deadline_s}S"))?);
        Ok(Call { request })
    }

    /// Sends one framed message and returns the frames that came back, the length prefix of each included.
    ///
    /// # Errors
    ///
    /// The connection broke, or the call ended with a gRPC status other than OK.
    pub async fn call(&self, method: &Call, framed: Bytes) -> Result<Bytes> {
        let mut sender = self.sender.clone().ready().await?;
        let (response, mut body) = sender.send_request(method.request.clone(), false)?;
        body.send_data(framed, true)?;
        let response = response.await?;
        ensure!(response.status().is_success(), "HTTP status {}", response.status());
        check_status(response.headers())?;
        let mut stream = response.into_body();
        let mut first = Bytes::new();
        let mut rest: Option<BytesMut> = None;
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            match &mut rest {
                Some(rest) => rest.extend_from_slice(&chunk),
                None if first.is_empty() => first = chunk,
                None => {
                    let mut all = BytesMut::with_capacity(first.len() + chunk.len() + 4096);
                    all.extend_from_slice(&first);
                    all.extend_from_slice(&chunk);
                    rest = Some(all);
                }
            }
        }
        if let Some(trailers) = stream.trailers().await? {
            check_status(&trailers)?;
        }
        Ok(rest.map_or(first, BytesMut::freeze))
    }
}

fn check_status(headers: &HeaderMap) -> Result<()> {
    let Some(status) = headers.get("grpc-status") else { return Ok(()) };
    if status != "0" {
        let message = headers.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or_default();
        bail!("gRPC status {} {message}", status.to_str().unwrap_or("?"));
    }
    Ok(())
}

/// A message with gRPC's five-byte prefix.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(length + 5);
    bytes.extend_from_slice(&[0]);
    bytes.extend_from_slice(&u32::try_from(length).expect("a message of ours is below 4 GiB").to_be_bytes());
    message.encode(&mut bytes).expect("the buffer grows as needed");
    bytes.freeze()
}

/// Takes the next message off frames that [`Wire::call`] returned; `None` at their end.
///
/// # Errors
///
/// The bytes are no frame, or no such message.
pub fn next_message<M: Message + Default>(frames: &mut Bytes) -> Result<Option<M>> {
    if frames.is_empty() {
        return Ok(None);
    }
    ensure!(frames.len() >= 5 && frames[0] == 0, "not a plain gRPC frame");
    frames.advance(1);
    let length = frames.get_u32() as usize;
    ensure!(frames.len() >= length, "a gRPC frame is cut short");
    Ok(Some(M::decode(frames.split_to(length))?))
}
