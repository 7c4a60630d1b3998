//! `queryMsgByOffset`: the message at an offset of a queue.

use super::message::{self, resource};
use super::public::{Client, check, on_group};
use super::send_message::hosts;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use clap::Args;
use prost_types::Duration;
use raftmq_proto::rocketmq::pull_message_response::Content;
use raftmq_proto::rocketmq::{Broker, FilterExpression, FilterType, MessageQueue, PullMessageRequest};
use tokio_stream::StreamExt as _;

/// Show the message at an offset of a queue.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin queryMsgByOffset -n localhost:9876 -t TestTopic -b RaftNode00 -i 0 -o 7")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// The broker group; needless where one hosts the topic.
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    broker: Option<String>,
    /// The queue.
    #[arg(short = 'i', long = "queueId", value_name = "QUEUE", value_parser = clap::value_parser!(u16))]
    queue: u16,
    /// The offset.
    #[arg(short = 'o', long = "offset", value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,
    /// Accepted and ignored: a body is shown as text where it is text, otherwise in hexadecimal.
    #[arg(short = 'f', long = "bodyFormat", hide = true)]
    _format: Option<String>,
    #[command(flatten)]
    pub output: LongOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let groups = hosts(directory, &arguments.topic, arguments.broker.as_deref()).await?;
    let [group] = groups.as_slice() else {
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        return Err(AdminError::Usage(format!(
            "more than one broker group hosts topic {}: name one of {} with -b",
            arguments.topic,
            names.join(", ")
        )));
    };
    let client = Client::new("mqadmin", directory.token.credentials.clone());
    let request = PullMessageRequest {
        group: resource("TOOLS_CONSUMER"),
        message_queue: Some(MessageQueue {
            topic: resource(&arguments.topic),
            id: i32::from(arguments.queue),
            broker: Some(Broker { name: group.name.clone(), id: 0, endpoints: None }),
            ..MessageQueue::default()
        }),
        offset: arguments.offset,
        batch_size: 1,
        filter_expression: Some(FilterExpression { r#type: FilterType::Tag.into(), expression: "*".to_owned() }),
        long_polling_timeout: Some(Duration::default()),
    };
    let (address, parts) = on_group(directory, group, |mut node| {
        let mut request = client.request(request.clone());
        request.set_timeout(std::time::Duration::from_secs(10));
        async move {
            let mut stream = node.pull_message(request).await?.into_inner();
            let mut parts = Vec::new();
            while let Some(part) = stream.next().await {
                parts.extend(part?.content);
            }
            Ok(parts)
        }
    })
    .await?;
    let mut found = None;
    for part in parts {
        match part {
            Content::Status(status) => check(&address, Some(&status))?,
            Content::Message(message) => found = found.or(Some(message)),
            Content::NextOffset(_) => {}
        }
    }
    let at = |message: &raftmq_proto::rocketmq::Message| {
        message.system_properties.as_ref().and_then(|properties| properties.queue_offset)
    };
    // What is gone is passed over.
    let Some(message) = found.filter(|message| at(message) == Some(arguments.offset)) else {
        let Arguments { topic, queue, offset, .. } = arguments;
        return Err(AdminError::Unknown(format!(
            "queue {queue} of topic {topic} in broker group {} has no message at offset {offset}; topicStatus shows the \
             offsets there are",
            group.name
        )));
    };
    Ok(Outcome::done(message::details(&group.name, &message), message::to_json(&group.name, &message)))
}
