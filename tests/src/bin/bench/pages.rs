//! How long the dashboard's pages take when a cluster has many topics.

use std::time::{Duration, Instant};

use anyhow::Result;
use raftmq_proto::admin as pb;
use raftmq_tests::{
    browser::{Browser, Dashboard},
    cluster::{Cluster, Options},
};

use super::{Column, middle_and_longest, scale, thousands};

/// Topics of the cluster that is looked at.
const TOPICS: usize = 10_000;

/// Calls of each page that count.
const CALLS: usize = 20;

/// Until the dashboard has counted what it shows, after which it counts again and again by itself.
const SETTLED: Duration = Duration::from_secs(10);

pub async fn measure(column: &mut Column) -> Result<()> {
    column.name = "dashboard".into();
    let mut cluster = Cluster::start(Options::default()).await?;
    let topics: Vec<String> = (0..TOPICS).map(|number| format!("topic-{number:05}")).collect();
    let clients = scale::administration(&mut cluster).await?;
    scale::make(&clients, &topics, async |mut client, name| {
        let request = pb::PutTopicRequest { name, ..Default::default() };
        client.put_topic(request).await.map(drop)
    })
    .await?;
    column.put("topics", thousands(TOPICS as f64));
    let dashboard = Dashboard::start(&cluster, &[]).await?;
    let mut browser = dashboard.browser();
    tokio::time::sleep(SETTLED).await;
    let pages = [
        ("overview", "/"),
        ("topics, first page", "/topics"),
        ("topics, last page", "/topics?page=200"),
        ("topics that have 777 in their names", "/topics?q=777"),
        ("one topic", "/topic?name=topic-05000"),
        ("consumer groups", "/consumers"),
        ("cluster", "/cluster"),
    ];
    for (row, path) in pages {
        column.put(row, times(&mut browser, path).await?);
    }
    Ok(())
}

/// Median and longest of some calls.
async fn times(browser: &mut Browser, path: &str) -> Result<String> {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let started = Instant::now();
        browser.page(path).await?;
        times.push(started.elapsed());
    }
    let (middle, longest) = middle_and_longest(times);
    Ok(format!("p50 {:.0} ms, longest {:.0} ms", middle.as_secs_f64() * 1e3, longest.as_secs_f64() * 1e3))
}
