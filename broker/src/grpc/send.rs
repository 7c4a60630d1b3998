//! SendMessage: checks every message, and turns the call into one `Append` with a blob per message.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::status::{self, ApiError};
use crate::command::encode_message;
use crate::config::GrpcConfig;
use crate::filter::tag::tag_hash;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Append, AppendMessage, Appended, Property, StoredMessage, reply};
use raftmq_proto::name::TopicName;
use raftmq_proto::rocketmq as v2;
use tonic::Request;

/// Bytes of a message group.
const MESSAGE_GROUP_BYTES_MAX: usize = 63;
/// A producer may let an orphaned transaction wait so long.
const RECOVERY_S_MAX: i64 = 3_600;
/// How far ahead a delivery time may be.
const DELIVERY_AHEAD_MS_MAX: i64 = 86_400_000;

/// Property keys that stand for something of the system's own; sorted.
const RESERVED_KEYS: &[&str] = &[
    "1ST_POP_TIME",
    "ARRIVE_TIME",
    "BORN_TIMESTAMP",
    "BUYER_ID",
    "CLUSTER",
    "CONSUME_START_TIME",
    "CORRECTION_FLAG",
    "CORRELATION_ID",
    "DELAY",
    "DLQ_ORIGIN_MESSAGE_ID",
    "DLQ_ORIGIN_TOPIC",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "INNER_MULTI_QUEUE_OFFSET",
    "INSTANCE_ID",
    "KEYS",
    "MAX_OFFSET",
    "MAX_RECONSUME_TIMES",
    "MIN_OFFSET",
    "MQ2_FLAG",
    "MSG_REGION",
    "MSG_TYPE",
    "ORIGIN_MESSAGE_ID",
    "PGROUP",
    "POP_CK",
    "POP_CK_OFFSET",
    "PUSH_REPLY_TIME",
    "REAL_QID",
    "REAL_TOPIC",
    "RECONSUME_TIME",
    "REPLY_TO_CLIENT",
    "RETRY_TOPIC",
    "TAGS",
    "TIMER_DELAY_LEVEL",
    "TIMER_DELAY_MS",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_DEQUEUE_MS",
    "TIMER_ENQUEUE_MS",
    "TIMER_OUT_MS",
    "TIMER_ROLL_TIMES",
    "TRACE_ON",
    "TRANSFER_FLAG",
    "TRAN_MSG",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "TTL",
    "UNIQ_KEY",
    "WAIT",
    "__BORNHOST",
    "__CRC32#",
];

/// What a call becomes.
#[derive(Debug)]
struct Draft {
    topic: TopicName,
    append: Append,
    blobs: Vec<Bytes>,
    /// The clients' own ids, echoed in the answer.
    message_ids: Vec<String>,
    message_type: v2::MessageType,
}

/// What the checks depend on beside the call.
struct Context<'c> {
    limits: &'c GrpcConfig,
    /// Cluster time, in ms since the Unix epoch.
    now_ms: i64,
    /// Where the message comes from when it does not say so.
    peer: &'c str,
    /// This node's address.
    store_host: &'c str,
}

pub(super) async fn handle(front: &Front, request: Request<v2::SendMessageRequest>) -> v2::SendMessageResponse {
    let messages = request.get_ref().messages.len();
    match send(front, request).await {
        Ok(response) => response,
        Err(error) => {
            let status = front.log("SendMessage", error);
            // One entry per message in any case: clients index them.
            let entry = v2::SendResultEntry { status: Some(status.clone()), ..v2::SendResultEntry::default() };
            v2::SendMessageResponse { status: Some(status), entries: vec![entry; messages] }
        }
    }
}

async fn send(front: &Front, request: Request<v2::SendMessageRequest>) -> Result<v2::SendMessageResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    front.admit(&caller)?;
    let peer = caller.address().map(|client| client.to_string()).unwrap_or_default();
    let node = &*front.node;
    let context = Context {
        limits: &node.config.grpc,
        now_ms: i64::try_from(node.clock.now()).unwrap_or(i64::MAX),
        peer: &peer,
        store_host: &front.store_host,
    };
    let Draft { topic, append, blobs, message_ids, message_type } = draft(request, &context)?;
    if message_type != v2::MessageType::Normal {
        return Err(refuse_type(front, &topic, message_type).await);
    }
    if let Some(why) = node.gate.refusal() {
        return Err(ApiError::DiskFull(why));
    }
    let appended = match submit(front, &caller, append.clone(), blobs.clone()).await {
        Err(error) if error.is_topic_not_found() => {
            if !front.create_topic(&topic, caller.answer_by()).await? {
                return Err(error);
            }
            submit(front, &caller, append, blobs).await?
        }
        outcome => outcome?,
    };
    Ok(answer(&appended, message_ids))
}

