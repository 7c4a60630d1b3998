//! TLS among brokers, name servers and tools: a running cluster goes from plaintext to it node by node, under load, and
//! afterwards works as before, while callers in plaintext and those with a certificate of another CA are refused, with
//! what to do about it. What broker groups hand over to one another goes over it, and certificates change while they run.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use raftmq_proto::admin::{GroupStatusRequest, admin_client::AdminClient};
use raftmq_proto::rocketmq as pb;
use raftmq_proto::rocketmq::messaging_service_client::MessagingServiceClient;
use raftmq_server::dial::Dialer;
use raftmq_tests::certificates::Authority;
use raftmq_tests::client::{Producer, eventually, message};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::invariant;
use raftmq_tests::oracle::message_id;
use raftmq_tests::workload::{self, Workload};
use tonic::transport::Endpoint;

const STOPS_WITHIN: Duration = Duration::from_secs(20);

/// Gives every name server and broker a mode, one after the other, each once the one before is back.
async fn switch(cluster: &mut Cluster, mode: &str) -> Result<()> {
    let line = format!("tls.server.mode = {mode}");
    for number in 0..cluster.namesrvs.len() {
        cluster.set(&[number], &[], &line)?;
        cluster.kill_namesrv(number);
        cluster.start_namesrv(number)?;
    }
    for number in 0..cluster.nodes.len() {
        cluster.set(&[], &[number], &line)?;
        cluster.stop(number, STOPS_WITHIN)?;
        cluster.start_node(number)?;
        cluster.reached(0, LEADER_WITHIN).await?;
    }
    Ok(())
}

/// All nodes that the name servers know, as `mqadmin` says.
async fn known(cluster: &Cluster) -> Result<usize> {
    let output = cluster.mqadmin(&["clusterList", "-o", "json"]).await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(cluster.nodes.iter().filter(|node| text.contains(&node.admin.to_string())).count())
}

async fn refused(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let output = cluster.mqadmin(arguments).await?;
    ensure!(!output.status.success(), "{arguments:?} is let in: {}", String::from_utf8_lossy(&output.stdout));
    Ok(String::from_utf8(output.stderr)?)
}

/// Why a port of a node does not answer a caller.
async fn kept_out(dialer: &Dialer, address: &str) -> Result<String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.timeout(Duration::from_secs(5));
    let mut client = AdminClient::new(dialer.channel(&endpoint, address));
    let status = client.group_status(GroupStatusRequest {}).await.err().context("it is answered")?;
    let (mut text, mut source) = (status.to_string(), std::error::Error::source(&status));
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_from_plaintext_to_tls_under_load_and_keeps_others_out() -> Result<()> {
    let mut cluster = Cluster::start(Options { certificates: true, ..Default::default() }).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;

    // Until plaintext is refused, mqadmin may go on without a certificate.
    switch(&mut cluster, "permissive").await?;
    eventually("all are known by plaintext", LEADER_WITHIN, async || known(&cluster).await.is_ok_and(|all| all == 3))
        .await?;
    switch(&mut cluster, "enforcing").await?;
    for number in 0..3 {
        let log = cluster.log(number);
        let last = log.rsplit("boot success").next().unwrap_or_default();
        ensure!(!last.contains("called in plaintext"), "node {number} found somebody who takes no TLS:\n{last}");
    }

    // In plaintext nobody is let in any more: it is said on both sides.
    let plainly = refused(&cluster, &["clusterList"]).await?;
    ensure!(plainly.contains("tls.server.mode is enforcing"), "{plainly}");
    let admin = cluster.nodes[0].admin.to_string();
    let plainly = refused(&cluster, &["haStatus", "-b", &admin]).await?;
    ensure!(plainly.contains("tls.server.mode is enforcing"), "{plainly}");
    let other = Authority::new(&cluster.dir().join("another-ca"))?;
    other.sign("node", &["127.0.0.1"])?;
    // It trusts the cluster's CA, and so sees what the other side says.
    let ours = cluster.authority.as_ref().context("there is one")?;
    fs::copy(ours.path("ca.pem"), other.path("theirs.pem"))?;
    let both = fs::read_to_string(other.path("ca.pem"))? + &fs::read_to_string(ours.path("ca.pem"))?;
    fs::write(other.path("ca.pem"), both)?;
    let stranger = other.dialer("node", "enforcing")?;
    for (key, address) in [("listenPort", cluster.nodes[0].admin), ("dLegerPeers", cluster.nodes[0].peer)] {
        let text = kept_out(&Dialer::default(), &address.to_string()).await?;
        ensure!(text.contains("tls.server.mode is enforcing"), "{key}: {text}");
        let text = kept_out(&stranger, &address.to_string()).await?;
        ensure!(text.contains("does not take the certificate of this side"), "{key}: {text}");
        let line = |part: &str| {
            let (listener, log) = (format!("listener={key}"), cluster.log(0));
            log.lines().any(|line| line.contains(part) && line.contains(&listener) && line.contains("--tlsCert"))
        };
        ensure!(line("refused a caller"), "nothing about {key} in\n{}", cluster.log(0));
    }

    // With a certificate mqadmin is, and all is as before.
    cluster.tools_speak_tls = true;
    eventually("all are known by TLS", LEADER_WITHIN, async || known(&cluster).await.is_ok_and(|all| all == 3)).await?;
    let leader = cluster.leader(0).await?;
    workload
        .fault(async || {
            workload.strike(|| cluster.kill(leader));
            Ok(())
        })
        .await?;
    workload.acknowledged(invariant::ACKNOWLEDGED_MIN, LEADER_WITHIN).await?;
    cluster.start_node(leader)?;
    cluster.leader(0).await?;
    workload.finish().await?.judge("leader killed under TLS", &cluster).await
}

