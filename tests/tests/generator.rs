//! The load generator against a server that is right for sure: what it counts is what was answered.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use raftmq_tests::{
    cluster::free_port,
    do_nothing,
    load::{self, Pool, Target},
};

#[tokio::test]
async fn it_counts_what_is_answered() -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    tokio::spawn(do_nothing::serve(address));
    let mut connected = Target::connect(address, "topic", 3).await;
    for _ in 0..100 {
        if connected.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        connected = Target::connect(address, "topic", 3).await;
    }
    let target = connected?;
    // More calls than a connection may have under way, and requests of several frames.
    for (in_flight, per_call, body) in [(1, 1, 10), (2_000, 1, 1_000), (64, 16, 4_000)] {
        let pool = Pool::new("topic", body, per_call);
        let figures = load::send(&target, &pool, in_flight, Duration::from_millis(500)).await?;
        ensure!(figures.failures == 0, "{in_flight} × {per_call}: {:?}", figures.first_failure);
        ensure!(figures.messages >= (in_flight * per_call) as u64, "{} messages", figures.messages);
        let calls = figures.latency_us.len();
        ensure!(figures.messages == calls * per_call as u64, "{calls} calls, {} messages", figures.messages);
    }
    // What it does not serve is a failure and not silence.
    ensure!(load::join_group(&target, "group").await.is_err(), "a refused receive was taken for an empty one");
    Ok(())
}
