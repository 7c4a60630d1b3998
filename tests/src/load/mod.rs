//! The load generator: how fast a server takes, hands out and forgets messages.
//!
//! Bodies are random and made before the clock starts; everything runs on the caller's thread, so that its share of
//! the machine stays small and can be stated.

mod wire;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use hdrhistogram::Histogram;
use raftmq_proto::rocketmq as pb;
use rand::RngExt;

pub use wire::{Call, Wire, frame, next_message};

const SEND: &str = "/apache.rocketmq.v2.MessagingService/SendMessage";
const RECEIVE: &str = "/apache.rocketmq.v2.MessagingService/ReceiveMessage";
const ACK: &str = "/apache.rocketmq.v2.MessagingService/AckMessage";
const ROUTE: &str = "/apache.rocketmq.v2.MessagingService/QueryRoute";

/// Requests that a send run repeats; enough that no cache on the way can hold them as one.
const POOL_MESSAGES: usize = 4096;

/// What a run of calls came to.
#[derive(Debug, Clone)]
pub struct Figures {
    /// Messages that were answered OK.
    pub messages: u64,
    /// From the first call to the last answer.
    pub elapsed: Duration,
    /// Of each call, in microseconds; for latency runs, of each message from send to receipt.
    pub latency_us: Histogram<u64>,
    /// Calls that failed, and what the first of them said.
    pub failures: u64,
    /// See [`Figures::failures`].
    pub first_failure: Option<String>,
}

