//! gRPC calls over one HTTP/2 connection, with so little work for each that a measurement is one of the server.
//!
//! A general client costs about as much for a call as the server it measures; a generator has to be lean, or it
//! measures itself. This one knows that all of its requests have the same few headers and that an answer is read for
//! its messages alone: it leaves the answer's headers undecoded. Everything else is HTTP/2 as it should be (RFC 9113,
//! header compression RFC 7541): windows, the server's limit of calls under way, settings and pings.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, oneshot},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

const HEADER_TABLE_SIZE: u16 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// Largest payload of a frame that every peer takes.
const FRAME_BYTES: usize = 16_384;

/// What the server may send ahead for one call.
const STREAM_WINDOW: u32 = 16 << 20;

/// What it may send ahead in all; renewed when half is used.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Entries of the header table before ours begin: the static table's.
const STATIC_ENTRIES: usize = 61;

/// One connection. Clones share it.
#[derive(Clone)]
pub struct Wire {
    shared: Arc<Shared>,
    headers: Arc<Vec<(String, String)>>,
}

/// A path with everything else that is the same in each call of it.
#[derive(Clone)]
pub struct Call {
    headers: Arc<Vec<(String, String)>>,
}

struct Shared {
    state: Mutex<State>,
    flush: Notify,
}

struct State {
    out: BytesMut,
    next_stream: u32,
    open: HashMap<u32, Open>,
    waiting: VecDeque<Waiting>,
    /// Headers that the server's decoder remembers, oldest first.
    remembered: Vec<(String, String)>,
    open_max: usize,
    window: i64,
    received: u32,
    broken: Option<String>,
}

struct Open {
    answer: oneshot::Sender<Result<Bytes>>,
    data: Bytes,
    more: Option<BytesMut>,
}

struct Waiting {
    call: Call,
    framed: Bytes,
    answer: oneshot::Sender<Result<Bytes>>,
}

impl Wire {
    /// Connects in plaintext. The connection lives as long as the peer and a clone of this want it.
    ///
    /// # Errors
    ///
    /// The address cannot be reached.
    pub async fn connect(address: SocketAddr, client_id: &str) -> Result<Self> {
        let stream = tokio::time::timeout(Duration::from_secs(3), TcpStream::connect(address))
            .await
            .context("connecting took more than 3 s")?
            .with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        let mut out = BytesMut::with_capacity(256 << 10);
        out.put_slice(PREFACE);
        frame_head(&mut out, 12, SETTINGS, 0, 0);
        // The answers' headers are not decoded, so nothing is to be remembered of them.
        out.put_u16(HEADER_TABLE_SIZE);
        out.put_u32(0);
        out.put_u16(INITIAL_WINDOW_SIZE);
        out.put_u32(STREAM_WINDOW);
        frame_head(&mut out, 4, WINDOW_UPDATE, 0, 0);
        out.put_u32(CONNECTION_WINDOW);
        let state = State {
            out,
            next_stream: 1,
            open: HashMap::new(),
            waiting: VecDeque::new(),
            remembered: Vec::new(),
            open_max: 100,
            window: 65_535,
            received: 0,
            broken: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), flush: Notify::new() });
        shared.flush.notify_one();
        let (reader, writer) = stream.into_split();
        // Both end with the connection, and what was under way is told so.
        tokio::spawn(write(shared.clone(), writer));
        tokio::spawn(read(shared.clone(), reader));
        let headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", &address.to_string()),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("x-mq-language", "RUST"),
            ("x-mq-client-version", "5.0.0"),
            ("x-mq-protocol-version", "2.0.0"),
            ("x-mq-client-id", client_id),
        ];
        let headers = headers.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect();
        Ok(Self { shared, headers: Arc::new(headers) })
    }

    /// Prepares calls of `path`, such as `/apache.rocketmq.v2.MessagingService/SendMessage`, with a deadline of
    /// `deadline_s` seconds each.
    pub fn call_of(&self, path: &str, deadline_s: u32) -> Call {
        let mut headers = self.headers.as_ref().clone();
        headers.insert(3, (":path".into(), path.into()));
        headers.push(("grpc-timeout".into(), format!("{deadline_s}S")));
        Call { headers: Arc::new(headers) }
    }

    /// Sends one framed message and returns the frames that came back, the length prefix of each included; none when
    /// the server refused the call.
    ///
    /// # Errors
    ///
    /// The connection broke, or the server broke the call off.
    pub async fn call(&self, call: &Call, framed: Bytes) -> Result<Bytes> {
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.shared.state.lock().expect("no holder panics");
            if let Some(reason) = &state.broken {
                return Err(anyhow!("the connection broke: {reason}"));
            }
            if state.fits(framed.len()) {
                state.begin(call, &framed, answer);
            } else {
                state.waiting.push_back(Waiting { call: call.clone(), framed, answer });
            }
        }
        self.shared.flush.notify_one();
        answered.await.context("the connection broke")?
    }
}

