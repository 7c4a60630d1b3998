//! Finding messages of a topic by id, by key, by the filter of a subscription and by the time at which they were stored;
//! sending one; having one client process one.
//!
//! There is no index of ids, keys and properties: it would cost every message a row. A query reads the log of the time
//! that it names, queue after queue, for a bounded time, and says where to go on when it did not come to the end. The ids
//! that SDKs make tell when their messages were made, so that a query by such an id begins there.

use super::super::caller::Caller;
use super::super::status::{self, ApiError};
use super::super::{Front, convert, send};
use super::client::tell;
use super::{answer_by, fresh};
use crate::admin::progress::numbers;
use crate::client::streams::Told;
use crate::deliver::handle::upper_hex;
use crate::deliver::read::Reader;
use crate::filter::MessageFilter;
use crate::store::message::{Place, offset_at, places};
use crate::store::queue::queue;
use crate::store::{self as rows, StateError, TopicId};
use raft_store::ReadState;
use raftmq_proto::command::{LeasedMessage, StoredMessage, Topic};
use raftmq_proto::rocketmq as v2;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use v2::list_message_request::SearchKey;

/// Messages of one answer.
const MESSAGES_MAX: usize = 64;
/// Where a query does not say how many it wants.
const MESSAGES_DEFAULT: usize = 32;
/// Bodies of one answer; one message goes in any case.
const BODY_BYTES_MAX: usize = 4 << 20;
/// One call looks at messages for so long, and no longer than a third of the time that its caller waits.
const LOOK_FOR: Duration = Duration::from_secs(3);
/// Rows that are read at once.
const LOOK_MESSAGES_MAX: usize = 256;
/// Messages that are looked at before others get a turn: a filter may take its time over each.
const TURN_MESSAGES: u32 = 32;
/// A message is stored no earlier than this before the time in its id: clocks of clients differ.
const CLOCKS_APART_MS: u64 = 600_000;
/// 2021-01-01 in UTC, from which the ids of SDKs count their seconds.
const ID_EPOCH_S: u64 = 1_609_459_200;

/// What a query looks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Search {
    Every,
    Id(String),
    Key(String),
    /// What a consumer with this filter would get.
    Filter(MessageFilter),
}

impl Search {
    fn finds(&self, message: &StoredMessage) -> bool {
        match self {
            Search::Every => true,
            Search::Id(id) => message.message_id == *id,
            Search::Key(key) => message.keys.contains(key),
            Search::Filter(filter) => filter.matches(message),
        }
    }
}

/// Where a query goes on. What is written is for us alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bookmark {
    queue: u16,
    offset: u64,
}

impl fmt::Display for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.queue, self.offset)
    }
}

impl Bookmark {
    fn parse(text: &str) -> Option<Bookmark> {
        let (queue, offset) = text.split_once('-')?;
        Some(Bookmark { queue: queue.parse().ok()?, offset: offset.parse().ok()? })
    }
}

/// When a message was made, by its id: `01`, 6 bytes of a network address, 2 of a process, 4 of seconds, 4 of a number.
fn made_ms(message_id: &str) -> Option<u64> {
    let digits = message_id.as_bytes();
    if digits.len() != 34 || !digits.starts_with(b"01") || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let seconds = u64::from_str_radix(message_id.get(18..26)?, 16).ok()?;
    Some((ID_EPOCH_S + seconds) * 1_000)
}

struct Query {
    topic: Topic,
    search: Search,
    /// Only this queue.
    queue: Option<u16>,
    from_ms: u64,
    /// Up to and including this.
    until_ms: u64,
    messages_max: usize,
    start: Option<Bookmark>,
}

/// A message with its place.
struct Found {
    queue: u16,
    place: Place,
    message: StoredMessage,
}

/// Messages of a queue from a place on, as far as the time reaches.
fn next(state: &impl ReadState, query: &Query, at: Bookmark) -> Result<(Vec<Place>, bool), StateError> {
    let mut found = places(state, TopicId(query.topic.id), at.queue, at.offset, LOOK_MESSAGES_MAX)?;
    let full = found.len() == LOOK_MESSAGES_MAX;
    let known = found.len();
    found.retain(|place| place.store_ms <= query.until_ms);
    let more = full && found.len() == known;
    Ok((found, more))
}

