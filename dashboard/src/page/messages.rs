//! Messages of a topic: by id, by key, or by the time at which they were stored.
//!
//! The log has no index of ids and keys (see "The Admin service of the public API" in the README): a query reads the
//! time that it names for a while, and the page offers to go on from where it stopped.

use super::message::{excerpt, full, kind};
use super::time_field;
use crate::app::{Page, Problem, Visit};
use crate::form::link;
use crate::phrase::Phrase as P;
use crate::view::{field, table, text, time};
use maud::{Markup, html};
use raftmq_admin_client::directory::{Directory, Group};
use raftmq_admin_client::error::AdminError;
use raftmq_admin_client::message::{millis, resource, timestamp};
use raftmq_admin_client::public::{check, hosts, on_group_admin};
use raftmq_proto::admin::{ExplainMessageRequest, MessageEvent, MessageFate};
use raftmq_proto::rocketmq::list_message_request::SearchKey;
use raftmq_proto::rocketmq::{Code, ListMessageRequest, Message};
use std::time::Duration;
use tokio::time::Instant;

/// Messages of one page.
const MESSAGES: i32 = 50;
/// A page waits for a search no longer than this.
const LOOK_FOR: Duration = Duration::from_secs(9);

/// The event of a delivery time, which brokers do not tell: the message has it.
const DUE: &str = "DUE";

/// What one broker group found.
pub(super) struct Found {
    pub group: String,
    pub messages: Vec<Message>,
    /// Where to go on; empty at the end.
    pub scroll: String,
}

/// Asks again until there is a message, the end, or no time left. `None` where the topic is not hosted.
pub(super) async fn find(
    directory: &Directory,
    group: &Group,
    mut request: ListMessageRequest,
) -> Result<Option<Found>, Problem> {
    let until = Instant::now() + LOOK_FOR;
    loop {
        let (address, answer) = on_group_admin(directory, group, |mut node| {
            let request = request.clone();
            async move { Ok(node.query_message(request).await?.into_inner()) }
        })
        .await?;
        let found = |messages, scroll| Ok(Some(Found { group: group.name.clone(), messages, scroll }));
        match answer.status.as_ref().map(raftmq_proto::rocketmq::Status::code) {
            Some(Code::TopicNotFound) => return Ok(None),
            Some(Code::MessageNotFound) => return found(Vec::new(), String::new()),
            _ => check(&address, answer.status.as_ref())?,
        }
        if !answer.messages.is_empty() || answer.scroll_id.is_empty() || Instant::now() >= until {
            return found(answer.messages, answer.scroll_id);
        }
        request.scroll_id = Some(answer.scroll_id);
    }
}

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let query = &visit.query;
    let topic = query.get("topic");
    let found = if topic.is_empty() { Vec::new() } else { look(visit, topic).await? };
    let by = query.get("by");
    let body = html! {
        form.search method="get" action="/messages" role="search" {
            label { (visit.t(P::Topic)) " " input type="text" name="topic" value=(topic) required; }
            label { (visit.t(P::SearchBy)) " " select name="by" {
                @for (value, phrase) in [("time", P::Time), ("id", P::MessageId), ("key", P::Key)] {
                    option value=(value) selected[by == value] { (visit.t(phrase)) }
                }
            } }
            (field(visit, P::IdOrKey, "value", query.get("value")))
            (field(visit, P::FromUtc, "from", query.get("from")))
            (field(visit, P::UntilUtc, "until", query.get("until")))
            button type="submit" { (visit.t(P::Search)) }
        }
        p.faint { (visit.t(P::TimesMakeSearchesShort)) }
        @if !topic.is_empty() { (list(visit, topic, &found)) }
    };
    Ok(Page::new(visit.t(P::Messages), body))
}

async fn look(visit: &Visit, topic: &str) -> Result<Vec<Found>, Problem> {
    let query = &visit.query;
    let value = query.get("value").to_owned();
    let key = match query.get("by") {
        "id" if !value.is_empty() => Some(SearchKey::MessageId(value)),
        "key" if !value.is_empty() => Some(SearchKey::MessageKey(value)),
        "id" | "key" => return Err(Problem::Refused(visit.t(P::IdOrKeyMissing).to_owned())),
        _ => None,
    };
    let request = ListMessageRequest {
        topic: resource(topic),
        max_message_nums: MESSAGES,
        begin_timestamp: time_field(query, "from")?.map(timestamp),
        end_timestamp: time_field(query, "until")?.map(timestamp),
        search_key: key,
        ..ListMessageRequest::default()
    };
    let directory = visit.directory()?;
    let mut found = Vec::new();
    for group in hosts(&directory, topic, None).await? {
        let only = query.get("group");
        if !only.is_empty() && only != group.name {
            continue;
        }
        let scroll = Some(query.get("scroll")).filter(|scroll| !scroll.is_empty() && !only.is_empty());
        let request = ListMessageRequest { scroll_id: scroll.map(str::to_owned), ..request.clone() };
        found.extend(find(&directory, &group, request).await?);
    }
    if found.is_empty() {
        return Err(Problem::Missing(format!("{}: {topic}", visit.t(P::NoSuchTopic))));
    }
    Ok(found)
}

