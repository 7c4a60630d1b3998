//! The dashboard in Chromium: every page light and dark, wide and as on a phone, checked by axe; a topic made with the
//! keyboard alone; a failover watched on a page that nobody loads anew. `RAFTMQ_SCREENSHOTS=FOLDER` keeps the pictures, and
//! `RAFTMQ_WRITE_DOCS=1` (`make pictures`) puts those that README shows into `docs/images`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use raftmq_tests::browser::Dashboard;
use raftmq_tests::client::{Consumer, Producer, eventually};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::root;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
/// Messages, so that charts and tables have something to show.
const SENT: u64 = 60;
/// Pages whose pictures README shows, wide and light.
const SHOWN: [&str; 3] = ["overview", "topic", "message"];
/// A picture of them has at most so many bytes: whoever clones the repository has them too.
const PICTURE_BYTES_MAX: u64 = 150 << 10;
/// So long is there traffic before they are taken, so that their charts show some.
const TRAFFIC_FOR: Duration = Duration::from_secs(90);
/// No run of the program takes longer, on two cores with other work.
const PATIENCE: Duration = Duration::from_secs(150);
/// Until a browser that is missing is fetched.
const FETCH: Duration = Duration::from_secs(600);

/// The program around Chromium; `None`, with a word, where there is none and none can be had.
async fn program() -> Result<Option<PathBuf>> {
    let script = root().join("scripts/browser.sh");
    let output =
        timeout(FETCH, Command::new(script).kill_on_drop(true).output()).await.context("fetching a browser")??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        eprintln!("SKIPPED: there is no browser here, and nothing was proved:\n{said}");
        return Ok(None);
    }
    Ok(Some(String::from_utf8(output.stdout)?.trim().into()))
}

/// A run of the program, and what it says.
struct Run {
    _process: Child,
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl Run {
    fn start(program: &Path, arguments: &[&str]) -> Result<Run> {
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("running {}", program.display()))?;
        let lines = BufReader::new(process.stdout.take().context("it is piped")?).lines();
        Ok(Run { _process: process, lines })
    }

    /// Waits for a word, and takes nothing else in its place.
    async fn word(&mut self, word: &str) -> Result<()> {
        let mut problems = String::new();
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await.with_context(|| format!("no {word}"))??;
            match line {
                Some(line) if line == word && problems.is_empty() => return Ok(()),
                Some(line) if line.starts_with("PROBLEM ") => problems += &format!("{line}\n"),
                Some(line) => bail!("{line} and not {word}\n{problems}"),
                None => bail!("it ended without {word}\n{problems}"),
            }
        }
    }
}

fn pictures_are_for_readme() -> bool {
    std::env::var_os("RAFTMQ_WRITE_DOCS").is_some()
}

/// Sends faster and slower by turns, and consumes most of it.
async fn traffic(producer: &Producer, consumer: &Consumer) -> Result<()> {
    let end = Instant::now() + TRAFFIC_FOR;
    for number in SENT.. {
        if Instant::now() > end {
            break;
        }
        let body = format!("{{\"order\":{number}}}").into();
        producer.send(TOPIC, &format!("B{number:015}"), Some("paid"), body).await?;
        if number % 8 == 0 {
            for delivery in consumer.receive(TOPIC, 8, Duration::from_secs(60), Duration::from_millis(100)).await? {
                consumer.ack(&delivery).await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(8 + 8 * (number / 400 % 4))).await;
    }
    Ok(())
}

/// Holds the pictures that README shows to their size, and keeps them where that is asked for.
fn keep_for_readme(kept: &Path) -> Result<()> {
    for name in SHOWN {
        let picture = kept.join(format!("{name}-light-1280.png"));
        let bytes = std::fs::metadata(&picture).with_context(|| picture.display().to_string())?.len();
        ensure!(bytes <= PICTURE_BYTES_MAX, "the picture of {name} has {bytes} bytes");
        if pictures_are_for_readme() {
            std::fs::copy(&picture, root().join(format!("docs/images/{name}.png")))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_can_use_every_page() -> Result<()> {
    let Some(program) = program().await? else { return Ok(()) };
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic(TOPIC, 4).await?;
    let dashboard = Dashboard::start(&cluster, &[]).await?;
    let base = format!("http://{}", dashboard.address);
    let producer = Producer::new(&cluster.access(0), &[TOPIC])?;
    let consumer = Consumer::new(&cluster.access(0), GROUP, TOPIC, "*", false)?;
    consumer.join(TOPIC).await;
    for number in 0..SENT {
        producer.send(TOPIC, &format!("B{number:015}"), Some("paid"), format!("{{\"order\":{number}}}").into()).await?;
    }
    for delivery in consumer.receive(TOPIC, 8, Duration::from_secs(60), Duration::from_secs(1)).await? {
        consumer.ack(&delivery).await?;
    }
    // Something to be seen on the pages of users and of delayed messages.
    cluster.put_topic("later", 1, Some("DELAY")).await?;
    let soon =
        (std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() + 3_600_000).to_string();
    let mut reader = dashboard.browser();
    let fields = [("topic", "later"), ("body", "in an hour"), ("deliver_at", soon.as_str())];
    reader.submit("/topic?name=later", "/topic/send", &fields).await?;
    reader.submit("/users", "/user/create", &[("name", "alice"), ("secret", "hush-hush"), ("admin", "false")]).await?;
    let rule = [
        ("user", "alice"),
        ("resource", "Topic:orders"),
        ("actions", "Pub"),
        ("decision", "Allow"),
        ("policy", "Custom"),
    ];
    reader.submit("/user?name=alice", "/acl/put", &rule).await?;
    if pictures_are_for_readme() {
        traffic(&producer, &consumer).await?;
    }
    let list = reader.page(&format!("/messages?topic={TOPIC}")).await?;
    let place = list.after("<a href=\"/message?").context("a message")?.replace("&amp;", "&");
    eventually("the charts have lines", LEADER_WITHIN, async || {
        reader.page("/").await.is_ok_and(|page| page.text.matches("<polyline").count() > 12)
    })
    .await?;

    let kept = std::env::var_os("RAFTMQ_SCREENSHOTS").map_or_else(|| cluster.dir().to_owned(), PathBuf::from);
    let kept = kept.to_str().context("a path of ours is text")?;
    let (topic, consumer_page) = (format!("/topic?name={TOPIC}"), format!("/consumer?name={GROUP}"));
    let message = format!("/message?{place}");
    let node = format!("/node?address={}", cluster.nodes[0].admin);
    let pages = [
        "/",
        "/cluster",
        &node,
        "/topics",
        &topic,
        "/consumers",
        &consumer_page,
        "/producers",
        "/messages?topic=orders",
        &message,
        "/dead-letters",
        "/delayed",
        "/transactions",
        "/users",
        "/user?name=alice",
        "/login",
    ];
    Run::start(&program, &[&["look", &base, kept], &pages[..]].concat())?.word("DONE look").await?;
    keep_for_readme(Path::new(kept))?;
    Run::start(&program, &["act", &base])?.word("DONE act").await?;
    ensure!(cluster.stored("by-keyboard").await? == Some(1));

    let leader = cluster.leader(0).await?;
    let mut watch = Run::start(&program, &["watch", &base, &cluster.nodes[leader].label])?;
    watch.word("READY").await?;
    cluster.kill(leader);
    watch.word("SEEN").await?;
    watch.word("DONE watch").await
}
