//! `benchmark consumer`: many receives at a time; what they bring is acknowledged and counted.

use super::super::message::{millis, resource};
use super::super::probe::TOPIC;
use super::super::public::{Client, check};
use super::Bounds;
use super::load::Load;
use super::route::{Way, ways};
use crate::connect::at;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Format, Outcome};
use clap::Args;
use raftmq_proto::rocketmq::messaging_service_client::MessagingServiceClient;
use raftmq_proto::rocketmq::receive_message_response::Content;
use raftmq_proto::rocketmq::{
    AckMessageEntry, AckMessageRequest, Code, FilterExpression, FilterType, Message, MessageQueue, Permission,
    ReceiveMessageRequest,
};
use std::time::Duration;
use tokio::time::sleep;
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

/// How long a receive waits for messages, in seconds; also how long one takes at most to end.
const POLL_SECONDS: i64 = 5;
/// After a receive that came to nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// Receive and acknowledge messages, so many calls at a time.
///
/// B2C is the time from a message's making to its arrival here, S2C from its storage: by different clocks, where the
/// machines are different.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin benchmark consumer -n localhost:9876 -t TOOLS_BENCHMARK -g benchmark_consumer"
)]
pub(super) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic", default_value = TOPIC)]
    topic: String,
    /// The consumer group.
    #[arg(short = 'g', long = "group", default_value = "benchmark_consumer")]
    group: String,
    /// Calls at a time.
    #[arg(short = 'w', long = "threadCount", value_name = "CALLS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    workers: u32,
    /// Messages of one receive at most.
    #[arg(long = "batch", default_value_t = 32, value_parser = clap::value_parser!(i32).range(1..=1_024))]
    batch: i32,
    /// Seconds until a message that was not acknowledged comes again.
    #[arg(long = "invisible", value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(i64).range(10..=43_200))]
    invisible: i64,
    /// Tags, as in `a || b`.
    #[arg(short = 'e', long = "expression", default_value = "*")]
    expression: String,
    #[command(flatten)]
    bounds: Bounds,
}

pub(super) async fn run(directory: &Directory, arguments: &Arguments, format: Format) -> Result<Outcome, AdminError> {
    let client = Client::new("mqadmin-benchmark", directory.token.credentials.clone());
    let ways = ways(directory, &client, &arguments.topic, Permission::Read).await?;
    let load = Load::new(&arguments.bounds, "Consume", &["B2C", "S2C"]);
    let worker = |number: u32| work(&client, &ways, &load, arguments, number as usize);
    let workers = (0..arguments.workers).map(worker).collect();
    let took = load.run(&arguments.bounds, workers, format).await;
    let (text, json, problem) = load.summary(took);
    Ok(Outcome { text, json, failures: problem.into_iter().collect() })
}

async fn work(client: &Client, ways: &[Way], load: &Load, arguments: &Arguments, number: usize) {
    let mut turn = number;
    // How many a receive brings is known afterwards.
    while load.goes_on(0) {
        let way = &ways[turn % ways.len()];
        let mut node = way.nodes[turn / ways.len() % way.nodes.len()].clone();
        turn = turn.wrapping_add(1);
        let mut received = std::pin::pin!(receive(client, &mut node, way.queue.clone(), arguments));
        let messages = tokio::select! {
            messages = &mut received => messages,
            // What it brings within its time is not left to come again later.
            () = load.stopped() => received.await,
        };
        let messages = match messages {
            Ok(messages) => messages,
            Err(why) => {
                load.retried();
                load.failed(0, why.to_string());
                sleep(PAUSE).await;
                continue;
            }
        };
        if messages.is_empty() {
            continue;
        }
        let now = crate::time::now_ms();
        load.goes_on(messages.len() as u64);
        match acknowledge(client, &mut way.nodes[0].clone(), arguments, &messages).await {
            Ok(()) => {
                for message in &messages {
                    let system = message.system_properties.clone().unwrap_or_default();
                    let since = |at: u64| Duration::from_millis(now.saturating_sub(at));
                    let born = since(millis(system.born_timestamp.as_ref()));
                    let stored = since(millis(system.store_timestamp.as_ref()));
                    load.done(1, message.body.len() as u64, &[born, stored]);
                }
            }
            Err(why) => load.failed(messages.len() as u64, why.to_string()),
        }
    }
}

async fn receive(
    client: &Client,
    node: &mut MessagingServiceClient<Channel>,
    queue: MessageQueue,
    arguments: &Arguments,
) -> Result<Vec<Message>, AdminError> {
    let mut request = client.request(ReceiveMessageRequest {
        group: resource(&arguments.group),
        message_queue: Some(queue),
        filter_expression: Some(FilterExpression {
            r#type: FilterType::Tag.into(),
            expression: arguments.expression.clone(),
        }),
        batch_size: arguments.batch,
        invisible_duration: Some(prost_types::Duration { seconds: arguments.invisible, nanos: 0 }),
        long_polling_timeout: Some(prost_types::Duration { seconds: POLL_SECONDS, nanos: 0 }),
        ..ReceiveMessageRequest::default()
    });
    request.set_timeout(Duration::from_secs(10));
    let topic = &arguments.topic;
    let failed = |status: &tonic::Status| AdminError::Unknown(at(topic, status));
    let mut parts = node.receive_message(request).await.map_err(|status| failed(&status))?.into_inner();
    let mut messages = Vec::new();
    while let Some(part) = parts.next().await {
        match part.map_err(|status| failed(&status))?.content {
            Some(Content::Message(message)) => messages.push(message),
            Some(Content::Status(status)) if status.code() == Code::MessageNotFound => {}
            Some(Content::Status(status)) => check(topic, Some(&status))?,
            Some(Content::DeliveryTimestamp(_)) | None => {}
        }
    }
    Ok(messages)
}

async fn acknowledge(
    client: &Client,
    node: &mut MessagingServiceClient<Channel>,
    arguments: &Arguments,
    messages: &[Message],
) -> Result<(), AdminError> {
    let entries = messages.iter().filter_map(|message| {
        let system = message.system_properties.as_ref()?;
        Some(AckMessageEntry {
            message_id: system.message_id.clone(),
            receipt_handle: system.receipt_handle.clone()?,
            ..AckMessageEntry::default()
        })
    });
    let request = AckMessageRequest {
        group: resource(&arguments.group),
        topic: resource(&arguments.topic),
        entries: entries.collect(),
    };
    let answer = node.ack_message(client.request(request)).await;
    let answer = answer.map_err(|status| AdminError::Unknown(at(&arguments.topic, &status)))?.into_inner();
    check(&arguments.topic, answer.status.as_ref())
}
