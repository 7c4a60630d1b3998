//! Commands for the upkeep of broker groups and name servers, what a terminal sees, and what scripts go by.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use raftmq_proto::rocketmq::receive_message_response::Content;
use raftmq_proto::rocketmq::{self as pb, LiteSubscriptionAction as Action};
use raftmq_tests::client::{CALL_TIMEOUT, duration, eventually, filter, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::load::resource;
use raftmq_tests::oracle::message_id;
use raftmq_tests::session::Session;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

use super::{GROUP, SOON, TOPIC, Tool, VERSION, said};

/// A receive of lite topics takes so long at most.
const LEASE: Duration = Duration::from_secs(30);

/// Scripts look for these words, in this order, and split what follows at white space.
pub(super) async fn headers(tool: &mut Tool) -> Result<()> {
    let progress = format!("consumerProgress -g {GROUP}");
    let status = format!("topicStatus -t {TOPIC}");
    for (line, header) in [
        (
            "clusterList",
            "#Cluster Name #Broker Name #BID #Addr #Version #InTPS(LOAD) #OutTPS(LOAD) #Timer(Progress) #PCWait(ms) #Hour \
             #SPACE #ACTIVATED",
        ),
        (
            progress.as_str(),
            "#Topic #Broker Name #QID #Broker Offset #Consumer Offset #Client IP #Diff #Inflight #LastTime",
        ),
        (status.as_str(), "#Broker Name #QID #Min Offset #Max Offset #Last Updated"),
        ("statsAll", "#Topic #Consumer Group #Accumulation #InTPS #OutTPS #InMsg24Hour #OutMsg24Hour"),
    ] {
        let text = tool.says(line, &[]).await?;
        let first = text.lines().next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(first.starts_with(header), "{line}: {first}");
    }
    Ok(())
}

/// What topics took, also those that nobody receives from.
pub(super) async fn figures(tool: &mut Tool) -> Result<()> {
    tool.says("updateTopic -t lonely -r 1 -w 1 -a +message.type=NORMAL", &["success"]).await?;
    tool.says("sendMessage -t lonely -p alone --count 3", &["SEND_OK"]).await?;
    let rows = tool.rows("statsAll").await?;
    let of = |topic: &str| rows.iter().find(|row| row["topic"] == topic).cloned().unwrap_or_default();
    let lonely = of("lonely");
    ensure!(lonely["group"].is_null() && lonely["inMsg24Hour"] == 3 && lonely["outMsg24Hour"].is_null(), "{rows:?}");
    let known = rows.iter().any(|row| row["topic"] == TOPIC && row["group"] == GROUP && row["inMsg24Hour"] == 6);
    ensure!(known, "{rows:?}");
    let text = tool.says("statsAll -t lonely", &["NO_CONSUMER"]).await?;
    ensure!(text.lines().count() == 2, "{text}");
    // It took something within the day.
    let active = tool.rows("statsAll -a").await?;
    ensure!(active.iter().any(|row| row["topic"] == "lonely"), "{active:?}");
    Ok(())
}

/// Offsets for each client, POP for every consumer group, and the Raft group as RocketMQ shows controllers.
pub(super) async fn names(tool: &mut Tool) -> Result<()> {
    let consumer = Session::consumer(tool.cluster.nodes[1].grpc, GROUP, TOPIC).await?;
    let line = format!("getConsumerStatus -g {GROUP} -t {TOPIC} -i {}", consumer.client_id);
    let rows = tool.rows(&line).await?;
    let offsets: u64 = rows.iter().filter_map(|row| row["offset"].as_u64()).sum();
    ensure!(rows.len() == 4 && offsets == 6, "{rows:?}");
    ensure!(rows.iter().all(|row| row["clientId"] == consumer.client_id.as_str()), "{rows:?}");
    ensure!(tool.rows(&format!("getConsumerStatus -g {GROUP} -t {TOPIC}")).await?.len() >= 4);
    tool.says(&line, &["#clientId", "#brokerName", "#queueId", "#offset"]).await?;
    tool.fails(&format!("getConsumerStatus -g {GROUP} -t {TOPIC} -i nobody"), 1, "no client nobody").await?;

    let set = format!("setConsumeMode -t {TOPIC} -g {GROUP} -m");
    tool.says(&format!("{set} POP -q 8"), &["set consume mode to", "success", "mode[POP]"]).await?;
    ensure!(tool.rows(&format!("{set} pop")).await?[0]["mode"] == "POP");
    tool.fails(&format!("{set} PULL"), 1, "PullMessage").await?;
    tool.fails(&format!("setConsumeMode -t nowhere -g {GROUP} -m POP"), 1, "nowhere does not exist").await?;

    let leader = tool.members().await?.1;
    let groups = tool.rows("getControllerMetaData").await?;
    let group = &groups[0];
    ensure!(group["controllerLeaderId"] == leader.as_str() && group["group"] == "RaftNode00", "{groups:?}");
    let peer = tool.cluster.nodes.iter().find(|node| node.label == leader).context("it is a node")?.peer;
    ensure!(group["controllerLeaderAddress"] == peer.to_string().as_str(), "{groups:?}");
    ensure!(group["peers"].as_array().is_some_and(|peers| peers.len() == 3), "{groups:?}");
    let text = tool.says("getControllerMetaData", &["#ControllerGroup\tRaftNode00", "#ControllerLeaderId\t"]).await?;
    ensure!(text.matches("#Peer:\t").count() == 3, "{text}");
    Ok(())
}

/// What there is of lite topics, who receives them, and what waits.
pub(super) async fn lite(tool: &mut Tool) -> Result<()> {
    tool.says("updateTopic -t chats -a +message.type=LITE,+lite.topic.expiration=30", &["success"]).await?;
    tool.says("updateSubGroup -g readers --attributes +lite.bind.topic=chats", &["success"]).await?;
    let node = tool.cluster.nodes[0].grpc;
    let consumer = Session::lite_consumer(node, "readers", "chats").await?;
    let names = vec!["chat-1".to_owned(), "chat-2".to_owned()];
    let synced = async || {
        let request = consumer.request(pb::SyncLiteSubscriptionRequest {
            action: Action::CompleteAdd.into(),
            topic: Some(resource("chats")),
            group: Some(resource("readers")),
            lite_topic_set: names.clone(),
            version: None,
            offset_option: None,
        });
        let answer = consumer.stub().sync_lite_subscription(request).await;
        answer.is_ok_and(|answer| answer.into_inner().status.is_some_and(|status| status.code() == pb::Code::Ok))
    };
    eventually("what a client receives is taken", SOON, synced).await?;
    let producer = Session::producer(node, &["chats"]).await?;
    for number in 0..3 {
        let mut sent = message("chats", &message_id(200 + number), None, Bytes::from_static(b"hi"));
        let system = sent.system_properties.get_or_insert_default();
        system.lite_topic = Some(if number == 0 { "chat-1" } else { "chat-2" }.to_owned());
        producer.send(sent).await?;
    }

    let brokers = tool.rows("getBrokerLiteInfo").await?;
    ensure!(brokers.len() == 1 && brokers[0]["liteTopics"] == 2 && brokers[0]["subscriptions"] == 2, "{brokers:?}");
    tool.says("getBrokerLiteInfo -d", &["#Current LMQ", "#SubscriptionCount", "\"consumerGroups\":[\"readers\"]"])
        .await?;
    let parents = tool.rows("getParentTopicInfo -p chats").await?;
    ensure!(parents[0]["liteTopics"] == 2 && parents[0]["expirationMs"] == 30 * 60_000, "{parents:?}");
    tool.says("getParentTopicInfo -p chats", &["Parent Topic Info: [chats]", "#Lite Count", "[readers]"]).await?;
    tool.fails(&format!("getParentTopicInfo -p {TOPIC}"), 1, "that takes LITE messages").await?;
    let topics = tool.rows("getLiteTopicInfo -p chats -l chat-2").await?;
    ensure!(topics[0]["maxOffset"] == 2 && topics[0]["clients"][0]["consumerGroup"] == "readers", "{topics:?}");
    let subscriber = format!("{}@readers", consumer.client_id);
    tool.says("getLiteTopicInfo -p chats -l chat-2 -s", &["#SubClientCount", &subscriber]).await?;
    tool.fails("getLiteTopicInfo -p chats -l chat-9", 1, "has no lite topic chat-9").await?;
    let line = format!("getLiteClientInfo -p chats -g readers -c {}", consumer.client_id);
    let clients = tool.rows(&line).await?;
    ensure!(
        clients[0]["liteTopics"] == json!(["chat-1", "chat-2"]) && clients[0]["liteTopicCount"] == 2,
        "{clients:?}"
    );
    tool.says(&format!("{line} -s"), &["Lite Topics: [chat-1, chat-2]"]).await?;
    let unknown = tool.rows("getLiteClientInfo -p chats -g readers -c nobody").await?;
    ensure!(unknown[0]["liteTopicCount"].is_null(), "{unknown:?}");
    let group = tool.json("getLiteGroupInfo -p chats -g readers").await?;
    let most = &group["liteTopics"][0];
    ensure!(group["waitingTotal"] == 3 && most["liteTopic"] == "chat-2" && most["waiting"] == 2, "{group}");
    ensure!(most["oldestMs"].as_u64().is_some_and(|ms| ms > 0), "{group}");
    tool.says("getLiteGroupInfo -p chats -g readers -k 1", &["TopK by lag count", "Total Lag Count: 3"]).await?;
    tool.says("getLiteGroupInfo -p chats -g readers -l chat-1", &["#ConsumeOffset", "Total Lag Count: 1"]).await?;
    tool.fails(&format!("getLiteGroupInfo -p chats -g {GROUP}"), 1, "that is bound to topic chats").await?;
    // The figures of its topic cannot be had from lite topics that come and go.
    let stats = tool.rows("statsAll -t chats").await?;
    ensure!(stats.iter().all(|row| row["inTps"].is_null() && row["inMsg24Hour"].is_null()), "{stats:?}");

    // What a member has is not finished yet.
    let received = receive(&consumer).await?;
    ensure!(!received.is_empty(), "a client receives what waits for it");
    let group = tool.json("getLiteGroupInfo -p chats -g readers").await?;
    let leased: u64 =
        group["liteTopics"].as_array().into_iter().flatten().filter_map(|of| of["inflight"].as_u64()).sum();
    ensure!(leased as usize == received.len() && group["waitingTotal"] == 3, "{received:?} {group}");
    Ok(())
}

/// What one receive of a lite consumer brings.
async fn receive(consumer: &Session) -> Result<Vec<pb::Message>> {
    let mut request = consumer.request(pb::ReceiveMessageRequest {
        group: Some(resource("readers")),
        message_queue: Some(pb::MessageQueue { topic: Some(resource("chats")), ..pb::MessageQueue::default() }),
        filter_expression: Some(filter("*")),
        batch_size: 8,
        invisible_duration: Some(duration(LEASE)),
        auto_renew: false,
        long_polling_timeout: Some(duration(SOON)),
        attempt_id: None,
    });
    request.set_timeout(SOON + CALL_TIMEOUT);
    let mut parts = consumer.stub().receive_message(request).await?.into_inner();
    let mut messages = Vec::new();
    while let Some(part) = parts.message().await? {
        match part.content.context("a part says something")? {
            Content::Message(message) => messages.push(message),
            Content::Status(status) => ensure!(status.code() == pb::Code::Ok, "{status:?}"),
            Content::DeliveryTimestamp(_) => {}
        }
    }
    Ok(messages)
}

/// Permission of a topic as each name server has it.
async fn permissions(tool: &Tool, topic: &str) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for server in &tool.cluster.namesrvs {
        let address = server.address.to_string();
        let output = tool.cluster.mqadmin(&["topicRoute", "-n", &address, "-t", topic, "-o", "json"]).await?;
        let route: Value = serde_json::from_slice(&output.stdout).with_context(|| said(&output))?;
        found.extend(route["queueDatas"].as_array().into_iter().flatten().filter_map(|queues| queues["perm"].as_u64()));
    }
    Ok(found)
}

