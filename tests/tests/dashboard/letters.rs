//! Dead letters of topics of every type: sent again, each is what its topic takes, and its consumer gets it.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use raftmq_proto::rocketmq as pb;
use raftmq_tests::browser::Browser;
use raftmq_tests::client::{Producer, eventually, message};
use raftmq_tests::cluster::Cluster;
use raftmq_tests::load::resource;
use raftmq_tests::session::Session;

use super::{SHOWN_WITHIN, has};

const LITE_TOPIC: &str = "chat-7";

/// A topic made for messages of some type, and one of those that it takes.
struct Case {
    takes: &'static str,
    sent: pb::MessageType,
    mark: fn(&mut pb::SystemProperties),
}

const CASES: [Case; 6] = [
    Case { takes: "FIFO", sent: pb::MessageType::Fifo, mark: |it| it.message_group = Some("line-3".to_owned()) },
    Case { takes: "DELAY", sent: pb::MessageType::Delay, mark: soon },
    Case { takes: "TRANSACTION", sent: pb::MessageType::Transaction, mark: |_| () },
    Case { takes: "PRIORITY", sent: pb::MessageType::Priority, mark: |it| it.priority = Some(3) },
    Case { takes: "LITE", sent: pb::MessageType::Lite, mark: |it| it.lite_topic = Some(LITE_TOPIC.to_owned()) },
    Case { takes: "MIXED", sent: pb::MessageType::Delay, mark: soon },
];

fn soon(system: &mut pb::SystemProperties) {
    system.delivery_timestamp = Some((SystemTime::now() + Duration::from_secs(1)).into());
}

pub(super) async fn every_type(browser: &mut Browser, cluster: &Cluster) -> Result<()> {
    for case in CASES {
        again(browser, cluster, &case).await.with_context(|| format!("of a topic for {}", case.takes))?;
    }
    Ok(())
}

async fn again(browser: &mut Browser, cluster: &Cluster, case: &Case) -> Result<()> {
    let (topic, group) = (format!("letters-{}", case.takes), format!("readers-{}", case.takes));
    let (topic, group) = (topic.as_str(), group.as_str());
    let fields = [("name", topic), ("type", case.takes), ("read", "4"), ("write", "4"), ("permission", "6")];
    has(&browser.submit("/topics", "/topic/put", &fields).await?, &["topic stored"])?;
    has(&browser.page(&format!("/topics?type={}", case.sent.as_str_name())).await?, &[topic])?;
    let is_lite = case.sent == pb::MessageType::Lite;
    let bound = if is_lite { format!("+lite.bind.topic={topic}") } else { String::new() };
    let ordered = if case.sent == pb::MessageType::Fifo { "true" } else { "false" };
    let fields =
        [("name", group), ("enabled", "true"), ("ordered", ordered), ("retries", "0"), ("attributes", bound.as_str())];
    has(&browser.submit("/consumers", "/consumer/put", &fields).await?, &["consumer group stored"])?;

    let consumer = consumer(cluster, case, group, topic).await?;
    let producer = Producer::new(&cluster.access(0), &[topic])?;
    let mut one = message(topic, "F000000000000001", Some("late"), "what was lost".into());
    one.user_properties.insert("shop".to_owned(), "7".to_owned());
    let system = one.system_properties.get_or_insert_default();
    system.message_type = case.sent.into();
    (case.mark)(system);
    let sent = producer.send_messages(topic, vec![one]).await?;
    if case.sent == pb::MessageType::Transaction {
        producer.end(topic, &sent.entries[0], true).await?;
    }
    let first = consumer.next(group, topic, SHOWN_WITHIN).await?;
    consumer.give_up(group, &first).await?;

    let page = format!("/dead-letters?group={group}");
    eventually("the dead letter is listed", SHOWN_WITHIN, async || {
        browser.page(&page).await.is_ok_and(|answer| answer.words().contains("F000000000000001"))
    })
    .await?;
    let list = browser.page(&page).await?;
    let letter = list.after("name=\"letter-0\" value=\"").context("a letter to choose")?.replace("&amp;", "&");
    has(&browser.submit(&page, "/dead-letters/resend", &[("letter-0", &letter)]).await?, &["Sent again: 1"])?;

    let came = consumer.next(group, topic, SHOWN_WITHIN).await?;
    let (was, is) = (first.system_properties.context("always there")?, came.system_properties.context("always there")?);
    ensure!(is.message_id != was.message_id && is.message_type() == case.sent, "{is:?}");
    ensure!(came.body == first.body && is.tag.as_deref() == Some("late"), "{is:?}");
    ensure!((&is.message_group, &is.lite_topic) == (&was.message_group, &was.lite_topic), "{is:?}");
    ensure!(is.priority == was.priority, "{is:?}");
    let property = |name: &str| came.user_properties.get(name).map(String::as_str);
    ensure!(property("shop") == Some("7") && property("dead-letter-message-id") == Some("F000000000000001"));
    // Nothing is left that somebody would have to end.
    has(&browser.page(&format!("/transactions?q={topic}")).await?, &["nothing"])?;
    Ok(())
}

async fn consumer(cluster: &Cluster, case: &Case, group: &str, topic: &str) -> Result<Session> {
    let node = cluster.access(0)[0];
    if case.sent != pb::MessageType::Lite {
        return Session::consumer(node, group, topic).await;
    }
    let session = Session::lite_consumer(node, group, topic).await?;
    let request = session.request(pb::SyncLiteSubscriptionRequest {
        action: pb::LiteSubscriptionAction::PartialAdd.into(),
        topic: Some(resource(topic)),
        group: Some(resource(group)),
        lite_topic_set: vec![LITE_TOPIC.to_owned()],
        version: None,
        offset_option: None,
    });
    ok(session.stub().sync_lite_subscription(request).await?.into_inner().status)?;
    Ok(session)
}

fn ok(status: Option<pb::Status>) -> Result<()> {
    let status = status.context("an answer has a status")?;
    ensure!(status.code() == pb::Code::Ok, "{status:?}");
    Ok(())
}
