//! `clusterRT`, `sendMsgStatus`, `checkMsgSendRT`: messages that are sent to see how long that takes.

use super::public::{Client, check, hosts, on_group};
use crate::directory::{Directory, Group, Target};
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use crate::table::Table;
use clap::Args;
use raftmq_admin_client::message::{resource, timestamp};
use raftmq_proto::rocketmq::{Encoding, Message, MessageType, SendMessageRequest, SystemProperties};
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A topic for messages that nobody needs. RocketMQ's own, BenchmarkTest, is a name that clients may not use.
pub(super) const TOPIC: &str = "TOOLS_BENCHMARK";

/// Show how long a send takes in each broker group, and how many failed.
///
/// One round; RocketMQ's goes on for ever: use --rounds for more. The messages stay in topic TOOLS_BENCHMARK.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin clusterRT -n localhost:9876 -a 10")]
pub(crate) struct ClusterRt {
    /// Messages to each broker group.
    #[arg(short = 'a', long = "amount", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    amount: u32,
    /// Bytes of a body.
    #[arg(short = 's', long = "size", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    size: u32,
    /// Only in this cluster.
    #[arg(short = 'c', long = "cluster", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Seconds between two rounds.
    #[arg(short = 'i', long = "interval", default_value_t = 10)]
    interval: u64,
    /// How many rounds.
    #[arg(long = "rounds", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Accepted and ignored: -o json is for programs.
    #[arg(short = 'p', long = "printAsTlog", hide = true, num_args = 0..=1)]
    _tlog: Option<Option<bool>>,
    /// Accepted and ignored: it named a machine room in the other format.
    #[arg(short = 'm', long = "machineRoom", hide = true)]
    _room: Option<String>,
    /// The topic.
    #[arg(short = 't', long = "topic", default_value = TOPIC)]
    topic: String,
    #[command(flatten)]
    pub output: LongOutput,
}

/// Send messages to a broker group, one after the other, and show how long each took.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin sendMsgStatus -n localhost:9876 -b RaftNode00 -c 5")]
pub(crate) struct SendMsgStatus {
    /// The broker group.
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    broker: String,
    /// Bytes of a body.
    #[arg(short = 's', long = "messageSize", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    size: u32,
    /// How many messages.
    #[arg(short = 'c', long = "count", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// The topic.
    #[arg(short = 't', long = "topic", default_value = TOPIC)]
    topic: String,
    #[command(flatten)]
    pub output: LongOutput,
}

/// Send messages to a topic, in turn to the broker groups that host it, and show how long that takes.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin checkMsgSendRT -n localhost:9876 -t TestTopic -a 10 -s 1024")]
pub(crate) struct CheckMsgSendRt {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// How many messages.
    #[arg(short = 'a', long = "amount", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    amount: u32,
    /// Bytes of a body.
    #[arg(short = 's', long = "size", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    size: u32,
    #[command(flatten)]
    pub output: LongOutput,
}

/// A message of so many bytes.
pub(super) fn message(client: &Client, topic: &str, bytes: u32) -> Message {
    Message {
        topic: resource(topic),
        system_properties: Some(SystemProperties {
            message_id: client.message_id(),
            body_encoding: Encoding::Identity.into(),
            message_type: MessageType::Normal.into(),
            born_timestamp: Some(timestamp(crate::time::now_ms())),
            born_host: "mqadmin".to_owned(),
            ..SystemProperties::default()
        }),
        body: vec![b'a'; bytes as usize].into(),
        ..Message::default()
    }
}

