//! Message groups of a topic that two groups of three share: each is kept by one of them, whichever a client sends to;
//! while that one is down its messages are refused and stored nowhere else, and the others go on. What is consumed of
//! each is in order and complete. A broker group that is added to a topic takes none of its message groups over.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use raftmq_proto::admin::TopicStatusRequest;
use raftmq_proto::rocketmq as pb;
use raftmq_tests::client::{Consumer, Producer, eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::oracle::{message_id, sequence_of};

const TOPIC: &str = "shared";
const MESSAGE_GROUPS: usize = 40;
/// Messages of each message group before, while and after one broker group is down.
const MESSAGES: usize = 4;
const STRIDE: usize = 1_000_000;

fn ordered(topic: &str, group: usize, number: usize) -> pb::Message {
    let mut message = message(topic, &message_id((group * STRIDE + number) as u64), None, "in order".into());
    if let Some(system) = &mut message.system_properties {
        system.message_group = Some(format!("account-{group}"));
        system.message_type = pb::MessageType::Fifo.into();
    }
    message
}

/// Sends the messages of `numbers` of each message group in turn, each once the one before it was answered OK. The
/// first one that is refused ends its message group; those are returned, with why.
async fn send(
    access: &[SocketAddr],
    groups: impl IntoIterator<Item = usize>,
    numbers: std::ops::Range<usize>,
) -> Result<BTreeMap<usize, String>> {
    let producer = Producer::new(access, &[TOPIC])?;
    let mut refused = BTreeMap::new();
    for group in groups {
        for number in numbers.clone() {
            let outcome = producer.send_messages(TOPIC, vec![ordered(TOPIC, group, number)]).await;
            if let Err(failure) = outcome {
                ensure!(number == numbers.start, "message group {group} is refused in its middle: {failure}");
                ensure!(failure.last.may_pass(), "{failure}");
                refused.insert(group, failure.to_string());
                break;
            }
        }
    }
    Ok(refused)
}

async fn make(cluster: &Cluster, topic: &str, place: &[&str]) -> Result<()> {
    let arguments = ["updateTopic", "-t", topic, "-r", "4", "-w", "4", "-a", "+message.type=FIFO"];
    eventually("mqadmin makes a FIFO topic", LEADER_WITHIN, async || {
        let output = cluster.mqadmin(&[&arguments[..], place].concat()).await;
        output.is_ok_and(|output| output.status.success())
    })
    .await
}

/// Both broker groups have heard of the other's part of a topic, so that each knows where the other is.
async fn known_to_both(cluster: &Cluster, topic: &str) -> Result<()> {
    for group in 0..2 {
        let route = async || {
            let producer = Producer::new(&cluster.access(group), &[topic])?;
            let route = producer.client().route(topic).await?;
            let names: BTreeSet<_> =
                route.queues().filter_map(|queue| Some(queue.broker.as_ref()?.name.clone())).collect();
            Ok::<_, anyhow::Error>(names.len())
        };
        let both = async || route().await.is_ok_and(|names| names == 2);
        eventually("routes name both groups", Duration::from_secs(40), both).await?;
    }
    Ok(())
}

async fn stored(cluster: &Cluster, node: usize, topic: &str) -> Result<u64> {
    let request = TopicStatusRequest { name: topic.to_owned(), ..Default::default() };
    let status = cluster.admin_client(node).await?.topic_status(request).await?.into_inner();
    Ok(status.queues.iter().map(|queue| queue.max_offset).sum())
}

/// Receives and acknowledges until all of `expected` messages came once: the broker group of each message group.
async fn consume(access: &[SocketAddr], expected: usize) -> Result<BTreeMap<usize, String>> {
    let consumer = Consumer::new(access, "in-order", TOPIC, "*", false)?;
    let (mut next, mut keepers) = (BTreeMap::<usize, usize>::new(), BTreeMap::new());
    let mut received = 0;
    let all = eventually("all is consumed", Duration::from_secs(90), async || {
        let deliveries = consumer.receive(TOPIC, 32, Duration::from_secs(30), Duration::from_secs(1)).await;
        for delivery in deliveries.unwrap_or_default() {
            let sequence = sequence_of(delivery.message_id()).expect("of this test") as usize;
            let (group, number) = (sequence / STRIDE, sequence % STRIDE);
            let due = next.entry(group).or_default();
            assert_eq!(number, *due, "message group {group} is consumed out of order");
            *due += 1;
            received += 1;
            let broker = delivery.place().0;
            let keeper = keepers.entry(group).or_insert_with(|| broker.clone());
            assert_eq!(*keeper, broker, "message group {group} is in two broker groups");
            consumer.ack(&delivery).await.expect("it was just received");
        }
        received == expected
    });
    all.await.with_context(|| format!("{received} of {expected} messages"))?;
    Ok(keepers)
}

/// Both broker groups make a topic on its first use in the same moment. They agree on who keeps its message groups before
/// either stores one; with no name server to hear of each other by, neither does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_groups_that_make_a_topic_in_the_same_moment_agree_on_it() -> Result<()> {
    const TOPICS: usize = 12;
    let mut cluster = Cluster::start(Options { groups: 2, nodes: 1, ..Default::default() }).await?;
    let (first, second) = (cluster.leader(0).await?, cluster.leader(1).await?);
    let begun = format!("version={}", raftmq_broker::machine::VERSION);
    eventually("topics are made by the newest version", LEADER_WITHIN, async || {
        [first, second]
            .iter()
            .all(|node| cluster.log(*node).lines().any(|line| line.contains(&begun) && line.contains("is active")))
    })
    .await?;
    // So that each knows of the other.
    make(&cluster, "known", &["-c", "RaftCluster"]).await?;
    known_to_both(&cluster, "known").await?;
    let (at_first, at_second) = (cluster.access(0), cluster.access(1));
    let both = async |topic: &str, number: usize| {
        let ask = async |access: &[SocketAddr], group: usize| {
            let producer = Producer::new(access, &[topic])?;
            for message in 0..4 {
                let mut last = String::new();
                eventually("it is stored", Duration::from_secs(20), async || {
                    let message = ordered(topic, group, 10 * number + message);
                    let sent = producer.send_messages(topic, vec![message]).await;
                    last = sent.err().map(|failure| failure.to_string()).unwrap_or_default();
                    last.is_empty()
                })
                .await
                .with_context(|| last.clone())?;
            }
            Ok::<_, anyhow::Error>(())
        };
        // Of the same message group, too.
        tokio::try_join!(ask(&at_first, 0), ask(&at_second, 0), ask(&at_first, 1), ask(&at_second, 2)).map(drop)
    };
    let (mut in_both, mut keepers) = (0, BTreeSet::new());
    for number in 0..TOPICS {
        let topic = format!("at-once-{number}");
        both(&topic, number).await.with_context(|| topic.clone())?;
        let mut places = Vec::new();
        for node in [first, second] {
            // Where it was not made there is none.
            places.push(stored(&cluster, node, &topic).await.ok());
        }
        in_both += usize::from(places.iter().all(Option::is_some));
        let kept: Vec<u64> = places.into_iter().map(Option::unwrap_or_default).collect();
        // The same message ids came to both sides: what is stored twice would be more than one has.
        ensure!(kept.iter().sum::<u64>() == 12 && kept.contains(&0), "{topic}: {kept:?}");
        keepers.insert(kept[0] > 0);
    }
    println!("{in_both} of {TOPICS} topics were made in both, {} kept everything at some time", keepers.len());
    ensure!(in_both > 0, "no topic was made in both: nothing was shown");

    // Without a name server nobody knows whether the other has made it.
    cluster.kill_namesrv(0);
    cluster.kill_namesrv(1);
    let producer = Producer::new(&at_first, &["alone"])?;
    let refused = producer.send_messages("alone", vec![ordered("alone", 0, 0)]).await;
    let refused = refused.err().context("it is stored, whatever the other has")?.to_string();
    ensure!(refused.contains("have not agreed yet"), "{refused}");
    let other = message("alone", &message_id(77), None, "of no message group".into());
    producer.send_messages("alone", vec![other]).await?;
    cluster.start_namesrv(0)?;
    eventually("it is agreed", Duration::from_secs(30), async || {
        producer.send_messages("alone", vec![ordered("alone", 0, 0)]).await.is_ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_groups_stay_where_they_are() -> Result<()> {
    // Asked for its route, a broker group that has not heard of a topic would make one of its own.
    let settings = vec![("autoCreateTopicEnable".to_owned(), "false".to_owned())];
    let mut cluster = Cluster::start(Options { groups: 2, settings, ..Default::default() }).await?;
    let (first, second) = (cluster.leader(0).await?, cluster.leader(1).await?);
    let (at_first, at_second) = (cluster.access(0), cluster.access(1));
    let everywhere = [&at_first[..], &at_second[..]].concat();
    let address = |cluster: &Cluster, node: usize| cluster.nodes[node].admin.to_string();

    // Made in one broker group, and added to the other: the first keeps all, and the second hands over.
    make(&cluster, "first-only", &["-b", &address(&cluster, first)]).await?;
    eventually("name servers tell of the topic", Duration::from_secs(40), async || {
        let producer = Producer::new(&at_second, &["first-only"]).expect("an access point");
        producer.client().route("first-only").await.is_ok()
    })
    .await?;
    make(&cluster, "first-only", &["-c", "RaftCluster"]).await?;
    known_to_both(&cluster, "first-only").await?;
    let producer = Producer::new(&everywhere, &["first-only"])?;
    for group in 0..MESSAGE_GROUPS {
        // Both of a call, which may be of two message groups.
        let messages = [group, group + MESSAGE_GROUPS].map(|group| ordered("first-only", group, 0));
        let sent = producer.send_messages("first-only", messages.to_vec()).await?;
        ensure!(sent.entries.len() == 2, "{sent:?}");
    }
    let places = (stored(&cluster, first, "first-only").await?, stored(&cluster, second, "first-only").await?);
    ensure!(places == (2 * MESSAGE_GROUPS as u64, 0), "{places:?}");

    // Made in both: each keeps its half.
    make(&cluster, TOPIC, &["-c", "RaftCluster"]).await?;
    known_to_both(&cluster, TOPIC).await?;
    let refused = send(&everywhere, 0..MESSAGE_GROUPS, 0..MESSAGES).await?;
    ensure!(refused.is_empty(), "{refused:?}");
    let sent = (MESSAGE_GROUPS * MESSAGES) as u64;
    let before = (stored(&cluster, first, TOPIC).await?, stored(&cluster, second, TOPIC).await?);
    ensure!(before.0 + before.1 == sent && before.0.min(before.1) > 0, "{before:?}");

    cluster.kill_at_once(&cluster.members(1))?;
    let refused = send(&at_first, 0..MESSAGE_GROUPS, MESSAGES..2 * MESSAGES).await?;
    ensure!(!refused.is_empty() && refused.len() < MESSAGE_GROUPS, "{} are refused", refused.len());
    // The last try may have been at a node that is down.
    let said = |why: &String| why.contains("HaNotAvailable: broker group RaftNode01 keeps slot ");
    ensure!(refused.values().any(said), "{refused:?}");
    ensure!(refused.values().all(|why| said(why) || why.contains("gRPC Unavailable")), "{refused:?}");
    for number in cluster.members(1) {
        cluster.start_node(number)?;
    }
    let second = cluster.leader(1).await?;
    let back = async || {
        let producer = Producer::new(&at_first, &[TOPIC]).expect("an access point");
        let Some(group) = refused.keys().next().copied() else { return false };
        producer.send_messages(TOPIC, vec![ordered(TOPIC, group, MESSAGES)]).await.is_ok()
    };
    eventually("the second broker group is reached again", Duration::from_secs(30), back).await?;
    // The one that came by asking is sent again: it is stored once.
    let again = send(&at_first, refused.keys().copied(), MESSAGES..2 * MESSAGES).await?;
    ensure!(again.is_empty(), "{again:?}");
    let last = send(&everywhere, 0..MESSAGE_GROUPS, 2 * MESSAGES..3 * MESSAGES).await?;
    ensure!(last.is_empty(), "{last:?}");
    let after = (stored(&cluster, first, TOPIC).await?, stored(&cluster, second, TOPIC).await?);
    ensure!(after.0 + after.1 == 3 * sent && after.0 == 3 * before.0, "{before:?}, then {after:?}");

    // A receive is answered by the broker group that it asks.
    let mut keepers = consume(&at_first, after.0 as usize + after.1 as usize).await?;
    let at_second: BTreeSet<_> = refused.keys().copied().collect();
    keepers.retain(|_, broker| broker == "RaftNode01");
    ensure!(keepers.keys().copied().collect::<BTreeSet<_>>() == at_second, "{keepers:?}, not {at_second:?}");
    Ok(())
}