/// Where one message is shown, by its place.
pub(super) fn place_of(group: &str, message: &Message) -> String {
    let known = message.system_properties.clone().unwrap_or_default();
    let topic = message.topic.as_ref().map_or("", |topic| topic.name.as_str());
    let stored = millis(known.store_timestamp.as_ref()).to_string();
    let queue = known.queue_id.to_string();
    let offset = known.queue_offset.unwrap_or_default().to_string();
    link("/message", &[("group", group), ("topic", topic), ("queue", &queue), ("offset", &offset), ("stored", &stored)])
}

fn list(visit: &Visit, topic: &str, found: &[Found]) -> Markup {
    let mut rows = Vec::new();
    for found in found {
        for message in &found.messages {
            let known = message.system_properties.clone().unwrap_or_default();
            rows.push(vec![
                html! { a href=(place_of(&found.group, message)) { (text(&known.message_id)) } },
                html! { (found.group) " · " (known.queue_id) " · " (known.queue_offset.unwrap_or_default()) },
                html! { (time(millis(known.store_timestamp.as_ref()))) },
                html! { (kind(message)) },
                html! { (known.tag.as_deref().unwrap_or("–")) },
                html! { (text(&known.keys.join(" "))) },
                html! { (excerpt(message)) },
            ]);
        }
    }
    let head = [P::MessageId, P::QueueAndOffset, P::StoredAt, P::MessageType, P::Tag, P::Keys, P::Body];
    let more = |found: &Found| {
        let query = visit.query.with("scroll", &found.scroll);
        let fields = crate::form::Fields::parse(query.as_bytes());
        format!("/messages?{}", fields.with("group", &found.group))
    };
    html! {
        (table(visit, topic, &head, &rows))
        @for found in found.iter().filter(|found| !found.scroll.is_empty()) {
            p { a href=(more(found)) { (visit.t(P::GoOnReading)) " · " (found.group) } }
        }
    }
}

/// One message at its place.
pub(super) async fn at_place(visit: &Visit, fields: &crate::form::Fields) -> Result<(String, Message), Problem> {
    let (topic, name) = (fields.get("topic"), fields.get("group"));
    let queue: i32 = fields.number("queue")?.unwrap_or(0);
    let offset: i64 = fields.number("offset")?.unwrap_or(0);
    let stored: u64 = fields.number("stored")?.unwrap_or(0);
    let directory = visit.directory()?;
    let missing = || Problem::Missing(format!("{}: {topic} {queue} {offset}", visit.t(P::NoSuchMessage)));
    let groups = hosts(&directory, topic, Some(name)).await?;
    let group = groups.first().ok_or_else(missing)?;
    let mut request = ListMessageRequest {
        topic: resource(topic),
        max_message_nums: 64,
        queue_id: Some(queue),
        begin_timestamp: Some(timestamp(stored)),
        end_timestamp: Some(timestamp(stored)),
        ..ListMessageRequest::default()
    };
    let until = Instant::now() + LOOK_FOR;
    loop {
        let found = find(&directory, group, request.clone()).await?.ok_or_else(missing)?;
        let at = |message: &Message| {
            message.system_properties.as_ref().is_some_and(|known| known.queue_offset == Some(offset))
        };
        if let Some(message) = found.messages.into_iter().find(at) {
            return Ok((group.name.clone(), message));
        }
        if found.scroll.is_empty() || Instant::now() >= until {
            return Err(missing());
        }
        request.scroll_id = Some(found.scroll);
    }
}

pub(crate) async fn show_one(visit: &Visit) -> Result<Page, Problem> {
    let (group, message) = at_place(visit, &visit.query).await?;
    let (events, fates) = explained(visit, &group, &message).await?;
    let body = html! {
        (full(visit, &group, &message))
        (table(visit, visit.t(P::History), &[P::Time, P::LogIndex, P::Event, P::ConsumerGroup, P::Attempt, P::Client, P::Until], &events))
        (table(visit, visit.t(P::Consumers), &[P::ConsumerGroup, P::State, P::Attempt, P::Client, P::Since, P::Until], &fates))
        (super::dead_letters::resend_form(visit, &message))
    };
    Ok(Page::new(visit.t(P::Message), body))
}

