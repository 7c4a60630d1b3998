//! Every command of `mqadmin` once, against a broker group of three: what it says is held against what was done, and a
//! command that no step runs fails the test. Real processes.

#[path = "mqadmin/more.rs"]
mod more;
#[path = "mqadmin/upkeep.rs"]
mod upkeep;

use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use raftmq_broker::machine::VERSION;
use raftmq_proto::rocketmq::{self as pb, telemetry_command::Command};
use raftmq_tests::client::{eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::oracle::message_id;
use raftmq_tests::session::Session;
use serde_json::{Value, json};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
const SOON: Duration = Duration::from_secs(5);

/// Runs commands, and remembers which.
struct Tool {
    cluster: Cluster,
    ran: BTreeSet<String>,
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Tool {
    async fn run(&mut self, line: &str) -> Result<Output> {
        let words: Vec<&str> = line.split(' ').collect();
        self.ran.extend(words.first().map(|name| name.to_lowercase()));
        self.cluster.mqadmin(&words).await
    }

    /// The command works, and says each of these.
    async fn says(&mut self, line: &str, parts: &[&str]) -> Result<String> {
        let output = self.run(line).await?;
        let text = said(&output);
        ensure!(output.status.success(), "{line}: {text}");
        for part in parts {
            ensure!(text.contains(part), "{line}: no {part:?} in {text}");
        }
        Ok(text)
    }

    /// The command works; its JSON.
    async fn json(&mut self, line: &str) -> Result<Value> {
        let output = self.run(&format!("{line} --output json")).await?;
        ensure!(output.status.success(), "{line}: {}", said(&output));
        serde_json::from_slice(&output.stdout).with_context(|| format!("{line}: {}", said(&output)))
    }

    async fn rows(&mut self, line: &str) -> Result<Vec<Value>> {
        match self.json(line).await? {
            Value::Array(rows) => Ok(rows),
            other => bail!("{line}: no list: {other}"),
        }
    }

    /// The command fails with this exit code, and says why.
    async fn fails(&mut self, line: &str, code: i32, part: &str) -> Result<()> {
        let output = self.run(line).await?;
        let text = said(&output);
        ensure!(output.status.code() == Some(code) && text.contains(part), "{line}: {:?}: {text}", output.status);
        Ok(())
    }

    /// Labels of the voters that have everything, and of the leader.
    async fn members(&mut self) -> Result<(Vec<String>, String)> {
        let groups = self.rows("getSyncStateSet").await?;
        let members = groups[0]["members"].as_array().context("members")?;
        let label = |member: &&Value| member["label"].as_str().unwrap_or_default().to_owned();
        let mut level: Vec<String> =
            members.iter().filter(|member| member["inSync"] == true).map(|member| label(&member)).collect();
        level.sort_unstable();
        let leader = members.iter().find(|member| member["role"] == "leader").context("a leader")?;
        Ok((level, label(&leader)))
    }

    /// The line that an empty node logs, carried out.
    async fn admit(&mut self, number: usize, command: &str) -> Result<()> {
        let start = format!("mqadmin {command} ");
        let find = |log: String| {
            let line = log.get(log.rfind(&start)? + "mqadmin ".len()..)?.lines().next()?;
            Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        let log = async || find(self.cluster.log(number)).is_some();
        eventually("the node says how to admit it", Duration::from_secs(15), log).await?;
        let line = find(self.cluster.log(number)).context("it was there")?;
        let yes = if command == "replacePeer" { " -y" } else { "" };
        self.says(&format!("{line}{yes}"), &[&format!("n{number}")]).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_does_what_it_says() -> Result<()> {
    let cluster = Cluster::start(Options::default()).await?;
    // The history of messages begins with it.
    cluster.activated(0, VERSION).await?;
    let mut tool = Tool { cluster, ran: BTreeSet::new() };
    topics(&mut tool).await?;
    messages(&mut tool).await?;
    progress(&mut tool).await?;
    clients(&mut tool).await?;
    transactions(&mut tool).await?;
    nodes(&mut tool).await?;
    more::lists(&mut tool).await?;
    more::groups(&mut tool).await?;
    more::queues(&mut tool).await?;
    more::timers(&mut tool).await?;
    more::settings(&mut tool).await?;
    more::load(&mut tool).await?;
    more::shells(&mut tool).await?;
    upkeep::headers(&mut tool).await?;
    upkeep::figures(&mut tool).await?;
    upkeep::names(&mut tool).await?;
    upkeep::lite(&mut tool).await?;
    upkeep::terminal(&mut tool).await?;
    upkeep::writing(&mut tool).await?;
    upkeep::name_servers(&mut tool).await?;
    access(&mut tool).await?;
    leadership(&mut tool).await?;
    upkeep::restarts(&mut tool).await?;
    membership(&mut tool).await?;
    removal(&mut tool).await?;

    tool.fails("updateKvConfig -s a -k b -v c", 2, "keep nothing but what brokers report").await?;
    tool.fails("resetoffsetbytimeold -g g", 2, "resetOffsetByTime").await?;
    tool.fails("topicLost", 2, "unrecognized").await?;
    // The list of commands ends with an empty line.
    let help = said(&tool.cluster.mqadmin(&["--help"]).await?);
    let listed = help.split("Commands:\n").nth(1).and_then(|rest| rest.split("\n\n").next()).context("commands")?;
    let listed = listed.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let missed: Vec<&str> =
        listed.filter(|name| !name.is_empty() && *name != "help" && !tool.ran.contains(&name.to_lowercase())).collect();
    ensure!(missed.is_empty() && help.contains("printMsg"), "no step runs {missed:?}");
    Ok(())
}

async fn topics(tool: &mut Tool) -> Result<()> {
    let line = format!("updatetopic -t {TOPIC} -r 4 -w 4 -p 6 -a +message.type=NORMAL");
    tool.says(&line, &["create topic to", "readQueueNums=4", "perm=RW-"]).await?;
    let known = async || tool.rows("topicList").await.is_ok_and(|names| names.contains(&TOPIC.into()));
    eventually("the name servers hear of the topic", SOON, known).await?;
    tool.says("topicList -c", &["RaftCluster", TOPIC]).await?;
    tool.says(&format!("topicClusterList -t {TOPIC}"), &["RaftCluster"]).await?;
    let route = tool.json(&format!("topicRoute -t {TOPIC}")).await?;
    ensure!(route["queueDatas"][0]["writeQueueNums"] == 4, "{route}");

    tool.says(&format!("updateTopicPerm -t {TOPIC} -p 4"), &["from RW- to R--", "perm=R--"]).await?;
    tool.fails(&format!("sendMessage -t {TOPIC} -p refused"), 1, "FORBIDDEN").await?;
    let changed = tool.rows(&format!("updateTopicPerm -t {TOPIC} -p 6")).await?;
    ensure!(changed[0]["from"] == 4 && changed[0]["topic"]["perm"] == 6, "{changed:?}");
    tool.fails("updateTopicPerm -t nowhere -p 4", 1, "updateTopic creates one").await?;
    tool.fails("topicStatus -t nowhere", 1, "topicList").await
}

async fn messages(tool: &mut Tool) -> Result<()> {
    let line = format!("updateSubGroup -g {GROUP} -r 5");
    tool.says(&line, &["success"]).await?;
    let sent = tool.rows(&format!("sendMessage -t {TOPIC} -p hello -k order-17 -c paid --count 5")).await?;
    ensure!(sent.len() == 5, "{sent:?}");
    // One with a body that is no text, without key and tag.
    let producer = Session::producer(tool.cluster.nodes[0].grpc, &[TOPIC]).await?;
    producer.send(message(TOPIC, &message_id(1), None, vec![0xff, 0x00, 0x07].into())).await?;
    let queues = tool.rows(&format!("topicStatus -t {TOPIC}")).await?;
    let stored: u64 = queues.iter().filter_map(|queue| queue["maxOffset"].as_u64()).sum();
    ensure!(queues.len() == 4 && stored == 6, "{queues:?}");

    let id = sent[0]["msgId"].as_str().context("an id")?.to_owned();
    let line = format!("queryMsgById -t {TOPIC} -i {id},{}", message_id(1));
    tool.says(&line, &[&id, "Keys:                [order-17]", "Body:                hello", "0xff0007"]).await?;
    let found = tool.rows(&format!("queryMsgByUniqueKey -t {TOPIC} -i {id}")).await?;
    ensure!(found[0]["tag"] == "paid" && found[0]["body"] == "hello", "{found:?}");
    let found = tool.rows(&format!("queryMsgByKey -t {TOPIC} -k order-17")).await?;
    let ids = |rows: &[Value]| rows.iter().map(|row| row["msgId"].to_string()).collect::<BTreeSet<_>>();
    ensure!(ids(&found) == ids(&sent), "{found:?} is not {sent:?}");
    let (broker, queue, offset) = (&found[0]["brokerName"], &found[0]["queueId"], &found[0]["queueOffset"]);
    let place = format!("queryMsgByOffset -t {TOPIC} -b {} -i {queue}", broker.as_str().unwrap_or_default());
    let at = tool.json(&format!("{place} -o {offset}")).await?;
    ensure!(at["msgId"] == found[0]["msgId"] && at["queueOffset"] == *offset, "{at}");
    tool.fails(&format!("{place} -o 1000"), 1, "").await?;
    tool.fails(&format!("queryMsgById -t {TOPIC} -i {}", message_id(9)), 1, "no broker group has a message").await?;
    tool.fails(&format!("queryMsgByKey -t {TOPIC} -k order-17 -e 1"), 1, "no message with key").await?;
    let place = format!("STORED in queue {queue}, offset {offset}");
    let of = found[0]["msgId"].as_str().unwrap_or_default();
    tool.says(&format!("explainMsg -t {TOPIC} -i {of}"), &[&place, "no consumer group has received"]).await?;
    tool.fails(&format!("explainMsg -t {TOPIC} -i {}", message_id(9)), 1, "no broker group has a message").await?;

    let printed = tool.rows(&format!("printMsg -t {TOPIC}")).await?;
    ensure!(printed.len() == 6 && printed.iter().filter(|row| row["bodyHex"] == "ff0007").count() == 1, "{printed:?}");
    let text = tool.says(&format!("printMsg -t {TOPIC} -s paid -d false"), &["tag=paid"]).await?;
    ensure!(text.lines().count() == 5 && !text.contains("BODY"), "{text}");
    let text = tool.says(&format!("printMsg -t {TOPIC} -m 2"), &["more than these 2"]).await?;
    ensure!(text.matches("MSGID").count() == 2, "{text}");
    tool.says(&format!("printMsg -t {TOPIC} -e 1"), &["no messages"]).await?;
    tool.fails("printMsg -t nowhere", 1, "no broker group has a topic").await
}

async fn progress(tool: &mut Tool) -> Result<()> {
    let config = tool.rows(&format!("getConsumerConfig -g {GROUP}")).await?;
    ensure!(config[0]["group"].to_string().contains('5'), "{config:?}");
    let received = tool.rows(&format!("consumeMessage -t {TOPIC} -g {GROUP} -c 6")).await?;
    ensure!(received.len() == 6 && received.iter().all(|row| row["attempt"] == 1), "{received:?}");
    let lag = tool.json(&format!("consumerProgress -g {GROUP}")).await?;
    ensure!(lag["diffTotal"] == 0 && lag["inflightTotal"] == 0, "{lag}");
    let id = received[0]["msgId"].as_str().context("an id")?.to_owned();
    let track = format!("[consumerGroup={GROUP}, trackType=CONSUMED]");
    tool.says(&format!("queryMsgByUniqueKey -t {TOPIC} -i {id}"), &[&track]).await?;
    tool.says(&format!("explainMsg -t {TOPIC} -i {id}"), &[&format!("{GROUP}: FINISHED")]).await?;
    let line =
        format!("explainMsg -t {TOPIC} --queueId {} --offset {}", received[0]["queueId"], received[0]["queueOffset"]);
    let acknowledged = format!("{GROUP}: ACKNOWLEDGED (attempt 1)");
    tool.says(&line, &["STORED in queue", "LEASED to", &acknowledged]).await?;
    tool.says(&format!("queryMsgTraceById -t {TOPIC} -i {id}"), &["ACKNOWLEDGED", "#LogIndex"]).await?;

    let moved = tool.rows(&format!("resetOffsetByTime -g {GROUP} -t {TOPIC} -s 0")).await?;
    ensure!(moved.len() == 4 && moved.iter().all(|queue| queue["offset"] == 0), "{moved:?}");
    let lag = tool.json(&format!("consumerProgress -g {GROUP} -t {TOPIC}")).await?;
    ensure!(lag["diffTotal"] == 6, "{lag}");
    let stats = tool.rows(&format!("statsAll -t {TOPIC}")).await?;
    let row = stats.iter().find(|row| row["group"] == GROUP).context("the consumer group")?;
    ensure!(row["accumulation"] == 6 && row["inTps"] == 0.0 && row["outTps"] == 0.0, "{stats:?}");
    let track = format!("[consumerGroup={GROUP}, trackType=NOT_CONSUME_YET]");
    tool.says(&format!("queryMsgByUniqueKey -t {TOPIC} -i {id}"), &[&track]).await?;
    let explained = tool.rows(&format!("explainMsg -t {TOPIC} -i {id}")).await?;
    ensure!(explained[0]["consumerGroups"][0]["state"] == "READY", "{explained:?}");
    tool.says(&format!("skipAccumulatedMessage -g {GROUP} -t {TOPIC} -f true"), &["#offset"]).await?;
    let lag = tool.json(&format!("consumerProgress -g {GROUP}")).await?;
    ensure!(lag["diffTotal"] == 0, "{lag}");
    Ok(())
}

async fn clients(tool: &mut Tool) -> Result<()> {
    tool.fails(&format!("consumerConnection -g {GROUP}"), 1, "is connected").await?;
    let (near, far) = (tool.cluster.nodes[1].grpc, tool.cluster.nodes[2].grpc);
    let mut consumer = Session::consumer(near, GROUP, TOPIC).await?;
    let producer = Session::producer(far, &[TOPIC]).await?;
    let listed = tool.json(&format!("consumerConnection -g {GROUP}")).await?;
    let client = &listed["clients"][0];
    ensure!(
        client["clientId"] == consumer.client_id.as_str() && client["subscriptions"][0]["topic"] == TOPIC,
        "{listed}"
    );
    tool.says(&format!("consumerConnection -g {GROUP}"), &["MessageModel: CLUSTERING", &consumer.client_id]).await?;
    let listed = tool.rows(&format!("producerConnection -g ignored -t {TOPIC}")).await?;
    ensure!(listed.len() == 1 && listed[0]["clientId"] == producer.client_id.as_str(), "{listed:?}");
    tool.fails("producerConnection -t nowhere", 1, "no producer of topic nowhere").await?;

    // A client processes a message because it was told to, and what it says of it comes back.
    let line = format!("queryMsgById -t {TOPIC} -i {} -g {GROUP} -d {}", message_id(1), consumer.client_id);
    let answering = async {
        let Some(Command::VerifyMessageCommand(asked)) = consumer.told(SOON).await? else { bail!("not asked") };
        let result = Command::VerifyMessageResult(pb::VerifyMessageResult { nonce: asked.nonce });
        consumer.say(pb::Code::FailedToConsumeMessage, result).await
    };
    let (said, answered) = tokio::join!(tool.says(&line, &["FAILED_TO_CONSUME_MESSAGE"]), answering);
    answered?;
    said.map(drop)
}

async fn transactions(tool: &mut Tool) -> Result<()> {
    tool.says("updateTopic -t ledger -a +message.type=TRANSACTION", &["messageTypes=[TRANSACTION]"]).await?;
    let producer = Session::producer(tool.cluster.nodes[0].grpc, &["ledger"]).await?;
    let mut half = message("ledger", &message_id(2), None, "half".into());
    half.system_properties.get_or_insert_default().message_type = pb::MessageType::Transaction.into();
    let sent = producer.send(half).await?;
    let listed = tool.rows("listHalfMessages -t ledger").await?;
    ensure!(listed.len() == 1 && listed[0]["transactionId"] == sent.transaction_id.as_str(), "{listed:?}");
    tool.says("printMsg -t ledger", &["no messages"]).await?;
    let ended = tool.json(&format!("endTransaction -t ledger -i {} -r commit", sent.transaction_id)).await?;
    ensure!(ended.to_string().contains("committed"), "{ended}");
    ensure!(tool.rows("listHalfMessages").await?.is_empty());
    tool.says("printMsg -t ledger", &["BODY: half"]).await.map(drop)
}

async fn nodes(tool: &mut Tool) -> Result<()> {
    let listed = tool.rows("clusterList").await?;
    ensure!(listed.len() == 3 && listed.iter().filter(|node| node["role"] == "leader").count() == 1, "{listed:?}");
    let agree = tool.rows("dump").await?;
    ensure!(agree.len() == 3 && agree.iter().all(|node| node["tables"] == agree[0]["tables"]), "{agree:?}");
    let states = tool.rows("haStatus").await?;
    ensure!(states.len() == 3 && states.iter().all(|node| node["trouble"] == ""), "{states:?}");
    ensure!(tool.rows("raftStatus").await?.len() == 3);

    let node = &tool.cluster.nodes[1];
    let (address, port) = (node.admin.to_string(), node.admin.port().to_string());
    let status = tool.rows(&format!("brokerStatus -b {address}")).await?;
    let figures = &status[0]["figures"];
    // Six and the half message that was committed; a retry may be leased twice, a message not.
    ensure!(figures["msgPutTotalTodayNow"] == "7" && figures["topicNumber"] == "2", "{figures}");
    ensure!(figures["putTps"] == "0.00" && figures["flushDiskType"] == "SYNC_FLUSH", "{figures}");
    ensure!(tool.says("brokerStatus", &["bootTimestamp"]).await?.matches("brokerVersionDesc").count() == 3);
    tool.fails("brokerStatus -b 127.0.0.1:1", 1, "127.0.0.1:1").await?;

    let text = tool.says(&format!("getBrokerConfig -b {address}"), &[&port, "=  ***"]).await?;
    ensure!(!text.contains("of-this-test"), "the adminToken is shown: {text}");
    let config = tool.rows(&format!("getBrokerConfig -b {address}")).await?;
    let config = &config[0]["config"];
    ensure!(config["listenPort"]["value"] == port.as_str() && config["adminToken"]["value"] == "***", "{config}");
    ensure!(config["deleteWhen"]["value"].is_null() && config["fileReservedTime"]["source"] == "default", "{config}");
    ensure!(tool.rows("getBrokerConfig -c RaftCluster").await?.len() == 3);
    Ok(())
}

async fn access(tool: &mut Tool) -> Result<()> {
    tool.says("createUser -u alice -p hush-hush -t Normal", &["success"]).await?;
    did(&tool.rows("updateUser -u alice -s disable").await?, "update", "alice")?;
    let user = tool.says("getUser -u alice", &["alice", "disable"]).await?;
    ensure!(!user.contains("hush-hush"), "{user}");
    ensure!(tool.rows("listUser -f ali").await?.len() == 1);
    tool.says("createAcl -s User:alice -r Topic:orders -a Pub,Sub -d Allow", &["success"]).await?;
    did(&tool.rows("updateAcl -s User:alice -r Topic:orders -a Pub -d Deny").await?, "update", "User:alice")?;
    let rules = tool.rows("getAcl -s User:alice").await?;
    ensure!(rules[0]["rules"][0]["decision"] == "Deny", "{rules:?}");
    ensure!(tool.rows("listAcl -r Topic").await?.len() == 1);
    did(&tool.rows("deleteAcl -s User:alice -r Topic:orders").await?, "delete", "User:alice")?;
    ensure!(tool.rows("listAcl").await?.is_empty());
    did(&tool.rows("deleteUser -u alice").await?, "delete", "alice")?;
    ensure!(tool.rows("listUser").await?.is_empty());
    Ok(())
}

/// The row of a change: what was done to whom, and which node did it.
fn did(rows: &[Value], verb: &str, name: &str) -> Result<()> {
    let [row] = rows else { bail!("one broker group did it: {rows:?}") };
    let named = row.as_object().is_some_and(|fields| fields.values().any(|value| value == name));
    ensure!(row["did"] == verb && named && row["addr"].is_string(), "{row}");
    Ok(())
}

async fn leadership(tool: &mut Tool) -> Result<()> {
    let (level, leader) = tool.members().await?;
    ensure!(level == ["n0", "n1", "n2"], "{level:?}");
    let next = if leader == "n0" { "n1" } else { "n0" };
    let elected = tool.rows(&format!("electMaster -c RaftCluster -b {next}")).await?;
    ensure!(elected[0]["to"].is_string() && elected[0]["to"] != elected[0]["from"], "{elected:?}");
    ensure!(tool.members().await?.1 == next);
    tool.says(&format!("transferLeader -b {next}"), &["already"]).await?;
    terms(tool, &leader, next).await?;
    tool.says("getSyncStateSet", &["#SyncStateSetNums\t3", "#Voters\t3 (1 may be down)", "role=leader"]).await.map(drop)
}

/// The log of every node has the term of the leader that went and that of its successor, which begins where it ends.
async fn terms(tool: &mut Tool, before: &str, after: &str) -> Result<()> {
    let nodes = tool.rows("getBrokerEpoch -b RaftNode00").await?;
    ensure!(nodes.len() == 3 && nodes[0]["label"] == after && nodes[0]["brokerId"] == 0, "{nodes:?}");
    for node in &nodes {
        let terms = node["terms"].as_array().context("it has terms")?;
        let [.., old, new] = terms.as_slice() else { anyhow::bail!("{node}") };
        ensure!(old["leader"] == before && new["leader"] == after, "{node}");
        ensure!(old["term"].as_u64() < new["term"].as_u64() && old["endIndex"] == new["firstIndex"], "{node}");
        let known = nodes[0]["terms"].as_array().context("it has terms")?;
        ensure!(
            known.iter().any(|term| term["term"] == new["term"] && term["firstIndex"] == new["firstIndex"]),
            "{node}"
        );
    }
    tool.says("getBrokerEpoch", &["#brokerId\t0", "#Epoch: EpochEntry{epoch="]).await?;
    tool.fails("getBrokerEpoch -b nobody", 1, "there are RaftNode00").await
}

/// One leaves and comes back with another disk, and another one is replaced.
async fn membership(tool: &mut Tool) -> Result<()> {
    tool.says("removePeer -l n2 -y", &["n2 is no member", "(0 may be down)"]).await?;
    ensure!(tool.members().await?.0 == ["n0", "n1"]);
    for (number, command) in [(2, "addPeer"), (1, "replacePeer")] {
        tool.cluster.kill(number);
        tool.cluster.wipe(number)?;
        tool.cluster.start_node(number)?;
        tool.admit(number, command).await?;
        tool.cluster.caught_up(0, LEADER_WITHIN).await?;
        ensure!(tool.members().await?.0 == ["n0", "n1", "n2"], "after {command}");
    }
    // It was filled with everything.
    ensure!(tool.rows(&format!("printMsg -t {TOPIC}")).await?.len() == 6);
    tool.says("dump", &["replicas agree"]).await.map(drop)
}

async fn removal(tool: &mut Tool) -> Result<()> {
    let deleted = json!([{ "brokerName": "RaftNode00", "deleted": true }]);
    ensure!(tool.json(&format!("deleteSubGroup -g {GROUP}")).await? == deleted);
    tool.fails(&format!("getConsumerConfig -g {GROUP}"), 1, GROUP).await?;
    ensure!(tool.json(&format!("deleteTopic -t {TOPIC}")).await? == deleted);
    tool.fails(&format!("topicStatus -t {TOPIC}"), 1, "topicList").await
}
