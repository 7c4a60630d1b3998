//! The reply is lost after the commit: what a client is told is still the truth, once. Relays in front of the ports
//! take the reply away at the right moment, which is the one in which the command passes on its way to the leader.
//!
//! A node answers its clients from its own apply, so the way of a reply from the leader to another member is all that
//! comes to that member's peer port.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use raftmq_proto::admin::{ConsumerProgressRequest, TopicStatusRequest};
use raftmq_proto::rocketmq::{self as pb, messaging_service_client::MessagingServiceClient};
use raftmq_tests::{
    client::{duration, eventually, message},
    cluster::{Cluster, LEADER_WITHIN, Options},
    invariant::{self, Verdict},
    load::resource,
    relay::Direction,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;
use tonic::{Request, transport::Channel};

/// Of the one call whose reply is lost: time enough for an election and more.
const PATIENCE: Duration = Duration::from_secs(20);

/// Shortest that a lease may be.
const LEASE: Duration = Duration::from_secs(10);

/// How the frame of HTTP/2 goes on, after its length, that ends an answer: HEADERS with END_HEADERS and END_STREAM, and
/// the first half of a small stream number.
const END_OF_ANSWER: &str = "\u{1}\u{5}\0\0";

/// What happens to the leader once it has committed.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    Hangs,
    /// Nothing: only the way to the other member was cut.
    Cut,
}

const FAULTS: [Fault; 3] = [Fault::Killed, Fault::Hangs, Fault::Cut];

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Killed => "killed",
            Fault::Hangs => "hangs",
            Fault::Cut => "cut",
        })
    }
}

/// A client of one address that makes each call once.
#[derive(Clone)]
struct Caller {
    stub: MessagingServiceClient<Channel>,
    id: String,
}

impl Caller {
    fn new(address: SocketAddr, id: &str) -> Result<Self> {
        let channel = Channel::from_shared(format!("http://{address}"))?.connect_lazy();
        Ok(Self { stub: MessagingServiceClient::new(channel), id: id.to_owned() })
    }

    fn request<T>(&self, message: T, limit: Duration) -> Result<Request<T>> {
        let mut request = Request::new(message);
        request.set_timeout(limit);
        let metadata = request.metadata_mut();
        metadata.insert("x-mq-client-id", self.id.parse()?);
        metadata.insert("x-mq-language", "GO".parse()?);
        metadata.insert("x-mq-client-version", "5.1.2".parse()?);
        metadata.insert("x-mq-protocol", "v2".parse()?);
        Ok(request)
    }

    async fn send(mut self, topic: String, body: String) -> Result<pb::SendMessageResponse> {
        let messages = vec![message(&topic, "S1", None, Bytes::from(body))];
        let request = self.request(pb::SendMessageRequest { messages }, PATIENCE)?;
        Ok(self.stub.send_message(request).await?.into_inner())
    }

    /// One receive of a simple consumer, by the name of its topic for a consumer group, that waits up to `wait`.
    async fn receive(self, topic: String, attempt: String, wait: Duration) -> Result<Vec<pb::Message>> {
        let request = pb::ReceiveMessageRequest {
            invisible_duration: Some(duration(LEASE)),
            attempt_id: Some(attempt),
            ..Default::default()
        };
        self.poll(request, topic, wait).await
    }

    /// The same of a push consumer, which does not ask again for what it did not get.
    async fn push(self, topic: String, wait: Duration) -> Result<Vec<pb::Message>> {
        self.poll(pb::ReceiveMessageRequest { auto_renew: true, ..Default::default() }, topic, wait).await
    }

    async fn poll(
        mut self,
        request: pb::ReceiveMessageRequest,
        topic: String,
        wait: Duration,
    ) -> Result<Vec<pb::Message>> {
        let request = pb::ReceiveMessageRequest {
            group: Some(resource(&format!("{topic}-readers"))),
            message_queue: Some(pb::MessageQueue { topic: Some(resource(&topic)), ..Default::default() }),
            filter_expression: Some(pb::FilterExpression {
                r#type: pb::FilterType::Tag as i32,
                expression: "*".into(),
            }),
            batch_size: 32,
            long_polling_timeout: Some(duration(wait)),
            ..request
        };
        let request = self.request(request, wait + Duration::from_secs(3))?;
        let mut stream = self.stub.receive_message(request).await?.into_inner();
        let mut messages = Vec::new();
        while let Some(part) = stream.message().await? {
            match part.content {
                Some(pb::receive_message_response::Content::Message(message)) => messages.push(message),
                Some(pb::receive_message_response::Content::Status(status)) => {
                    let fine = [pb::Code::Ok as i32, pb::Code::MessageNotFound as i32].contains(&status.code);
                    ensure!(fine, "the receive was answered {status:?}");
                }
                _ => {}
            }
        }
        Ok(messages)
    }

