//! `consumeMessage`: receives messages through the public API, prints and acknowledges them.

use super::message::{self, resource};
use super::public::{Client, check, on_group};
use super::send_message::hosts;
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use clap::Args;
use futures::TryStreamExt as _;
use prost_types::Duration;
use raftmq_proto::rocketmq::receive_message_response::Content;
use raftmq_proto::rocketmq::{
    AckMessageEntry, AckMessageRequest, Code, FilterExpression, FilterType, Message, MessageQueue,
    ReceiveMessageRequest,
};

/// Messages of one receive.
const BATCH_MAX: u32 = 32;
/// How long a receive waits when there is nothing.
const POLL_SECONDS: i64 = 5;
/// How long the messages are this command's before others get them.
const INVISIBLE_SECONDS: i64 = 30;

/// Receive messages of a topic and print them.
///
/// It is a member of a consumer group like any other: what it prints it acknowledges, and the next run goes on from
/// there. With --no-ack the messages come back to the group after 30 s, counted as an attempt.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin consumeMessage -n localhost:9876 -t TestTopic -c 10")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// The consumer group.
    #[arg(short = 'g', long = "consumerGroup", default_value = "TOOLS_CONSUMER")]
    group: String,
    /// At most so many messages.
    #[arg(short = 'c', long = "MessageNumber", value_name = "MESSAGES", default_value_t = 128)]
    count: u32,
    /// Only from the broker group of this name.
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    broker: Option<String>,
    /// Tags, as in `a || b`.
    #[arg(long = "expression", default_value = "*")]
    expression: String,
    /// Leave the messages to be delivered again.
    #[arg(long = "no-ack")]
    no_ack: bool,
    /// Not supported yet: reading by offset.
    #[arg(short = 'o', long = "offset", hide = true)]
    offset: Option<i64>,
    /// Not supported yet: reading one queue.
    #[arg(short = 'i', long = "queueId", hide = true)]
    queue: Option<u32>,
    /// Not supported yet: reading from a time on.
    #[arg(short = 's', long = "beginTimestamp", hide = true)]
    begin: Option<String>,
    /// Not supported yet: reading up to a time.
    #[arg(short = 'e', long = "endTimestamp", hide = true)]
    end: Option<String>,
    #[command(flatten)]
    pub output: LongOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    if arguments.offset.is_some() || arguments.queue.is_some() || arguments.begin.is_some() || arguments.end.is_some() {
        return Err(AdminError::Usage(
            "-o, -i, -s and -e read by offset or time, which this version cannot; leave them out to receive as a \
             member of the consumer group"
                .to_owned(),
        ));
    }
    let groups = hosts(directory, &arguments.topic, arguments.broker.as_deref()).await?;
    let client = Client::new("mqadmin", directory.token.credentials.clone());
    let (mut text, mut rows) = (String::new(), Vec::new());
    // A group with nothing to give is left out; when all are, there is no more.
    let mut giving: Vec<&Group> = groups.iter().collect();
    while !giving.is_empty() && rows.len() < arguments.count as usize {
        let mut still = Vec::new();
        for group in giving {
            let wanted = (arguments.count as usize).saturating_sub(rows.len()).min(BATCH_MAX as usize);
            if wanted == 0 {
                break;
            }
            let (address, messages) = receive(directory, &client, group, arguments, wanted).await?;
            if !messages.is_empty() {
                still.push(group);
            }
            if !arguments.no_ack {
                acknowledge(directory, &client, &address, arguments, &messages).await?;
            }
            for message in &messages {
                text.push_str(&message::line(&group.name, message));
                rows.push(message::to_json(&group.name, message));
            }
        }
        giving = still;
    }
    if rows.is_empty() {
        text.push_str("no messages\n");
    }
    Ok(Outcome::done(text, rows.into()))
}

async fn receive(
    directory: &Directory,
    client: &Client,
    group: &Group,
    arguments: &Arguments,
    wanted: usize,
) -> Result<(String, Vec<Message>), AdminError> {
    let request = ReceiveMessageRequest {
        group: resource(&arguments.group),
        message_queue: Some(MessageQueue {
            topic: resource(&arguments.topic),
            id: -1,
            broker: Some(raftmq_proto::rocketmq::Broker { name: group.name.clone(), id: 0, endpoints: None }),
            ..MessageQueue::default()
        }),
        filter_expression: Some(FilterExpression {
            r#type: FilterType::Tag.into(),
            expression: arguments.expression.clone(),
        }),
        batch_size: i32::try_from(wanted).unwrap_or(i32::MAX),
        invisible_duration: Some(Duration { seconds: INVISIBLE_SECONDS, nanos: 0 }),
        auto_renew: false,
        long_polling_timeout: Some(Duration { seconds: POLL_SECONDS, nanos: 0 }),
        attempt_id: None,
    };
    let (address, parts) = on_group(directory, group, |mut node| {
        let mut request = client.request(request.clone());
        request.set_timeout(std::time::Duration::from_secs(10));
        async move {
            let stream = node.receive_message(request).await?.into_inner();
            stream.try_filter_map(async |part| Ok(part.content)).try_collect::<Vec<_>>().await
        }
    })
    .await?;
    let mut messages = Vec::new();
    for part in parts {
        match part {
            Content::Message(message) => messages.push(message),
            Content::Status(status) if status.code() == Code::MessageNotFound => {}
            Content::Status(status) => check(&address, Some(&status))?,
            Content::DeliveryTimestamp(_) => {}
        }
    }
    Ok((address, messages))
}

async fn acknowledge(
    directory: &Directory,
    client: &Client,
    address: &str,
    arguments: &Arguments,
    messages: &[Message],
) -> Result<(), AdminError> {
    if messages.is_empty() {
        return Ok(());
    }
    let entries = messages
        .iter()
        .filter_map(|message| message.system_properties.as_ref())
        .map(|properties| AckMessageEntry {
            message_id: properties.message_id.clone(),
            receipt_handle: properties.receipt_handle.clone().unwrap_or_default(),
            ..AckMessageEntry::default()
        })
        .collect();
    let request = AckMessageRequest { group: resource(&arguments.group), topic: resource(&arguments.topic), entries };
    let answer = crate::connect::messaging(address, &directory.token)?.ack_message(client.request(request)).await;
    let answer = answer.map_err(|status| AdminError::refused(address, &status))?.into_inner();
    check(address, answer.status.as_ref())
}
