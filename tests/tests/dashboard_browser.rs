//! The dashboard in Chromium: every page light and dark, wide and as on a phone, checked by axe, also in Chinese and for
//! who may only look; a topic made with the keyboard alone; everything that pages offer to do, done once with the mouse;
//! a failover watched on a page that nobody loads anew. `RAFTMQ_SCREENSHOTS=FOLDER` keeps the pictures, and
//! `RAFTMQ_WRITE_DOCS=1` (`make pictures`) puts those that README shows into `docs/images`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use raftmq_proto::rocketmq as pb;
use raftmq_proto::signature::Credentials;
use raftmq_tests::browser::{Browser, Dashboard};
use raftmq_tests::client::{Consumer, Producer, eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::root;
use raftmq_tests::session::Session;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
const DELAYED: &str = "later";
/// A topic of transactions, and the consumer group that gave some of its messages up.
const LOST: &str = "parcels";
const LETTERS: &str = "returns";
/// Messages, so that charts and tables have something to show.
const SENT: u64 = 60;
/// Pages whose pictures README shows, wide and light.
const SHOWN: [&str; 3] = ["overview", "topic", "message"];
/// A picture of them has at most so many bytes: whoever clones the repository has them too.
const PICTURE_BYTES_MAX: u64 = 150 << 10;
/// So long is there traffic before they are taken, so that their charts show some.
const TRAFFIC_FOR: Duration = Duration::from_secs(90);
/// No run of the program takes longer, on two cores with other work.
const PATIENCE: Duration = Duration::from_secs(300);
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

/// What the pages of dead letters, delayed messages and transactions show, and those of users.
async fn fill(cluster: &Cluster, reader: &mut Browser) -> Result<()> {
    for number in 0..3 {
        let soon = SystemTime::now() + Duration::from_secs(3_600 + number);
        let ms = soon.duration_since(SystemTime::UNIX_EPOCH)?.as_millis().to_string();
        let fields = [("topic", DELAYED), ("type", "DELAY"), ("body", "in an hour"), ("deliver_at", ms.as_str())];
        reader.submit(&format!("/topic?name={DELAYED}"), "/topic/send", &fields).await?;
    }
    let access = cluster.access(0);
    cluster.put_topic(LOST, 1, Some("TRANSACTION")).await?;
    cluster.put_consumer_group(LETTERS, false, Some(0)).await?;
    let producer = Producer::new(&access, &[LOST])?;
    let consumer = Session::consumer(access[0], LETTERS, LOST).await?;
    for number in 0..4 {
        let mut half = message(LOST, &format!("C{number:015}"), Some("paid"), format!("half {number}").into());
        half.system_properties.get_or_insert_default().message_type = pb::MessageType::Transaction.into();
        let sent = producer.send_messages(LOST, vec![half]).await?;
        // Two become dead letters, and two stay open.
        if number < 2 {
            producer.end(LOST, &sent.entries[0], true).await?;
            let message = consumer.next(LETTERS, LOST, LEADER_WITHIN).await?;
            consumer.give_up(LETTERS, &message).await?;
        }
    }
    reader.submit("/users", "/user/create", &[("name", "alice"), ("secret", "hush-hush"), ("admin", "false")]).await?;
    let rule = [
        ("user", "alice"),
        ("resource", "Topic:orders"),
        ("actions", "Pub"),
        ("decision", "Allow"),
        ("policy", "Custom"),
    ];
    reader.submit("/user?name=alice", "/acl/put", &rule).await?;
    Ok(())
}

/// The first place on a page that begins so.
async fn link(reader: &mut Browser, on: &str, start: &str) -> Result<String> {
    let page = reader.page(on).await?;
    let rest = page.after(&format!("<a href=\"{start}")).with_context(|| format!("{on} has no link to {start}"))?;
    Ok(format!("{start}{}", rest.replace("&amp;", "&")))
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
    cluster.put_topic(DELAYED, 1, Some("DELAY")).await?;
    let mut reader = dashboard.browser();
    fill(&cluster, &mut reader).await?;
    if pictures_are_for_readme() {
        traffic(&producer, &consumer).await?;
    }
    eventually("the charts have lines", LEADER_WITHIN, async || {
        reader.page("/").await.is_ok_and(|page| page.text.matches("<polyline").count() > 12)
    })
    .await?;

    let kept = std::env::var_os("RAFTMQ_SCREENSHOTS").map_or_else(|| cluster.dir().to_owned(), PathBuf::from);
    let kept = kept.to_str().context("a path of ours is text")?;
    let (topic, consumer_page) = (format!("/topic?name={TOPIC}"), format!("/consumer?name={GROUP}"));
    let letters = format!("/dead-letters?group={LETTERS}");
    let node = format!("/node?address={}", cluster.nodes[0].admin);
    let message = link(&mut reader, &format!("/messages?topic={TOPIC}"), "/message?").await?;
    let letter = link(&mut reader, &letters, "/message?").await?;
    let waiting = link(&mut reader, "/delayed", "/waiting?").await?;
    let open = link(&mut reader, "/transactions", "/waiting?").await?;
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
        &letters,
        &letter,
        "/delayed",
        &waiting,
        "/transactions",
        &open,
        "/users",
        "/user?name=alice",
        "/login",
        "404 /topic?name=none",
        "404 /nothing",
        "502 /messages?topic=orders&by=id",
    ];
    Run::start(&program, &[&["look", &base, kept], &pages[..]].concat())?.word("DONE look").await?;
    keep_for_readme(Path::new(kept))?;
    let pages = ["/", "/cluster", &topic, &consumer_page, &message, &letters, &waiting, &open, "/user?name=alice"];
    let chinese = [&["look", &base, kept, "--language=zh-CN"], &pages[..]].concat();
    Run::start(&program, &chinese)?.word("DONE look").await?;

    Run::start(&program, &["act", &base])?.word("DONE act").await?;
    ensure!(cluster.stored("by-keyboard").await? == Some(1));
    clicked(&program, &base, &mut cluster).await?;

    let leader = cluster.leader(0).await?;
    let mut watch = Run::start(&program, &["watch", &base, &cluster.nodes[leader].label])?;
    watch.word("READY").await?;
    cluster.kill(leader);
    watch.word("SEEN").await?;
    watch.word("DONE watch").await?;
    cluster.start_node(leader)?;
    members(&program, &base, &mut cluster).await
}