    /// Makes consumer group and client known: a receive that is broken off, before there is anything to receive.
    async fn join(&self, topic: &str) {
        let receive = self.clone().receive(topic.to_owned(), "join".into(), Duration::from_secs(5));
        let _ = tokio::time::timeout(Duration::from_secs(1), receive).await;
    }

    async fn ack(mut self, topic: &str, message: &pb::Message) -> Result<()> {
        let properties = message.system_properties.clone().unwrap_or_default();
        let entry = pb::AckMessageEntry {
            message_id: properties.message_id,
            receipt_handle: properties.receipt_handle.context("a message has a handle")?,
            lite_topic: None,
        };
        let request = pb::AckMessageRequest {
            group: Some(resource(&format!("{topic}-readers"))),
            topic: Some(resource(topic)),
            entries: vec![entry],
        };
        let answer = self.stub.ack_message(self.request(request, PATIENCE)?).await?.into_inner();
        let status = answer.entries.first().and_then(|entry| entry.status.clone()).or(answer.status);
        ensure!(
            status.as_ref().is_some_and(|status| status.code == pb::Code::Ok as i32),
            "not acknowledged: {status:?}"
        );
        Ok(())
    }
}

fn attempt(message: &pb::Message) -> i32 {
    message.system_properties.as_ref().and_then(|properties| properties.delivery_attempt).unwrap_or_default()
}

/// Messages of a topic that a node has applied, whatever the others have.
async fn stored(cluster: &Cluster, number: usize, topic: &str) -> Result<u64> {
    let request = TopicStatusRequest { name: topic.to_owned(), stale: true };
    let status = cluster.admin_client(number).await?.topic_status(request).await?.into_inner();
    Ok(status.queues.iter().map(|queue| queue.max_offset).sum())
}

/// Messages that clients hold, and those that wait for another attempt, by what a node has applied.
async fn held(cluster: &Cluster, number: usize, topic: &str) -> Result<(u64, u64)> {
    let request =
        ConsumerProgressRequest { consumer_group: format!("{topic}-readers"), topic: topic.to_owned(), stale: true };
    let mut stream = cluster.admin_client(number).await?.consumer_progress(request).await?.into_inner();
    let (mut in_flight, mut retrying) = (0, 0);
    while let Some(part) = stream.message().await? {
        in_flight += part.queues.iter().map(|queue| queue.in_flight).sum::<u64>();
        retrying += part.queues.iter().map(|queue| queue.retrying).sum::<u64>();
    }
    Ok((in_flight, retrying))
}

/// Nodes of one round.
#[derive(Clone, Copy)]
struct Roles {
    leader: usize,
    /// The member that the client talks to.
    node: usize,
    third: usize,
}

async fn start() -> Result<Cluster> {
    Cluster::start(Options { relayed: true, ..Default::default() }).await
}

/// Waits until everybody is there, creates the round's topic and hands out the roles.
async fn prepare(cluster: &mut Cluster, topic: &str) -> Result<Roles> {
    cluster.create_topic(topic, 1).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let leader = cluster.leader(0).await?;
    Ok(Roles { leader, node: (leader + 1) % 3, third: (leader + 2) % 3 })
}

