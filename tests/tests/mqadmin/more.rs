//! Commands beside the first ones: lists and exports, settings that change while nodes run, timers, and those that put
//! load on the cluster.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use raftmq_proto::rocketmq as pb;
use raftmq_tests::client::{eventually, message};
use raftmq_tests::cluster::LEADER_WITHIN;
use raftmq_tests::oracle::message_id;
use raftmq_tests::session::Session;
use serde_json::{Value, json};

use super::{GROUP, SOON, TOPIC, Tool, said};

/// What is exported can be taken away and comes back by the list that was exported.
pub(super) async fn lists(tool: &mut Tool) -> Result<()> {
    let folder = tool.cluster.dir().join("export");
    let folder = folder.to_str().context("a path of ours is text")?.to_owned();
    tool.says(&format!("exportMetadata -f {folder}"), &["metadata.json success"]).await?;
    let read = |name: &str| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(format!("{folder}/{name}"))?)?) };
    let metadata = read("metadata.json")?;
    ensure!(metadata["topicConfigTable"]["ledger"]["messageTypes"] == json!(["TRANSACTION"]), "{metadata}");
    ensure!(metadata["subscriptionGroupTable"][GROUP]["retryMaxTimes"] == 5, "{metadata}");
    tool.says(&format!("exportMetadata -t -f {folder}"), &["topic.json success"]).await?;
    ensure!(read("topic.json")?["topicConfigTable"][TOPIC]["readQueueNums"] == 4);

    // As RocketMQ writes lists, and as exports are.
    let rows = json!([
        { "topicName": "listed", "readQueueNums": 2, "writeQueueNums": 2, "perm": 6, "attributes": { "+message.type": "DELAY" } },
        { "topicName": "listed-too", "readQueueNums": 1, "writeQueueNums": 1 },
    ]);
    fs::write(format!("{folder}/topics.json"), rows.to_string())?;
    let done = tool.rows(&format!("updateTopicList -f {folder}/topics.json")).await?;
    ensure!(done.len() == 2 && done.iter().all(|row| row["created"] == true), "{done:?}");
    tool.says(&format!("updateTopicList -f {folder}/metadata.json"), &["submit topic ledger", TOPIC]).await?;
    fs::write(
        format!("{folder}/groups.json"),
        json!([{ "groupName": "listed-group", "retryMaxTimes": 2 }]).to_string(),
    )?;
    tool.says(&format!("updateSubGroupList -f {folder}/groups.json"), &["submit subscription group listed-group"])
        .await?;
    ensure!(tool.rows("getConsumerConfig -g listed-group").await?[0]["group"]["retryMaxTimes"] == 2);
    // One row that is wrong, and none is sent.
    let rows = json!([{ "topicName": "never" }, { "topicName": "never-too", "perm": "all" }]);
    fs::write(format!("{folder}/wrong.json"), rows.to_string())?;
    tool.fails(&format!("updateTopicList -f {folder}/wrong.json"), 1, "row 2: perm = \"all\"").await?;
    tool.fails("topicStatus -t never", 1, "topicList").await?;

    tool.says(&format!("exportConfigs -f {folder}"), &["configs.json success"]).await?;
    let configs = fs::read_to_string(format!("{folder}/configs.json"))?;
    ensure!(configs.contains("grpcServerPort") && !configs.contains("of-this-test"), "{configs}");
    let metrics = tool.json(&format!("exportMetrics -f {folder}")).await?;
    let nodes = metrics["evaluateReport"].as_object().context("nodes")?;
    ensure!(nodes.len() == 3 && metrics["totalData"]["totalMessagesIn"].as_u64() >= Some(7), "{metrics}");
    Ok(())
}