async fn submit(front: &Front, caller: &Caller, append: Append, blobs: Vec<Bytes>) -> Result<Appended, ApiError> {
    match front.submit(Kind::Append(append), blobs, caller.answer_by()).await? {
        reply::Kind::Appended(appended) => Ok(appended),
        other => Err(ApiError::Internal(format!("an append was answered with {other:?}"))),
    }
}

fn answer(appended: &Appended, message_ids: Vec<String>) -> v2::SendMessageResponse {
    let first = i64::try_from(appended.first_offset).unwrap_or(i64::MAX);
    let entries = (first..)
        .zip(message_ids)
        .map(|(offset, message_id)| v2::SendResultEntry {
            status: Some(status::ok()),
            transaction_id: message_id.clone(),
            message_id,
            offset,
            recall_handle: String::new(),
        })
        .collect();
    v2::SendMessageResponse { status: Some(status::ok()), entries }
}

/// Only normal messages are stored so far: another type is never stored as one.
async fn refuse_type(front: &Front, topic: &TopicName, sent: v2::MessageType) -> ApiError {
    let types = match front.topic(topic).await {
        Ok(Some(row)) => row.message_types,
        Ok(None) => return ApiError::TopicNotFound(topic.to_string()),
        Err(error) => return error,
    };
    if front.node.config.grpc.check_message_type && !types.contains(&sent.into()) {
        return type_conflict(topic, &types, sent);
    }
    ApiError::NotImplemented(match sent {
        v2::MessageType::Fifo => "sending FIFO messages",
        v2::MessageType::Delay => "sending messages with a delivery time",
        v2::MessageType::Transaction => "sending transactional messages",
        v2::MessageType::Priority => "sending messages with a priority",
        _ => "sending messages of this type",
    })
}

fn type_conflict(topic: &TopicName, takes: &[i32], sent: v2::MessageType) -> ApiError {
    let names: Vec<_> =
        takes.iter().filter_map(|value| v2::MessageType::try_from(*value).ok()).map(status::type_name).collect();
    let takes = if names.is_empty() { "no messages".to_owned() } else { format!("{} messages", names.join(", ")) };
    ApiError::TypeConflict { topic: topic.to_string(), takes, sent: status::type_name(sent) }
}

fn draft(request: v2::SendMessageRequest, context: &Context<'_>) -> Result<Draft, ApiError> {
    let mut messages = request.messages;
    let resource = messages.first_mut().ok_or(ApiError::NoMessages)?.topic.take();
    let topic = convert::topic(resource.clone())?;
    if messages.iter().skip(1).any(|message| message.topic != resource) {
        return Err(ApiError::SeveralTopics);
    }
    let mut draft = Draft {
        append: Append { topic: topic.as_str().to_owned(), messages: Vec::with_capacity(messages.len()) },
        topic,
        blobs: Vec::with_capacity(messages.len()),
        message_ids: Vec::with_capacity(messages.len()),
        message_type: v2::MessageType::Normal,
    };
    for message in messages {
        let system = message.system_properties.unwrap_or_default();
        check(&message.body, &message.user_properties, &system, context)?;
        let message_type = message_type(&system);
        if message_type != v2::MessageType::Normal {
            draft.message_type = message_type;
        }
        draft.append.messages.push(AppendMessage {
            tag_hash: system.tag.as_deref().filter(|tag| !tag.is_empty()).map_or(0, tag_hash),
            message_type: message_type.into(),
            body_bytes: u32::try_from(message.body.len()).unwrap_or(u32::MAX),
        });
        draft.message_ids.push(system.message_id.clone());
        let stored = stored(&draft.topic, message.body, message.user_properties, system, message_type, context);
        draft.blobs.push(encode_message(&stored));
    }
    Ok(draft)
}

type Properties = std::collections::HashMap<String, String>;

