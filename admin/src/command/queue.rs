//! Messages of one queue by their offsets, through the public API.

use super::message::resource;
use super::public::{Client, check, hosts, on_group};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use futures::TryStreamExt as _;
use prost_types::Duration;
use raftmq_proto::rocketmq::pull_message_response::Content;
use raftmq_proto::rocketmq::{Broker, FilterExpression, FilterType, Message, MessageQueue, PullMessageRequest};

/// The broker group that hosts a topic; of several, the one that is named.
pub(super) async fn host(directory: &Directory, topic: &str, named: Option<&str>) -> Result<Group, AdminError> {
    let mut groups = hosts(directory, topic, named).await?;
    if groups.len() > 1 {
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        let names = names.join(", ");
        return Err(AdminError::Usage(format!("more than one broker group hosts topic {topic}: name one of {names}")));
    }
    groups.pop().ok_or_else(|| AdminError::Unknown(format!("no broker group hosts topic {topic}")))
}

/// Messages from an offset on, at most as many as asked for; what is gone is passed over. None at the end of the queue.
pub(super) async fn pull(
    directory: &Directory,
    group: &Group,
    topic: &str,
    queue: u16,
    offset: i64,
    messages_max: i32,
) -> Result<Vec<Message>, AdminError> {
    let client = Client::new("mqadmin", directory.token.credentials.clone());
    let request = PullMessageRequest {
        group: resource("TOOLS_CONSUMER"),
        message_queue: Some(MessageQueue {
            topic: resource(topic),
            id: i32::from(queue),
            broker: Some(Broker { name: group.name.clone(), id: 0, endpoints: None }),
            ..MessageQueue::default()
        }),
        offset,
        batch_size: messages_max,
        filter_expression: Some(FilterExpression { r#type: FilterType::Tag.into(), expression: "*".to_owned() }),
        long_polling_timeout: Some(Duration::default()),
    };
    let (address, parts) = on_group(directory, group, |mut node| {
        let mut request = client.request(request.clone());
        request.set_timeout(std::time::Duration::from_secs(10));
        async move {
            let stream = node.pull_message(request).await?.into_inner();
            stream.try_filter_map(async |part| Ok(part.content)).try_collect::<Vec<_>>().await
        }
    })
    .await?;
    let mut messages = Vec::new();
    for part in parts {
        match part {
            Content::Status(status) if status.code() == raftmq_proto::rocketmq::Code::MessageNotFound => {}
            Content::Status(status) => check(&address, Some(&status))?,
            Content::Message(message) => messages.push(message),
            Content::NextOffset(_) => {}
        }
    }
    Ok(messages)
}

/// Where a message is in its queue.
pub(super) fn offset(message: &Message) -> Option<i64> {
    message.system_properties.as_ref().and_then(|properties| properties.queue_offset)
}