/// Producers are led past a broker group, whoever dies meanwhile, and back to it with the permissions that topics have.
pub(super) async fn writing(tool: &mut Tool) -> Result<()> {
    tool.says("updateTopic -t archive -r 1 -w 1 -p 4 -a +message.type=NORMAL", &["success"]).await?;
    let wiped = tool.json("wipeWritePerm -b RaftNode00").await?;
    ensure!(wiped["changed"] == true && wiped["writableTopics"] == 0, "{wiped}");
    ensure!(permissions(tool, TOPIC).await? == [4, 4]);
    // One that is made meanwhile has its permission, and is shown without it.
    tool.says("updateTopic -t meanwhile -r 1 -w 1 -a +message.type=NORMAL", &["perm=RW-"]).await?;
    let shown = async || permissions(tool, "meanwhile").await.is_ok_and(|found| found == [4, 4]);
    eventually("name servers hear of the new topic", SOON, shown).await?;
    // Whoever sends by an older route is served.
    tool.says("sendMessage -t meanwhile -p late", &["SEND_OK"]).await?;
    tool.says("clusterList", &["producers are led past broker group RaftNode00"]).await?;
    let figures = tool.rows("brokerStatus").await?;
    ensure!(figures.iter().all(|node| node["figures"]["brokerPermission"] == "4"), "{figures:?}");
    tool.says("wipeWritePerm -b RaftNode00", &["in name server[", "It was so before"]).await?;

    // It is the broker group's, not a process's: of a leader or of a name server.
    let leader = tool.cluster.leader(0).await?;
    tool.cluster.kill(leader);
    tool.cluster.kill_namesrv(0);
    tool.cluster.start_namesrv(0)?;
    tool.cluster.start_node(leader)?;
    tool.cluster.caught_up(0, LEADER_WITHIN).await?;
    let shown = async || permissions(tool, TOPIC).await.is_ok_and(|found| found == [4, 4]);
    eventually("the new name server is told the same", LEADER_WITHIN, shown).await?;
    let producer = Session::producer(tool.cluster.nodes[leader].grpc, &[TOPIC]).await?;
    ensure!(writable_groups(&producer, TOPIC).await?.is_empty(), "a node that was started again leads producers to it");

    let text =
        tool.says("addWritePerm -b RaftNode00", &["add write perm of broker[RaftNode00] in name server["]).await?;
    ensure!(text.matches(" OK, ").count() == 2, "{text}");
    ensure!(permissions(tool, TOPIC).await? == [6, 6] && permissions(tool, "archive").await? == [4, 4]);
    ensure!(writable_groups(&producer, TOPIC).await? == ["RaftNode00"]);
    ensure!(tool.json("addWritePerm -b RaftNode00").await?["changed"] == false);
    tool.fails("wipeWritePerm -b nobody", 1, "there are RaftNode00").await
}