/// Whatever pages offer to do, done once with the mouse.
async fn clicked(program: &Path, base: &str, cluster: &mut Cluster) -> Result<()> {
    let before = cluster.leader(0).await?;
    let facts = serde_json::json!({ "topic": TOPIC, "group": GROUP, "letters": LETTERS, "delayed": DELAYED });
    Run::start(program, &["click", base, &facts.to_string()])?.word("DONE click").await?;
    ensure!(cluster.leader(0).await? != before, "leadership was handed over");
    // Two that were committed before, one by hand, and three that were dead letters.
    ensure!(cluster.stored(LOST).await? == Some(6), "{:?}", cluster.stored(LOST).await?);
    ensure!(cluster.stored("clicked").await?.is_none() && cluster.stored(DELAYED).await? == Some(0));
    let output = cluster.mqadmin(&["consumerProgress", "-g", GROUP, "-t", TOPIC]).await?;
    ensure!(String::from_utf8_lossy(&output.stdout).contains("Diff Total: 0"), "what waited was skipped: {output:?}");
    Ok(())
}

/// A member goes, and comes back as an empty node that is admitted by the line that it logs.
async fn members(program: &Path, base: &str, cluster: &mut Cluster) -> Result<()> {
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let leader = cluster.leader(0).await?;
    let (goes, label) = ((leader + 1) % 3, cluster.nodes[(leader + 1) % 3].label.clone());
    Run::start(program, &["remove", base, &label])?.word("DONE remove").await?;
    ensure!(voters(cluster, leader).await? == 2);
    cluster.kill(goes);
    cluster.wipe(goes)?;
    cluster.start_node(goes)?;
    let line = |log: String| Some(log.get(log.rfind("mqadmin addPeer ")?..)?.lines().next()?.to_owned());
    eventually("the node says how to admit it", LEADER_WITHIN, async || line(cluster.log(goes)).is_some()).await?;
    let line = line(cluster.log(goes)).context("it was there")?;
    Run::start(program, &["admit", base, &line])?.word("DONE admit").await?;
    ensure!(voters(cluster, leader).await? == 3);
    Ok(())
}

async fn voters(cluster: &Cluster, node: usize) -> Result<usize> {
    Ok(cluster.status(node).await?.members.iter().filter(|member| member.voter).count())
}

/// Who only looks finds no form that changes something, and can use every page as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_who_signs_in_can_use_every_page() -> Result<()> {
    let Some(program) = program().await? else { return Ok(()) };
    let root = Credentials { access_key: "root".to_owned(), secret_key: "s3cret-of-root".to_owned() };
    let mut cluster = Cluster::start(Options { administrator: Some(root), ..Options::default() }).await?;
    cluster.create_topic(TOPIC, 2).await?;
    let own = ["accessKey=root", "secretKey=s3cret-of-root", "viewerUser=guest", "viewerPassword=look"];
    let dashboard = Dashboard::start(&cluster, &own).await?;
    let base = format!("http://{}", dashboard.address);
    let kept = cluster.dir().to_str().context("a path of ours is text")?.to_owned();
    let topic = format!("/topic?name={TOPIC}");
    let pages = ["/", "/cluster", "/topics", &topic, "/consumers", "/delayed", "/users", "/user?name=root"];
    let viewer = "--sign-in=guest:look";
    Run::start(&program, &[&["look", &base, &kept, viewer], &pages[..]].concat())?.word("DONE look").await?;
    let user = "--sign-in=root:s3cret-of-root";
    Run::start(&program, &["look", &base, &kept, user, "/topics", &topic])?.word("DONE look").await?;
    Run::start(&program, &["sign-out", &base, viewer])?.word("DONE sign-out").await
}
