//! SendMessage: checks every message, and turns the call into one `Append` with a blob per message.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::lite;
use super::owner;
use super::status::{self, ApiError};
use crate::access::Permit;
use crate::command::encode_message;
use crate::config::GrpcConfig;
use crate::deliver::handle::{Handles, WaitingHandle, message_id_hash};
use crate::deliver::read::Reader;
use crate::filter::tag::tag_hash;
use crate::store::timer::{self, InLog};
use bytes::Bytes;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{
    Append, AppendMessage, Appended, Checks, LeasedMessage, Property, StoredMessage, Waits, reply,
};
use raftmq_proto::name::TopicName;
use raftmq_proto::rocketmq as v2;
use std::collections::BTreeMap;
use tonic::Request;
use xxhash_rust::xxh3::Xxh3;

/// The property by which clients of old ask for a delay by its level.
const DELAY_LEVEL: &str = "DELAY";

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
    /// A message is to wait for as long as its delay level says.
    by_level: bool,
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
    /// Id of the client, which is asked about transactions that it leaves open.
    client_id: &'c str,
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
    let handed_over = owner::is_handed_over(&caller);
    let permit = front.permit(&caller, &request)?;
    let client_id = caller.client_id()?;
    // One that came by a node of another broker group is not at this one.
    if !handed_over {
        front.node.registry.seen(client_id, caller.language());
    }
    let peer = caller.address().map(|client| client.to_string()).unwrap_or_default();
    let node = &*front.node;
    let settings = node.settings();
    let context = Context {
        limits: &settings.grpc,
        now_ms: i64::try_from(node.clock.now()).unwrap_or(i64::MAX),
        peer: &peer,
        store_host: &front.store_host,
        client_id,
    };
    let ordered = request.messages.iter().any(is_kept_together).then(|| request.clone());
    let mut draft = draft(request, &context)?;
    front.count_for(&mut draft.append, client_id, permit.as_ref());
    let hashes = draft.append.messages.iter().map(|message| message.message_group_hash);
    let owners = match ordered {
        Some(request) => {
            front.owners(&draft.topic, hashes, (&caller, !handed_over)).await?.map(|owners| (owners, request))
        }
        None => None,
    };
    if let Some((owners, request)) = owners {
        draft.append.broker_group.clone_from(&node.config.broker_group);
        if owners.iter().any(Option::is_some) {
            if handed_over {
                return Err(ApiError::OwnersDisagree(format!(
                    "a node of another broker group took {} for the one that keeps these message groups of topic {}",
                    node.config.broker_group, draft.topic
                )));
            }
            return Ok(apart(front, &caller, draft, request.messages, owners).await);
        }
    }
    store(front, &caller, draft, !handed_over).await
}

impl Front {
    /// Names the client and the user of a send, where they are limited, to the leader.
    fn count_for(&self, append: &mut Append, client_id: &str, permit: Option<&Permit>) {
        if self.node.settings().grpc.client_rate.is_set() {
            client_id.clone_into(&mut append.client_id);
        }
        if let Some(user) = permit.map(|permit| &permit.identity.user)
            && self.node.access.limit_of(user, || self.state()).is_set()
        {
            append.user.clone_from(user);
        }
    }
}

/// Stores messages in this broker group; with `create`, a topic that does not exist may be made.
async fn store(
    front: &Front,
    caller: &Caller,
    draft: Draft,
    create: bool,
) -> Result<v2::SendMessageResponse, ApiError> {
    let Draft { topic, append, blobs, message_ids, by_level } = draft;
    let counted = count(&append);
    let mut times: Vec<u64> = append.messages.iter().map(|message| message.delivery_ms).collect();
    if let Some(why) = front.node.gate.refusal() {
        return Err(ApiError::DiskFull(why));
    }
    let appended = match submit(front, caller, append.clone(), blobs.clone()).await {
        Err(error) if create && error.is_topic_not_found() => {
            if !front.create_topic(&topic, caller).await? {
                return Err(error);
            }
            submit(front, caller, append, blobs).await?
        }
        outcome => outcome?,
    };
    for (message_type, bodies) in counted {
        front.node.counters.sent(topic.as_str(), metric_name(message_type), bodies.into_iter());
    }
    if by_level {
        // Apart, so that other calls are no larger for it.
        Box::pin(first_times(front, &appended, &mut times)).await;
    }
    Ok(answer(&appended, message_ids, &times, front.handles))
}