/// Sends one message; how long it took.
pub(super) async fn send(
    directory: &Directory,
    client: &Client,
    group: &Group,
    message: &Message,
) -> Result<Duration, AdminError> {
    let began = Instant::now();
    let (address, answer) = on_group(directory, group, |mut node| {
        let request = client.request(SendMessageRequest { messages: vec![message.clone()] });
        async move { Ok(node.send_message(request).await?.into_inner()) }
    })
    .await?;
    check(&address, answer.status.as_ref())?;
    for entry in &answer.entries {
        check(&address, entry.status.as_ref())?;
    }
    Ok(began.elapsed())
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

pub(crate) async fn cluster_rt(directory: &Directory, arguments: &ClusterRt) -> Result<Outcome, AdminError> {
    let client = Client::new("mqadmin", directory.token.credentials.clone());
    let groups = match &arguments.cluster {
        Some(cluster) => directory.groups(Target::Cluster(cluster)).await?,
        None => directory.all().await?,
    };
    let mut table = Table::new(&["#Cluster Name", "#Broker Name", "#RT", "#successCount", "#failCount"]);
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        if round > 0 {
            sleep(Duration::from_secs(arguments.interval)).await;
        }
        for group in &groups {
            let (mut sent, mut failed, mut spent) = (0_u32, 0_u32, Duration::ZERO);
            for _ in 0..arguments.amount {
                match send(directory, &client, group, &message(&client, &arguments.topic, arguments.size)).await {
                    Ok(took) => (sent, spent) = (sent + 1, spent + took),
                    Err(error) => {
                        if failed == 0 {
                            failures.push(super::failure(&group.name, &error));
                        }
                        failed += 1;
                    }
                }
            }
            let mean = if sent == 0 { 0.0 } else { ms(spent) / f64::from(sent) };
            let (cluster, name) = (group.cluster.clone(), group.name.clone());
            table.row(vec![cluster, name, format!("{mean:.2}"), sent.to_string(), failed.to_string()]);
            rows.push(json!({
                "clusterName": group.cluster, "brokerName": group.name, "rtMs": mean, "successCount": sent,
                "failCount": failed,
            }));
        }
    }
    Ok(Outcome { text: table.to_string(), json: rows.into(), failures })
}

pub(crate) async fn send_msg_status(directory: &Directory, arguments: &SendMsgStatus) -> Result<Outcome, AdminError> {
    let client = Client::new("mqadmin", directory.token.credentials.clone());
    // It may host the topic only after the first of them.
    let groups = directory.all().await?;
    let Some(group) = groups.iter().find(|group| group.name == arguments.broker) else {
        let known: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        let (name, known) = (&arguments.broker, known.join(", "));
        return Err(AdminError::Unknown(format!("no broker group is called {name}; there are {known}")));
    };
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.count {
        let message = message(&client, &arguments.topic, arguments.size);
        match send(directory, &client, group, &message).await {
            Ok(took) => {
                let id = message.system_properties.map(|properties| properties.message_id).unwrap_or_default();
                let _ = writeln!(text, "rt={:.2}ms, SendResult=SendResult [sendStatus=SEND_OK, msgId={id}]", ms(took));
                rows.push(json!({ "rtMs": ms(took), "msgId": id }));
            }
            Err(error) => {
                failures.push(super::failure(&group.name, &error));
                break;
            }
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

pub(crate) async fn check_msg_send_rt(
    directory: &Directory,
    arguments: &CheckMsgSendRt,
) -> Result<Outcome, AdminError> {
    let client = Client::new("mqadmin", directory.token.credentials.clone());
    let groups = hosts(directory, &arguments.topic, None).await?;
    let mut table = Table::new(&["#Broker Name", "#Number", "#Send Result", "#RT"]);
    let (mut rows, mut spent, mut sent, mut first) = (Vec::new(), Duration::ZERO, 0_u32, None);
    for (number, group) in (0..arguments.amount).zip(groups.iter().cycle()) {
        let outcome = send(directory, &client, group, &message(&client, &arguments.topic, arguments.size)).await;
        let (result, took) = match outcome {
            Ok(took) => {
                (spent, sent) = (spent + took, sent + 1);
                (true, ms(took))
            }
            Err(error) => {
                first = first.or_else(|| Some(super::failure(&group.name, &error)));
                (false, 0.0)
            }
        };
        table.row(vec![group.name.clone(), number.to_string(), result.to_string(), format!("{took:.2}")]);
        rows.push(json!({ "brokerName": group.name, "number": number, "sent": result, "rtMs": took }));
    }
    let mean = if sent == 0 { 0.0 } else { ms(spent) / f64::from(sent) };
    let json = json!({ "messages": rows, "avgRtMs": mean });
    Ok(Outcome { text: format!("{table}Avg RT: {mean:.2}\n"), json, failures: first.into_iter().collect() })
}