fn check(
    body: &Bytes,
    properties: &Properties,
    system: &v2::SystemProperties,
    context: &Context<'_>,
) -> Result<(), ApiError> {
    let limits = context.limits;
    if body.is_empty() {
        return Err(ApiError::BodyEmpty);
    }
    if body.len() > limits.max_message_bytes {
        return Err(ApiError::BodyTooLarge { value: body.len(), limit: limits.max_message_bytes });
    }
    let limit = limits.user_property_count_max;
    if limit > 0 && properties.len() > limit {
        return Err(ApiError::TooManyProperties { value: properties.len(), limit });
    }
    let mut bytes = 0;
    for (key, value) in properties {
        if RESERVED_KEYS.binary_search(&key.as_str()).is_ok() {
            return Err(ApiError::PropertyReserved(key.clone()));
        }
        if has_control(key) || has_control(value) {
            return Err(ApiError::PropertyControl(key.clone()));
        }
        bytes += key.len() + value.len();
    }
    if let Some(tag) = system.tag.as_deref().filter(|tag| !tag.is_empty()) {
        let fault = |fault| ApiError::Tag { tag: tag.to_owned(), fault };
        if tag.trim().is_empty() {
            return Err(fault("is blank"));
        }
        if tag.contains('|') {
            return Err(fault("contains '|', which separates tags in a filter"));
        }
        if has_control(tag) {
            return Err(fault("has a control character"));
        }
        bytes += tag.len();
    }
    for key in system.keys.iter().filter(|key| !key.is_empty()) {
        let fault = |fault| ApiError::Key { key: key.clone(), fault };
        if key.trim().is_empty() {
            return Err(fault("is blank"));
        }
        if has_control(key) {
            return Err(fault("has a control character"));
        }
        bytes += key.len();
    }
    let limit = limits.user_property_bytes_max;
    if limit > 0 && bytes > limit {
        return Err(ApiError::PropertiesTooLarge { value: bytes, limit });
    }
    // Any text is an id: clients make them in ways of their own.
    if system.message_id.trim().is_empty() {
        return Err(ApiError::MessageIdBlank);
    }
    check_marks(system, context.now_ms)
}