/// A message that is to wait for as long as a level says is due at another time each time that it is sent. The one that
/// was stored first is, and its handle names that time.
async fn first_times(front: &Front, appended: &[Appended], times: &mut [u64]) {
    let place = |part: &Appended, at| InLog { log_index: part.log_index, slot: part.first_slot.saturating_add(at) };
    let places = appended.iter().flat_map(|part| (0..part.count).map(move |at| (part.waits(), place(part, at))));
    let places: Vec<_> = places.collect();
    for ((waits, place), time) in places.into_iter().zip(times) {
        if waits != Waits::DeliveryTime {
            continue;
        }
        match first_time(front, place).await {
            Ok(first) => *time = first,
            // It is stored all the same; nobody can take it back.
            Err(error) => tracing::warn!(%error, "the delivery time of a message that was sent again cannot be read"),
        }
    }
}

/// When a message is due that was stored to wait there, or was.
async fn first_time(front: &Front, place: InLog) -> Result<u64, ApiError> {
    if let Some(at_ms) = timer::due_ms(&front.state(), place)? {
        return Ok(at_ms);
    }
    // It waits no longer, or its body was appended again.
    let InLog { log_index, slot } = place;
    let stored =
        Reader::new(&front.node.group).read(&LeasedMessage { log_index, slot, ..LeasedMessage::default() }).await;
    let stored = stored.map_err(|error| ApiError::Internal(error.to_string()))?;
    Ok(stored.delivery_ms.map_or(0, |at_ms| u64::try_from(at_ms).unwrap_or_default()))
}

/// Bytes of the bodies of a call by message type; of one type, mostly.
fn count(append: &Append) -> Vec<(i32, Vec<u64>)> {
    let mut counted: Vec<(i32, Vec<u64>)> = Vec::with_capacity(1);
    for message in &append.messages {
        let body = u64::from(message.body_bytes);
        match counted.iter_mut().find(|(message_type, _)| *message_type == message.message_type) {
            Some((_, bodies)) => bodies.push(body),
            None => counted.push((message.message_type, vec![body])),
        }
    }
    counted
}

/// RocketMQ's metrics write types in small letters.
fn metric_name(message_type: i32) -> &'static str {
    match v2::MessageType::try_from(message_type).unwrap_or_default() {
        v2::MessageType::Normal => "normal",
        v2::MessageType::Fifo => "fifo",
        v2::MessageType::Delay => "delay",
        v2::MessageType::Transaction => "transaction",
        v2::MessageType::Priority => "priority",
        v2::MessageType::Lite => "lite",
        v2::MessageType::Unspecified => "unspecified",
    }
}

/// Whether a broker group may keep all messages of the kind of this one.
fn is_kept_together(message: &v2::Message) -> bool {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    message.system_properties.as_ref().is_some_and(|system| given(&system.message_group) || given(&system.lite_topic))
}

