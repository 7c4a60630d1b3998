//! What is written to disk, and kept in memory, for all that a message may have: its tag, keys and properties, its place in
//! the window of idempotent sends, its leases and acknowledgements with their trace.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use raftmq_proto::rocketmq as pb;
use raftmq_tests::{
    client::eventually,
    cluster::{Cluster, LEADER_WITHIN},
    load::{self, Pool, Receivers, Target},
};

use super::bounded::{self, Taken, mean};
use super::{Column, Run, TOPIC, pids, thousands};

/// Small ones: what is written for the bodies is the same with the window and without it.
const WINDOW_BODY: usize = 64;

/// The window's default, in ms.
const WINDOW_MS: u64 = 600_000;

const DISK_RATIO_MAX: f64 = 1.3;

const PER_CALL: usize = 16;

/// Receiving is over when all was received, or else after this time for each gigabyte of bodies, and one more.
const RECEIVED_WITHIN: Duration = Duration::from_secs(120);

/// The window of idempotent sends: the same sends with it and without it. As many as it remembers are sent, and then as
/// many again, each of which makes it forget one that has reached the disk: those are what disk bytes are told of.
pub async fn window(options: &Run, column: &mut Column) -> Result<()> {
    column.name = "RaftMQ ×3, SYNC_FLUSH, window of idempotent sends".into();
    let held = options.sizes.window_messages / PER_CALL * PER_CALL;
    ensure!(held > 0, "the window remembers {PER_CALL} messages at least");
    let (mut written, mut resident) = (Vec::new(), Vec::new());
    for window_ms in [WINDOW_MS, 0] {
        let settings = [("idempotentWindowMillis", window_ms), ("idempotentMessagesMax", held as u64)];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_string()));
        let (mut cluster, target) = bounded::start(None, settings.into()).await?;
        remembers(&cluster, &target, window_ms > 0).await?;
        let pids = pids(&mut cluster);
        let pool = Pool::new(TOPIC, WINDOW_BODY, PER_CALL);
        let idle = Taken::now(&pids)?;
        load::send_all(&target, pool.requests(held), PER_CALL, 256).await?;
        let full = Taken::at_rest(&pids).await?;
        load::send_all(&target, pool.requests(held), PER_CALL, 256).await?;
        let after = Taken::at_rest(&pids).await?;
        written.push(mean(&after.written_since(&full)) / held as f64);
        resident.push(mean(&after.grown_since(&idle)) / held as f64);
    }
    let text = |bytes: &[f64]| format!("{:.1} ({:.1} with it, {:.1} without)", bytes[0] - bytes[1], bytes[0], bytes[1]);
    column.put("messages that the window remembers", thousands(held as f64));
    column.put("disk bytes a message sent, of the window", text(&written));
    column.put("resident memory a message remembered, of the window, in bytes", text(&resident));
    Ok(())
}

/// Waits until a message that is sent again is stored once, or twice.
async fn remembers(cluster: &Cluster, target: &Target, once: bool) -> Result<()> {
    let pool = Pool::new(TOPIC, WINDOW_BODY, 1);
    eventually("the window is as it was configured", LEADER_WITHIN, async || {
        let Ok(Some(before)) = cluster.stored(TOPIC).await else { return false };
        let request = pool.request(0);
        if load::send_all(target, [request.clone(), request].into_iter(), 1, 1).await.is_err() {
            return false;
        }
        // The node that is asked may be a little behind.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let stored = if once { 1 } else { 2 };
        cluster.stored(TOPIC).await.is_ok_and(|after| after == Some(before + stored))
    })
    .await
}

/// Sends, then receives all of it: bytes written for each byte of body.
pub async fn disk(options: &Run, column: &mut Column) -> Result<()> {
    column.name = "RaftMQ ×3, SYNC_FLUSH, messages with all they may have".into();
    let (mut cluster, target) = bounded::start(None, Vec::new()).await?;
    let pids = pids(&mut cluster);
    let described = |number: usize, message: &mut pb::Message| {
        let system = message.system_properties.get_or_insert_default();
        // A key of its own for each message.
        system.keys = vec![format!("order-{}", system.message_id)];
        system.tag = Some(format!("tag-{}", number % 8));
        let properties = [("region", "eu-west-1"), ("kind", "invoice"), ("customer", "0123456789")];
        message.user_properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    };
    let ratios = |after: &Taken, before: &Taken, bodies: f64| {
        let ratios = after.written_since(before).into_iter().map(|bytes| format!("{:.2}", bytes / bodies));
        format!("{} (of {:.2} GB", ratios.collect::<Vec<_>>().join(" / "), bodies / 1e9)
    };
    let topics = [TOPIC.to_owned()];
    let runs = [
        ("disk bytes a body byte, sends, 16 messages a call, 1,024 in flight", 1_024, PER_CALL, options.disk_gb * 1e9),
        ("disk bytes a body byte, sends, one call at a time", 1, 1, 1.0),
    ];
    let (mut before, mut sent) = (Taken::now(&pids)?, 0);
    for (row, in_flight, per_call, least) in runs {
        let pool = Pool::made(&topics, options.body, per_call, 4_096, described);
        let mut bodies = 0.0;
        while bodies < least {
            let figures = load::send(&target, &pool, in_flight, Duration::from_secs(2)).await?;
            bodies += figures.messages as f64 * options.body as f64;
            sent += figures.messages;
        }
        let after = Taken::at_rest(&pids).await?;
        let wanted = if per_call > 1 { format!("; wanted ≤ {DISK_RATIO_MAX})") } else { ")".into() };
        column.put(row, ratios(&after, &before, bodies) + &wanted);
        before = after;
    }
    let receivers = Receivers { group: "bench-all".into(), consumers: 32, batch: 32 };
    let started = Instant::now();
    let limit = RECEIVED_WITHIN.mul_f64(1.0 + options.disk_gb);
    let figures = load::receive(&target, &receivers, limit).await?;
    let bodies = figures.messages as f64 * options.body as f64;
    let text = ratios(&Taken::at_rest(&pids).await?, &before, bodies);
    column.put("disk bytes a body byte, receives and acknowledgements", text + ")");
    eprintln!("{} of {sent} acknowledged in {:.0} s", figures.messages, started.elapsed().as_secs_f64());
    Ok(())
}
