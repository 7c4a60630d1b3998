//! Tables that may be long come in pages, each on its own; what a topic is given, and marks that are in force.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use raftmq_proto::admin::{AclRule, PutAclRequest};
use raftmq_tests::browser::Browser;
use raftmq_tests::client::{Consumer, Producer, eventually};
use raftmq_tests::cluster::Cluster;
use raftmq_tests::session::Session;

use super::{SHOWN_WITHIN, consume, has};

/// More than a page has.
const MANY: usize = 60;

/// Queues and consumers of a topic, clients and subscriptions of a consumer group, rules of a user.
pub(super) async fn in_pages(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    let topic = "wide";
    cluster.put_topic(topic, 120, None).await?;
    let access = cluster.access(0);
    let consumers: Vec<Consumer> = (0..MANY)
        .map(|number| Consumer::new(&access, &format!("watchers-{number:02}"), topic, "*", false))
        .collect::<Result<_>>()?;
    let page = format!("/topic?name={topic}");
    let (producer, mut sent) = (Producer::new(&access, &[topic])?, 0);
    eventually("every consumer group is shown", SHOWN_WITHIN, async || {
        // A consumer group has progress once it was given something, and not all of them get through in time at once.
        sent += 1;
        let _ = producer.send(topic, &format!("wide-{sent}"), None, "x".into()).await;
        futures::future::join_all(consumers.iter().map(|consumer| consumer.join(topic))).await;
        browser.page(&page).await.is_ok_and(|answer| answer.words().contains("1–50 / 60"))
    })
    .await?;
    let first = browser.page(&page).await?;
    has(&first, &["1–50 / 120", "RaftNode00 · 49 0 0 0 – –", "watchers-49"])?;
    ensure!(!first.words().contains("RaftNode00 · 50 ") && !first.words().contains("watchers-50"));
    // One table goes on, and the other stays where it is.
    let next = browser.page(&format!("{page}&queues=3&consumers=2")).await?;
    has(&next, &["101–120 / 120", "RaftNode00 · 119 ", "51–60 / 60", "watchers-59"])?;
    has(&browser.page(&format!("{page}&queues=3")).await?, &["RaftNode00 · 119 ", "watchers-00"])?;

    let group = "crowd";
    cluster.put_consumer_group(group, false, None).await?;
    let mut crowd = Vec::new();
    for number in 0..MANY {
        crowd.push(Session::consumer(access[0], group, &format!("many-{number:03}")).await?);
    }
    let page = format!("/consumer?name={group}");
    eventually("all clients are shown", SHOWN_WITHIN, async || {
        browser.page(&page).await.is_ok_and(|answer| answer.words().contains("Clients 60"))
    })
    .await?;
    let first = browser.page(&page).await?;
    has(&first, &["many-049 TAG * 1"])?;
    ensure!(first.words().matches("1–50 / 60").count() == 2, "{}", first.words());
    ensure!(!first.words().contains("many-050"));
    let next = browser.page(&format!("{page}&subscriptions=2&clients=2")).await?;
    has(&next, &["many-050 TAG * 1", "many-059"])?;
    ensure!(next.words().matches("GO 5.1.2").count() == 10, "{}", next.words());

    let fields = [("name", "gate-keeper"), ("secret", "k33p-secret"), ("admin", "false")];
    has(
        &browser.submit("/users", "/user/create", &fields).await?,
        &["gate-keeper Normal enabled unlimited unlimited"],
    )?;
    let rule = |number: usize| AclRule {
        policy: "Custom".to_owned(),
        resource: format!("Topic:many-{number:03}"),
        actions: vec!["Pub".to_owned()],
        sources: Vec::new(),
        decision: "Allow".to_owned(),
    };
    let request =
        PutAclRequest { subject: "User:gate-keeper".to_owned(), rules: (0..MANY).map(rule).collect(), update: false };
    let node = *cluster.running(0).first().context("a node runs")?;
    cluster.admin_client(node).await?.put_acl(request).await?;
    let page = "/user?name=gate-keeper";
    let first = browser.page(page).await?;
    has(&first, &["Topic:many-049", "1–50 / 60"])?;
    ensure!(!first.words().contains("Topic:many-050"));
    has(&browser.page(&format!("{page}&rules=2")).await?, &["Topic:many-059", "51–60 / 60"])
}

