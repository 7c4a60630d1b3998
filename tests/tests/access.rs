//! Access control: users and access rules, at the clients' and at the administrators' port. Real processes.

use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use raftmq_proto::raft::{HelloRequest, raft_client::RaftClient};
use raftmq_proto::rocketmq::messaging_service_client::MessagingServiceClient;
use raftmq_proto::rocketmq::{self as pb, telemetry_command::Command};
use raftmq_proto::signature::Credentials;
use raftmq_tests::client::{eventually, message};
use raftmq_tests::cluster::{Cluster, Options};
use raftmq_tests::load::resource;
use raftmq_tests::root;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, metadata::MetadataValue};

const SECRET: &str = "s3cret-of-alice";
const ROOT_SECRET: &str = "s3cret-of-root";

fn user(access_key: &str, secret_key: &str) -> Credentials {
    Credentials { access_key: access_key.to_string(), secret_key: secret_key.to_string() }
}

struct Client {
    stub: MessagingServiceClient<Channel>,
    keys: Option<Credentials>,
}

impl Client {
    async fn new(address: SocketAddr, keys: Option<Credentials>) -> Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self { stub: MessagingServiceClient::new(channel), keys })
    }

    fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        request.set_timeout(Duration::from_secs(5));
        request.metadata_mut().insert("x-mq-client-id", MetadataValue::from_static("access@1"));
        request.metadata_mut().insert("x-mq-language", MetadataValue::from_static("RUST"));
        if let Some(keys) = &self.keys {
            keys.sign(request.metadata_mut(), 1_700_000_000_000)?;
        }
        Ok(request)
    }

    async fn send(&mut self, topic: &str) -> Result<pb::Code> {
        let messages = vec![message(topic, "0123456789ABCDEF", None, "hello".into())];
        let answer = self.stub.send_message(self.request(pb::SendMessageRequest { messages })?).await?;
        Ok(answer.into_inner().status.context("a status")?.code())
    }

    async fn route(&mut self, topic: &str) -> Result<pb::Code> {
        let request = pb::QueryRouteRequest { topic: Some(resource(topic)), ..Default::default() };
        let answer = self.stub.query_route(self.request(request)?).await?;
        Ok(answer.into_inner().status.context("a status")?.code())
    }

    async fn heartbeat(&mut self, group: &str) -> Result<pb::Code> {
        let request =
            pb::HeartbeatRequest { group: Some(resource(group)), client_type: pb::ClientType::SimpleConsumer.into() };
        let answer = self.stub.heartbeat(self.request(request)?).await?;
        Ok(answer.into_inner().status.context("a status")?.code())
    }

    /// How settings of a producer are answered, and whether the stream ends after that.
    async fn settings(&mut self, topic: &str) -> Result<(pb::Code, bool)> {
        let publishing = pb::Publishing { topics: vec![resource(topic)], ..Default::default() };
        let settings =
            pb::Settings { pub_sub: Some(pb::settings::PubSub::Publishing(publishing)), ..Default::default() };
        let command = pb::TelemetryCommand { command: Some(Command::Settings(settings)), status: None };
        let commands = tokio_stream::StreamExt::chain(tokio_stream::once(command), tokio_stream::pending());
        let mut answers = self.stub.telemetry(self.request(commands)?).await?.into_inner();
        let answer = answers.message().await?.context("an answer")?;
        let ends = matches!(tokio::time::timeout(Duration::from_millis(300), answers.message()).await, Ok(Ok(None)));
        Ok((answer.status.context("a status")?.code(), ends))
    }

    /// Says that it receives a lite topic.
    async fn subscribe(&mut self, topic: &str, group: &str, lite_topic: &str) -> Result<pb::Code> {
        let request = pb::SyncLiteSubscriptionRequest {
            action: pb::LiteSubscriptionAction::PartialAdd.into(),
            topic: Some(resource(topic)),
            group: Some(resource(group)),
            lite_topic_set: vec![lite_topic.to_owned()],
            ..Default::default()
        };
        let answer = self.stub.sync_lite_subscription(self.request(request)?).await?;
        Ok(answer.into_inner().status.context("a status")?.code())
    }

    /// Receives a message and gives it up.
    async fn give_up(&mut self, topic: &str, group: &str) -> Result<pb::Code> {
        let request = pb::ReceiveMessageRequest {
            group: Some(resource(group)),
            message_queue: Some(pb::MessageQueue { topic: Some(resource(topic)), ..Default::default() }),
            batch_size: 1,
            invisible_duration: Some(raftmq_tests::client::duration(Duration::from_secs(30))),
            ..Default::default()
        };
        let mut stream = self.stub.receive_message(self.request(request)?).await?.into_inner();
        let mut system = None;
        while let Some(part) = stream.message().await? {
            if let Some(pb::receive_message_response::Content::Message(message)) = part.content {
                system = message.system_properties;
            }
        }
        let system = system.context("a message")?;
        let request = pb::ForwardMessageToDeadLetterQueueRequest {
            group: Some(resource(group)),
            topic: Some(resource(topic)),
            receipt_handle: system.receipt_handle.context("a delivered message has a handle")?,
            message_id: system.message_id,
            ..Default::default()
        };
        let answer = self.stub.forward_message_to_dead_letter_queue(self.request(request)?).await?;
        Ok(answer.into_inner().status.context("a status")?.code())
    }

    /// The status of a receive.
    async fn receive(&mut self, topic: &str, group: &str) -> Result<pb::Code> {
        let request = pb::ReceiveMessageRequest {
            group: Some(resource(group)),
            message_queue: Some(pb::MessageQueue { topic: Some(resource(topic)), ..Default::default() }),
            batch_size: 1,
            invisible_duration: Some(raftmq_tests::client::duration(Duration::from_secs(10))),
            ..Default::default()
        };
        let mut stream = self.stub.receive_message(self.request(request)?).await?.into_inner();
        while let Some(part) = stream.message().await? {
            match part.content {
                Some(pb::receive_message_response::Content::Status(status)) => return Ok(status.code()),
                Some(pb::receive_message_response::Content::Message(_)) => bail!("a message before a status"),
                _ => {}
            }
        }
        bail!("a receive ends without a status")
    }
}

