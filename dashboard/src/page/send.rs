//! Sending a message by hand, through the public API as any producer does.

use super::time_field;
use crate::app::{Problem, Visit};
use crate::form::Fields;
use crate::phrase::Phrase as P;
use crate::view::{field, hidden};
use maud::{Markup, html};
use raftmq_admin_client::message::{resource, timestamp};
use raftmq_admin_client::public::Client;
use raftmq_admin_client::send::{Stored, store as send_and_commit};
use raftmq_proto::rocketmq::{Encoding, Message, MessageType, SystemProperties};
use std::collections::HashMap;

/// What can be said of a test message to a topic that takes these types.
pub(super) fn fields(visit: &Visit, topic: &str, takes: &[MessageType]) -> Markup {
    let any = |kind: MessageType| takes.contains(&kind);
    html! {
        (hidden("topic", topic))
        label { (visit.t(P::MessageType)) " " select name="type" {
            @for kind in takes { option value=(kind.as_str_name()) { (kind.as_str_name()) } }
        } }
        label { (visit.t(P::Body)) " " textarea name="body" required {} }
        (field(visit, P::Keys, "keys", ""))
        (field(visit, P::Tag, "tag", ""))
        @if any(MessageType::Fifo) { (field(visit, P::MessageGroup, "message_group", "")) }
        @if any(MessageType::Delay) { (field(visit, P::DeliverAt, "deliver_at", "")) }
        @if any(MessageType::Priority) { (field(visit, P::Priority, "priority", "")) }
        @if any(MessageType::Lite) { (field(visit, P::LiteTopic, "lite_topic", "")) }
        label { (visit.t(P::UserProperties)) " " textarea name="properties" placeholder="key=value" {} }
    }
}

/// Lines of `key=value`.
fn properties(text: &str) -> Result<HashMap<String, String>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let pair = |line: &str| {
        let (key, value) = line.split_once('=').filter(|(key, _)| !key.trim().is_empty())?;
        Some((key.trim().to_owned(), value.trim().to_owned()))
    };
    lines.map(|line| pair(line).ok_or_else(|| format!("{line}: key=value"))).collect()
}

/// The message that a form describes. Only what belongs to its type is taken: brokers go by what a message has.
fn message(visit: &Visit, fields: &Fields) -> Result<Message, Problem> {
    let given = |name: &str| Some(fields.get(name)).filter(|text| !text.is_empty()).map(str::to_owned);
    let deliver_at = time_field(fields, "deliver_at")?;
    let kind = match fields.get("type") {
        "" => MessageType::Normal,
        name => MessageType::from_str_name(name).ok_or_else(|| Problem::Refused(format!("type = {name}")))?,
    };
    let missing = |what: P| Problem::Refused(format!("{}: {}", visit.t(P::FieldMissing), visit.t(what)));
    let mut system = SystemProperties {
        tag: given("tag"),
        keys: fields.get("keys").split_whitespace().map(str::to_owned).collect(),
        body_encoding: Encoding::Identity.into(),
        message_type: kind.into(),
        ..SystemProperties::default()
    };
    match kind {
        MessageType::Fifo => {
            system.message_group = Some(given("message_group").ok_or_else(|| missing(P::MessageGroup))?);
        }
        MessageType::Delay => {
            system.delivery_timestamp = Some(timestamp(deliver_at.ok_or_else(|| missing(P::DeliverAt))?));
        }
        MessageType::Priority => {
            system.priority = Some(fields.number("priority")?.ok_or_else(|| missing(P::Priority))?);
        }
        MessageType::Lite => system.lite_topic = Some(given("lite_topic").ok_or_else(|| missing(P::LiteTopic))?),
        MessageType::Normal | MessageType::Transaction | MessageType::Unspecified => {}
    }
    Ok(Message {
        topic: resource(fields.get("topic")),
        user_properties: properties(fields.raw("properties"))?,
        system_properties: Some(system),
        body: fields.raw("body").as_bytes().to_vec().into(),
    })
}

pub(crate) async fn send(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let Stored { message_id, broker_group, offset, recall_handle } = store(visit, message(visit, fields)?).await?;
    let place = offset.map_or(broker_group.clone(), |offset| format!("{broker_group}, {offset}"));
    let recall = match recall_handle.as_str() {
        "" => String::new(),
        handle => format!(" · {} {handle}", visit.t(P::RecallHandle)),
    };
    Ok(format!("{}: {message_id} ({place}){recall}", visit.t(P::MessageStored)))
}

/// Stores a message under a fresh id in a broker group that hosts its topic.
pub(super) async fn store(visit: &Visit, message: Message) -> Result<Stored, Problem> {
    let directory = visit.directory()?;
    let client = Client::new("dashboard", directory.token.credentials.clone());
    Ok(send_and_commit(&directory, &client, "dashboard", message).await?)
}

#[cfg(test)]
mod tests {
    use super::properties;

    #[test]
    fn properties_are_lines() {
        let read = properties("a=1\r\n\r\n b = x=y ").expect("good lines");
        assert_eq!((read.len(), read["a"].as_str(), read["b"].as_str()), (2, "1", "x=y"));
        assert!(properties("").is_ok_and(|none| none.is_empty()));
        assert!(properties("a").is_err() && properties("=1").is_err());
    }
}