/// Lets `command` pass to the leader and nothing come back from then on; `made` is the call that it is part of.
/// Waits until the others have committed it, sees that the call has no answer, lets the fault happen, and opens the
/// way again. Returns what the call was answered.
async fn cut_after_commit<A: Send + 'static>(
    cluster: &mut Cluster,
    roles: Roles,
    fault: Fault,
    command: &str,
    make: impl FnOnce() -> JoinHandle<Result<A>>,
    committed: impl AsyncFn(&Cluster, usize) -> bool,
) -> Result<A> {
    let reply_path = cluster.nodes[roles.node].relays()?.peer.clone();
    let cutting = reply_path.clone();
    let forwarded = cluster.nodes[roles.leader].relays()?.peer.clone();
    forwarded.when(Direction::Inbound, command, move || cutting.lose(Direction::Inbound));
    let to_third = cluster.nodes[roles.third].relays()?.peer.clone();
    to_third.when(Direction::Inbound, command, || {});
    let made = make();
    for number in [roles.leader, roles.third] {
        let seen = async || committed(cluster, number).await;
        eventually("the others commit it", Duration::from_secs(5), seen).await?;
    }
    ensure!(forwarded.came(Direction::Inbound, command) > 0, "it was committed and did not pass the relay");
    ensure!(!committed(cluster, roles.node).await, "the member knows of the commit: nothing was cut");
    ensure!(!made.is_finished(), "the call was answered: {:?}", made.await?.err());
    match fault {
        Fault::Killed => cluster.kill(roles.leader),
        Fault::Hangs => cluster.pause(roles.leader)?,
        Fault::Cut => {}
    }
    // Only the third has the entry, so that it is the one to lead.
    let next = if matches!(fault, Fault::Cut) { &forwarded } else { &to_third };
    let before = next.came(Direction::Inbound, command);
    // The member hears who leads and not yet what was committed: it sends the command again.
    reply_path.heal_but_lose(Direction::Inbound, command);
    let again = async || next.came(Direction::Inbound, command) > before;
    eventually("the member asks again", PATIENCE / 2, again).await?;
    reply_path.heal();
    let answer = tokio::time::timeout(PATIENCE, made).await.context("no answer")??;
    if !matches!(fault, Fault::Cut) {
        let leader = cluster.leader_other_than(0, Some(roles.leader), LEADER_WITHIN).await?;
        ensure!(leader == roles.third, "a member without the entry was elected");
    }
    match fault {
        Fault::Killed => cluster.start_node(roles.leader)?,
        Fault::Hangs => cluster.resume(roles.leader)?,
        Fault::Cut => {}
    }
    answer
}

