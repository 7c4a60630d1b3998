//! Sends at a pace of their own and receives beside them: how long a message takes, whatever else goes on meanwhile.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream, stream::FuturesUnordered};
use raftmq_proto::rocketmq as pb;
use rand::RngExt;

use super::{
    ACK, CHANGE_INVISIBLE, Call, Figures, Receivers, SEND, Target, Wire, ack_one, ack_request, check, frame, message,
    next_message, receive_filtered, resource, send_one,
};

/// After a call that failed.
const PAUSE: Duration = Duration::from_millis(20);

/// What a consumer does with a message.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// It acknowledges it.
    Done,
    /// It gives it back, to be had again after this time.
    Again(Duration),
}

/// Sends `rate` requests a second of one message each, which are made by their numbers, as long as `goes_on` says so and
/// whether or not answers come. Latency is that of the calls.
pub async fn send_paced(
    target: &Target,
    rate: u32,
    goes_on: impl Fn() -> bool,
    make: impl Fn(usize) -> Bytes,
) -> Figures {
    let calls: Vec<Call> = target.wires.iter().map(|wire| wire.call_of(SEND, 30)).collect();
    let started = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    let mut sends = FuturesUnordered::new();
    let mut figures = Figures::new();
    let mut number = 0_usize;
    while goes_on() {
        tokio::select! {
            _ = ticks.tick() => {
                let called = Instant::now();
                let request = make(number);
                let (wire, call) = (&target.wires[number % calls.len()], &calls[number % calls.len()]);
                number += 1;
                sends.push(async move { (called, send_one(wire, call, request, 1).await) });
            }
            Some((called, outcome)) = sends.next() => figures.record(called, outcome),
        }
    }
    while let Some((called, outcome)) = sends.next().await {
        figures.record(called, outcome);
    }
    figures.elapsed = started.elapsed();
    figures
}

/// Sends all of `requests`, with `per_call` messages in each, as fast as answers come with `in_flight` calls under way.
///
/// # Errors
///
/// A call was not answered OK.
pub async fn send_all(
    target: &Target,
    requests: impl Iterator<Item = Bytes>,
    per_call: usize,
    in_flight: usize,
) -> Result<Figures> {
    let calls: Vec<Call> = target.wires.iter().map(|wire| wire.call_of(SEND, 30)).collect();
    let started = Instant::now();
    let mut answers = stream::iter(requests.enumerate())
        .map(|(number, request)| {
            let called = Instant::now();
            let (wire, call) = (&target.wires[number % calls.len()], &calls[number % calls.len()]);
            async move { (called, send_one(wire, call, request, per_call).await) }
        })
        .buffer_unordered(in_flight);
    let mut figures = Figures::new();
    while let Some((called, outcome)) = answers.next().await {
        figures.record(called, Ok(outcome?));
    }
    figures.elapsed = started.elapsed();
    Ok(figures)
}