impl State {
    fn fits(&self, bytes: usize) -> bool {
        self.waiting.is_empty() && self.has_room(bytes)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.open.len() < self.open_max && self.window >= bytes as i64
    }

    fn begin(&mut self, call: &Call, framed: &Bytes, answer: oneshot::Sender<Result<Bytes>>) {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.window -= framed.len() as i64;
        self.open.insert(stream, Open { answer, data: Bytes::new(), more: None });
        let at = self.out.len();
        frame_head(&mut self.out, 0, HEADERS, END_HEADERS, stream);
        for header in call.headers.iter() {
            encode_header(&mut self.out, &mut self.remembered, header);
        }
        let length = self.out.len() - at - 9;
        self.out[at..at + 3].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
        let mut rest = framed.chunks(FRAME_BYTES).peekable();
        while let Some(chunk) = rest.next() {
            let last = if rest.peek().is_none() { END_STREAM } else { 0 };
            frame_head(&mut self.out, chunk.len(), DATA, last, stream);
            self.out.put_slice(chunk);
        }
    }

    fn begin_waiting(&mut self) -> bool {
        let mut began = false;
        while self.waiting.front().is_some_and(|waiting| self.has_room(waiting.framed.len())) {
            if let Some(Waiting { call, framed, answer }) = self.waiting.pop_front() {
                self.begin(&call, &framed, answer);
                began = true;
            }
        }
        began
    }

    fn end(&mut self, stream: u32, failure: Option<String>) {
        if let Some(Open { answer, data, more }) = self.open.remove(&stream) {
            let outcome = match failure {
                Some(failure) => Err(anyhow!(failure)),
                None => Ok(more.map_or(data, BytesMut::freeze)),
            };
            // Whoever asked may have stopped waiting.
            let _ = answer.send(outcome);
        }
    }