/// Looks until there are enough, or the time is over; then also where to go on.
async fn look(front: &Front, query: &Query, until: Instant) -> Result<(Vec<Found>, Option<Bookmark>), ApiError> {
    let id = TopicId(query.topic.id);
    let (mut found, mut body_bytes, mut looked) = (Vec::new(), 0, 0_u32);
    let mut reader = Reader::new(&front.node.group);
    let first = query.start.map_or(0, |start| start.queue);
    let wanted = |number: &u16| *number >= first && query.queue.is_none_or(|only| only == *number);
    for number in numbers(&query.topic).filter(wanted) {
        let offset = match query.start.filter(|start| start.queue == number) {
            Some(start) => start.offset,
            None => {
                let state = front.state();
                let queue = queue(&state, id, number)?;
                offset_at(&state, id, number, &queue, query.from_ms)?
            }
        };
        let mut at = Bookmark { queue: number, offset };
        loop {
            let (places, more) = next(&front.state(), query, at)?;
            for place in places {
                if found.len() == query.messages_max || body_bytes >= BODY_BYTES_MAX || Instant::now() >= until {
                    return Ok((found, Some(at)));
                }
                at.offset = place.offset + 1;
                let leased = LeasedMessage { log_index: place.log_index, slot: place.slot, ..LeasedMessage::default() };
                let message = reader.read(&leased).await.map_err(|error| {
                    let (topic, offset) = (&query.topic.name, place.offset);
                    ApiError::Internal(format!("{topic} queue {number} offset {offset}: {error}"))
                })?;
                looked += 1;
                if looked.is_multiple_of(TURN_MESSAGES) {
                    tokio::task::yield_now().await;
                }
                if query.search.finds(&message) {
                    body_bytes += message.body.len();
                    found.push(Found { queue: number, place, message });
                    // Ids name one message.
                    if matches!(query.search, Search::Id(_)) {
                        return Ok((found, None));
                    }
                }
            }
            if !more {
                break;
            }
        }
    }
    Ok((found, None))
}

fn look_until(caller: &Caller) -> Instant {
    let left = answer_by(caller).saturating_duration_since(Instant::now());
    Instant::now() + LOOK_FOR.min(left / 3 * 2)
}

pub(super) async fn query(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::ListMessageRequest,
) -> Result<v2::ListMessageResponse, ApiError> {
    let resource = request.topic.clone().unwrap_or_default();
    let name = convert::topic(request.topic)?;
    fresh(front, caller).await?;
    let mut topic = front.topic(&name).await?.ok_or_else(|| ApiError::TopicNotFound(name.to_string()))?;
    let broker_group = &front.node.config.broker_group;
    if request.broker_name.as_ref().is_some_and(|named| !named.is_empty() && named != broker_group) {
        let queue = request.queue_id.unwrap_or_default();
        return Err(ApiError::QueueNotFound { topic: topic.name, queue, broker_group: broker_group.clone() });
    }
    let search = match request.search_key {
        None => Search::Every,
        Some(SearchKey::MessageId(id)) if !id.is_empty() => Search::Id(id),
        Some(SearchKey::MessageKey(key)) if !key.is_empty() => Search::Key(key),
        Some(SearchKey::MessageId(_) | SearchKey::MessageKey(_)) => Search::Every,
        Some(SearchKey::Subscription(text)) => match convert::untyped_filter(text, &front.node.settings().grpc)? {
            all if all == MessageFilter::all() => Search::Every,
            filter => Search::Filter(filter),
        },
        Some(SearchKey::LiteTopic(lite)) => {
            let found = rows::topic::topic(&front.state(), &rows::lite::row_name(TopicId(topic.id), &lite))?;
            topic = found.ok_or(ApiError::NoSuchMessage(topic.name))?;
            Search::Every
        }
    };
    let start = match request.scroll_id.as_deref() {
        None | Some("") => None,
        Some(text) => Some(Bookmark::parse(text).ok_or(ApiError::Missing("scroll id of an earlier answer"))?),
    };
    let ms =
        |time: Option<prost_types::Timestamp>| time.map(|time| u64::try_from(convert::unix_ms(&time)).unwrap_or(0));
    let query = Query {
        topic,
        queue: request.queue_id.and_then(|id| u16::try_from(id).ok()),
        from_ms: ms(request.begin_timestamp).unwrap_or_else(|| begin(&search)),
        until_ms: ms(request.end_timestamp).unwrap_or(u64::MAX),
        messages_max: match usize::try_from(request.max_message_nums) {
            Ok(0) | Err(_) => MESSAGES_DEFAULT,
            Ok(wanted) => wanted.min(MESSAGES_MAX),
        },
        search,
        start,
    };
    let (found, next) = look(front, &query, look_until(caller)).await?;
    if found.is_empty() && next.is_none() && query.start.is_none() && query.search != Search::Every {
        return Err(ApiError::NoSuchMessage(query.topic.name));
    }
    let bytes = found.iter().map(|found| found.message.body.len()).sum();
    // Given back when the answer is made; what it holds is bounded.
    let _room = front.deliver(bytes)?;
    let messages = found.into_iter().map(|found| {
        let mut message = convert::shown(found.message, &resource, found.place.store_ms);
        if let Some(system) = &mut message.system_properties {
            system.queue_id = i32::from(found.queue);
            system.queue_offset = Some(i64::try_from(found.place.offset).unwrap_or(i64::MAX));
        }
        message
    });
    Ok(v2::ListMessageResponse {
        status: Some(status::ok()),
        messages: messages.collect(),
        scroll_id: next.map(|next| next.to_string()).unwrap_or_default(),
    })
}

