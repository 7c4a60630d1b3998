//! Transactions that are open: list them, and end one by hand.

use super::AdminService;
use super::door::Caller;
use crate::deliver::handle::{Handles, WaitingHandle};
use crate::deliver::read::Reader;
use crate::store::half::{self, HalfMessage as Half, HalfState};
use crate::store::timer::InLog;
use crate::store::{StateError, TopicId, topic};
use raft_store::ReadState;
use raftmq_proto::admin::{
    EndTransactionRequest, EndTransactionResponse, HalfMessage, ListHalfMessagesRequest, ListHalfMessagesResponse,
};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{EndTransaction, LeasedMessage, StoredMessage, WaitingMessage};
use std::fmt;
use tonic::Status;

/// Half messages of one answer.
const MESSAGES_MAX: usize = 1_000;
/// Rows that one answer looks at.
const LOOKS_MAX: usize = 20_000;

/// Where a list goes on. What is written is for us alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    topic: TopicId,
    place: InLog,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.topic.0, self.place.log_index, self.place.slot)
    }
}

impl Point {
    fn parse(text: &str) -> Option<Point> {
        let mut parts = text.splitn(3, '-').map(str::parse::<u64>);
        let mut part = || parts.next()?.ok();
        let (topic, log_index) = (TopicId(part()?), part()?);
        let slot = u32::try_from(part()?).ok()?;
        Some(Point { topic, place: InLog { log_index, slot } })
    }
}

/// One row of a list: topic, place, row.
type Listed = (String, InLog, Half);

/// Rows, and where there may be more.
type Part = (Vec<Listed>, Option<Point>);

/// Half messages from a place on; `None` when there is no such topic.
fn list(
    state: &impl ReadState,
    name: &str,
    parked: bool,
    max: usize,
    mut from: Point,
) -> Result<Option<Part>, StateError> {
    let only = match name {
        "" => None,
        name => match topic::topic(state, name)? {
            Some(row) => Some(TopicId(row.id)),
            None => return Ok(None),
        },
    };
    let (mut found, mut looks) = (Vec::new(), LOOKS_MAX);
    while let Some(at) = half::next_topic(state, only.map_or(from.topic, |only| only.max(from.topic)))? {
        if only.is_some_and(|only| only != at) {
            break;
        }
        let place = if at == from.topic { from.place } else { InLog { log_index: 0, slot: 0 } };
        let page = half::open(state, at, place, max - found.len(), looks, parked)?;
        looks = looks.saturating_sub(page.looked);
        if let Some(name) = topic::name(state, at)? {
            found.extend(page.rows.into_iter().map(|(place, half)| (name.clone(), place, half)));
        }
        if let Some(place) = page.next {
            return Ok(Some((found, Some(Point { topic: at, place }))));
        }
        from = Point { topic: TopicId(at.0.saturating_add(1)), place: InLog { log_index: 0, slot: 0 } };
    }
    Ok(Some((found, None)))
}

/// What is told of a half message, whose body is `stored`.
pub(super) fn told(topic: String, transaction_id: String, stored: &StoredMessage, half: Half) -> HalfMessage {
    HalfMessage {
        topic,
        transaction_id,
        message_id: stored.message_id.clone(),
        keys: stored.keys.clone(),
        body_bytes: half.body_bytes,
        producer: half.producer,
        stored_ms: half.made_ms,
        checks: half.checks,
        checks_max: half.checks_max,
        age_max_ms: half.age_max_ms,
        parked: half.state == HalfState::Parked,
    }
}

impl AdminService {
    pub(super) async fn list_half_messages(
        &self,
        request: ListHalfMessagesRequest,
    ) -> Result<ListHalfMessagesResponse, Status> {
        let from = match request.from.as_str() {
            "" => Point { topic: TopicId(0), place: InLog { log_index: 0, slot: 0 } },
            text => Point::parse(text)
                .ok_or_else(|| Status::invalid_argument(format!("{text:?} is no place to go on from")))?,
        };
        self.catch_up(request.stale).await?;
        let max = match request.messages_max as usize {
            0 => MESSAGES_MAX,
            max => max.min(MESSAGES_MAX),
        };
        let (name, parked) = (request.topic.clone(), request.parked);
        let found = self.read(move |state| list(state, &name, parked, max, from)).await?;
        let (rows, next) = found.ok_or_else(|| Status::not_found(format!("topic {} does not exist", request.topic)))?;
        let handles = Handles::of(&self.node.config.broker_group);
        let mut reader = Reader::new(&self.node.group);
        let mut messages = Vec::with_capacity(rows.len());
        for (topic, place, half) in rows {
            let body = half.body(place);
            let body = LeasedMessage { log_index: body.log_index, slot: body.slot, ..LeasedMessage::default() };
            let stored = reader.read(&body).await;
            let stored = stored.map_err(|error| Status::internal(format!("a half message cannot be read: {error}")))?;
            let transaction = WaitingHandle {
                log_index: place.log_index,
                slot: place.slot,
                delivery_ms: 0,
                message_id_hash: half.message_id_hash,
            };
            messages.push(told(topic, handles.waiting_text(&transaction), &stored, half));
        }
        let next = next.map(|next| next.to_string()).unwrap_or_default();
        Ok(ListHalfMessagesResponse { broker_group: self.broker_group(), messages, next })
    }

    pub(super) async fn end_transaction(
        &self,
        request: EndTransactionRequest,
        caller: &Caller,
    ) -> Result<EndTransactionResponse, Status> {
        let broker_group = self.broker_group();
        let handle = Handles::of(&broker_group).parse_waiting(&request.transaction_id);
        let handle = handle.map_err(|_| {
            let id = &request.transaction_id;
            Status::not_found(format!("{id} is no transaction id of broker group {broker_group}"))
        })?;
        let message = WaitingMessage {
            topic: request.topic.clone(),
            log_index: handle.log_index,
            slot: handle.slot,
            message_id_hash: handle.message_id_hash,
        };
        let what = if request.commit { "transaction committed" } else { "transaction rolled back" };
        let end = Kind::EndTransaction(EndTransaction { message: Some(message), commit: request.commit });
        let reply = self.change(what, &request.transaction_id, caller, end).await?;
        self.node.counters.ended(request.topic, request.commit, &reply);
        Ok(EndTransactionResponse { broker_group })
    }
}

#[cfg(test)]
mod tests {
    use super::{InLog, Point, TopicId};

    #[test]
    fn a_place_to_go_on_from_reads_back() {
        let place = InLog { log_index: 22, slot: 333 };
        let from = Point { topic: TopicId(1), place };
        assert_eq!(Point::parse(&from.to_string()), Some(from));
        for wrong in ["", "1", "1-2", "1-2-x", "1-2-3-4", "1-2-4294967296", "-1-2-3"] {
            assert_eq!(Point::parse(wrong), None, "{wrong:?}");
        }
    }
}