/// Broker groups whose queues a client is told to write to.
async fn writable_groups(session: &Session, topic: &str) -> Result<Vec<String>> {
    let request = session.request(pb::QueryRouteRequest { topic: Some(resource(topic)), endpoints: None });
    let answer = session.stub().query_route(request).await?.into_inner();
    let writes =
        |queue: &pb::MessageQueue| [pb::Permission::Write, pb::Permission::ReadWrite].contains(&queue.permission());
    let mut groups: Vec<String> =
        answer.message_queues.into_iter().filter(writes).filter_map(|queue| Some(queue.broker?.name)).collect();
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}

/// A setting of name servers is in effect at once, until they are started again; others are refused.
pub(super) async fn name_servers(tool: &mut Tool) -> Result<()> {
    let changed = tool.rows("updateNamesrvConfig -k brokerSilenceMs -v 60000").await?;
    ensure!(
        changed.len() == 2 && changed.iter().all(|row| row["before"] == "120000" && row["after"] == "60000"),
        "{changed:?}"
    );
    tool.says("updateNamesrvConfig -k scanNotActiveBrokerInterval -v 1000", &["5000 -> 1000", "namesrv.conf too"])
        .await?;
    let servers = tool.rows("getNamesrvConfig").await?;
    let shown = &servers[1]["config"]["brokerSilenceMs"];
    ensure!(shown["value"] == "60000" && shown["source"] == "updateNamesrvConfig", "{shown}");
    for (line, part) in [
        ("-k listenPort -v 1", "is read at start only"),
        ("-k brokerSilenceMs -v 1", "must be a number from 1000 to"),
        ("-k noSuchKey -v 1", "unknown key noSuchKey"),
    ] {
        tool.fails(&format!("updateNamesrvConfig {line}"), 1, part).await?;
    }
    // A node is dead after that time, and not after the one before.
    tool.says("updateNamesrvConfig -k brokerSilenceMs -v 1000", &["success"]).await?;
    let silent = async || tool.cluster.namesrv_log(1).contains("is silent and counts as dead");
    eventually("a node that reports each 30 s counts as dead", Duration::from_secs(35), silent).await?;
    tool.says("updateNamesrvConfig -k brokerSilenceMs -v ", &["1000 -> 120000"]).await?;
    tool.cluster.kill_namesrv(1);
    tool.cluster.start_namesrv(1)?;
    let fresh = async || {
        let servers = tool.cluster.mqadmin(&["getNamesrvConfig", "-o", "json"]).await;
        let servers = servers.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
        servers.is_some_and(|servers| servers[1]["config"]["scanNotActiveBrokerInterval"]["value"] == "5000")
    };
    eventually("a new process goes by its file", SOON, fresh).await
}