/// Where a query begins that does not say.
fn begin(search: &Search) -> u64 {
    match search {
        Search::Id(id) => made_ms(id).map_or(0, |ms| ms.saturating_sub(CLOCKS_APART_MS)),
        Search::Every | Search::Key(_) | Search::Filter(_) => 0,
    }
}

pub(super) async fn verify(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::VerifyMessageRequest,
) -> Result<v2::VerifyMessageResponse, ApiError> {
    let name = convert::topic(request.topic)?;
    fresh(front, caller).await?;
    let topic = front.topic(&name).await?.ok_or_else(|| ApiError::TopicNotFound(name.to_string()))?;
    let search = Search::Id(request.message_id);
    let query =
        Query { topic, queue: None, from_ms: begin(&search), until_ms: u64::MAX, messages_max: 1, search, start: None };
    let (mut found, _) = look(front, &query, look_until(caller)).await?;
    let found = found.pop().ok_or(ApiError::NoSuchMessage(query.topic.name))?;
    let told = Told::Verify {
        message: found.message,
        stored_ms: found.place.store_ms,
        queue: u32::from(found.queue),
        offset: found.place.offset,
    };
    front.audit(caller, "a client is to process a message", &request.client_id);
    let answer = tell(front, caller, request.client_id, told).await?;
    Ok(v2::VerifyMessageResponse { status: Some(v2::Status { code: answer.code, message: answer.message }) })
}

pub(super) async fn send(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::AdminSendMessageRequest,
) -> Result<v2::AdminSendMessageResponse, ApiError> {
    let mut system = request.system_properties.unwrap_or_default();
    if system.message_id.trim().is_empty() {
        system.message_id = upper_hex(&rand::random::<[u8; 17]>());
    }
    system.tag = request.tag.filter(|tag| !tag.is_empty()).or(system.tag);
    system.keys.extend(request.key.filter(|key| !key.is_empty()));
    if system.message_type == i32::from(v2::MessageType::Unspecified) {
        system.message_type = v2::MessageType::Normal.into();
    }
    let message_id = system.message_id.clone();
    let message = v2::Message {
        topic: request.topic,
        user_properties: request.user_properties,
        system_properties: Some(system),
        body: request.body,
    };
    let request = caller.request(v2::SendMessageRequest { messages: vec![message] }, "administrator");
    let sent = send::handle(front, request).await;
    let status = sent.status.unwrap_or_default();
    Ok(v2::AdminSendMessageResponse { status: Some(status), message_id })
}

#[cfg(test)]
mod tests {
    use super::{Bookmark, Search, StoredMessage, made_ms};
    use crate::grpc::convert::untyped_filter;
    use crate::grpc::tests::limits;

    #[test]
    fn ids_of_sdks_tell_when_they_were_made() {
        // 0x0A8C49F8 s after 2021-01-01.
        assert_eq!(made_ms("0156F7E71C361B21BC0A8C49F800000000"), Some(1_786_425_336_000));
        assert_eq!(made_ms("0156f7e71c361b21bc0a8c49f800000000"), Some(1_786_425_336_000));
        for other in ["", "7F0000010BB0", "0256F7E71C361B21BC0A8C49F800000000", "01not hexadecimal digits at all 00"] {
            assert_eq!(made_ms(other), None, "{other:?}");
        }
    }

    #[test]
    fn what_a_query_finds() {
        let message = StoredMessage {
            message_id: "x".to_owned(),
            keys: vec!["a".to_owned(), "b".to_owned()],
            ..StoredMessage::default()
        };
        assert!(Search::Every.finds(&message) && Search::Id("x".to_owned()).finds(&message));
        assert!(Search::Key("b".to_owned()).finds(&message) && !Search::Key("x".to_owned()).finds(&message));
        assert!(!Search::Id("a".to_owned()).finds(&message));
        let filter = |text: &str| Search::Filter(untyped_filter(text.to_owned(), &limits()).expect("a filter"));
        assert!(filter("KEYS = 'a b'").finds(&message) && !filter("KEYS = 'a'").finds(&message));
    }

    #[test]
    fn a_place_to_go_on_from_reads_back() {
        let at = Bookmark { queue: 7, offset: 1 << 40 };
        assert_eq!(Bookmark::parse(&at.to_string()), Some(at));
        for wrong in ["", "7", "7-", "-7", "70000-1", "1-2-3"] {
            assert_eq!(Bookmark::parse(wrong), None, "{wrong:?}");
        }
    }
}
