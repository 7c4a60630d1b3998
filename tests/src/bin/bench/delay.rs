//! How late delayed messages come, and what many of them that are due at once cost those who send meanwhile.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use raftmq_proto::rocketmq as pb;
use raftmq_tests::{
    cluster::Cluster,
    load::{self, Fate, Pool, Receivers, Target},
};
use rand::RngExt;

use super::{CONNECTIONS, Column, Run, bounded, thousands};

/// Where messages go that are not delayed.
const PLAIN: &str = "bench-plain";

const GROUP: &str = "bench-delayed";

/// Messages of a call, and calls under way, that are sent ahead.
const PER_CALL: usize = 16;
const IN_FLIGHT: usize = 256;

/// Messages that say how fast such messages are sent.
const TRIED: usize = 32_000;
const A_DAY: Duration = Duration::from_secs(86_400);

/// What is sent ahead is stored so long before the first of it is due.
const AHEAD: Duration = Duration::from_secs(3);

/// Lone messages a second beside those that become due.
const PLAIN_RATE: u32 = 1_000;

/// What does not come within this time after the last was due does not come.
const COMES: Duration = Duration::from_secs(60);

const LATENESS_MS_MAX: f64 = 20.0;
const AT_ONCE_RATIO_MAX: f64 = 3.0;

pub async fn measure(options: &Run, column: &mut Column) -> Result<()> {
    column.name = "RaftMQ ×3, SYNC_FLUSH, delayed messages".into();
    let (cluster, target) = bounded::start(Some("DELAY"), Vec::new()).await?;
    // What a process does once, it does before the clock starts.
    sent_at(&target, options.body, TRIED, |_| now() + A_DAY).await?;
    let rate = TRIED as f64 / sent_at(&target, options.body, TRIED, |_| now() + A_DAY).await?.as_secs_f64();
    column.put("delayed messages sent, 16 a call, 256 in flight", format!("{} /s", thousands(rate)));
    // A new consumer group begins with the oldest message that is visible.
    load::join_group(&target, GROUP).await?;
    lateness(options, &target, rate, column).await?;
    at_once(options, &cluster, rate, column).await
}

/// Since the Unix epoch: what delivery times are counted in, and this machine's one clock.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Sends so many delayed messages, each with its delivery time, which is in its body too; how long it took.
async fn sent_at(target: &Target, body: usize, messages: usize, at: impl Fn(usize) -> Duration) -> Result<Duration> {
    let mut random = rand::rng();
    let run: u32 = random.random();
    let requests = (0..messages.div_ceil(PER_CALL)).map(|request| {
        let numbers = request * PER_CALL..(request + 1) * PER_CALL;
        let messages = numbers.map(|number| {
            let mut body = vec![0; body.max(8)];
            random.fill(&mut body[..]);
            body[..8].copy_from_slice(&millis(at(number)).to_be_bytes());
            let mut message = load::message(&target.topic, format!("D{run:08X}{number:012X}"), body.into());
            delay(&mut message, at(number));
            message
        });
        load::frame(&pb::SendMessageRequest { messages: messages.collect() })
    });
    Ok(load::send_all(target, requests, PER_CALL, IN_FLIGHT).await?.elapsed)
}

fn delay(message: &mut pb::Message, at: Duration) {
    let system = message.system_properties.get_or_insert_default();
    system.message_type = pb::MessageType::Delay.into();
    let (seconds, nanos) = (at.as_secs() as i64, (at.subsec_millis() * 1_000_000) as i32);
    system.delivery_timestamp = Some(prost_types::Timestamp { seconds, nanos });
}

/// Delivery times are whole ms.
fn millis(at: Duration) -> u64 {
    at.as_secs() * 1_000 + u64::from(at.subsec_millis())
}