/// Checks what marks a message as other than normal.
fn check_marks(system: &v2::SystemProperties, now_ms: i64) -> Result<(), ApiError> {
    if message_type(system) == v2::MessageType::Transaction
        && let Some(duration) = &system.orphaned_transaction_recovery_duration
        && duration.seconds > RECOVERY_S_MAX
    {
        return Err(ApiError::RecoveryTooLong { value_s: duration.seconds, limit_s: RECOVERY_S_MAX });
    }
    if let Some(time) = &system.delivery_timestamp {
        let ahead_ms = convert::unix_ms(time).saturating_sub(now_ms);
        if ahead_ms > DELIVERY_AHEAD_MS_MAX {
            return Err(ApiError::DeliveryTooLate { ahead_ms, limit_ms: DELIVERY_AHEAD_MS_MAX });
        }
    }
    if let Some(group) = system.message_group.as_deref().filter(|group| !group.is_empty()) {
        let fault = |fault: String| ApiError::MessageGroup { group: group.to_owned(), fault };
        if group.trim().is_empty() {
            return Err(fault("is blank".to_owned()));
        }
        if group.len() > MESSAGE_GROUP_BYTES_MAX {
            let limit = format!("has {} bytes, but the limit is {MESSAGE_GROUP_BYTES_MAX}", group.len());
            return Err(fault(limit));
        }
        if has_control(group) {
            return Err(fault("has a control character".to_owned()));
        }
    }
    Ok(())
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// The type that a message's attributes make it, whatever it declares; only a transaction is declared.
fn message_type(system: &v2::SystemProperties) -> v2::MessageType {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if system.message_type == i32::from(v2::MessageType::Transaction) {
        v2::MessageType::Transaction
    } else if system.delivery_timestamp.is_some() {
        v2::MessageType::Delay
    } else if given(&system.message_group) {
        v2::MessageType::Fifo
    } else if system.priority.is_some() {
        v2::MessageType::Priority
    } else if given(&system.lite_topic) {
        v2::MessageType::Lite
    } else {
        v2::MessageType::Normal
    }
}

fn stored(
    topic: &TopicName,
    body: Bytes,
    properties: Properties,
    system: v2::SystemProperties,
    message_type: v2::MessageType,
    context: &Context<'_>,
) -> StoredMessage {
    let gzip = i32::from(v2::Encoding::Gzip);
    let born_ms = system.born_timestamp.as_ref().map(convert::unix_ms).filter(|ms| *ms > 0).unwrap_or(context.now_ms);
    StoredMessage {
        topic: topic.as_str().to_owned(),
        message_id: system.message_id,
        tag: system.tag.filter(|tag| !tag.is_empty()),
        keys: system.keys.into_iter().filter(|key| !key.is_empty()).collect(),
        properties: properties.into_iter().map(|(key, value)| Property { key, value }).collect(),
        body_encoding: if system.body_encoding == gzip { gzip } else { v2::Encoding::Identity.into() },
        message_type: message_type.into(),
        born_ms,
        born_host: if system.born_host.trim().is_empty() { context.peer.to_owned() } else { system.born_host },
        store_host: context.store_host.to_owned(),
        trace_context: system.trace_context,
        message_group: system.message_group.filter(|group| !group.is_empty()),
        delivery_ms: system.delivery_timestamp.as_ref().map(convert::unix_ms),
        body_md5: Bytes::copy_from_slice(&Md5::digest(&body)),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::{Context, Draft, RESERVED_KEYS, answer, draft};
    use crate::command::decode_message;
    use crate::filter::tag::tag_hash;
    use crate::grpc::status::{ApiError, code_name};
    use crate::grpc::tests::limits;
    use bytes::Bytes;
    use raftmq_proto::command::{Appended, Property};
    use raftmq_proto::rocketmq as v2;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn check_call(messages: Vec<v2::Message>) -> Result<Draft, ApiError> {
        let limits = limits();
        let context = Context { limits: &limits, now_ms: NOW_MS, peer: "10.0.0.9:5555", store_host: "10.0.0.1:8081" };
        draft(v2::SendMessageRequest { messages }, &context)
    }

    fn message(change: impl FnOnce(&mut v2::Message, &mut v2::SystemProperties)) -> v2::Message {
        let mut system = v2::SystemProperties { message_id: "01AB".to_owned(), ..v2::SystemProperties::default() };
        let mut message = v2::Message {
            topic: Some(v2::Resource { name: "orders".to_owned(), ..v2::Resource::default() }),
            body: Bytes::from_static(b"hello"),
            ..v2::Message::default()
        };
        change(&mut message, &mut system);
        v2::Message { system_properties: Some(system), ..message }
    }

    /// The code that a message is refused by, or the type that it is taken as.
    fn check(expected: &str, change: impl FnOnce(&mut v2::Message, &mut v2::SystemProperties)) {
        let shown = match check_call(vec![message(change)]) {
            Ok(draft) => draft.message_type.as_str_name().to_owned(),
            Err(error) => code_name(&error.status()).to_owned(),
        };
        assert_eq!(shown, expected);
    }

    fn property(message: &mut v2::Message, key: &str, value: &str) {
        message.user_properties.insert(key.to_owned(), value.to_owned());
    }

    #[test]
    fn checks_and_codes() {
        check("NORMAL", |_, _| ());
        check("ILLEGAL_TOPIC", |message, _| message.topic = None);
        check("MESSAGE_BODY_EMPTY", |message, _| message.body = Bytes::new());
        check("NORMAL", |message, _| message.body = Bytes::from(vec![0; 4 << 20]));
        check("MESSAGE_BODY_TOO_LARGE", |message, _| message.body = Bytes::from(vec![0; (4 << 20) + 1]));
        check("NORMAL", |message, _| (0..128).for_each(|i| property(message, &format!("p{i}"), "")));
        check("MESSAGE_PROPERTIES_TOO_LARGE", |message, _| {
            (0..129).for_each(|i| property(message, &format!("p{i}"), ""))
        });
        check("ILLEGAL_MESSAGE_PROPERTY_KEY", |message, _| property(message, "TAGS", "x"));
        check("ILLEGAL_MESSAGE_PROPERTY_KEY", |message, _| property(message, "a\u{1}", "x"));
        check("ILLEGAL_MESSAGE_PROPERTY_KEY", |message, _| property(message, "a", "x\u{2}"));
        check("NORMAL", |message, _| property(message, "__SHARDINGKEY", "x"));
        check("NORMAL", |_, system| system.tag = Some(String::new()));
        check("ILLEGAL_MESSAGE_TAG", |_, system| system.tag = Some(" ".to_owned()));
        check("ILLEGAL_MESSAGE_TAG", |_, system| system.tag = Some("a|b".to_owned()));
        check("ILLEGAL_MESSAGE_TAG", |_, system| system.tag = Some("a\n".to_owned()));
        check("NORMAL", |_, system| system.keys = vec![String::new(), "k".to_owned()]);
        check("ILLEGAL_MESSAGE_KEY", |_, system| system.keys = vec!["k".to_owned(), "  ".to_owned()]);
        check("ILLEGAL_MESSAGE_KEY", |_, system| system.keys = vec!["\u{7f}".to_owned()]);
        check("NORMAL", |message, system| {
            property(message, "k", &"v".repeat(16_384 - 3));
            system.tag = Some("t".to_owned());
            system.keys = vec!["k".to_owned()];
        });
        check("MESSAGE_PROPERTIES_TOO_LARGE", |message, system| {
            property(message, "k", &"v".repeat(16_384 - 2));
            system.tag = Some("t".to_owned());
            system.keys = vec!["k".to_owned()];
        });
        check("ILLEGAL_MESSAGE_ID", |_, system| system.message_id = " ".to_owned());
        check("NORMAL", |_, system| system.message_id = "no id of ours".to_owned());
        check("ILLEGAL_MESSAGE_GROUP", |_, system| system.message_group = Some(" ".to_owned()));
        check("ILLEGAL_MESSAGE_GROUP", |_, system| system.message_group = Some("g".repeat(64)));
        check("FIFO", |_, system| system.message_group = Some("g".repeat(63)));
        check("NORMAL", |_, system| system.message_group = Some(String::new()));
        let at = |ms: i64| Some(crate::grpc::convert::timestamp(NOW_MS + ms));
        check("DELAY", |_, system| system.delivery_timestamp = at(86_400_000));
        check("DELAY", |_, system| system.delivery_timestamp = at(-1));
        check("ILLEGAL_DELIVERY_TIME", |_, system| system.delivery_timestamp = at(86_400_001));
        let transaction = i32::from(v2::MessageType::Transaction);
        check("TRANSACTION", |_, system| system.message_type = transaction);
        check("BAD_REQUEST", |_, system| {
            system.message_type = transaction;
            let duration = prost_types::Duration { seconds: 3_601, nanos: 0 };
            system.orphaned_transaction_recovery_duration = Some(duration);
        });
        check("NORMAL", |_, system| system.message_type = i32::from(v2::MessageType::Fifo));
        check("PRIORITY", |_, system| system.priority = Some(1));
        check("LITE", |_, system| system.lite_topic = Some("l".to_owned()));
    }

    #[test]
    fn calls() {
        let other =
            message(|message, _| message.topic = Some(v2::Resource { name: "b".to_owned(), ..Default::default() }));
        let code = |outcome: Result<Draft, ApiError>| code_name(&outcome.expect_err("refused").status());
        assert_eq!(code(check_call(vec![])), "MESSAGE_CORRUPTED");
        assert_eq!(code(check_call(vec![message(|_, _| ()), other])), "MESSAGE_CORRUPTED");
        let mixed = vec![message(|_, system| system.message_group = Some("g".to_owned())), message(|_, _| ())];
        assert_eq!(check_call(mixed).expect("taken").message_type, v2::MessageType::Fifo);
    }

    #[test]
    fn a_draft_holds_what_was_sent() {
        let sent = message(|message, system| {
            property(message, "a", "b");
            system.tag = Some("paid".to_owned());
            system.keys = vec!["k 1".to_owned()];
            system.born_timestamp = Some(crate::grpc::convert::timestamp(NOW_MS - 7));
            system.delivery_attempt = Some(9);
        });
        let draft = check_call(vec![sent, message(|_, _| ())]).expect("taken");
        assert_eq!(draft.append.topic, "orders");
        let rows: Vec<_> = draft.append.messages.iter().map(|row| (row.tag_hash, row.body_bytes)).collect();
        assert_eq!(rows, [(tag_hash("paid"), 5), (0, 5)]);
        let stored = decode_message(draft.blobs[0].clone()).expect("our own blob");
        assert_eq!((stored.topic.as_str(), stored.message_id.as_str()), ("orders", "01AB"));
        assert_eq!(stored.properties, [Property { key: "a".to_owned(), value: "b".to_owned() }]);
        assert_eq!((stored.tag.as_deref(), stored.keys.as_slice()), (Some("paid"), ["k 1".to_owned()].as_slice()));
        assert_eq!((stored.born_ms, stored.born_host.as_str()), (NOW_MS - 7, "10.0.0.9:5555"));
        assert_eq!(crate::deliver::handle::upper_hex(&stored.body_md5), "5D41402ABC4B2A76B9719D911017C592");
        assert_eq!(stored.body, "hello");
        let second = decode_message(draft.blobs[1].clone()).expect("our own blob");
        assert_eq!((second.born_ms, second.tag), (NOW_MS, None));
    }

    #[test]
    fn an_answer_has_an_entry_per_message() {
        let response = answer(&Appended { queue: 3, first_offset: 41, count: 2 }, vec!["a".to_owned(), "b".to_owned()]);
        let entries: Vec<_> = response.entries.iter().map(|entry| (entry.message_id.as_str(), entry.offset)).collect();
        assert_eq!(entries, [("a", 41), ("b", 42)]);
        assert!(response.entries.iter().all(|entry| entry.transaction_id == entry.message_id));
    }

    #[test]
    fn reserved_keys_are_sorted() {
        assert!(RESERVED_KEYS.is_sorted());
        assert_eq!(RESERVED_KEYS.len(), 51);
    }
}