impl Figures {
    pub(crate) fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
        Self { messages: 0, elapsed: Duration::ZERO, latency_us, failures: 0, first_failure: None }
    }

    /// Messages per second.
    pub fn rate(&self) -> f64 {
        self.messages as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// A quantile of the latency, in milliseconds.
    pub fn millis(&self, quantile: f64) -> f64 {
        self.latency_us.value_at_quantile(quantile) as f64 / 1000.0
    }

    pub(crate) fn record(&mut self, started: Instant, outcome: Result<u64>) {
        match outcome {
            Ok(messages) => {
                self.messages += messages;
                self.latency_us.saturating_record(started.elapsed().as_micros() as u64);
            }
            Err(failure) => {
                self.failures += 1;
                self.first_failure.get_or_insert_with(|| format!("{failure:#}"));
            }
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.messages += other.messages;
        self.failures += other.failures;
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.latency_us.add(other.latency_us).expect("both have the same bounds");
    }
}

/// A topic as an SDK sees it: its queues, and one connection for each distinct list of endpoints.
pub struct Target {
    /// Name of the topic.
    pub topic: String,
    queues: Vec<pb::MessageQueue>,
    /// Parallel to `queues`.
    wires: Vec<Wire>,
}

impl Target {
    /// Asks `access` for the route of `topic` and connects to the first address of every distinct list in it. Where
    /// the route has fewer than `connections` lists, further connections to them make up the number.
    ///
    /// # Errors
    ///
    /// The route is refused, or an address in it cannot be reached.
    pub async fn connect(access: SocketAddr, topic: &str, connections: usize) -> Result<Self> {
        let client_id = client_id();
        let mut queues = route(&Wire::connect(access, &client_id).await?, access, topic).await?;
        while queues.len() < connections {
            queues.extend(queues.clone());
        }
        let mut lists: BTreeMap<(Vec<String>, usize), Wire> = BTreeMap::new();
        let distinct = {
            let mut lists: Vec<Vec<String>> = queues.iter().map(addresses).collect();
            lists.sort();
            lists.dedup();
            lists.len()
        };
        let copies = connections.div_ceil(distinct).max(1);
        let mut wires = Vec::new();
        for (number, queue) in queues.iter().enumerate() {
            let key = (addresses(queue), number / distinct % copies);
            if !lists.contains_key(&key) {
                let first: SocketAddr = key.0.first().context("a queue without endpoints")?.parse()?;
                lists.insert(key.clone(), Wire::connect(first, &client_id).await?);
            }
            wires.push(lists[&key].clone());
        }
        Ok(Self { topic: topic.to_string(), queues, wires })
    }

    /// Connects to these nodes, so many times to each, and to no other node whatever the route says.
    ///
    /// # Errors
    ///
    /// The route is refused, or a node cannot be reached.
    pub async fn through(nodes: &[SocketAddr], topic: &str, connections_each: usize) -> Result<Self> {
        let client_id = client_id();
        let mut connected = Vec::new();
        for node in nodes.iter().cycle().take(nodes.len() * connections_each) {
            connected.push(Wire::connect(*node, &client_id).await?);
        }
        let (wire, access) = connected.first().zip(nodes.first()).context("no node to connect to")?;
        let queues = route(wire, *access, topic).await?;
        let pairs = queues.len().max(connected.len());
        let queues = queues.into_iter().cycle().take(pairs).collect();
        let wires = connected.into_iter().cycle().take(pairs).collect();
        Ok(Self { topic: topic.to_string(), queues, wires })
    }
}

fn client_id() -> String {
    format!("bench@{}#{:x}", std::process::id(), rand::rng().random::<u32>())
}

async fn route(wire: &Wire, access: SocketAddr, topic: &str) -> Result<Vec<pb::MessageQueue>> {
    let request = pb::QueryRouteRequest { topic: Some(resource(topic)), endpoints: Some(endpoints(access)) };
    let mut frames = wire.call(&wire.call_of(ROUTE, 10), frame(&request)).await?;
    let route: pb::QueryRouteResponse = next_message(&mut frames)?.context("an empty answer")?;
    check(route.status.as_ref())?;
    ensure!(!route.message_queues.is_empty(), "the route of {topic} has no queues");
    Ok(route.message_queues)
}

fn addresses(queue: &pb::MessageQueue) -> Vec<String> {
    let endpoints = queue.broker.as_ref().and_then(|broker| broker.endpoints.as_ref());
    let list = endpoints.map(|endpoints| endpoints.addresses.as_slice()).unwrap_or_default();
    list.iter().map(|address| format!("{}:{}", address.host, address.port)).collect()
}

/// Message bodies of one size, encoded in requests of `per_call` messages.
pub struct Pool {
    /// Each with the places of its messages' numbers.
    requests: Vec<(Bytes, Vec<usize>)>,
    per_call: usize,
    /// Messages that were sent, or are to be: a message id that comes again would not be stored again.
    numbers: AtomicU64,
}

/// Digits of a message's number in its id.
const NUMBER_DIGITS: usize = 12;

impl Pool {
    /// Random bodies of `body_bytes` for `topic`.
    pub fn new(topic: &str, body_bytes: usize, per_call: usize) -> Self {
        Self::over(&[topic.to_owned()], body_bytes, per_call, POOL_MESSAGES)
    }

    /// As [`Pool::new`], with each call for the next topic of a list, in a pool of so many messages.
    pub fn over(topics: &[String], body_bytes: usize, per_call: usize, messages: usize) -> Self {
        let mut random = rand::rng();
        let run: u32 = random.random();
        let requests = (0..messages / per_call)
            .map(|request| {
                let topic = &topics[request % topics.len()];
                let id = |slot| format!("B{run:08X}{request:08X}{slot:04X}");
                let messages = (0..per_call)
                    .map(|slot| {
                        let mut body = vec![0; body_bytes];
                        random.fill(&mut body[..]);
                        message(topic, id(slot), body.into())
                    })
                    .collect();
                let request = frame(&pb::SendMessageRequest { messages });
                let place = |slot| {
                    let id = id(slot);
                    let at = request.windows(id.len()).position(|window| window == id.as_bytes());
                    at.expect("an encoded message has its id") + id.len() - NUMBER_DIGITS
                };
                let places = (0..per_call).map(place).collect();
                (request, places)
            })
            .collect();
        Self { requests, per_call, numbers: AtomicU64::new(0) }
    }

    /// A request like number `number` of the pool, with message ids that were never used.
    fn request(&self, number: usize) -> Bytes {
        let (request, places) = &self.requests[number % self.requests.len()];
        let first = self.numbers.fetch_add(places.len() as u64, Ordering::Relaxed);
        let mut request = request.to_vec();
        for (place, number) in places.iter().zip(first..) {
            request[*place..place + NUMBER_DIGITS].copy_from_slice(format!("{number:012X}").as_bytes());
        }
        request.into()
    }
}

/// Sends as fast as answers come with `in_flight` calls under way, for `duration`.
///
/// # Errors
///
/// No call at all was answered OK.
pub async fn send(target: &Target, pool: &Pool, in_flight: usize, duration: Duration) -> Result<Figures> {
    let end = Instant::now() + duration;
    send_while(target, pool, in_flight, |now| now < end, &AtomicU64::new(0)).await
}

/// As [`send`], as long as `goes_on` says so before a call. `answered` counts messages as they are answered OK.
///
/// # Errors
///
/// As [`send`].
pub async fn send_while(
    target: &Target,
    pool: &Pool,
    in_flight: usize,
    goes_on: impl Fn(Instant) -> bool,
    answered: &AtomicU64,
) -> Result<Figures> {
    let calls: Vec<Call> = target.wires.iter().map(|wire| wire.call_of(SEND, 30)).collect();
    let next = AtomicU64::new(0);
    let started = Instant::now();
    let mut workers: FuturesUnordered<_> = (0..in_flight)
        .map(|_| async {
            let mut figures = Figures::new();
            loop {
                let called = Instant::now();
                if !goes_on(called) {
                    return figures;
                }
                let number = next.fetch_add(1, Ordering::Relaxed) as usize;
                let queue = number % target.wires.len();
                let request = pool.request(number);
                let outcome = send_one(&target.wires[queue], &calls[queue], request, pool.per_call).await;
                let failed = outcome.is_err();
                answered.fetch_add(outcome.as_ref().copied().unwrap_or_default(), Ordering::Relaxed);
                figures.record(called, outcome);
                if failed {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        })
        .collect();
    let mut figures = Figures::new();
    while let Some(worker) = workers.next().await {
        figures.merge(worker);
    }
    figures.elapsed = started.elapsed();
    ensure!(figures.messages > 0, "no send was answered OK: {}", figures.first_failure.unwrap_or_default());
    Ok(figures)
}

async fn send_one(wire: &Wire, call: &Call, request: Bytes, messages: usize) -> Result<u64> {
    let mut frames = wire.call(call, request).await?;
    let response: pb::SendMessageResponse = next_message(&mut frames)?.context("an empty answer")?;
    check(response.status.as_ref())?;
    ensure!(response.entries.len() == messages, "{} entries for {messages} messages", response.entries.len());
    Ok(messages as u64)
}

/// How a receive run goes about it.
pub struct Receivers {
    /// Consumer group; it must have been created before the messages were sent.
    pub group: String,
    /// Receive loops, each with one call or the acknowledgements of one batch under way.
    pub consumers: usize,
    /// Messages a receive asks for.
    pub batch: i32,
}

/// Receives, and acknowledges each message in a call of its own, until `duration` is over or the backlog is.
/// Latency is that of the acknowledgements; `messages` counts those answered OK.
///
/// # Errors
///
/// Nothing was received.
pub async fn receive(target: &Target, receivers: &Receivers, duration: Duration) -> Result<Figures> {
    let started = Instant::now();
    let end = started + duration;
    let over = AtomicBool::new(false);
    let last = AtomicU64::new(0);
    let workers: FuturesUnordered<_> = (0..receivers.consumers)
        .map(|consumer| {
            let (over, last) = (&over, &last);
            async move {
                let mut figures = Figures::new();
                let mut round = consumer;
                while Instant::now() < end && !over.load(Ordering::Relaxed) {
                    let queue = round % target.queues.len();
                    round += 1;
                    let messages = match receive_batch(target, receivers, queue).await {
                        Ok(messages) => messages,
                        Err(failure) => {
                            figures.record(started, Err(failure));
                            continue;
                        }
                    };
                    if messages.is_empty() {
                        // A poll of this length is empty only when the backlog is gone.
                        over.store(true, Ordering::Relaxed);
                        break;
                    }
                    let wire = &target.wires[queue];
                    let call = wire.call_of(ACK, 10);
                    let mut acks: FuturesUnordered<_> = messages
                        .into_iter()
                        .map(|message| {
                            let request = ack_request(&receivers.group, &target.topic, message);
                            let call = &call;
                            async move { (Instant::now(), ack_one(wire, call, request).await) }
                        })
                        .collect();
                    while let Some((called, outcome)) = acks.next().await {
                        figures.record(called, outcome);
                        last.fetch_max(started.elapsed().as_micros() as u64, Ordering::Relaxed);
                    }
                }
                Ok::<_, anyhow::Error>(figures)
            }
        })
        .collect();
    let mut figures = Figures::new();
    for worker in workers.collect::<Vec<_>>().await {
        figures.merge(worker?);
    }
    figures.elapsed = Duration::from_micros(last.load(Ordering::Relaxed));
    ensure!(figures.messages > 0, "nothing was received: {}", figures.first_failure.unwrap_or_default());
    Ok(figures)
}

/// Makes a consumer group, which starts at the messages sent from now on when there are none yet.
///
/// # Errors
///
/// The receive was refused, or there are messages already.
pub async fn join_group(target: &Target, group: &str) -> Result<()> {
    let receivers = Receivers { group: group.to_string(), consumers: 1, batch: 1 };
    ensure!(receive_batch(target, &receivers, 0).await?.is_empty(), "{group} is not new, or the topic is not empty");
    Ok(())
}

fn receive_request(queue: &pb::MessageQueue, group: &str, batch: i32, poll_s: i64) -> pb::ReceiveMessageRequest {
    pb::ReceiveMessageRequest {
        group: Some(resource(group)),
        message_queue: Some(queue.clone()),
        filter_expression: Some(pb::FilterExpression { r#type: pb::FilterType::Tag as i32, expression: "*".into() }),
        batch_size: batch,
        invisible_duration: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        auto_renew: false,
        long_polling_timeout: Some(prost_types::Duration { seconds: poll_s, nanos: 0 }),
        attempt_id: None,
    }
}

/// A client of a consumer group with a connection of its own and one long poll of `poll_s` seconds after the other,
/// on one queue of a topic. Returns how many messages came, once `over` says so; a poll under way is not waited for.
///
/// # Errors
///
/// The node cannot be reached, or refuses.
pub async fn wait_for_messages(
    access: SocketAddr,
    (topic, group): (&str, &str),
    number: usize,
    poll_s: u32,
    over: &tokio_util::sync::CancellationToken,
    waits: &AtomicU64,
) -> Result<u64> {
    let wire = Wire::connect(access, &format!("wait@{}#{number:x}", std::process::id())).await?;
    let queues = route(&wire, access, topic).await?;
    let queue = &queues[number % queues.len()];
    let request = frame(&receive_request(queue, group, 32, i64::from(poll_s)));
    let call = wire.call_of(RECEIVE, poll_s + 5);
    waits.fetch_add(1, Ordering::Relaxed);
    let mut received = 0;
    loop {
        let frames = tokio::select! {
            answer = wire.call(&call, request.clone()) => answer?,
            () = over.cancelled() => return Ok(received),
        };
        received += messages_in(frames)?.len() as u64;
    }
}

async fn receive_batch(target: &Target, receivers: &Receivers, queue: usize) -> Result<Vec<pb::Message>> {
    let wire = &target.wires[queue];
    let request = receive_request(&target.queues[queue], &receivers.group, receivers.batch, 5);
    let frames = wire.call(&wire.call_of(RECEIVE, 8), frame(&request)).await?;
    messages_in(frames)
}

fn messages_in(mut frames: Bytes) -> Result<Vec<pb::Message>> {
    ensure!(!frames.is_empty(), "the call was refused");
    let mut messages = Vec::new();
    while let Some(part) = next_message::<pb::ReceiveMessageResponse>(&mut frames)? {
        match part.content.context("a part without content")? {
            pb::receive_message_response::Content::Status(status) => {
                if status.code == pb::Code::MessageNotFound as i32 {
                    return Ok(Vec::new());
                }
                check(Some(&status))?;
            }
            pb::receive_message_response::Content::Message(message) => messages.push(message),
            pb::receive_message_response::Content::DeliveryTimestamp(_) => {}
        }
    }
    Ok(messages)
}

fn ack_request(group: &str, topic: &str, message: pb::Message) -> Bytes {
    let properties = message.system_properties.unwrap_or_default();
    frame(&pb::AckMessageRequest {
        group: Some(resource(group)),
        topic: Some(resource(topic)),
        entries: vec![pb::AckMessageEntry {
            message_id: properties.message_id,
            receipt_handle: properties.receipt_handle.unwrap_or_default(),
            lite_topic: None,
        }],
    })
}

async fn ack_one(wire: &Wire, call: &Call, request: Bytes) -> Result<u64> {
    let mut frames = wire.call(call, request).await?;
    let response: pb::AckMessageResponse = next_message(&mut frames)?.context("an empty answer")?;
    check(response.status.as_ref())?;
    Ok(1)
}

/// Sends `rate` messages a second for `duration`, receives them with a few long polls, and measures each from just
/// before its send to its receipt.
///
/// # Errors
///
/// Nothing was received.
pub async fn latency(target: &Target, group: &str, rate: u32, duration: Duration) -> Result<Figures> {
    let zero = Instant::now();
    let done = Arc::new(AtomicBool::new(false));
    let receivers = Receivers { group: group.to_string(), consumers: 8, batch: 32 };
    let consume = (0..receivers.consumers).map(|consumer| {
        let (done, receivers) = (&done, &receivers);
        async move {
            let mut figures = Figures::new();
            let mut round = consumer;
            while !done.load(Ordering::Relaxed) {
                let queue = round % target.queues.len();
                round += 1;
                let messages = match receive_batch(target, receivers, queue).await {
                    Ok(messages) => messages,
                    Err(failure) => {
                        figures.record(zero, Err(failure));
                        continue;
                    }
                };
                let now = zero.elapsed().as_nanos() as u64;
                let wire = &target.wires[queue];
                let call = wire.call_of(ACK, 10);
                let acks = FuturesUnordered::new();
                for message in messages {
                    if let Some(stamp) = message.body.first_chunk::<8>() {
                        figures.messages += 1;
                        figures.latency_us.saturating_record(now.saturating_sub(u64::from_be_bytes(*stamp)) / 1000);
                    }
                    acks.push(ack_one(wire, &call, ack_request(group, &target.topic, message)));
                }
                for outcome in acks.collect::<Vec<_>>().await {
                    if let Err(failure) = outcome {
                        figures.record(zero, Err(failure));
                    }
                }
            }
            Ok::<_, anyhow::Error>(figures)
        }
    });
    let produce = async {
        let calls: Vec<Call> = target.wires.iter().map(|wire| wire.call_of(SEND, 30)).collect();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        let mut sends = FuturesUnordered::new();
        let mut failures = 0;
        let mut number = 0_usize;
        while zero.elapsed() < duration {
            tokio::select! {
                _ = ticks.tick() => {
                    let mut body = vec![0; 1024];
                    body[..8].copy_from_slice(&(zero.elapsed().as_nanos() as u64).to_be_bytes());
                    let message = message(&target.topic, format!("L{number:016X}"), body.into());
                    let request = frame(&pb::SendMessageRequest { messages: vec![message] });
                    let queue = number % target.wires.len();
                    number += 1;
                    sends.push(send_one(&target.wires[queue], &calls[queue], request, 1));
                }
                Some(outcome) = sends.next() => failures += u64::from(outcome.is_err()),
            }
        }
        while let Some(outcome) = sends.next().await {
            failures += u64::from(outcome.is_err());
        }
        // What was sent last is on its way; the polls end by themselves.
        tokio::time::sleep(Duration::from_millis(500)).await;
        done.store(true, Ordering::Relaxed);
        Ok::<_, anyhow::Error>(failures)
    };
    let (produced, consumed) = futures::join!(produce, futures::future::join_all(consume));
    let mut figures = Figures::new();
    for consumer in consumed {
        figures.merge(consumer?);
    }
    figures.failures += produced?;
    figures.elapsed = duration;
    ensure!(figures.messages > 0, "nothing was received: {}", figures.first_failure.unwrap_or_default());
    Ok(figures)
}

fn message(topic: &str, id: String, body: Bytes) -> pb::Message {
    pb::Message {
        topic: Some(resource(topic)),
        user_properties: Default::default(),
        system_properties: Some(pb::SystemProperties {
            message_id: id,
            message_type: pb::MessageType::Normal as i32,
            body_encoding: pb::Encoding::Identity as i32,
            born_timestamp: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            born_host: "bench".into(),
            ..Default::default()
        }),
        body,
    }
}

/// A name without a namespace.
pub fn resource(name: &str) -> pb::Resource {
    pb::Resource { resource_namespace: String::new(), name: name.to_string() }
}

/// A single address as the public API writes it.
pub fn endpoints(address: SocketAddr) -> pb::Endpoints {
    let scheme = if address.is_ipv4() { pb::AddressScheme::IPv4 } else { pb::AddressScheme::IPv6 };
    pb::Endpoints {
        scheme: scheme as i32,
        addresses: vec![pb::Address { host: address.ip().to_string(), port: i32::from(address.port()) }],
    }
}

/// An error unless the code is OK.
///
/// # Errors
///
/// Any other code, by name, with its message.
pub fn check(status: Option<&pb::Status>) -> Result<()> {
    let status = status.context("an answer without status")?;
    let code = pb::Code::try_from(status.code).map(|code| code.as_str_name()).unwrap_or("an unknown code");
    ensure!(status.code == pb::Code::Ok as i32, "{code}: {}", status.message);
    Ok(())
}