/// Messages that become due evenly, from their delivery time to their receipt.
async fn lateness(options: &Run, target: &Target, rate: f64, column: &mut Column) -> Result<()> {
    let due_rate = options.sizes.due_rate.max(1);
    let messages = (u64::from(due_rate) * options.seconds) as usize / PER_CALL * PER_CALL;
    // Half as long again as sending them should take.
    let first = now() + AHEAD + Duration::from_secs_f64(1.5 * messages as f64 / rate);
    let at = |number: usize| first + Duration::from_secs(1) * number as u32 / due_rate;
    sent_at(target, options.body, messages, at).await?;
    ensure!(now() < first, "sending took longer than it should have, and some became due meanwhile");

    let late_us = RefCell::new(Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?);
    let (received, early) = (Cell::new(0_usize), Cell::new(0_usize));
    let seen = |message: &pb::Message| {
        let now_us = now().as_micros() as u64;
        if let Some(at_ms) = message.body.first_chunk::<8>() {
            let at_us = u64::from_be_bytes(*at_ms) * 1_000;
            received.set(received.get() + 1);
            early.set(early.get() + usize::from(now_us < at_us));
            late_us.borrow_mut().saturating_record(now_us.saturating_sub(at_us));
        }
        Fate::Done
    };
    let ends = at(messages) + COMES;
    let over = || received.get() >= messages || now() > ends;
    let receivers = Receivers { group: GROUP.into(), consumers: 32, batch: 32 };
    let settled = load::consume(target, &receivers, None, over, seen).await;
    if let Some(failure) = settled.first_failure {
        eprintln!("{} calls failed: {failure}", settled.failures);
    }
    let late_us = late_us.into_inner();
    let millis = |quantile| late_us.value_at_quantile(quantile) as f64 / 1e3;
    let due = thousands(f64::from(due_rate));
    let text = format!(
        "{due} /s for {} s: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms (wanted p99 ≤ {LATENESS_MS_MAX} ms at 10,000 /s)",
        options.seconds,
        millis(0.5),
        millis(0.99),
        millis(1.0),
    );
    column.put("from the delivery time to the receipt", text);
    let messages = thousands(messages as f64);
    column.put("received of these", format!("{} of {messages} (wanted all)", thousands(received.get() as f64)));
    column.put("received before their time", format!("{} of {messages} (wanted 0)", early.get()));
    Ok(())
}

/// Very many that become due at one instant, beside those who send.
async fn at_once(options: &Run, cluster: &Cluster, rate: f64, column: &mut Column) -> Result<()> {
    const AT_ONCE: &str = "bench-at-once";
    cluster.put_topic(AT_ONCE, 8, Some("DELAY")).await?;
    cluster.put_topic(PLAIN, 8, None).await?;
    let plain = Target::connect(cluster.nodes[0].grpc, PLAIN, CONNECTIONS).await?;
    let target = Target::connect(cluster.nodes[0].grpc, AT_ONCE, CONNECTIONS).await?;
    let messages = options.sizes.due_at_once / PER_CALL * PER_CALL;
    let duration = Duration::from_secs(options.seconds);
    let ahead = AHEAD + duration + Duration::from_secs_f64(1.5 * messages as f64 / rate);
    let at = now() + ahead;
    let due = Instant::now() + ahead;
    let pool = Pool::made(&[AT_ONCE.to_owned()], options.body, PER_CALL, 4_096, |_, message| delay(message, at));
    load::send_all(&target, pool.requests(messages), PER_CALL, IN_FLIGHT).await?;
    let begins = due - duration - Duration::from_secs(1);
    ensure!(Instant::now() < begins, "sending took longer than it should have, and they become due");

    let lone = Pool::new(PLAIN, options.body, 1);
    let pace = async |goes_on: &dyn Fn() -> bool| {
        load::send_paced(&plain, PLAIN_RATE, goes_on, |number| lone.request(number)).await
    };
    tokio::time::sleep_until(begins.into()).await;
    let ends = due - Duration::from_millis(500);
    let before = pace(&|| Instant::now() < ends).await;
    tokio::time::sleep_until(due.into()).await;
    let visible = Cell::new(0_u64);
    let limit = due + 2 * COMES;
    let goes_on = || visible.get() < messages as u64 && Instant::now() < limit;
    let count = async {
        while goes_on() {
            // A node that is too busy to answer is asked again.
            if let Ok(Some(stored)) = cluster.stored(AT_ONCE).await {
                visible.set(stored);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        due.elapsed()
    };
    let (took, while_due) = futures::join!(count, pace(&goes_on));
    column.put(
        "due at one instant, lone sends of 1,000 /s beside it",
        format!("{}: {}", thousands(messages as f64), bounded::beside(&before, &while_due, AT_ONCE_RATIO_MAX)),
    );
    let seconds = took.as_secs_f64();
    let per_second = thousands(visible.get() as f64 / seconds.max(1e-9));
    let visible = thousands(visible.get() as f64);
    column.put("until they are visible", format!("{seconds:.2} s for {visible} ({per_second} /s)"));
    Ok(())
}