    fn break_all(&mut self, reason: &str) {
        self.broken.get_or_insert_with(|| reason.to_string());
        self.waiting.clear();
        let streams: Vec<u32> = self.open.keys().copied().collect();
        for stream in streams {
            self.end(stream, Some(format!("the connection broke: {reason}")));
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, mut payload: Bytes) -> Result<()> {
        match kind {
            DATA => {
                // Servers of gRPC do not pad.
                ensure!(flags & 0x8 == 0, "a padded frame");
                self.received += payload.len() as u32;
                if self.received > CONNECTION_WINDOW / 2 {
                    frame_head(&mut self.out, 4, WINDOW_UPDATE, 0, 0);
                    self.out.put_u32(self.received);
                    self.received = 0;
                }
                if let Some(open) = self.open.get_mut(&stream) {
                    match &mut open.more {
                        Some(more) => more.extend_from_slice(&payload),
                        None if open.data.is_empty() => open.data = payload,
                        None => {
                            let mut more = BytesMut::with_capacity(open.data.len() + payload.len() + FRAME_BYTES);
                            more.extend_from_slice(&open.data);
                            more.extend_from_slice(&payload);
                            open.more = Some(more);
                        }
                    }
                }
                if flags & END_STREAM != 0 {
                    self.end(stream, None);
                }
            }
            HEADERS if flags & END_STREAM != 0 => self.end(stream, None),
            RST_STREAM => self.end(stream, Some(format!("the server reset the call: {payload:?}"))),
            SETTINGS if flags & ACK == 0 => {
                while payload.len() >= 6 {
                    let (setting, value) = (payload.get_u16(), payload.get_u32());
                    if setting == MAX_CONCURRENT_STREAMS {
                        self.open_max = value as usize;
                    }
                    ensure!(setting != INITIAL_WINDOW_SIZE || value >= 65_535, "a window of {value} bytes a call");
                }
                frame_head(&mut self.out, 0, SETTINGS, ACK, 0);
            }
            PING if flags & ACK == 0 => {
                frame_head(&mut self.out, payload.len(), PING, ACK, 0);
                self.out.put_slice(&payload);
            }
            GOAWAY => anyhow::bail!("the server closes the connection: {payload:?}"),
            WINDOW_UPDATE if stream == 0 => {
                ensure!(payload.len() == 4, "a window update of {} bytes", payload.len());
                self.window += i64::from(payload.get_u32());
            }
            _ => {}
        }
        Ok(())
    }
}

async fn write(shared: Arc<Shared>, mut writer: OwnedWriteHalf) {
    let mut batch = BytesMut::with_capacity(256 << 10);
    loop {
        shared.flush.notified().await;
        loop {
            {
                let mut state = shared.state.lock().expect("no holder panics");
                if state.broken.is_some() {
                    return;
                }
                std::mem::swap(&mut state.out, &mut batch);
            }
            if batch.is_empty() {
                break;
            }
            if let Err(failure) = writer.write_all(&batch).await {
                return shared.state.lock().expect("no holder panics").break_all(&failure.to_string());
            }
            batch.clear();
        }
    }
}

async fn read(shared: Arc<Shared>, mut reader: OwnedReadHalf) {
    let mut buffer = BytesMut::with_capacity(256 << 10);
    let reason = loop {
        buffer.reserve(64 << 10);
        match reader.read_buf(&mut buffer).await {
            Ok(0) => break "the server closed it".to_string(),
            Ok(_) => {}
            Err(failure) => break failure.to_string(),
        }
        let mut state = shared.state.lock().expect("no holder panics");
        let mut outcome = Ok(());
        while buffer.len() >= 9 && outcome.is_ok() {
            let length = u32::from_be_bytes([0, buffer[0], buffer[1], buffer[2]]) as usize;
            if buffer.len() < 9 + length {
                break;
            }
            let (kind, flags) = (buffer[3], buffer[4]);
            let stream = u32::from_be_bytes([buffer[5], buffer[6], buffer[7], buffer[8]]) & 0x7FFF_FFFF;
            buffer.advance(9);
            outcome = state.frame(kind, flags, stream, buffer.split_to(length).freeze());
        }
        if let Err(failure) = outcome {
            break failure.to_string();
        }
        let began = state.begin_waiting();
        let flush = began || !state.out.is_empty();
        drop(state);
        if flush {
            shared.flush.notify_one();
        }
    };
    shared.state.lock().expect("no holder panics").break_all(&reason);
    shared.flush.notify_one();
}

fn frame_head(out: &mut BytesMut, length: usize, kind: u8, flags: u8, stream: u32) {
    out.put_slice(&(length as u32).to_be_bytes()[1..]);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
}

/// By its place in the table when the peer has it there, or else in full, to be remembered.
fn encode_header(out: &mut BytesMut, remembered: &mut Vec<(String, String)>, header: &(String, String)) {
    if let Some(position) = remembered.iter().position(|known| known == header) {
        // The newest comes first.
        let index = STATIC_ENTRIES + remembered.len() - position;
        return encode_number(out, 0x80, 7, index);
    }
    out.put_u8(0x40);
    for text in [&header.0, &header.1] {
        encode_number(out, 0, 7, text.len());
        out.put_slice(text.as_bytes());
    }
    remembered.push(header.clone());
}

/// A number in the low `bits` of a byte that starts with `first`, and in as many more as it needs.
fn encode_number(out: &mut BytesMut, first: u8, bits: u8, number: usize) {
    let full = (1_usize << bits) - 1;
    if number < full {
        return out.put_u8(first | number as u8);
    }
    out.put_u8(first | full as u8);
    let mut rest = number - full;
    while rest >= 128 {
        out.put_u8((rest % 128) as u8 | 0x80);
        rest /= 128;
    }
    out.put_u8(rest as u8);
}

/// A message with gRPC's five-byte prefix.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(length + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).expect("a message of ours is below 4 GiB"));
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
