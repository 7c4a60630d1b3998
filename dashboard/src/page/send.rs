//! Sending a message by hand, through the public API as any producer does.

use super::time_field;
use crate::app::{Problem, Visit};
use crate::form::Fields;
use crate::phrase::Phrase as P;
use raftmq_admin_client::message::{resource, timestamp};
use raftmq_admin_client::public::{Client, check, hosts, on_group};
use raftmq_admin_client::time::now_ms;
use raftmq_proto::rocketmq::{Encoding, Message, MessageType, SendMessageRequest, SystemProperties};

pub(crate) async fn send(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let group = Some(fields.get("message_group")).filter(|name| !name.is_empty()).map(str::to_owned);
    let deliver_at = time_field(fields, "deliver_at")?;
    let kind = match (&group, deliver_at) {
        (Some(_), Some(_)) => return Err(Problem::Refused(visit.t(P::GroupOrTime).to_owned())),
        (Some(_), None) => MessageType::Fifo,
        (None, Some(_)) => MessageType::Delay,
        (None, None) => MessageType::Normal,
    };
    let message = Message {
        topic: resource(fields.get("topic")),
        system_properties: Some(SystemProperties {
            tag: Some(fields.get("tag")).filter(|tag| !tag.is_empty()).map(str::to_owned),
            keys: fields.get("keys").split_whitespace().map(str::to_owned).collect(),
            message_type: kind.into(),
            message_group: group,
            delivery_timestamp: deliver_at.map(timestamp),
            ..SystemProperties::default()
        }),
        body: fields.raw("body").as_bytes().to_vec().into(),
        ..Message::default()
    };
    let (id, place, recall) = store(visit, message).await?;
    let recall = if recall.is_empty() { String::new() } else { format!(" · {} {recall}", visit.t(P::RecallHandle)) };
    Ok(format!("{}: {id} ({place}){recall}", visit.t(P::MessageStored)))
}

/// Stores a message under a fresh id in a broker group that hosts its topic; id, place and recall handle.
pub(super) async fn store(visit: &Visit, mut message: Message) -> Result<(String, String, String), Problem> {
    let directory = visit.directory()?;
    let topic = message.topic.as_ref().map(|topic| topic.name.clone()).unwrap_or_default();
    let client = Client::new("dashboard", directory.token.credentials.clone());
    if let Some(properties) = &mut message.system_properties {
        properties.message_id = client.message_id();
        properties.body_encoding = match properties.body_encoding() {
            Encoding::Gzip => Encoding::Gzip.into(),
            _ => Encoding::Identity.into(),
        };
        properties.born_timestamp = Some(timestamp(now_ms()));
        properties.born_host = "dashboard".to_owned();
    }
    let groups = hosts(&directory, &topic, None).await?;
    let group = groups.first().ok_or_else(|| Problem::Refused(visit.t(P::NoGroups).to_owned()))?;
    let (address, answer) = on_group(&directory, group, |mut node| {
        let request = client.request(SendMessageRequest { messages: vec![message.clone()] });
        async move { Ok(node.send_message(request).await?.into_inner()) }
    })
    .await?;
    check(&address, answer.status.as_ref())?;
    let entry = answer.entries.into_iter().next();
    let entry = entry.ok_or_else(|| Problem::Refused(format!("{address}: the answer names no message")))?;
    check(&address, entry.status.as_ref())?;
    Ok((entry.message_id, format!("{}, {}", group.name, entry.offset), entry.recall_handle))
}
