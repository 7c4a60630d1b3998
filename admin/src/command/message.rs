//! Messages as the commands print them: in a line, in full, and for programs. A body is shown as text where it is text,
//! otherwise in hexadecimal.

use crate::time::human;
use prost_types::Timestamp;
use raftmq_admin_client::message::text;
use raftmq_proto::rocketmq::{Encoding, Message, MessageType, SystemProperties};
use serde_json::{Value, json};
use std::fmt::Write as _;

pub(super) use raftmq_admin_client::message::{millis, resource, timestamp};

/// A body as it is shown.
#[derive(Debug, PartialEq, Eq)]
enum Body<'a> {
    Text(&'a str),
    Hex(String),
}

/// Text is what a terminal shows as it is.
fn body(message: &Message) -> Body<'_> {
    match text(&message.body) {
        Some(text) => Body::Text(text),
        None => Body::Hex(message.body.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })),
    }
}

impl Body<'_> {
    fn shown(&self) -> String {
        match self {
            Body::Text(text) => (*text).to_owned(),
            Body::Hex(hex) => format!("0x{hex}"),
        }
    }
}

fn topic(message: &Message) -> &str {
    message.topic.as_ref().map_or("", |topic| topic.name.as_str())
}

/// A line, as printMsg has it, with a line break.
pub(super) fn line(broker_group: &str, message: &Message) -> String {
    format!("{} BODY: {}\n", head(broker_group, message), body(message).shown())
}

/// As [`line`], without the body.
pub(super) fn line_without_body(broker_group: &str, message: &Message) -> String {
    format!("{}\n", head(broker_group, message))
}

fn head(broker_group: &str, message: &Message) -> String {
    let properties = message.system_properties.clone().unwrap_or_default();
    // It counts deliveries, and what lies in a queue has none.
    let attempt = properties.delivery_attempt.map(|attempt| format!(" attempt={attempt}")).unwrap_or_default();
    format!(
        "MSGID: {} {}[{broker_group}:{}:{}]{attempt} keys={} tag={} born={} stored={}",
        properties.message_id,
        topic(message),
        properties.queue_id,
        properties.queue_offset.unwrap_or_default(),
        properties.keys.join(" "),
        properties.tag.as_deref().unwrap_or("-"),
        human(millis(properties.born_timestamp.as_ref())),
        human(millis(properties.store_timestamp.as_ref())),
    )
}

/// All of a message under RocketMQ's labels, a line each.
pub(super) fn details(broker_group: &str, message: &Message) -> String {
    let properties = message.system_properties.clone().unwrap_or_default();
    let mut user: Vec<String> = message.user_properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
    user.sort_unstable();
    let time = |at: Option<&Timestamp>| human(millis(at));
    let offset = properties.queue_offset.map(|offset| offset.to_string()).unwrap_or_default();
    let mut lines = vec![
        ("Message ID:", properties.message_id.clone()),
        ("Topic:", topic(message).to_owned()),
        ("Tags:", format!("[{}]", properties.tag.as_deref().unwrap_or_default())),
        ("Keys:", format!("[{}]", properties.keys.join(" "))),
        ("Broker Name:", broker_group.to_owned()),
        ("Queue ID:", properties.queue_id.to_string()),
        ("Queue Offset:", offset),
        ("Message Type:", type_name(&properties)),
        ("Born Timestamp:", time(properties.born_timestamp.as_ref())),
        ("Store Timestamp:", time(properties.store_timestamp.as_ref())),
        ("Born Host:", properties.born_host.clone()),
        ("Store Host:", properties.store_host.clone()),
    ];
    if let Some(name) = &properties.message_group {
        lines.push(("Message Group:", name.clone()));
    }
    if properties.delivery_timestamp.is_some() {
        lines.push(("Delivery Timestamp:", time(properties.delivery_timestamp.as_ref())));
    }
    if let Some(letter) = &properties.dead_letter_queue {
        lines.push(("Dead Letter Of:", format!("{} {}", letter.topic, letter.message_id)));
    }
    lines.push(("Properties:", format!("{{{}}}", user.join(", "))));
    if properties.body_encoding() == Encoding::Gzip {
        lines.push(("Body Encoding:", "GZIP".to_owned()));
    }
    lines.push(("Body:", body(message).shown()));
    lines.iter().fold(String::new(), |mut text, (label, value)| {
        let _ = writeln!(text, "{}", format!("{label:<20} {value}").trim_end());
        text
    })
}