/// A second consumer group goes on where the first one is, and what is known of its clients.
pub(super) async fn groups(tool: &mut Tool) -> Result<()> {
    tool.says("updateSubGroup -g audit", &["success"]).await?;
    let moved = tool.rows(&format!("cloneGroupOffset -s {GROUP} -d audit -t {TOPIC}")).await?;
    let places = |rows: &[Value]| rows.iter().map(|row| row["offset"].as_u64().unwrap_or_default()).sum::<u64>();
    ensure!(moved.len() == 4 && places(&moved) == 6, "all of them were skipped: {moved:?}");
    let lag = tool.json("consumerProgress -g audit").await?;
    ensure!(lag["diffTotal"] == 0, "{lag}");
    tool.fails(&format!("cloneGroupOffset -s nobody -d audit -t {TOPIC}"), 1, "nobody").await?;
    let address = tool.cluster.nodes[1].admin;
    let stats = tool.rows(&format!("brokerConsumeStats -b {address}")).await?;
    ensure!(stats.iter().filter(|row| row["group"] == "audit" && row["diff"] == 0).count() == 4, "{stats:?}");
    ensure!(tool.rows(&format!("brokerConsumeStats -b {address} -l 1000")).await?.is_empty());

    tool.fails("consumerStatus -g audit", 1, "is connected").await?;
    let consumer = Session::consumer(tool.cluster.nodes[1].grpc, "audit", TOPIC).await?;
    let producer = Session::producer(tool.cluster.nodes[2].grpc, &[TOPIC]).await?;
    let running = tool.rows("consumerStatus -g audit").await?;
    ensure!(running[0]["clientId"] == consumer.client_id.as_str(), "{running:?}");
    ensure!(running[0]["subscriptions"][TOPIC] == "*", "{running:?}");
    tool.says(&format!("consumer -g audit -i {}", consumer.client_id), &["#Subscription#", TOPIC]).await?;
    let producers = tool.rows("producer").await?;
    let known = producers.iter().find(|row| row["clientId"] == producer.client_id.as_str()).context("the producer")?;
    ensure!(known["topic"] == TOPIC, "{producers:?}");
    Ok(())
}