/// Receives until `over` says so, all messages or those that a filter takes, and does with each what `seen` says.
/// Latency is that of the calls that do it. A poll under way is waited for, which takes 5 s at most.
pub async fn consume(
    target: &Target,
    receivers: &Receivers,
    filter: Option<&pb::FilterExpression>,
    over: impl Fn() -> bool,
    seen: impl Fn(&pb::Message) -> Fate,
) -> Figures {
    let (over, seen) = (&over, &seen);
    let consumers = (0..receivers.consumers).map(|consumer| async move {
        let mut figures = Figures::new();
        let mut round = consumer;
        while !over() {
            let queue = round % target.queues.len();
            round += 1;
            let called = Instant::now();
            let messages = match receive_filtered(target, receivers, filter, queue).await {
                Ok(messages) => messages,
                Err(failure) => {
                    figures.record(called, Err(failure));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let wire = &target.wires[queue];
            let (ack, give_back) = (wire.call_of(ACK, 10), wire.call_of(CHANGE_INVISIBLE, 10));
            let (ack, give_back) = (&ack, &give_back);
            let settled: FuturesUnordered<_> = messages
                .into_iter()
                .map(|message| {
                    let (fate, called) = (seen(&message), Instant::now());
                    async move {
                        let outcome = match fate {
                            Fate::Done => {
                                let request = ack_request(&receivers.group, &target.topic, message);
                                ack_one(wire, ack, request).await
                            }
                            Fate::Again(after) => {
                                let request = give_back_request(&receivers.group, &target.topic, message, after);
                                give_back_one(wire, give_back, request).await
                            }
                        };
                        (called, outcome)
                    }
                })
                .collect();
            for (called, outcome) in settled.collect::<Vec<_>>().await {
                figures.record(called, outcome);
            }
        }
        figures
    });
    let started = Instant::now();
    let mut figures = Figures::new();
    for consumer in futures::future::join_all(consumers).await {
        figures.merge(consumer);
    }
    figures.elapsed = started.elapsed();
    figures
}

fn give_back_request(group: &str, topic: &str, message: pb::Message, after: Duration) -> Bytes {
    let properties = message.system_properties.unwrap_or_default();
    frame(&pb::ChangeInvisibleDurationRequest {
        group: Some(resource(group)),
        topic: Some(resource(topic)),
        receipt_handle: properties.receipt_handle.unwrap_or_default(),
        invisible_duration: Some(crate::client::duration(after)),
        message_id: properties.message_id,
        ..Default::default()
    })
}

async fn give_back_one(wire: &Wire, call: &Call, request: Bytes) -> Result<u64> {
    let mut frames = wire.call(call, request).await?;
    let response: pb::ChangeInvisibleDurationResponse = next_message(&mut frames)?.context("an empty answer")?;
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
    let end = Instant::now() + duration;
    latency_while(target, group, rate, || Instant::now() < end, |_, _| {}, |_| None).await
}

/// As [`latency`], as long as `goes_on` says so, with messages of a form that `made` gives them by their numbers.
/// Where `apart` says what is done with a message, it does not count; all others are acknowledged.
///
/// # Errors
///
/// As [`latency`].
pub async fn latency_while(
    target: &Target,
    group: &str,
    rate: u32,
    goes_on: impl Fn() -> bool,
    made: impl Fn(usize, &mut pb::Message),
    apart: impl Fn(&pb::Message) -> Option<Fate>,
) -> Result<Figures> {
    let (zero, prefix) = (Instant::now(), format!("L{:08X}", rand::rng().random::<u32>()));
    let done = Cell::new(false);
    let received = RefCell::new(Figures::new());
    let receivers = Receivers { group: group.to_string(), consumers: 8, batch: 32 };
    let seen = |message: &pb::Message| {
        let fate = apart(message);
        // What somebody else sent bears no time of this run.
        let ours = message.system_properties.as_ref().is_some_and(|it| it.message_id.starts_with(&prefix));
        if let (None, true, Some(stamp)) = (fate, ours, message.body.first_chunk::<8>()) {
            let took = (zero.elapsed().as_nanos() as u64).saturating_sub(u64::from_be_bytes(*stamp));
            let mut received = received.borrow_mut();
            received.messages += 1;
            received.latency_us.saturating_record(took / 1000);
        }
        fate.unwrap_or(Fate::Done)
    };
    let make = |number| {
        let mut body = vec![0; 1024];
        body[..8].copy_from_slice(&(zero.elapsed().as_nanos() as u64).to_be_bytes());
        let mut message = message(&target.topic, format!("{prefix}{number:012X}"), body.into());
        made(number, &mut message);
        frame(&pb::SendMessageRequest { messages: vec![message] })
    };
    let produce = async {
        let sent = send_paced(target, rate, goes_on, make).await;
        // What was sent last is on its way; the polls end by themselves.
        tokio::time::sleep(Duration::from_millis(500)).await;
        done.set(true);
        sent
    };
    let (sent, settled) = futures::join!(produce, consume(target, &receivers, None, || done.get(), seen));
    let mut figures = received.into_inner();
    figures.failures = sent.failures + settled.failures;
    figures.first_failure = sent.first_failure.or(settled.first_failure);
    figures.elapsed = sent.elapsed;
    ensure!(figures.messages > 0, "nothing was received: {}", figures.first_failure.unwrap_or_default());
    Ok(figures)
}