/// A node that is killed replays what was not on its disk, and says so; after a snapshot that is nothing. While it is
/// down, nothing is known of it.
pub(super) async fn restarts(tool: &mut Tool) -> Result<()> {
    let leader = tool.cluster.leader(0).await?;
    let number = (leader + 1) % 3;
    tool.says("sendMessage -t meanwhile -p more --count 20", &["SEND_OK"]).await?;
    tool.cluster.caught_up(0, LEADER_WITHIN).await?;
    let before = tool.cluster.log(number).len();
    tool.cluster.kill(number);
    let listed = tool.rows("clusterList").await?;
    let down = listed.iter().find(|node| node["role"] == "down").context("it is down")?;
    for figure in ["inTps", "outTps", "hour", "space", "applied", "committed"] {
        ensure!(down[figure].is_null(), "{figure} of a node that is down is not known: {down}");
    }
    let text = tool.says("clusterList", &[]).await?;
    let row = text.lines().find(|line| line.contains(" down ")).context("its row")?;
    ensure!(row.split_whitespace().filter(|cell| *cell == "-").count() >= 6, "{row}");
    tool.cluster.start_node(number)?;
    tool.cluster.caught_up(0, LEADER_WITHIN).await?;
    let log = tool.cluster.log(number);
    ensure!(log[before.min(log.len())..].contains("entries were applied again"), "it does not say that it replayed");

    let address = tool.cluster.nodes[number].admin;
    let rows = tool.rows(&format!("snapshot -b {address}")).await?;
    let index = rows[0]["appliedIndex"].as_u64().context("an index")?;
    ensure!(index >= 20 && rows.len() == 1, "{rows:?}");
    let all = tool.says("snapshot", &["is on its disk"]).await?;
    ensure!(all.matches(" success: ").count() == 3, "{all}");
    let before = tool.cluster.log(number).len();
    tool.cluster.kill(number);
    tool.cluster.start_node(number)?;
    tool.cluster.caught_up(0, LEADER_WITHIN).await?;
    let log = tool.cluster.log(number);
    let replayed = log[before.min(log.len())..].lines().find(|line| line.contains("entries are applied again"));
    let from = replayed.and_then(|line| line.split("applied=").nth(1)?.split(' ').next()?.parse::<u64>().ok());
    ensure!(replayed.is_none() || from.is_some_and(|from| from >= index), "{index}: {replayed:?}");
    // Nothing is old enough to go, on whichever node one asks.
    let rows = tool.rows(&format!("deleteExpiredCommitLog -b {address}")).await?;
    ensure!(rows[0]["firstIndex"] == rows[0]["firstIndexBefore"] && rows[0]["heldBack"].is_null(), "{rows:?}");
    tool.says("cleanExpiredCQ -c RaftCluster", &["success: broker group RaftNode00", "nothing is due"]).await?;
    Ok(())
}