/// Rows of a table.
type Rows = Vec<Vec<Markup>>;

/// What was done to a message, and what became of it with each consumer group.
async fn explained(visit: &Visit, group: &str, message: &Message) -> Result<(Rows, Rows), Problem> {
    let known = message.system_properties.clone().unwrap_or_default();
    let groups = visit.groups().await?;
    let Some(group) = groups.iter().find(|known| known.name == group) else { return Ok(Default::default()) };
    let request = ExplainMessageRequest {
        topic: message.topic.as_ref().map(|topic| topic.name.clone()).unwrap_or_default(),
        message_id: known.message_id,
        queue: u32::try_from(known.queue_id).ok(),
        offset: known.queue_offset.and_then(|at| u64::try_from(at).ok()).unwrap_or_default(),
        ..ExplainMessageRequest::default()
    };
    let directory = visit.directory()?;
    let explained = directory.read_group(group, |mut node, stale| {
        let request = ExplainMessageRequest { stale, ..request.clone() };
        async move { Ok(node.explain_message(request).await?.into_inner()) }
    });
    let explained = match explained.await {
        Ok((_, explained)) => explained,
        // A broker of an older version.
        Err(AdminError::Refused { code: tonic::Code::Unimplemented, .. }) => return Ok(Default::default()),
        Err(error) => return Err(error.into()),
    };
    let mut told = explained.events;
    if let Some(due_ms) = Some(millis(known.delivery_timestamp.as_ref())).filter(|ms| *ms > 0) {
        // Before it became visible; what came late stands behind.
        let due = MessageEvent { event: DUE.to_owned(), at_ms: due_ms, ..MessageEvent::default() };
        let at = told.iter().position(|event| event.at_ms >= due_ms).unwrap_or(told.len());
        told.insert(at, due);
    }
    let mut events: Rows = told.iter().map(|event| event_cells(visit, event)).collect();
    if explained.more_events {
        let mut cells = vec![html! {}; events.first().map_or(0, Vec::len)];
        if let Some(cell) = cells.get_mut(2) {
            *cell = html! { (visit.t(P::TooMuchToLook)) };
        }
        events.push(cells);
    }
    Ok((events, explained.fates.iter().map(|fate| fate_cells(visit, fate)).collect()))
}

fn event_cells(visit: &Visit, event: &MessageEvent) -> Vec<Markup> {
    let name = match event.event.as_str() {
        "STORED" => visit.t(P::EventStored),
        DUE => visit.t(P::EventDue),
        "VISIBLE" => visit.t(P::EventVisible),
        "LEASED" => visit.t(P::EventLeased),
        "ASKED_AGAIN" => visit.t(P::EventAskedAgain),
        "CONFIRMED" => visit.t(P::EventConfirmed),
        "EXTENDED" => visit.t(P::EventExtended),
        "ACKNOWLEDGED" => visit.t(P::EventAcknowledged),
        "GIVEN_BACK" => visit.t(P::EventGivenBack),
        "RAN_OUT" => visit.t(P::EventRanOut),
        "SESSION_ENDED" => visit.t(P::EventSessionEnded),
        "DEAD_LETTERED" => visit.t(P::EventDeadLettered),
        // Of a newer broker.
        other => other,
    };
    vec![
        html! { (time(event.at_ms)) },
        html! { @if event.log_index > 0 { (event.log_index) } @else { "–" } },
        html! { (name) },
        html! { (text(&event.consumer_group)) },
        html! { @if event.attempt > 0 { (event.attempt) } @else { "–" } },
        html! { (text(&event.client_id)) },
        html! { (time(event.until_ms)) },
    ]
}

fn fate_cells(visit: &Visit, fate: &MessageFate) -> Vec<Markup> {
    let state = match fate.state.as_str() {
        "READY" => P::NotConsumedYet,
        "BEHIND" => P::BehindInMessageGroup,
        "WAITING" => P::Retrying,
        "LEASED" => P::InFlight,
        "DEAD_LETTERED" => P::DeadLetters,
        "FINISHED" => P::Finished,
        _ => P::TooMuchToLook,
    };
    let attempt = match fate.attempt {
        0 => "–".to_owned(),
        attempt => format!("{attempt} / {}", fate.attempts_max),
    };
    vec![
        html! { a href=(link("/consumer", &[("name", &fate.consumer_group)])) { (fate.consumer_group) } },
        html! { (visit.t(state)) },
        html! { (attempt) },
        html! { (text(&fate.client_id)) },
        html! { (time(fate.since_ms)) },
        html! { (time(fate.until_ms)) },
    ]
}