fn ordered(topic: &str, number: u64) -> pb::Message {
    let mut message = message(topic, &message_id(number), None, "in order".into());
    if let Some(system) = &mut message.system_properties {
        system.message_group = Some(format!("account-{number}"));
        system.message_type = pb::MessageType::Fifo.into();
    }
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_over_goes_by_tls_and_certificates_change_while_nodes_run() -> Result<()> {
    let options = Options { certificates: true, groups: 2, nodes: 1, ..Default::default() };
    let mut cluster = Cluster::prepare(options).await?;
    cluster.set(&[0, 1], &[0, 1], "tls.server.mode = enforcing\nautoCreateTopicEnable = false")?;
    let authority = cluster.authority.as_ref().context("there is one")?;
    authority.sign("second", &["127.0.0.1"])?;
    let lines = authority.lines("second");
    cluster.set(&[], &[1], &lines)?;
    cluster.start_all().await?;
    cluster.tools_speak_tls = true;
    let making = ["updateTopic", "-c", "RaftCluster", "-t", "shared", "-r", "4", "-w", "4", "-a", "+message.type=FIFO"];
    eventually("the topic is made in both", LEADER_WITHIN, async || {
        cluster.mqadmin(&making).await.is_ok_and(|output| output.status.success())
    })
    .await?;
    let producer = Producer::new(&cluster.access(0), &["shared"])?;
    eventually("routes name both groups", Duration::from_secs(40), async || {
        let route = producer.client().route("shared").await;
        let names = route.map(|route| {
            let brokers = route.queues().filter_map(|queue| Some(queue.broker.as_ref()?.name.clone()));
            brokers.collect::<BTreeSet<_>>().len()
        });
        names.is_ok_and(|names| names == 2)
    })
    .await?;

    // The other broker group shows a certificate for another host: what is its is not handed over to it.
    let authority = cluster.authority.as_ref().context("there is one")?;
    authority.sign("second", &["192.0.2.1"])?;
    let changes = || cluster.log(1).matches("another certificate for the cluster").count();
    eventually("the certificate changes", Duration::from_secs(30), async || {
        // It looks when somebody calls.
        let _ = cluster.status(1).await;
        changes() > 0
    })
    .await?;
    // An SDK would go on to that broker group by itself.
    let mut first = MessagingServiceClient::connect(format!("http://{}", cluster.nodes[0].grpc)).await?;
    let mut send = async |number: u64| {
        let messages = vec![ordered("shared", number)];
        let mut request = tonic::Request::new(pb::SendMessageRequest { messages });
        request.metadata_mut().insert("x-mq-client-id", "over-the-first".parse()?);
        Ok::<_, anyhow::Error>(format!("{:?}", first.send_message(request).await?.into_inner()))
    };
    let (mut number, mut said) = (0, String::new());
    eventually("it is noticed", Duration::from_secs(30), async || {
        number += 1;
        said = send(number).await.unwrap_or_else(|error| error.to_string());
        said.contains("RaftNode01 keeps slot")
    })
    .await
    .with_context(|| format!("the last answer is {said}"))?;

    // With a good one, which no process was restarted for, it is.
    authority.sign("second", &["127.0.0.1"])?;
    eventually("it is handed over", Duration::from_secs(30), async || {
        send(number).await.is_ok_and(|said| said.contains("status: Some(Status { code: Ok"))
    })
    .await?;
    ensure!(changes() > 1, "{}", cluster.log(1));
    Ok(())
}