/// mqadmin on a terminal, on which this is typed: its exit code, and all that the terminal showed.
async fn on_terminal(tool: &Tool, line: &str, typed: &str) -> Result<(Option<i32>, String)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let terminal = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
    let mut child = {
        let side = |end: &OwnedFd| -> Result<Stdio> { Ok(Stdio::from(end.try_clone()?)) };
        let mut command = tool.cluster.mqadmin_command(None, &line.split(' ').collect::<Vec<_>>())?;
        command.stdin(side(&terminal)?).stdout(side(&terminal)?).stderr(side(&terminal)?);
        command.spawn()?
    };
    drop(terminal);
    let mut master = File::from(master);
    master.write_all(typed.as_bytes())?;
    let reading = tokio::task::spawn_blocking(move || {
        let (mut shown, mut part) = (Vec::new(), [0; 4096]);
        // Linux answers EIO once nobody has the terminal any more.
        while let Ok(count @ 1..) = master.read(&mut part) {
            shown.extend_from_slice(&part[..count]);
        }
        String::from_utf8_lossy(&shown).into_owned()
    });
    let status =
        tokio::time::timeout(Duration::from_secs(30), child.wait()).await.context("it waits for somebody")??;
    Ok((status.code(), reading.await?))
}

/// Somebody at a terminal is asked before something is taken away from clients, and sees how far a long command is.
pub(super) async fn terminal(tool: &mut Tool) -> Result<()> {
    let perm = |topic: &str| format!("updateTopicPerm -t {topic} -p 4");
    let (code, shown) = on_terminal(tool, &perm("lonely"), "n\n").await?;
    ensure!(code == Some(1) && shown.contains("lose the permission to send. Go on? [y/N]"), "{code:?}: {shown}");
    ensure!(shown.contains("nothing was changed") && permissions(tool, "lonely").await? == [6, 6], "{shown}");
    let (code, shown) = on_terminal(tool, &perm("lonely"), "y\n").await?;
    ensure!(code == Some(0) && shown.contains("from RW- to R--"), "{code:?}: {shown}");
    // What gives is not asked about, and neither is what is said with -y.
    let (code, shown) = on_terminal(tool, "updateTopicPerm -t lonely -p 6", "").await?;
    ensure!(code == Some(0) && !shown.contains("Go on?"), "{code:?}: {shown}");
    let (code, shown) = on_terminal(tool, "updateTopic -t lonely -w 1 -p 2 -y", "").await?;
    ensure!(code == Some(0) && !shown.contains("Go on?"), "{code:?}: {shown}");
    for (line, part) in [
        ("updateSubGroup -g audit -s false", "get no more messages"),
        ("deleteSubGroup -g audit", "audit"),
        ("deleteTopic -t lonely", "lonely"),
        ("updateTopic -t narrow -r 1 -w 1 -p 2", "lose the permission to receive"),
        ("wipeWritePerm -b RaftNode00", "led past broker group RaftNode00"),
        ("updateNamesrvConfig -k nodesMax -v 9", "nodesMax becomes \"9\""),
    ] {
        let (code, shown) = on_terminal(tool, line, "\n").await?;
        ensure!(code == Some(1) && shown.contains(part) && shown.contains("nothing was changed"), "{line}: {shown}");
    }
    tool.says("topicStatus -t lonely", &[]).await?;

    let (code, shown) = on_terminal(tool, "dump", "").await?;
    ensure!(code == Some(0) && shown.contains("replicas agree"), "{code:?}: {shown}");
    ensure!(shown.contains("..] 66 %: 2 of 3 replicas of RaftNode00 summed up"), "no bar: {shown}");
    let folder = tool.cluster.dir().join("seen");
    let (code, shown) = on_terminal(tool, &format!("exportMetadata -f {}", folder.display()), "").await?;
    ensure!(code == Some(0) && shown.contains("0 of 1 broker groups"), "no bar: {code:?}: {shown}");
    let output = tool.run("dump").await?;
    ensure!(output.stderr.is_empty(), "a script is told nothing of what is over at once: {}", said(&output));
    Ok(())
}