async fn agree(cluster: &mut Cluster) -> Result<()> {
    cluster.caught_up(0, LEADER_WITHIN).await?;
    let verdict = invariant::replicas_agree(cluster, 0, 3).await;
    ensure!(verdict == Verdict::True, "replicas agree: {verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_whose_reply_is_lost_is_answered_once_and_stored_once() -> Result<()> {
    let mut cluster = start().await?;
    for fault in FAULTS {
        let topic = format!("sent-{fault}");
        let roles = prepare(&mut cluster, &topic).await?;
        let body = format!("the body of {topic}");
        let caller = Caller::new(cluster.nodes[roles.node].grpc, &format!("producer-{fault}"))?;
        let reader = Caller::new(cluster.nodes[roles.node].grpc, &format!("reader-{fault}"))?;
        reader.join(&topic).await;
        let make = || tokio::spawn(caller.send(topic.clone(), body.clone()));
        let committed =
            async |cluster: &Cluster, number: usize| stored(cluster, number, &topic).await.is_ok_and(|count| count > 0);
        let answer = cut_after_commit(&mut cluster, roles, fault, &body, make, committed)
            .await
            .with_context(|| format!("leader {fault}\n{}", cluster.log_tails(0)))?;
        println!("send, leader {fault}: {answer:?}");
        let ok = |status: &Option<pb::Status>| status.as_ref().is_some_and(|status| status.code == pb::Code::Ok as i32);
        ensure!(ok(&answer.status) && answer.entries.len() == 1 && ok(&answer.entries[0].status), "{answer:?}");
        ensure!(answer.entries[0].offset == 0, "{answer:?}");
        agree(&mut cluster).await?;
        for number in 0..3 {
            let count = stored(&cluster, number, &topic).await?;
            ensure!(count == 1, "node {number} stored it {count} times");
        }
        let received = reader.clone().receive(topic.clone(), "first".into(), Duration::from_secs(5)).await?;
        ensure!(received.len() == 1 && received[0].body == body && attempt(&received[0]) == 1, "{received:?}");
        reader.ack(&topic, &received[0]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receive_whose_reply_is_lost_is_answered_with_its_messages() -> Result<()> {
    let mut cluster = start().await?;
    for fault in FAULTS {
        let topic = format!("received-{fault}");
        let roles = prepare(&mut cluster, &topic).await?;
        let caller = Caller::new(cluster.nodes[roles.node].grpc, &format!("reader-{fault}"))?;
        let other = Caller::new(cluster.nodes[roles.third].grpc, &format!("other-{fault}"))?;
        caller.join(&topic).await;
        other.join(&topic).await;
        Caller::new(cluster.nodes[roles.leader].grpc, "producer")?.send(topic.clone(), "body".into()).await?;
        cluster.caught_up(0, LEADER_WITHIN).await?;
        let attempt_id = format!("the receive of {topic}");
        let receiving = caller.clone().receive(topic.clone(), attempt_id.clone(), Duration::from_secs(15));
        let make = || tokio::spawn(receiving);
        let committed = async |cluster: &Cluster, number: usize| {
            held(cluster, number, &topic).await.is_ok_and(|held| held == (1, 0))
        };
        let received = cut_after_commit(&mut cluster, roles, fault, &attempt_id, make, committed)
            .await
            .with_context(|| format!("leader {fault}\n{}", cluster.log_tails(0)))?;
        println!("receive, leader {fault}: {} messages, attempt {:?}", received.len(), received.first().map(attempt));
        ensure!(received.len() == 1 && attempt(&received[0]) == 1, "{received:?}");
        // While the lease lasts nobody else gets it.
        let doubled = other.clone().receive(topic.clone(), "doubled".into(), Duration::from_secs(5)).await?;
        ensure!(doubled.is_empty(), "handed out twice: {doubled:?}");
        caller.ack(&topic, &received[0]).await?;
        agree(&mut cluster).await?;
        for number in 0..3 {
            let held = held(&cluster, number, &topic).await?;
            ensure!(held == (0, 0), "node {number} has {held:?} in flight and retrying after the acknowledgement");
        }
        // Nor afterwards.
        let returned = other.clone().receive(topic.clone(), "returned".into(), LEASE).await?;
        ensure!(returned.is_empty(), "an acknowledged message came back: {returned:?}");
    }
    Ok(())
}

/// The node has answered and the answer is lost on its way to the client. Asked again with the same attempt id, the
/// node hands the same messages out; not asked again, they come back when their lease ends, as the second attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receive_whose_answer_does_not_reach_its_client_is_not_lost() -> Result<()> {
    let mut cluster = start().await?;
    for asked_again in [true, false] {
        let topic = format!("unheard-{asked_again}");
        let body = format!("the body of {topic}");
        let roles = prepare(&mut cluster, &topic).await?;
        let caller = Caller::new(cluster.nodes[roles.node].grpc, &format!("reader-{asked_again}"))?;
        let other = Caller::new(cluster.nodes[roles.third].grpc, &format!("other-{asked_again}"))?;
        caller.join(&topic).await;
        other.join(&topic).await;
        Caller::new(cluster.nodes[roles.leader].grpc, "producer")?.send(topic.clone(), body.clone()).await?;
        cluster.caught_up(0, LEADER_WITHIN).await?;
        let relay = cluster.nodes[roles.node].relays()?.grpc.clone();
        let cutting = relay.clone();
        let attempt_id = format!("the receive of {topic}");
        relay.when(Direction::Inbound, &attempt_id, move || cutting.lose(Direction::Outbound));
        relay.when(Direction::Outbound, &body, || {});
        relay.when(Direction::Outbound, END_OF_ANSWER, || {});
        let leased_after = std::time::Instant::now();
        let wait = Duration::from_secs(5);
        let unheard = tokio::spawn(caller.clone().receive(topic.clone(), attempt_id.clone(), wait));
        // All of it, before the connection ends: else the node knows that the client cannot have got the messages, and
        // there is no outcome to be unknown.
        let answered =
            async || relay.came(Direction::Outbound, &body) > 0 && relay.came(Direction::Outbound, END_OF_ANSWER) > 0;
        eventually("the node answers", Duration::from_secs(5), answered).await?;
        ensure!(!unheard.is_finished(), "the answer reached the client");
        relay.heal();
        ensure!(unheard.await?.is_err(), "the answer reached the client");
        let received = if asked_again {
            caller.clone().receive(topic.clone(), attempt_id, wait).await?
        } else {
            let early = other.clone().receive(topic.clone(), "early".into(), wait).await?;
            ensure!(early.is_empty() || leased_after.elapsed() >= LEASE, "delivered before the lease ended: {early:?}");
            other.clone().receive(topic.clone(), "second".into(), LEASE).await?
        };
        let expected = if asked_again { 1 } else { 2 };
        println!(
            "unheard, asked again {asked_again}: {:?} after {:?}",
            received.first().map(attempt),
            leased_after.elapsed()
        );
        ensure!(received.len() == 1 && attempt(&received[0]) == expected, "{received:?}");
        ensure!(asked_again || leased_after.elapsed() >= LEASE, "delivered after {:?}", leased_after.elapsed());
        if asked_again { caller } else { other.clone() }.ack(&topic, &received[0]).await?;
        let returned = other.receive(topic.clone(), "returned".into(), LEASE + Duration::from_secs(2)).await?;
        ensure!(returned.is_empty(), "an acknowledged message came back: {returned:?}");
        agree(&mut cluster).await?;
    }
    Ok(())
}

/// A push consumer's messages stay its own for as long as it lives: those that it got, whatever happens to the node
/// that handed them out, and not those that died with that node on their way to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_consumer_keeps_what_it_got_and_gets_again_what_it_did_not() -> Result<()> {
    let unheard_for = Duration::from_secs(4);
    let settings = vec![("defaultInvisibleTimeMillis".to_owned(), unheard_for.as_millis().to_string())];
    let mut cluster = Cluster::start(Options { relayed: true, settings, ..Default::default() }).await?;
    for got in [true, false] {
        let topic = format!("pushed-{got}");
        let body = format!("the body of {topic}");
        let roles = prepare(&mut cluster, &topic).await?;
        let client = format!("pushed-to-{got}");
        let before = Caller::new(cluster.nodes[roles.node].grpc, &client)?;
        let after = Caller::new(cluster.nodes[roles.third].grpc, &client)?;
        let other = Caller::new(cluster.nodes[roles.third].grpc, &format!("other-than-{client}"))?;
        before.join(&topic).await;
        other.join(&topic).await;
        Caller::new(cluster.nodes[roles.leader].grpc, "producer")?.send(topic.clone(), body.clone()).await?;
        cluster.caught_up(0, LEADER_WITHIN).await?;
        let leased_after = std::time::Instant::now();
        let wait = Duration::from_secs(5);
        let received = if got {
            let received = before.clone().push(topic.clone(), wait).await?;
            // Longer than it takes to confirm, and less than without a confirmation.
            tokio::time::sleep(Duration::from_secs(1)).await;
            received
        } else {
            // The node dies in the moment in which its answer leaves.
            let relay = cluster.nodes[roles.node].relays()?.grpc.clone();
            let pid = cluster.process(roles.node).context("it runs")?.pid();
            let pid = Pid::from_raw(i32::try_from(pid)?).context("a process id is never zero")?;
            let cutting = relay.clone();
            relay.when(Direction::Outbound, &body, move || {
                cutting.lose(Direction::Outbound);
                kill_process(pid, Signal::KILL).expect("it runs");
            });
            let unheard = before.push(topic.clone(), wait).await;
            ensure!(unheard.is_err(), "the answer reached the client");
            relay.heal();
            after.clone().push(topic.clone(), unheard_for + wait).await?
        };
        cluster.kill(roles.node);
        println!("push, got {got}: {:?} after {:?}", received.first().map(attempt), leased_after.elapsed());
        ensure!(received.len() == 1 && attempt(&received[0]) == 1, "{received:?}");
        ensure!(got || leased_after.elapsed() >= unheard_for, "delivered after {:?}", leased_after.elapsed());
        let doubled = other.clone().push(topic.clone(), 2 * unheard_for).await?;
        ensure!(doubled.is_empty(), "handed out twice: {doubled:?}");
        after.ack(&topic, &received[0]).await?;
        let returned = other.push(topic.clone(), 2 * unheard_for).await?;
        ensure!(returned.is_empty(), "an acknowledged message came back: {returned:?}");
        cluster.start_node(roles.node)?;
        agree(&mut cluster).await?;
    }
    Ok(())
}