/// Marks of the disks are those that are in force, also after they are changed.
pub(super) async fn marks(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    let page = browser.page("/cluster").await?;
    has(&page, &["Disks", "Sends are refused with less free", "75 % never"])?;
    ensure!(page.text.contains("high=\"0.75\""));
    for (key, value) in
        [("diskMaxUsedSpaceRatio", "60"), ("diskSpaceCleanForciblyRatio", "91"), ("cleanFileForciblyEnable", "true")]
    {
        let output = cluster.mqadmin(&["updateBrokerConfig", "-c", "RaftCluster", "-k", key, "-v", value]).await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let page = browser.page("/cluster").await?;
    ensure!(page.words().matches("60 % 91 %").count() == 3, "{}", page.words());
    ensure!(page.text.contains("high=\"0.60\"") && !page.text.contains("high=\"0.75\""));
    Ok(())
}

/// What goes in and out of one topic in a second, and when its oldest message came.
pub(super) async fn rates(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    let (topic, group) = ("ticks", "tickers");
    cluster.put_topic(topic, 1, None).await?;
    let producer = Producer::new(&cluster.access(0), &[topic])?;
    let consumer = Consumer::new(&cluster.access(0), group, topic, "*", false)?;
    cluster.put_consumer_group(group, false, None).await?;
    let above_0 = |words: &str, name: &str| {
        let shown = words.split(&format!(" {name} ")).nth(1).and_then(|rest| rest.split("/s").next());
        shown.and_then(|shown| shown.trim().parse::<f64>().ok()).is_some_and(|rate| rate > 0.0)
    };
    let (mut sent, deadline) = (0, Instant::now() + 2 * SHOWN_WITHIN);
    let words = loop {
        producer.send(topic, &format!("A{sent:015}"), None, "tick".into()).await?;
        sent += 1;
        consume(&consumer, topic, 1).await?;
        let words = browser.page(&format!("/topic?name={topic}")).await?.words();
        let cards = words.split("Messages so far").next().unwrap_or_default();
        if above_0(cards, "In") && above_0(cards, "Out") {
            break words;
        }
        ensure!(Instant::now() < deadline, "{words}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let row = words.split(&format!("RaftNode00 · 0 0 {sent} {sent} ")).nth(1).context("its queue")?;
    let times: Vec<&str> = row.split(' ').take(4).collect();
    ensure!(times[0].starts_with("20") && (times[0], times[1]) < (times[2], times[3]), "{times:?}");
    // From the topic its consumer group can be moved.
    let page = browser.page(&format!("/topic?name={topic}")).await?;
    ensure!(page.text.contains(&format!("href=\"/consumer?name={group}&amp;topic={topic}#move\"")), "{}", page.text);
    let page = browser.page(&format!("/consumer?name={group}&topic={topic}")).await?;
    ensure!(page.text.contains("<details open") && page.text.contains(&format!("<option value=\"{topic}\" selected")));
    Ok(())
}

/// A test message of every type that a topic takes, by the form of its page.
pub(super) async fn test_messages(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    let all = [
        ("FIFO", ("message_group", "g"), "g"),
        ("PRIORITY", ("priority", "2"), "Priority 2"),
        ("LITE", ("lite_topic", "chat"), "chat"),
        ("TRANSACTION", ("keys", "k"), "k"),
    ];
    for (kind, (field, value), _) in all {
        let topic = format!("typed-{kind}");
        cluster.put_topic(&topic, 1, Some(kind)).await?;
        let page = format!("/topic?name={topic}");
        let form = browser.page(&page).await?;
        ensure!(
            form.text.contains(&format!("<option value=\"{kind}\">"))
                && form.text.contains(&format!("name=\"{field}\""))
        );
        let fields = [("topic", topic.as_str()), ("type", kind), ("body", "by hand"), (field, value)];
        has(&browser.submit(&page, "/topic/send", &fields).await?, &["Message stored: 01"])?;
        if kind == "LITE" {
            // It is in no queue of its topic, and how many there are is not known here.
            has(&browser.page(&page).await?, &["Messages so far –"])?;
            continue;
        }
        ensure!(cluster.stored(&topic).await? == Some(1), "{kind}");
    }
    for (kind, (field, ..), shown) in all.into_iter().filter(|(kind, ..)| *kind != "LITE") {
        let topic = format!("typed-{kind}");
        let list = browser.page(&format!("/messages?topic={topic}")).await?;
        let place = list.after("<a href=\"/message?").context("a link")?.replace("&amp;", "&");
        has(&browser.page(&format!("/message?{place}")).await?, &[kind, shown, "by hand"])?;
        if field != "keys" {
            let fields = [("topic", topic.as_str()), ("type", kind), ("body", "by hand")];
            has(
                &browser.submit(&format!("/topic?name={topic}"), "/topic/send", &fields).await?,
                &["Fill in for this type"],
            )?;
        }
    }
    has(&browser.page("/transactions?q=typed-TRANSACTION").await?, &["nothing"])
}