/// Two broker groups: what is sent while one is out of writing is in the other. And a log whose old messages wait for an
/// hour of the day goes at once when somebody asks for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_broker_groups_is_drained_and_trimmed() -> Result<()> {
    const BODY: usize = 64 << 10;
    const SEGMENT: u64 = 2 << 20;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    // As far from now as an hour can be.
    let hour = (now / 3_600 + 12) % 24;
    let settings = [("deleteWhen", hour.to_string()), ("fileReservedTime", "0.001".to_owned())];
    let mut settings: Vec<(String, String)> = settings.map(|(key, value)| (key.to_owned(), value)).into();
    // Other work may fill the disk of this machine.
    settings.push(("diskMaxUsedSpaceRatio".to_owned(), "99".to_owned()));
    let options = Options { groups: 2, nodes: 1, segment_bytes: Some(SEGMENT), settings, ..Options::default() };
    let mut cluster = Cluster::start(options).await?;
    cluster.create_topic("flow", 2).await?;
    let access: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.grpc).collect();
    let mut tool = Tool { cluster, ran: Default::default() };
    let both = async || {
        let sessions = [Session::producer(access[0], &["flow"]).await, Session::producer(access[1], &["flow"]).await];
        for session in sessions {
            let Ok(session) = session else { return false };
            if writable_groups(&session, "flow").await.is_ok_and(|groups| groups.len() != 2) {
                return false;
            }
        }
        true
    };
    eventually("each group knows of the other", Duration::from_secs(20), both).await?;

    tool.cluster.activated(0, VERSION).await?;
    tool.says("wipeWritePerm -b RaftNode00", &["in name server["]).await?;
    // The nodes of the other broker group look at the name servers each 5 s.
    let led_past = async || {
        for address in &access {
            let Ok(session) = Session::producer(*address, &["flow"]).await else { return false };
            if !writable_groups(&session, "flow").await.is_ok_and(|groups| groups == ["RaftNode01"]) {
                return false;
            }
        }
        true
    };
    eventually("every node leads producers past it", Duration::from_secs(20), led_past).await?;
    // It writes to the queues that it may write to, as the official clients do.
    let sent = tool.json(&format!("benchmark producer -t flow -w 1 -s {BODY} -q 64 --seconds 30")).await?;
    ensure!(sent["messages"] == 64 && sent["failed"] == 0, "{sent}");
    let queues = tool.rows("topicStatus -t flow").await?;
    let stored = |group: &str| -> u64 {
        queues.iter().filter(|row| row["brokerName"] == group).filter_map(|row| row["maxOffset"].as_u64()).sum()
    };
    ensure!((stored("RaftNode00"), stored("RaftNode01")) == (0, 64), "{queues:?}");
    tool.says("addWritePerm -b RaftNode00", &["in name server["]).await?;

    // Old enough after 3.6 s, and not the hour.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let first = tool.cluster.status(1).await?.purged_index.unwrap_or_default();
    ensure!(first < 32, "it goes by itself, at the wrong hour");
    let mut trimmed = 0;
    let asked = async || {
        // A trim goes up to an entry whose time is known, and an idle broker group notes none.
        let sent = tool.json("benchmark producer -t flow -w 1 -s 64 -q 4 --seconds 30").await;
        let Ok(rows) = tool.rows("deleteExpiredCommitLog -c RaftCluster").await else { return false };
        let row = rows.iter().find(|row| row["brokerName"] == "RaftNode01");
        let index = |key: &str| row.and_then(|row| row[key].as_u64()).unwrap_or_default();
        trimmed += index("firstIndex").saturating_sub(index("firstIndexBefore"));
        sent.is_ok() && rows.len() == 2 && trimmed > 16
    };
    eventually("the log is trimmed", Duration::from_secs(30), asked).await?;
    let queues = tool.rows("topicStatus -t flow").await?;
    let gone: u64 = queues.iter().filter_map(|queue| queue["minOffset"].as_u64()).sum();
    ensure!(gone > 16, "{queues:?}");
    let freed = async || {
        let status = tool.cluster.status(1).await;
        status.is_ok_and(|status| status.purged_index.is_some_and(|purged| purged > first))
    };
    eventually("the segments are gone", Duration::from_secs(20), freed).await?;
    tool.says("deleteExpiredCommitLog -c RaftCluster", &["nothing is due"]).await.map(drop)
}
