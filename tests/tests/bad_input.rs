//! What nobody should send or configure: every port gets garbage, every limit is exceeded, folders are swapped. The
//! answer is the right code, or an error at start that says what to do; nothing stored is harmed, and the processes
//! neither panic nor spin.

#[path = "bad_input/codes.rs"]
mod codes;
#[path = "bad_input/frames.rs"]
mod frames;

use std::{fs, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use raftmq_proto::rocketmq as pb;
use raftmq_tests::{
    client::{Consumer, Failure, Producer, eventually, message},
    cluster::{Cluster, Options, Place, Process, free_port, program},
    invariant::{self, Verdict},
    session::Session,
    usage::Usage,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What a program says goes to a disk that is full: it says it to nobody, and goes on.
#[tokio::test]
async fn an_output_that_is_full_ends_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let port = free_port()?;
    let file = folder.path().join("namesrv.conf");
    fs::write(&file, format!("listenPort = {port}\n"))?;
    let arguments = ["-c", file.to_str().context("a path of ours is text")?];
    let full = std::path::Path::new("/dev/full");
    let mut process = Process::start(&program("mqnamesrv")?, &arguments, full, &Place::default())?;
    for round in 0..5 {
        let mut connection = None;
        eventually("the name server listens", Duration::from_secs(10), async || {
            connection = TcpStream::connect(("127.0.0.1", port)).await.ok();
            connection.is_some()
        })
        .await?;
        let mut connection = connection.context("connected")?;
        // It is told in a line, and closed.
        connection.write_all(b"nothing that is known here\r\n\r\n").await?;
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await;
        ensure!(process.runs(), "it ended in round {round}");
    }
    Ok(())
}

async fn start() -> Result<Cluster> {
    let settings = vec![("autoCreateTopicEnable".to_string(), "false".to_string())];
    let mut cluster = Cluster::start(Options { settings, ..Default::default() }).await?;
    cluster.create_topic("fine", 4).await?;
    Ok(cluster)
}

/// The cluster is as healthy as before: it serves, its processes are the same and idle, and nothing panicked.
async fn judge(cluster: &mut Cluster) -> Result<()> {
    let producer = Producer::new(&cluster.access(0), &["fine"])?;
    let consumer = Consumer::new(&cluster.access(0), "judges", "fine", "*", false)?;
    consumer.join("fine").await;
    producer.send("fine", "after", None, "after".into()).await?;
    let mut received = Vec::new();
    for _ in 0..4 {
        received.extend(consumer.receive("fine", 32, Duration::from_secs(30), Duration::from_secs(5)).await?);
        if received.iter().any(|delivery| delivery.message_id() == "after") {
            break;
        }
    }
    let delivery = received.iter().find(|delivery| delivery.message_id() == "after").context("not received")?;
    ensure!(delivery.message.body == "after", "the body changed on its way");
    consumer.ack(delivery).await?;
    drop((producer, consumer));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let nodes = cluster.running(0);
    // Brokers, then name servers.
    let usage = |cluster: &Cluster| -> Result<Vec<Usage>> {
        let brokers = nodes.iter().map(|number| cluster.usage(*number));
        brokers.chain((0..cluster.namesrvs.len()).map(|number| cluster.namesrv_usage(number))).collect()
    };
    let before = usage(cluster).context("a process ended")?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (number, (after, before)) in usage(cluster).context("a process ended")?.iter().zip(before).enumerate() {
        let cpu = after.since(&before).cpu;
        ensure!(
            cpu < Duration::from_millis(700),
            "idle process {number} used {cpu:?} of 2 s\n{}",
            cluster.log_tails(0)
        );
    }
    let brokers = cluster.members(0).into_iter().map(|number| cluster.log(number));
    for log in brokers.chain((0..cluster.namesrvs.len()).map(|number| cluster.namesrv_log(number))) {
        ensure!(!log.contains("panicked"), "a process panicked\n{log}");
    }
    let known = cluster.mqadmin(&["clusterList", "-o", "json"]).await?;
    ensure!(known.status.success(), "the name servers do not answer: {}", String::from_utf8_lossy(&known.stderr));
    let verdict = invariant::replicas_agree(cluster, 0, nodes.len()).await;
    ensure!(verdict == Verdict::True, "replicas agree: {verdict}");
    Ok(())
}

/// Bytes that are nothing, or begin as something and go on as nothing.
fn garbage(random: &mut StdRng) -> Vec<Vec<u8>> {
    let mut noise = vec![0; 4096];
    random.fill(&mut noise[..]);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let with = |head: &[u8]| [head, &noise].concat();
    vec![
        noise.clone(),
        vec![0; 4096],
        vec![0xFF; 4096],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        with(b"GET / HTTP/1.1\r\n"),
        // A TLS record that announces a handshake and holds noise.
        with(&[0x16, 0x03, 0x01, 0x10, 0x00, 0x01]),
        // HTTP/2 with noise for frames, and with a frame of 16 MiB.
        with(&preface),
        [preface.as_slice(), &[0xFF, 0xFF, 0xFF, 0x00, 0x00, 0, 0, 0, 1]].concat(),
        // HTTP/2 settings, then headers that do not decode.
        [preface.as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 8, 1, 5, 0, 0, 0, 1], &noise[..8]].concat(),
        // PROXY protocol, both versions, cut or wrong.
        with(b"PROXY TCP4 1.2.3.4 "),
        with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF"),
        // A RocketMQ remoting frame and one of 2 GiB.
        with(&[0, 0, 0, 40, 0, 0, 0, 20, b'{']),
        with(&[0x7F, 0xFF, 0xFF, 0xFF]),
        preface,
        vec![0x16],
        Vec::new(),
    ]
}

