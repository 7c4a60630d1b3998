//! Messages that are in no queue yet have a page of their own, with all that is known of them and what is to come.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use raftmq_proto::rocketmq as pb;
use raftmq_tests::browser::{Answer, Browser};
use raftmq_tests::client::{Producer, eventually, message};
use raftmq_tests::cluster::Cluster;

use super::{SHOWN_WITHIN, has};

/// Where the first link to a message that waits leads.
fn link(list: &Answer) -> Result<String> {
    let place = list.after("<a href=\"/waiting?").context("a link")?;
    Ok(format!("/waiting?{}", place.replace("&amp;", "&")))
}

pub(super) async fn in_full(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    delayed(browser, cluster).await?;
    half(browser, cluster).await
}

async fn delayed(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    let topic = "reminders";
    cluster.put_topic(topic, 1, Some("DELAY")).await?;
    let page = format!("/topic?name={topic}");
    let at = SystemTime::now() + Duration::from_secs(3_600);
    let ms = at.duration_since(SystemTime::UNIX_EPOCH)?.as_millis().to_string();
    let fields = [
        ("topic", topic),
        ("type", "DELAY"),
        ("body", "{\"call\":\"<b>back</b>\"}"),
        ("deliver_at", &ms),
        ("tag", "soon"),
        ("keys", "k-1 k-2"),
        ("properties", "colour=blue\nshape=\"><img>"),
    ];
    has(&browser.submit(&page, "/topic/send", &fields).await?, &["Message stored", "Recall handle"])?;
    let place = link(&browser.page(&format!("/delayed?topic={topic}")).await?)?;
    let shown = browser.page(&place).await?;
    has(&shown, &["JSON", "&lt;b&gt;back&lt;/b&gt;", "soon", "k-1 k-2", "colour blue", "DELAY", "dashboard"])?;
    ensure!(!shown.text.contains("<img") && !shown.text.contains("<b>"), "what the cluster says is escaped");
    // Its place is not known yet, which is not queue 0.
    has(&shown, &["Queue and offset RaftNode00 · –", "made by its producer", "stored Log index", "due In "])?;
    let until = |unit: &str| shown.words().contains(&format!("due In 59 {unit}"));
    ensure!(until("min") || shown.words().contains("due In 60 min"), "{}", shown.words());
    let handle = shown.after("name=\"handle\" value=\"").context("a form to take it back")?.to_owned();
    let fields = [("topic", topic), ("handle", handle.as_str())];
    has(&browser.submit("/delayed", "/delayed/recall", &fields).await?, &["Taken back"])?;
    let gone = browser.get(&place).await?;
    ensure!(gone.status == 404 && gone.words().contains("It does not wait any more"), "{}", gone.words());

    // Once it is delivered, its life has the time at which it was due.
    let mut soon = message(topic, "A0000000000000D1", None, "now".into());
    let system = soon.system_properties.get_or_insert_default();
    system.message_type = pb::MessageType::Delay.into();
    system.delivery_timestamp = Some((SystemTime::now() + Duration::from_secs(1)).into());
    Producer::new(&cluster.access(0), &[topic])?.send_messages(topic, vec![soon]).await?;
    eventually("it is delivered", SHOWN_WITHIN, async || cluster.stored(topic).await.is_ok_and(|it| it == Some(1)))
        .await?;
    let list = browser.page(&format!("/messages?topic={topic}")).await?;
    let place = list.after("<a href=\"/message?").context("a link")?.replace("&amp;", "&");
    let words = browser.page(&format!("/message?{place}")).await?.words();
    let life = words.split("What was done to it").nth(1).context("its life")?;
    let (due, visible) = (life.find(" due "), life.find("visible: due, or committed"));
    ensure!(due.is_some() && due < visible, "{life}");
    Ok(())
}

async fn half(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    let topic = "payments";
    cluster.put_topic(topic, 1, Some("TRANSACTION")).await?;
    let mut half = message(topic, "A0000000000000E1", Some("card"), "{\"euro\":5}".into());
    half.user_properties.insert("bank".to_owned(), "north".to_owned());
    half.system_properties.get_or_insert_default().message_type = pb::MessageType::Transaction.into();
    let producer = Producer::new(&cluster.access(0), &[topic])?;
    producer.send_messages(topic, vec![half]).await?;
    let place = link(&browser.page(&format!("/transactions?q={topic}")).await?)?;
    let shown = browser.page(&place).await?;
    has(&shown, &["&quot;euro&quot;: 5", "bank north", "card", "TRANSACTION", "Queue and offset RaftNode00 · –"])?;
    has(&shown, &["– producers were asked 0 / 15", "nobody is asked after this In "])?;
    let id = shown.after("name=\"id\" value=\"").context("a form to end it")?.to_owned();
    let end = [("group", "RaftNode00"), ("topic", topic), ("id", id.as_str()), ("commit", "true")];
    has(&browser.submit("/transactions", "/transactions/end", &end).await?, &[&format!("{id}: committed")])?;
    ensure!(cluster.stored(topic).await? == Some(1));
    ensure!(browser.get(&place).await?.status == 404);
    Ok(())
}