/// Has each message stored by the broker group that keeps its message group, in the order in which they came: those of
/// one message group go together. What comes of each stands in its entry.
async fn apart(
    front: &Front,
    caller: &Caller,
    draft: Draft,
    messages: Vec<v2::Message>,
    owners: Vec<Option<String>>,
) -> v2::SendMessageResponse {
    let topic = draft.topic;
    let mut own = Draft {
        topic: topic.clone(),
        append: Append { messages: Vec::new(), ..draft.append.clone() },
        blobs: Vec::new(),
        message_ids: Vec::new(),
        by_level: draft.by_level,
    };
    let mut own_at = Vec::new();
    let mut elsewhere: BTreeMap<String, (Vec<usize>, Vec<v2::Message>)> = BTreeMap::new();
    let drafted = draft.append.messages.into_iter().zip(draft.blobs).zip(draft.message_ids);
    for (at, ((((row, blob), message_id), mut message), owner)) in drafted.zip(messages).zip(owners).enumerate() {
        match owner {
            None => {
                own.append.messages.push(row);
                own.blobs.push(blob);
                own.message_ids.push(message_id);
                own_at.push(at);
            }
            Some(owner) => {
                if let Some(system) = message.system_properties.as_mut().filter(|it| it.born_host.trim().is_empty()) {
                    // There it would be this node's.
                    system.born_host = caller.address().map(|client| client.to_string()).unwrap_or_default();
                }
                let (ats, messages) = elsewhere.entry(owner).or_default();
                ats.push(at);
                messages.push(message);
            }
        }
    }
    let count = own_at.len() + elsewhere.values().map(|(ats, _)| ats.len()).sum::<usize>();
    let here = async {
        match own_at.is_empty() {
            true => Ok(v2::SendMessageResponse::default()),
            false => store(front, caller, own, true).await,
        }
    };
    let there = elsewhere.into_iter().map(async |(owner, (ats, messages))| {
        (ats, front.owner_nodes.send(front, caller, (&topic, &owner), messages).await)
    });
    let (here, there) = futures::future::join(here, futures::future::join_all(there)).await;
    let mut entries = vec![v2::SendResultEntry::default(); count];
    for (ats, outcome) in std::iter::once((own_at, here)).chain(there) {
        match outcome {
            Ok(answer) => {
                for (at, entry) in ats.into_iter().zip(answer.entries) {
                    entries[at] = entry;
                }
            }
            Err(error) => {
                let status = front.log("SendMessage", error);
                for at in ats {
                    entries[at].status = Some(status.clone());
                }
            }
        }
    }
    let status = status::common(entries.iter().filter_map(|entry| entry.status.as_ref()));
    v2::SendMessageResponse { status: Some(status), entries }
}

/// Stores the messages. Those of a call with several message groups may go to several queues.
async fn submit(front: &Front, caller: &Caller, append: Append, blobs: Vec<Bytes>) -> Result<Vec<Appended>, ApiError> {
    match front.submit(Kind::Append(append), blobs, caller.answer_by()).await? {
        reply::Kind::Appended(appended) => Ok(vec![appended]),
        reply::Kind::AppendedApart(appended) => Ok(appended.parts),
        other => Err(ApiError::Internal(format!("an append was answered with {other:?}"))),
    }
}

/// `times` are the delivery times of the messages, 0 where there is none.
fn answer(appended: &[Appended], message_ids: Vec<String>, times: &[u64], handles: Handles) -> v2::SendMessageResponse {
    let places = appended.iter().flat_map(|part| (0..part.count).map(move |at| (part, at)));
    let entry = |(((part, at), message_id), delivery_ms): (((&Appended, u32), String), &u64)| {
        let name = |delivery_ms| {
            handles.waiting_text(&WaitingHandle {
                log_index: part.log_index,
                slot: part.first_slot.saturating_add(at),
                delivery_ms,
                message_id_hash: message_id_hash(&message_id),
            })
        };
        let (transaction_id, recall_handle) = match part.waits() {
            Waits::Nothing => (message_id.clone(), String::new()),
            Waits::DeliveryTime => (message_id.clone(), name(*delivery_ms)),
            Waits::EndOfTransaction => (name(0), String::new()),
        };
        v2::SendResultEntry {
            status: Some(status::ok()),
            transaction_id,
            message_id,
            offset: i64::try_from(part.first_offset.saturating_add(u64::from(at))).unwrap_or(i64::MAX),
            recall_handle,
        }
    };
    let entries = places.zip(message_ids).zip(times).map(entry).collect();
    v2::SendMessageResponse { status: Some(status::ok()), entries }
}

pub(super) fn type_conflict(topic: &TopicName, takes: &[i32], sent: v2::MessageType) -> ApiError {
    let names: Vec<_> =
        takes.iter().filter_map(|value| v2::MessageType::try_from(*value).ok()).map(status::type_name).collect();
    let takes = if names.is_empty() { "no messages".to_owned() } else { format!("{} messages", names.join(", ")) };
    ApiError::TypeConflict { topic: topic.to_string(), takes, sent: status::type_name(sent) }
}