async fn throw(address: SocketAddr, bytes: &[u8]) -> Result<()> {
    let mut stream = TcpStream::connect(address).await.with_context(|| format!("{address} is closed"))?;
    // The peer may hang up in the middle of it.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(100), stream.read_to_end(&mut answer)).await;
    Ok(())
}

/// Calls of every service, with frames and messages that are none.
async fn wrong_calls(cluster: &Cluster) -> Result<()> {
    let public = [
        "/apache.rocketmq.v2.MessagingService/QueryRoute",
        "/apache.rocketmq.v2.MessagingService/SendMessage",
        "/apache.rocketmq.v2.MessagingService/ReceiveMessage",
        "/apache.rocketmq.v2.MessagingService/AckMessage",
        "/apache.rocketmq.v2.Admin/GetTopicRoute",
    ];
    let telemetry = ["/apache.rocketmq.v2.MessagingService/Telemetry"];
    let admin = ["/raftmq.admin.v1.Admin/GroupStatus", "/raftmq.admin.v1.Admin/PutTopic"];
    let peer = [
        "/raftmq.raft.v1.Raft/Hello",
        "/raftmq.raft.v1.Raft/Heartbeat",
        "/raftmq.raft.v1.Raft/Vote",
        "/raftmq.raft.v1.Raft/PreVote",
        "/raftmq.forward.v1.Forward/Report",
    ];
    let replication =
        ["/raftmq.raft.v1.Raft/Append", "/raftmq.raft.v1.Raft/Fill", "/raftmq.forward.v1.Forward/Forward"];
    let namesrv = ["/raftmq.namesrv.v1.NameServer/Route", "/raftmq.namesrv.v1.NameServer/Report"];
    let topics = ["/raftmq.namesrv.v1.NameServer/ReportTopics"];
    for node in &cluster.nodes {
        frames::are_refused(node.grpc, &public, &telemetry).await?;
        frames::are_refused(node.admin, &admin, &[]).await?;
        frames::are_refused(node.peer, &peer, &replication).await?;
    }
    for address in cluster.namesrvs.iter().map(|namesrv| namesrv.address) {
        frames::are_refused(address, &namesrv, &topics).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port() -> Result<()> {
    let mut cluster = start().await?;
    let mut random = StdRng::seed_from_u64(7);
    let mut addresses: Vec<SocketAddr> = cluster.namesrvs.iter().map(|namesrv| namesrv.address).collect();
    for node in &cluster.nodes {
        addresses.extend([node.grpc, node.admin, node.peer, node.metrics]);
    }
    for bytes in garbage(&mut random) {
        futures::future::try_join_all(addresses.iter().map(|address| throw(*address, &bytes))).await?;
    }
    let leader = cluster.leader(0).await?;
    let term = cluster.status(leader).await?.term;
    wrong_calls(&cluster).await?;
    ensure!(cluster.status(leader).await?.term == term, "leadership moved");
    // Many connections that say nothing at all.
    let mut silent = Vec::new();
    for address in &addresses {
        for _ in 0..50 {
            silent.push(TcpStream::connect(address).await?);
        }
    }
    judge(&mut cluster).await?;
    drop(silent);
    // What is told over HTTP is told as before.
    for node in &cluster.nodes {
        let mut stream = TcpStream::connect(node.metrics).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut page = String::new();
        stream.read_to_string(&mut page).await?;
        ensure!(page.starts_with("HTTP/1.1 200") && page.contains("# TYPE"), "{}: {page}", node.metrics);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_beyond_the_limits() -> Result<()> {
    let mut cluster = start().await?;
    let answered = futures::future::try_join_all((0..3).map(|number| codes::answered(&cluster, number))).await?;
    let (taken, stored) = (answered.iter().sum(), cluster.stored("fine").await?);
    ensure!(stored == Some(taken), "{taken} messages were taken and {stored:?} are stored");
    for (number, access) in cluster.access(0).into_iter().enumerate() {
        let session = Session::producer(access, &["not-made"]).await?;
        let route = codes::route(&session, access, "not-made").await?.status.unwrap_or_default();
        ensure!(route.code == pb::Code::TopicNotFound as i32, "node {number}: a producer's route query: {route:?}");
        let producer = Producer::new(&[access], &["fine"])?;
        let expect = async |topic: &str, messages: Vec<pb::Message>, code: pb::Code| {
            let outcome = producer.send_messages(topic, messages).await;
            let answered = outcome.as_ref().err().and_then(|refused| refused.last.code());
            ensure!(answered == Some(code), "node {number}: {topic}: expected {code:?}, got {outcome:?}");
            Ok(())
        };
        let body = |bytes: usize| Bytes::from(vec![1; bytes]);
        let one = |body| vec![message("fine", "m", None, body)];
        expect("fine", one(body((4 << 20) + 1)), pb::Code::MessageBodyTooLarge).await?;
        expect("fine", one(Bytes::new()), pb::Code::MessageBodyEmpty).await?;
        expect("fine", vec![message("fine", "", None, body(1))], pb::Code::IllegalMessageId).await?;
        expect("fine", vec![message("fine", "m", Some("a|b"), body(1))], pb::Code::IllegalMessageTag).await?;
        let two = vec![message("fine", "m", None, body(1)), message("other", "m", None, body(1))];
        expect("fine", two, pb::Code::MessageCorrupted).await?;
        expect("fine", Vec::new(), pb::Code::MessageCorrupted).await?;
        let unknown = producer.client().route("no-such-topic").await;
        let code = unknown.err().and_then(|failure| failure.code());
        ensure!(code == Some(pb::Code::TopicNotFound), "node {number}: an unknown topic's route: {code:?}");
        expect("fine", vec![message("no-such-topic", "m", None, body(1))], pb::Code::TopicNotFound).await?;
        expect("fine", vec![message("not.a.name", "m", None, body(1))], pb::Code::IllegalTopic).await?;
        let mut typed = message("fine", "m", None, body(1));
        if let Some(properties) = &mut typed.system_properties {
            properties.message_group = Some("a-group".into());
        }
        expect("fine", vec![typed], pb::Code::MessagePropertyConflictWithType).await?;
        // The largest body that is allowed is taken, in one call with others.
        let largest = vec![message("fine", "m1", None, body(4 << 20)), message("fine", "m2", None, body(1 << 20))];
        let taken = producer.send_messages("fine", largest).await;
        ensure!(taken.is_ok(), "node {number}: the largest body allowed was refused: {taken:?}");
        // Beyond what a request may be: refused, whatever the words, and the connection's other calls go on.
        let huge: Vec<pb::Message> = (0..40).map(|_| message("fine", "m", None, body(4 << 20))).collect();
        let refused = producer.send_messages("fine", huge).await;
        let told = refused.err().map(|refused| refused.last);
        ensure!(
            matches!(&told, Some(Failure::Transport(tonic::Code::ResourceExhausted, text)) if text.contains("grpcMaxInboundMessageSize")),
            "node {number}: 160 MiB in one request: {told:?}"
        );
        producer.send("fine", "small", None, body(1)).await?;
        let consumer = Consumer::new(&[access], "limits", "fine", "*", false)?;
        let short = consumer.receive("fine", 1, Duration::from_secs(1), Duration::from_secs(5)).await;
        let code = short.err().as_ref().and_then(Failure::code);
        ensure!(code == Some(pb::Code::IllegalInvisibleTime), "node {number}: a lease of 1 s: {code:?}");
    }
    judge(&mut cluster).await
}

/// Runs a node's program to its end, which must come by itself and be a failure that names `words`.
async fn refuses_to_start(config: &std::path::Path, words: &[&str]) -> Result<()> {
    let child = tokio::process::Command::new(program("mqbroker")?)
        .arg("-c")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = tokio::time::timeout(Duration::from_secs(10), child.wait_with_output()).await;
    let output = output.with_context(|| format!("{} goes on running", config.display()))??;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(!output.status.success(), "it ended well:\n{text}");
    ensure!(!text.contains("panicked"), "it panicked:\n{text}");
    for word in words {
        ensure!(text.contains(word), "{word:?} is not in:\n{text}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_must_not_start() -> Result<()> {
    let mut cluster = start().await?;
    let victim = (cluster.leader(0).await? + 1) % 3;
    let producer = Producer::new(&cluster.access(0), &["fine"])?;
    producer.send("fine", "before", None, "before".into()).await?;
    cluster.caught_up(0, Duration::from_secs(20)).await?;
    cluster.stop(victim, Duration::from_secs(20))?;
    let node = &cluster.nodes[victim];
    let good = fs::read_to_string(&node.config)?;
    let changed = cluster.dir().join("changed.conf");
    let with = |from: &str, to: &str| -> Result<()> {
        ensure!(good.contains(from), "the configuration has no {from}");
        Ok(fs::write(&changed, good.replace(from, to))?)
    };
    // A node id that is not among the peers.
    with(&format!("dLegerSelfId = {}", node.label), "dLegerSelfId = n7")?;
    refuses_to_start(&changed, &["dLegerSelfId", "n7"]).await?;
    // Values that are none.
    with("flushDiskType = SYNC_FLUSH", "flushDiskType = SOMETIMES")?;
    refuses_to_start(&changed, &["flushDiskType", "SOMETIMES"]).await?;
    with(&format!("grpcServerPort = {}", node.grpc.port()), "grpcServerPort = 99999")?;
    refuses_to_start(&changed, &["grpcServerPort", "99999"]).await?;
    // The folder of another cluster, of another group, of another member.
    with("brokerClusterName = RaftCluster", "brokerClusterName = OtherCluster")?;
    refuses_to_start(&changed, &["RaftCluster", "OtherCluster"]).await?;
    with("dLegerGroup = RaftNode00", "dLegerGroup = RaftNode09")?;
    fs::write(&changed, fs::read_to_string(&changed)?.replace("brokerName = RaftNode00", "brokerName = RaftNode09"))?;
    refuses_to_start(&changed, &["RaftNode00", "RaftNode09"]).await?;
    // A folder that another process uses.
    let other = &cluster.nodes[(victim + 1) % 3];
    with(&node.data.display().to_string(), &other.data.display().to_string())?;
    refuses_to_start(&changed, &[&other.data.display().to_string()]).await?;
    // Ports that another process listens on.
    with(&format!("grpcServerPort = {}", node.grpc.port()), &format!("grpcServerPort = {}", other.grpc.port()))?;
    refuses_to_start(&changed, &["grpcServerPort"]).await?;
    // None of it harmed the folder.
    cluster.start_node(victim)?;
    cluster.caught_up(0, Duration::from_secs(20)).await?;
    judge(&mut cluster).await
}

/// An empty folder under a label whose disk the group remembers: it stays out, says how to be admitted, and the
/// others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_folder_under_a_known_label() -> Result<()> {
    let mut cluster = start().await?;
    let victim = (cluster.leader(0).await? + 1) % 3;
    cluster.kill(victim);
    cluster.wipe(victim)?;
    cluster.start_node(victim)?;
    raftmq_tests::client::eventually("the empty node says what to do", Duration::from_secs(15), async || {
        cluster.log(victim).contains("replacePeer")
    })
    .await?;
    ensure!(cluster.process(victim).is_some_and(|process| process.runs()), "the empty node ended");
    let status = cluster.status(victim).await;
    ensure!(
        status.as_ref().is_ok_and(|status| status.role != "leader" && status.role != "follower") || status.is_err(),
        "the empty node became a member: {status:?}"
    );
    cluster.kill(victim);
    judge(&mut cluster).await
}