async fn done(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let output = cluster.mqadmin(arguments).await?;
    ensure!(output.status.success(), "mqadmin {arguments:?}: {}", errors(&output));
    Ok(String::from_utf8(output.stdout)?)
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs the official Python client; its result, or what it failed with.
async fn official(cluster: &Cluster, scenario: &[&str], keys: (&str, &str)) -> Result<Result<String, String>> {
    let python = match std::env::var("RAFTMQ_PYTHON") {
        Ok(python) => python,
        Err(_) => {
            let output = tokio::process::Command::new(root().join("scripts/python-client.sh")).output().await?;
            String::from_utf8(output.stdout)?.trim().to_string()
        }
    };
    let run = tokio::process::Command::new(python)
        .arg(root().join("tests/official/python/official.py"))
        .args(scenario)
        .env("HOME", cluster.dir())
        .env("OFFICIAL_ACCESS_KEY", keys.0)
        .env("OFFICIAL_SECRET_KEY", keys.1)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(40), run).await.context("the client takes too long")??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(match text.lines().find_map(|line| line.strip_prefix("RESULT")) {
        Some(result) if output.status.success() => Ok(result.trim().to_string()),
        _ => Err(errors(&output)),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_or_written_without_permission() -> Result<()> {
    let options = Options { administrator: Some(user("root", ROOT_SECRET)), ..Options::default() };
    let mut cluster = Cluster::start(options).await?;
    let leader = cluster.leader(0).await?;

    // Administration is for administrators.
    let nobody = cluster.mqadmin_as(None, &["createUser", "-u", "eve", "-p", "eve"]).await?;
    ensure!(!nobody.status.success(), "a user is created by nobody");
    for topic in ["orders", "secrets"] {
        done(&cluster, &["updateTopic", "-t", topic, "-c", "RaftCluster"]).await?;
    }
    let created = done(&cluster, &["createUser", "-c", "RaftCluster", "-u", "alice", "-p", SECRET]).await?;
    ensure!(created.starts_with("create user to 127.0.0.1:"), "{created}");
    let alice = user("alice", SECRET);
    let administration = cluster.nodes[leader].admin.to_string();
    let normal = cluster.mqadmin_as(Some(&alice), &["listUser", "-b", &administration]).await?;
    ensure!(!normal.status.success() && errors(&normal).contains("may not administer"), "{}", errors(&normal));
    let guess = user("root", "guess");
    let wrong = cluster.mqadmin_as(Some(&guess), &["listUser", "-b", &administration]).await?;
    ensure!(!wrong.status.success() && errors(&wrong).contains("another secret key"), "{}", errors(&wrong));
    // Nor do name servers and members talk to strangers.
    for keys in [None, Some(&alice), Some(&guess)] {
        let asked = cluster.mqadmin_as(keys, &["clusterList"]).await?;
        ensure!(
            !asked.status.success() && errors(&asked).contains("name server has access control"),
            "{}",
            errors(&asked)
        );
    }
    let peer = format!("http://{}", cluster.nodes[leader].peer);
    let hello = RaftClient::connect(peer).await?.hello(HelloRequest::default()).await;
    let refused = hello.err().context("a stranger is told who is a member")?;
    ensure!(refused.message().contains("innerClientAuthenticationCredentials"), "{refused}");
    let users = done(&cluster, &["listUser", "-c", "RaftCluster"]).await?;
    ensure!(users.lines().count() == 4 && users.contains("Super") && !users.contains(SECRET), "{users}");

    // Known, and without a rule: nothing is allowed.
    let grpc = cluster.nodes[leader].grpc;
    let mut client = Client::new(grpc, Some(alice.clone())).await?;
    ensure!(client.send("orders").await? == pb::Code::Forbidden, "a send without a rule");
    ensure!(client.route("orders").await? == pb::Code::Forbidden, "a route without a rule");

    let rules = ["-r", "Topic:ord*,Group:billing", "-a", "Pub,Sub", "-i", "127.0.0.0/8", "-d", "Allow"];
    done(&cluster, &[&["createAcl", "-c", "RaftCluster", "-s", "User:alice"][..], &rules].concat()).await?;
    let shown = done(&cluster, &["getAcl", "-c", "RaftCluster", "-s", "User:alice"]).await?;
    ensure!(shown.contains("Topic:ord*") && shown.contains("127.0.0.0/8"), "{shown}");

    // Name servers that forget all are told again.
    cluster.kill_namesrv(0);
    cluster.start_namesrv(0)?;

    // Every node has the rules, soon.
    for node in &cluster.nodes {
        let mut client = Client::new(node.grpc, Some(alice.clone())).await?;
        let allowed = async || client.send("orders").await.is_ok_and(|code| code == pb::Code::Ok);
        eventually("alice may send", Duration::from_secs(5), allowed).await?;
        ensure!(client.heartbeat("billing").await? == pb::Code::Ok, "a heartbeat that is allowed");
        ensure!(client.heartbeat("audit").await? == pb::Code::Forbidden, "a heartbeat for another consumer group");
        ensure!(client.send("secrets").await? == pb::Code::Forbidden, "a send to another topic");
        ensure!(client.receive("secrets", "billing").await? == pb::Code::Forbidden, "a receive of another topic");
        ensure!(client.receive("orders", "audit").await? == pb::Code::Forbidden, "a receive for another group");
        ensure!(client.settings("orders").await? == (pb::Code::Ok, false), "settings that are allowed");
        ensure!(client.settings("secrets").await? == (pb::Code::Forbidden, true), "settings for another topic");
        for keys in [None, Some(user("alice", "guess")), Some(user("eve", SECRET))] {
            let mut stranger = Client::new(node.grpc, keys).await?;
            ensure!(stranger.send("orders").await? == pb::Code::Unauthorized, "a stranger sends");
            ensure!(stranger.route("orders").await? == pb::Code::Unauthorized, "a stranger gets a route");
            ensure!(stranger.receive("orders", "billing").await? == pb::Code::Unauthorized, "a stranger receives");
            ensure!(stranger.heartbeat("billing").await? == pb::Code::Unauthorized, "a stranger has a heartbeat");
            ensure!(stranger.settings("orders").await? == (pb::Code::Unauthorized, true), "a stranger's settings");
        }
    }

    // A change outlives the node that took it.
    cluster.kill(leader);
    let other = cluster.leader_other_than(0, Some(leader), Duration::from_secs(10)).await?;
    let mut client = Client::new(cluster.nodes[other].grpc, Some(alice.clone())).await?;
    ensure!(client.send("orders").await? == pb::Code::Ok, "after a failover");

    // A user sends as fast as it may.
    let alice_may = async |rate: &str| {
        done(&cluster, &["updateUser", "-c", "RaftCluster", "-u", "alice", "--rateMessages", rate]).await
    };
    alice_may("1").await?;
    let held_back = async || client.send("orders").await.is_ok_and(|code| code == pb::Code::TooManyRequests);
    eventually("alice is held back", Duration::from_secs(5), held_back).await?;
    alice_may("0").await?;
    let free = async || {
        let mut free = true;
        for _ in 0..3 {
            free &= client.send("orders").await.is_ok_and(|code| code == pb::Code::Ok);
        }
        free
    };
    eventually("alice is not held back", Duration::from_secs(5), free).await?;

    // A poll that waits ends with the permission.
    while client.receive("orders", "billing").await? == pb::Code::Ok {}
    let poll = tokio::spawn(async move { client.receive("orders", "billing").await });
    done(&cluster, &["updateUser", "-c", "RaftCluster", "-u", "alice", "-s", "disable"]).await?;
    ensure!(poll.await?? == pb::Code::Unauthorized, "a poll outlives its user");
    done(&cluster, &["updateUser", "-c", "RaftCluster", "-u", "alice", "-s", "enable"]).await?;
    done(&cluster, &["deleteUser", "-c", "RaftCluster", "-u", "alice"]).await?;
    let mut client = Client::new(cluster.nodes[other].grpc, Some(alice)).await?;
    ensure!(client.send("orders").await? == pb::Code::Unauthorized, "a deleted user sends");

    // What changed is in the logs, and no secret is.
    let logs: String = (0..cluster.nodes.len()).map(|number| cluster.log(number)).collect();
    for line in ["topic created", "user created", "access rules changed", "user changed", "user deleted"] {
        let found = logs.lines().any(|logged| {
            logged.contains(" - audit: ")
                && logged.contains(line)
                && logged.contains("root")
                && logged.contains("127.0.0.1")
        });
        ensure!(found, "the audit log has no line about: {line}");
    }
    for secret in [SECRET, ROOT_SECRET, "guess", "s3cret-of-the-cluster"] {
        ensure!(!logs.contains(secret), "a secret is logged");
    }
    Ok(())
}

/// Whoever uses a name first makes something, and so does the broker group itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_asked_for_by_name_is_in_the_audit_log() -> Result<()> {
    let options = Options { nodes: 1, administrator: Some(user("root", ROOT_SECRET)), ..Options::default() };
    let cluster = Cluster::start(options).await?;
    done(&cluster, &["updateTopic", "-t", "orders", "-c", "RaftCluster"]).await?;
    done(&cluster, &["updateTopic", "-t", "chats", "-c", "RaftCluster", "-a", "+message.type=LITE"]).await?;
    done(&cluster, &["createUser", "-u", "alice", "-p", SECRET]).await?;
    let rules = ["-s", "User:alice", "-r", "Topic:*,Group:*", "-a", "Pub,Sub", "-d", "Allow"];
    done(&cluster, &[&["createAcl"][..], &rules].concat()).await?;
    let mut alice = Client::new(cluster.nodes[0].grpc, Some(user("alice", SECRET))).await?;

    ensure!(alice.subscribe("chats", "readers", "a").await? == pb::Code::Ok, "a lite topic");
    ensure!(alice.receive("chats", "listeners").await? == pb::Code::MessageNotFound, "nothing is there");
    ensure!(alice.send("orders").await? == pb::Code::Ok, "a send");
    ensure!(alice.give_up("orders", "billing").await? == pb::Code::Ok, "a message is given up");
    let log = || cluster.log(0);
    let logged = |parts: &[&str]| {
        let has = |line: &str| line.contains(" - audit: ") && parts.iter().all(|part| line.contains(part));
        log().lines().any(has)
    };
    for (what, name) in [
        ("consumer group created on its first use and bound to a topic", "\"readers to chats\""),
        ("consumer group created on its first use and bound to a topic", "\"listeners to chats\""),
        ("consumer group created on its first use", "\"billing\""),
    ] {
        ensure!(logged(&[what, name, "\"alice\"", "127.0.0.1:", "access@1"]), "no line about {name}: {}", log());
    }
    let made = async || logged(&["dead letter topic created for its first message", "\"%DLQ%billing\""]);
    eventually("a dead letter topic is logged", Duration::from_secs(5), made).await?;
    let agreed = async || logged(&["message groups of a topic were agreed on", "\"orders\"", "settles=true"]);
    eventually("owners of message groups are logged", Duration::from_secs(10), agreed).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_python_client_signs() -> Result<()> {
    let options = Options { nodes: 1, administrator: Some(user("root", ROOT_SECRET)), ..Options::default() };
    let cluster = Cluster::start(options).await?;
    done(&cluster, &["updateTopic", "-t", "orders", "-c", "RaftCluster"]).await?;
    done(&cluster, &["createUser", "-u", "alice", "-p", SECRET]).await?;
    let rules = ["-s", "User:alice", "-r", "Topic:orders,Group:billing", "-a", "Pub,Sub", "-d", "Allow"];
    done(&cluster, &[&["createAcl"][..], &rules].concat()).await?;
    let access = cluster.nodes[0].grpc.to_string();

    let roundtrip = ["roundtrip", &access, "orders", "billing", "50"];
    let result = official(&cluster, &roundtrip, ("alice", SECRET)).await?;
    let result = result.map_err(|failure| anyhow::anyhow!("{failure}\n{}", cluster.log_tails(0)))?;
    ensure!(result.contains("\"distinct\": 50") && result.contains("\"failures\": []"), "{result}");

    let send = ["send", &access, "orders", "billing", "1"];
    for keys in [("alice", "guess"), ("", ""), ("eve", SECRET)] {
        match official(&cluster, &send, keys).await? {
            Ok(result) => bail!("{keys:?} may send: {result}"),
            Err(failure) => ensure!(failure.contains("FAILED"), "{failure}"),
        }
    }
    Ok(())
}