/// One queue, message by message, and the trace of one of them.
pub(super) async fn queues(tool: &mut Tool) -> Result<()> {
    tool.says("updateTopic -t narrow -r 1 -w 1 -a +message.type=NORMAL", &["success"]).await?;
    let sent = tool.rows("sendMessage -t narrow -p one -c red --count 3").await?;
    tool.says("sendMessage -t narrow -p four -c blue", &["SEND_OK"]).await?;
    let units = tool.rows("queryCq -t narrow -q 0 -i 1 -c 2").await?;
    ensure!(units.len() == 2 && units[0]["queueOffset"] == 1 && units[0]["bodyBytes"] == 3, "{units:?}");
    ensure!(tool.rows("queryCq -t narrow -q 0 -i 4").await?.is_empty());
    let found = tool.json("printMsgByQueue -t narrow -i 0 -p true -d true -f true").await?;
    ensure!(found["tags"] == json!({ "red": 3, "blue": 1 }), "{found}");
    ensure!(found["messages"].as_array().is_some_and(|rows| rows.len() == 4 && rows[3]["body"] == "four"), "{found}");
    tool.says("printMsgByQueue -t narrow -i 0 -s blue", &["tag=blue"]).await?;
    tool.fails("printMsgByQueue -t nowhere -i 0", 1, "").await?;

    let id = sent[0]["msgId"].as_str().context("an id")?.to_owned();
    ensure!(tool.rows("consumeMessage -t narrow -g tracing -c 4").await?.len() == 4);
    let text = tool.says(&format!("queryMsgTraceById -t narrow -i {id}"), &["#ConsumerGroup", "FINISHED"]).await?;
    ensure!(text.contains("tracing") && text.contains("success"), "{text}");
    let traced = tool.rows(&format!("queryMsgTraceById -i {id}")).await?;
    ensure!(traced[0]["topic"] == "narrow" && traced[0]["consumers"][0]["status"] == "FINISHED", "{traced:?}");
    tool.fails(&format!("queryMsgTraceById -t narrow -i {}", message_id(9)), 1, "no broker group has a message")
        .await?;
    let decoded = tool.rows(&format!("decodeMessageId -i {id}")).await?;
    ensure!(decoded[0]["madeMs"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{decoded:?}");
    tool.fails("decodeMessageId -i nonsense", 1, "34 hexadecimal digits").await
}

/// Delayed messages are listed by the time at which they are due, page after page, and taken back by what is shown.
pub(super) async fn timers(tool: &mut Tool) -> Result<()> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let producer = Session::producer(tool.cluster.nodes[0].grpc, &["listed"]).await?;
    // Sent in another order than they are due.
    for (number, minutes) in [(1, 30_u64), (2, 10), (3, 20)] {
        let mut delayed = message("listed", &message_id(100 + number), None, "later".into());
        let system = delayed.system_properties.get_or_insert_default();
        system.message_type = pb::MessageType::Delay.into();
        let seconds = i64::try_from(now + minutes * 60)?;
        system.delivery_timestamp = Some(prost_types::Timestamp { seconds, nanos: 0 });
        producer.send(delayed).await?;
    }
    let ids = |rows: &[Value]| rows.iter().map(|row| row["msgId"].to_string()).collect::<Vec<_>>();
    let wanted: Vec<String> = [2, 3, 1].map(|number| format!("\"{}\"", message_id(100 + number))).into();
    let listed = tool.rows("listTimers -t listed").await?;
    ensure!(ids(&listed) == wanted, "{listed:?}");
    ensure!(ids(&tool.rows("listTimers").await?) == wanted);
    tool.says("listTimers -t listed -m 2", &["3 messages wait; there are more than --max"]).await?;
    let between = format!("listTimers -t listed -s {} -e {}", (now + 15 * 60) * 1_000, (now + 25 * 60) * 1_000);
    ensure!(ids(&tool.rows(&between).await?) == wanted[1..2]);
    ensure!(tool.rows(&format!("listTimers -t {TOPIC}")).await?.is_empty());
    tool.fails("listTimers -t nowhere", 1, "does not exist").await?;

    // Any member lists the same; what is taken back is listed no more.
    let address = tool.cluster.nodes[2].admin;
    ensure!(ids(&tool.rows(&format!("listTimers -b {address}")).await?) == wanted);
    let request = pb::RecallMessageRequest {
        topic: Some(pb::Resource { name: "listed".to_owned(), ..pb::Resource::default() }),
        recall_handle: listed[0]["recallHandle"].as_str().context("a handle")?.to_owned(),
    };
    let recalled = producer.stub().recall_message(producer.request(request)).await?.into_inner();
    ensure!(recalled.message_id == message_id(102), "{recalled:?}");
    ensure!(ids(&tool.rows("listTimers").await?) == wanted[1..]);
    Ok(())
}

/// A setting is in effect at once, on every node, and after a restart; others are refused.
pub(super) async fn settings(tool: &mut Tool) -> Result<()> {
    let long = "a".repeat(64);
    let send = format!("sendMessage -t narrow -p {long}");
    tool.says(&send, &["SEND_OK"]).await?;
    let changed = tool.rows("updateBrokerConfig -c RaftCluster -k maxMessageSize -v 63").await?;
    ensure!(
        changed.len() == 3 && changed.iter().all(|row| row["before"] == "4194304" && row["after"] == "63"),
        "{changed:?}"
    );
    tool.fails(&send, 1, "MESSAGE_BODY_TOO_LARGE").await?;
    for (line, part) in [
        ("-k listenPort -v 1", "is read at start only"),
        ("-k maxMessageSize -v 0", "must be a number from 1 to"),
        ("-k noSuchKey -v 1", "unknown key noSuchKey"),
        ("-k sendMessageThreadPoolNums -v 1", "has no effect here"),
    ] {
        tool.fails(&format!("updateBrokerConfig -c RaftCluster {line}"), 1, part).await?;
    }
    let (address, last) = (tool.cluster.nodes[2].admin, 2);
    tool.cluster.stop(last, Duration::from_secs(20))?;
    tool.cluster.start_node(last)?;
    tool.cluster.caught_up(0, LEADER_WITHIN).await?;
    let config = tool.rows(&format!("getBrokerConfig -b {address}")).await?;
    let kept = &config[0]["config"]["maxMessageSize"];
    ensure!(kept["value"] == "63" && kept["source"].to_string().contains("changed.properties"), "{kept}");
    tool.says("updateBrokerConfig -k maxMessageSize -v ", &["63 -> 4194304"]).await?;
    tool.says(&send, &["SEND_OK"]).await?;

    // What the leader has counts for the group, and becomes its replicated setting.
    let text = tool.says(&format!("updateBrokerConfig -b {address} -k fileReservedTime -v 72"), &["48 -> 72"]).await?;
    ensure!(text.contains("use -c to set it on every node"), "{text}");
    tool.says("updateBrokerConfig -k fileReservedTime -v 72", &["success"]).await?;
    let logged = async || (0..3).any(|number| tool.cluster.log(number).contains("value=\"259200000\""));
    eventually("the leader proposes it", SOON, logged).await?;

    // What is on standard output is in the log file too, and names who changed it.
    for number in 0..3 {
        let file = tool.cluster.data(number).join("logs/broker.log");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let line = text.lines().find(|line| line.contains("setting changed") && line.contains("fileReservedTime"));
        ensure!(line.is_some_and(|line| line.contains("audit: ") && line.contains("outcome=\"done\"")), "{line:?}");
    }

    let servers = tool.rows("getNamesrvConfig").await?;
    ensure!(servers.len() == 2 && servers[0]["config"]["brokerSilenceMs"]["value"] == "120000", "{servers:?}");
    Ok(())
}

/// Messages out and back, and how long that takes.
pub(super) async fn load(tool: &mut Tool) -> Result<()> {
    let nodes = tool.rows("selfTest").await?;
    ensure!(nodes.len() == 3 && nodes.iter().all(|node| node["ok"] == true), "{nodes:?}");
    let groups = tool.rows("clusterRT -a 3 -s 64").await?;
    ensure!(groups.len() == 1 && groups[0]["successCount"] == 3 && groups[0]["failCount"] == 0, "{groups:?}");
    tool.says("sendMsgStatus -b RaftNode00 -c 2", &["SEND_OK", "rt="]).await?;
    tool.fails("sendMsgStatus -b nowhere -c 2", 1, "there are RaftNode00").await?;
    let checked = tool.json("checkMsgSendRT -t TOOLS_BENCHMARK -a 4").await?;
    ensure!(checked["messages"].as_array().is_some_and(|rows| rows.iter().all(|row| row["sent"] == true)), "{checked}");

    tool.says("updateTopic -t measured -r 4 -w 4 -a +message.type=NORMAL", &["success"]).await?;
    let sent = tool.json("benchmark producer -t measured -w 8 -s 100 -q 400 --seconds 30").await?;
    ensure!(sent["messages"] == 400 && sent["failed"] == 0 && sent["bytes"] == 40_000, "{sent}");
    ensure!(tool.cluster.stored("measured").await? == Some(400));
    let received = tool.json("benchmark consumer -t measured -w 4 -q 400 --seconds 30").await?;
    ensure!(received["messages"].as_u64() >= Some(400) && received["failed"] == 0, "{received}");
    let lag = tool.json("consumerProgress -g benchmark_consumer").await?;
    ensure!(lag["diffTotal"] == 0 && lag["inflightTotal"] == 0, "what was received was acknowledged: {lag}");
    // By time, with a line for each interval.
    let text = tool.says("benchmark producer -t measured -w 2 --seconds 2 -i 500", &["[Complete] Send Total:"]).await?;
    ensure!(text.matches("| TPS: ").count() >= 2 && text.contains("p99"), "{text}");
    tool.fails("benchmark producer -t no/name --seconds 1", 1, "ILLEGAL_TOPIC").await
}

pub(super) async fn shells(tool: &mut Tool) -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        tool.says(&format!("completion {shell}"), &["updateBrokerConfig"]).await?;
    }
    let help = said(&tool.run("benchmark --help").await?);
    ensure!(help.contains("producer") && help.contains("Example: mqadmin benchmark"), "{help}");
    Ok(())
}