fn type_name(properties: &SystemProperties) -> String {
    MessageType::try_from(properties.message_type).map_or_else(
        |_| properties.message_type.to_string(),
        |known| known.as_str_name().trim_start_matches("MESSAGE_TYPE_").to_owned(),
    )
}

/// A message for programs; the body under `body` where it is text, otherwise under `bodyHex`.
pub(super) fn to_json(broker_group: &str, message: &Message) -> Value {
    let properties = message.system_properties.clone().unwrap_or_default();
    let mut row = json!({
        "msgId": properties.message_id,
        "topic": topic(message),
        "brokerName": broker_group,
        "queueId": properties.queue_id,
        "queueOffset": properties.queue_offset,
        "messageType": type_name(&properties),
        "keys": properties.keys,
        "tag": properties.tag,
        "messageGroup": properties.message_group,
        "bornMs": millis(properties.born_timestamp.as_ref()),
        "bornHost": properties.born_host,
        "storeMs": millis(properties.store_timestamp.as_ref()),
        "properties": message.user_properties,
    });
    if let Some(attempt) = properties.delivery_attempt {
        row["attempt"] = attempt.into();
    }
    match body(message) {
        Body::Text(text) => row["body"] = text.into(),
        Body::Hex(hex) => row["bodyHex"] = hex.into(),
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            topic: resource("T"),
            user_properties: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            system_properties: Some(SystemProperties {
                message_id: "01AB".to_owned(),
                queue_id: 3,
                queue_offset: Some(7),
                keys: vec!["k".to_owned()],
                delivery_attempt: Some(2),
                born_timestamp: Some(Timestamp { seconds: 1, nanos: 5_000_000 }),
                message_type: MessageType::Fifo.into(),
                ..SystemProperties::default()
            }),
            body: "hello".into(),
        }
    }

    #[test]
    fn a_message_in_a_line() {
        let mut message = message();
        let head = "keys=k tag=- born=1970-01-01 00:00:01,005 stored=-";
        assert_eq!(line("G", &message), format!("MSGID: 01AB T[G:3:7] attempt=2 {head} BODY: hello\n"));
        assert_eq!(to_json("G", &message)["body"], "hello");
        if let Some(properties) = &mut message.system_properties {
            properties.delivery_attempt = None;
        }
        assert_eq!(line_without_body("G", &message), format!("MSGID: 01AB T[G:3:7] {head}\n"));
        assert!(to_json("G", &message).get("attempt").is_none());
    }

    #[test]
    fn a_message_in_full() {
        let text = details("G", &message());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Message ID:          01AB");
        assert_eq!(lines.iter().filter(|line| line.starts_with("Dead")).count(), 0);
        for line in ["Queue Offset:        7", "Message Type:        FIFO", "Properties:          {a=1, b=2}"] {
            assert!(lines.contains(&line), "{text}");
        }
        assert_eq!(lines.last(), Some(&"Body:                hello"));
    }

    #[test]
    fn a_body_that_is_no_text_is_hexadecimal() {
        for (bytes, shown) in [
            (&b"two\nlines"[..], "two\nlines"),
            ("größe".as_bytes(), "größe"),
            (b"", ""),
            (b"\xff\x01", "0xff01"),
            (b"a\x1b[2J", "0x611b5b324a"),
        ] {
            let message = Message { body: bytes.to_vec().into(), ..Message::default() };
            assert_eq!(body(&message).shown(), shown);
        }
        let message = Message { body: vec![0].into(), ..Message::default() };
        let row = to_json("G", &message);
        assert_eq!((row["bodyHex"].as_str(), row.get("body")), (Some("00"), None));
    }
}