fn draft(request: v2::SendMessageRequest, context: &Context<'_>) -> Result<Draft, ApiError> {
    let mut messages = request.messages;
    let resource = messages.first_mut().ok_or(ApiError::NoMessages)?.topic.take();
    let topic = convert::topic(resource.clone())?;
    let (value, limit) = (messages.len(), context.limits.send_batch_max);
    if value > limit {
        return Err(ApiError::TooManyMessages { value, limit });
    }
    if messages.iter().skip(1).any(|message| message.topic != resource) {
        return Err(ApiError::SeveralTopics);
    }
    let mut draft = Draft {
        append: Append {
            topic: topic.as_str().to_owned(),
            messages: Vec::with_capacity(messages.len()),
            ..Append::default()
        },
        topic,
        blobs: Vec::with_capacity(messages.len()),
        message_ids: Vec::with_capacity(messages.len()),
        by_level: false,
    };
    for mut message in messages {
        let mut system = message.system_properties.unwrap_or_default();
        // Before a level becomes a time, which is another one when the message is sent again.
        let content_hash = content_hash(&message.body, &message.user_properties, &system);
        draft.by_level |= delay_level(&mut message.user_properties, &mut system, context)?;
        check(&message.body, &message.user_properties, &system, context)?;
        let message_type = message_type(&system);
        if message_type == v2::MessageType::Transaction && draft.append.checks.is_none() {
            draft.append.checks = Some(checks(context));
        }
        draft.append.messages.push(AppendMessage {
            tag_hash: system.tag.as_deref().filter(|tag| !tag.is_empty()).map_or(0, tag_hash),
            message_type: message_type.into(),
            body_bytes: u32::try_from(message.body.len()).unwrap_or(u32::MAX),
            message_group_hash: message_group_hash(&system, message_type),
            message_id_hash: message_id_hash(&system.message_id),
            delivery_ms: delivery_ms(&system, message_type),
            check_after_ms: check_after_ms(&system, context.limits),
            priority: system.priority.map_or(0, |priority| u32::try_from(priority).unwrap_or_default()),
            content_hash,
            lite_topic: lite_topic(&system, message_type).unwrap_or_default(),
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
    if body.is_empty() && limits.check_body_empty {
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
    check_marks(system, context)
}

/// Checks what marks a message as other than normal.
fn check_marks(system: &v2::SystemProperties, context: &Context<'_>) -> Result<(), ApiError> {
    let limits = context.limits;
    if message_type(system) == v2::MessageType::Transaction
        && let Some(duration) = &system.orphaned_transaction_recovery_duration
        && limits.recovery_s_max > 0
        && duration.seconds > limits.recovery_s_max
    {
        return Err(ApiError::RecoveryTooLong { value_s: duration.seconds, limit_s: limits.recovery_s_max });
    }
    if let Some(time) = &system.delivery_timestamp {
        let ahead_ms = convert::unix_ms(time).saturating_sub(context.now_ms);
        if limits.delivery_ahead_ms_max > 0 && ahead_ms > limits.delivery_ahead_ms_max {
            return Err(ApiError::DeliveryTooLate { ahead_ms, limit_ms: limits.delivery_ahead_ms_max });
        }
    }
    if let Some(value) = system.priority.filter(|priority| *priority < 0) {
        return Err(ApiError::PriorityNegative(value));
    }
    if let Some(name) = lite_topic(system, message_type(system)) {
        lite::check_name(&name, limits.lite_topic_bytes)?;
    }
    if let Some(group) = system.message_group.as_deref().filter(|group| !group.is_empty()) {
        let fault = |fault: String| ApiError::MessageGroup { group: group.to_owned(), fault };
        if group.trim().is_empty() {
            return Err(fault("is blank".to_owned()));
        }
        let limit = limits.message_group_bytes;
        if limit > 0 && group.len() >= limit {
            let most = limit - 1;
            return Err(fault(format!("has {} bytes, but the limit is {most} (maxMessageGroupSize - 1)", group.len())));
        }
        if has_control(group) {
            return Err(fault("has a control character".to_owned()));
        }
    }
    Ok(())
}

/// Clients of old ask for one of the levels of `messageDelayLevel`; it becomes the time that it stands for. Returns
/// whether it did.
fn delay_level(
    properties: &mut Properties,
    system: &mut v2::SystemProperties,
    context: &Context<'_>,
) -> Result<bool, ApiError> {
    let Some(level) = properties.remove(DELAY_LEVEL) else { return Ok(false) };
    let Ok(level) = level.trim().parse::<usize>() else {
        return Err(ApiError::PropertyReserved(DELAY_LEVEL.to_owned()));
    };
    let levels = &context.limits.delay_levels_ms;
    // As the reference: no delay below the first level, the longest one beyond the last.
    if let Some(delay_ms) = level.checked_sub(1).and_then(|at| levels.get(at.min(levels.len().saturating_sub(1))))
        && system.delivery_timestamp.is_none()
    {
        let at_ms = context.now_ms.saturating_add(i64::try_from(*delay_ms).unwrap_or(i64::MAX));
        system.delivery_timestamp = Some(convert::timestamp(at_ms));
        return Ok(true);
    }
    Ok(false)
}

/// How the producer is asked about the transactions that it leaves open.
fn checks(context: &Context<'_>) -> Checks {
    let limits = context.limits;
    Checks {
        producer: context.client_id.to_owned(),
        interval_ms: limits.transaction_check_interval_ms,
        checks_max: limits.transaction_checks_max,
        age_max_ms: limits.transaction_age_ms_max,
    }
}

/// Of all that the producer says of a message and would say again if it sent it again; never 0.
fn content_hash(body: &Bytes, properties: &Properties, system: &v2::SystemProperties) -> u64 {
    let mut hash = Xxh3::new();
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(body);
    let mut sorted: Vec<_> = properties.iter().collect();
    sorted.sort_unstable();
    for (key, value) in sorted {
        part(key.as_bytes());
        part(value.as_bytes());
    }
    system.keys.iter().for_each(|key| part(key.as_bytes()));
    for text in [&system.tag, &system.message_group, &system.lite_topic] {
        part(text.as_deref().unwrap_or_default().as_bytes());
    }
    let delivery_ms = system.delivery_timestamp.as_ref().map(convert::unix_ms).unwrap_or_default();
    part(&delivery_ms.to_le_bytes());
    part(&[system.message_type, system.body_encoding, system.priority.unwrap_or(-1)].map(i32::to_le_bytes).concat());
    hash.digest().max(1)
}

fn check_after_ms(system: &v2::SystemProperties, limits: &GrpcConfig) -> u64 {
    let wanted = system.orphaned_transaction_recovery_duration.as_ref().map(convert::duration_ms);
    let wanted = wanted.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0);
    wanted.unwrap_or(limits.transaction_timeout_ms)
}

fn delivery_ms(system: &v2::SystemProperties, message_type: v2::MessageType) -> u64 {
    let time = system.delivery_timestamp.as_ref().filter(|_| message_type == v2::MessageType::Delay);
    time.map_or(0, |time| u64::try_from(convert::unix_ms(time)).unwrap_or_default())
}

fn lite_topic(system: &v2::SystemProperties, message_type: v2::MessageType) -> Option<String> {
    system.lite_topic.clone().filter(|_| message_type == v2::MessageType::Lite)
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

/// What orders a FIFO or LITE message; 0 for others, whose message group is only carried.
pub(super) fn message_group_hash(system: &v2::SystemProperties, message_type: v2::MessageType) -> u64 {
    let group = match message_type {
        v2::MessageType::Fifo => system.message_group.as_deref(),
        v2::MessageType::Lite => system.lite_topic.as_deref(),
        _ => None,
    };
    group.map_or(0, |group| xxhash_rust::xxh3::xxh3_64(group.as_bytes()).max(1))
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
        lite_topic: lite_topic(&system, message_type),
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
        priority: system.priority,
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        AppendMessage, Context, Draft, GrpcConfig, Handles, RESERVED_KEYS, WaitingHandle, Waits, answer, draft,
        message_id_hash,
    };
    use crate::command::decode_message;
    use crate::filter::tag::tag_hash;
    use crate::grpc::status::{ApiError, code_name};
    use crate::grpc::tests::limits;
    use bytes::Bytes;
    use raftmq_proto::command::{Appended, Property};
    use raftmq_proto::rocketmq as v2;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn check_call(messages: Vec<v2::Message>) -> Result<Draft, ApiError> {
        check_call_at(NOW_MS, messages)
    }

    fn check_call_at(now_ms: i64, messages: Vec<v2::Message>) -> Result<Draft, ApiError> {
        let limits = limits();
        let context = Context {
            limits: &limits,
            now_ms,
            peer: "10.0.0.9:5555",
            store_host: "10.0.0.1:8081",
            client_id: "host@1",
        };
        draft(v2::SendMessageRequest { messages }, &context)
    }

    fn types(draft: &Draft) -> Vec<&'static str> {
        let name = |message: &AppendMessage| {
            v2::MessageType::try_from(message.message_type).expect("one of ours").as_str_name()
        };
        draft.append.messages.iter().map(name).collect()
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
            Ok(draft) => types(&draft).join(" "),
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
        check("DELAY", |_, system| system.delivery_timestamp = at(400 * 86_400_000));
        check("DELAY", |message, _| property(message, "DELAY", "3"));
        check("NORMAL", |message, _| property(message, "DELAY", "0"));
        check("ILLEGAL_MESSAGE_PROPERTY_KEY", |message, _| property(message, "DELAY", "soon"));
        let transaction = i32::from(v2::MessageType::Transaction);
        check("TRANSACTION", |_, system| system.message_type = transaction);
        check("BAD_REQUEST", |_, system| {
            system.message_type = transaction;
            let duration = prost_types::Duration { seconds: 3_601, nanos: 0 };
            system.orphaned_transaction_recovery_duration = Some(duration);
        });
        check("NORMAL", |_, system| system.message_type = i32::from(v2::MessageType::Fifo));
        check("PRIORITY", |_, system| system.priority = Some(1));
        check("BAD_REQUEST", |_, system| system.priority = Some(-1));
        check("LITE", |_, system| system.lite_topic = Some("l".to_owned()));
        check("LITE", |_, system| system.lite_topic = Some("l".repeat(64)));
        check("ILLEGAL_LITE_TOPIC", |_, system| system.lite_topic = Some("l".repeat(65)));
        check("ILLEGAL_LITE_TOPIC", |_, system| system.lite_topic = Some(" ".to_owned()));
        check("ILLEGAL_LITE_TOPIC", |_, system| system.lite_topic = Some("a%b".to_owned()));
        check("FIFO", |_, system| {
            system.lite_topic = Some("a%b".to_owned());
            system.message_group = Some("g".to_owned());
        });
    }

    #[test]
    fn calls() {
        let other =
            message(|message, _| message.topic = Some(v2::Resource { name: "b".to_owned(), ..Default::default() }));
        let code = |outcome: Result<Draft, ApiError>| code_name(&outcome.expect_err("refused").status());
        assert_eq!(code(check_call(vec![])), "MESSAGE_CORRUPTED");
        assert_eq!(code(check_call(vec![message(|_, _| ()), other])), "MESSAGE_CORRUPTED");
        let mixed = vec![message(|_, system| system.message_group = Some("g".to_owned())), message(|_, _| ())];
        assert_eq!(types(&check_call(mixed).expect("taken")), ["FIFO", "NORMAL"]);
    }

    #[test]
    fn what_waits_says_for_what() {
        let delivery_ms = |change: &dyn Fn(&mut v2::Message, &mut v2::SystemProperties)| {
            check_call(vec![message(change)]).expect("taken").append.messages[0].delivery_ms
        };
        let now = u64::try_from(NOW_MS).expect("after 1970");
        let at = |ms: i64| Some(crate::grpc::convert::timestamp(NOW_MS + ms));
        assert_eq!(delivery_ms(&|_, _| ()), 0);
        assert_eq!(delivery_ms(&|_, system| system.delivery_timestamp = at(5_000)), now + 5_000);
        assert_eq!(delivery_ms(&|message, _| property(message, "DELAY", "2")), now + 5_000);
        assert_eq!(delivery_ms(&|message, _| property(message, "DELAY", "99")), now + 7_200_000);
        let draft = check_call(vec![message(|_, system| {
            system.message_type = v2::MessageType::Transaction.into();
            system.orphaned_transaction_recovery_duration = Some(crate::grpc::convert::duration(90_000));
        })]);
        let append = draft.expect("taken").append;
        assert_eq!((append.messages[0].delivery_ms, append.messages[0].check_after_ms), (0, 90_000));
        assert_eq!(append.checks.expect("of a transaction").producer, "host@1");
    }

    /// What is the same message is said by what its producer says: a level, and not the time that a node made of it.
    #[test]
    fn a_message_with_a_delay_level_is_the_same_when_it_is_sent_again() {
        let sent_at = |now_ms: i64, key: &str, value: &str| {
            let draft = check_call_at(now_ms, vec![message(|message, _| property(message, key, value))]);
            let draft = draft.expect("taken");
            let stored = decode_message(draft.blobs[0].clone()).expect("our own blob");
            let AppendMessage { content_hash, delivery_ms, .. } = draft.append.messages[0];
            assert_eq!(stored.delivery_ms.unwrap_or_default(), delivery_ms as i64, "the log says when it is due");
            assert!(stored.properties.iter().all(|property| property.key != "DELAY"));
            (content_hash, delivery_ms, draft.by_level)
        };
        let first = sent_at(NOW_MS, "DELAY", "2");
        assert_eq!(sent_at(NOW_MS + 3_000, "DELAY", "2"), (first.0, first.1 + 3_000, true));
        let another = sent_at(NOW_MS, "DELAY", "3");
        assert!(another.0 != first.0 && another.2);
        let (none, delivery_ms, by_level) = sent_at(NOW_MS, "a", "2");
        assert!(none != first.0 && delivery_ms == 0 && !by_level);
        assert!(!sent_at(NOW_MS, "DELAY", "0").2, "no level");
    }

    #[test]
    fn the_same_limits_as_the_reference_can_be_set() {
        let limits = GrpcConfig { delivery_ahead_ms_max: 86_400_000, ..limits() };
        let check = |ahead_ms: i64| {
            let context =
                Context { limits: &limits, now_ms: NOW_MS, peer: "10.0.0.9:5555", store_host: "", client_id: "c" };
            let time = crate::grpc::convert::timestamp(NOW_MS + ahead_ms);
            let message = message(|_, system| system.delivery_timestamp = Some(time));
            draft(v2::SendMessageRequest { messages: vec![message] }, &context).err()
        };
        assert!(check(86_400_000).is_none());
        let refused = check(86_400_001).expect("refused");
        assert_eq!(code_name(&refused.status()), "ILLEGAL_DELIVERY_TIME");
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
        assert_eq!(stored.body, "hello");
        let second = decode_message(draft.blobs[1].clone()).expect("our own blob");
        assert_eq!((second.born_ms, second.tag), (NOW_MS, None));
    }

    #[test]
    fn an_answer_has_an_entry_per_message() {
        let parts = [appended(3, 41, 2), appended(1, 7, 1)];
        let handles = Handles::of("RaftNode00");
        let response = answer(&parts, ["a", "b", "c"].map(str::to_owned).to_vec(), &[0; 3], handles);
        let entries: Vec<_> = response.entries.iter().map(|entry| (entry.message_id.as_str(), entry.offset)).collect();
        assert_eq!(entries, [("a", 41), ("b", 42), ("c", 7)]);
        assert!(response.entries.iter().all(|entry| entry.transaction_id == entry.message_id));
        assert!(response.entries.iter().all(|entry| entry.recall_handle.is_empty()));
    }

    fn appended(queue: u32, first_offset: u64, count: u32) -> Appended {
        Appended { queue, first_offset, count, ..Appended::default() }
    }

    #[test]
    fn messages_that_wait_are_named_by_their_place_in_the_log() {
        let waiting = |waits: Waits, first_slot: u32, count: u32| Appended {
            count,
            waits: waits.into(),
            log_index: 9,
            first_slot,
            ..Appended::default()
        };
        let parts = [waiting(Waits::DeliveryTime, 4, 2), waiting(Waits::EndOfTransaction, 6, 1)];
        let handles = Handles::of("RaftNode00");
        let response = answer(&parts, ["a", "b", "c"].map(str::to_owned).to_vec(), &[50, 60, 0], handles);
        let [a, b, c] = &response.entries[..] else { unreachable!("an entry each") };
        let name = |slot, delivery_ms, message_id: &str| WaitingHandle {
            log_index: 9,
            slot,
            delivery_ms,
            message_id_hash: message_id_hash(message_id),
        };
        assert_eq!(handles.parse_waiting(&a.recall_handle), Ok(name(4, 50, "a")));
        assert_eq!(handles.parse_waiting(&b.recall_handle), Ok(name(5, 60, "b")));
        assert_eq!(handles.parse_waiting(&c.transaction_id), Ok(name(6, 0, "c")));
        assert_eq!((a.transaction_id.as_str(), c.recall_handle.as_str()), ("a", ""));
    }

    #[test]
    fn reserved_keys_are_sorted() {
        assert!(RESERVED_KEYS.is_sorted());
        assert_eq!(RESERVED_KEYS.len(), 50);
    }
}
