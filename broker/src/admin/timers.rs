//! Messages that wait for their delivery time, by that time.

use super::AdminService;
use crate::deliver::handle::{Handles, WaitingHandle};
use crate::deliver::read::{ReadError, Reader};
use crate::store::timer::{self, Due, Page};
use crate::store::{StateError, TopicId, topic};
use raft_store::ReadState;
use raftmq_proto::admin::{ListTimersRequest, ListTimersResponse, TimerMessage};
use raftmq_proto::command::LeasedMessage;
use tonic::Status;

/// Messages of one answer.
const MESSAGES_MAX: usize = 1_000;
/// Rows that one answer looks at.
const LOOKS_MAX: usize = 20_000;
/// Attempts at a page whose messages are delivered and trimmed while it is read.
const READS_MAX: usize = 3;

/// One page with the names of its topics, and how many wait.
struct Listed {
    page: Page,
    names: Vec<String>,
    waiting: u64,
}

/// `None` when there is no such topic.
fn list(
    state: &impl ReadState,
    name: &str,
    from: timer::Point,
    until_ms: u64,
    max: usize,
) -> Result<Option<Listed>, StateError> {
    let only = match name {
        "" => None,
        name => match topic::topic(state, name)? {
            Some(row) => Some(TopicId(row.id)),
            None => return Ok(None),
        },
    };
    let mut page = timer::page(state, from, until_ms, only, max, LOOKS_MAX)?;
    let (mut rows, mut names) = (Vec::with_capacity(page.rows.len()), Vec::with_capacity(page.rows.len()));
    for due in page.rows {
        // Rows of a topic that was deleted go later.
        if let Some(name) = topic::name(state, due.topic)? {
            rows.push(due);
            names.push(name);
        }
    }
    page.rows = rows;
    let waiting = match only {
        Some(only) => timer::waiting(state, only)?,
        None => timer::waiting_in_all(state)?,
    };
    Ok(Some(Listed { page, names, waiting }))
}

impl AdminService {
    pub(super) async fn list_timers(&self, request: ListTimersRequest) -> Result<ListTimersResponse, Status> {
        let from = match request.from.as_str() {
            "" => timer::Point::at(request.from_ms),
            text => timer::Point::parse(text)
                .ok_or_else(|| Status::invalid_argument(format!("{text:?} is no place to go on from")))?,
        };
        let until_ms = if request.until_ms == 0 { u64::MAX - 1 } else { request.until_ms.min(u64::MAX - 1) };
        let max = match request.messages_max as usize {
            0 => MESSAGES_MAX,
            max => max.min(MESSAGES_MAX),
        };
        self.catch_up(request.stale).await?;
        let mut reads = 1;
        loop {
            let name = request.topic.clone();
            let listed = self.read(move |state| list(state, &name, from, until_ms, max)).await?;
            let listed = listed.ok_or_else(|| Status::not_found(format!("topic {} does not exist", request.topic)))?;
            match self.messages(&listed).await {
                Ok(messages) => {
                    return Ok(ListTimersResponse {
                        broker_group: self.broker_group(),
                        messages,
                        next: listed.page.next.map(|next| next.to_string()).unwrap_or_default(),
                        now_ms: self.node.clock.now(),
                        waiting: listed.waiting,
                    });
                }
                Err(ReadError::Missing(_)) if reads < READS_MAX => reads += 1,
                Err(error) => return Err(Status::internal(format!("a delayed message cannot be read: {error}"))),
            }
        }
    }

    async fn messages(&self, listed: &Listed) -> Result<Vec<TimerMessage>, ReadError> {
        let handles = Handles::of(&self.node.config.broker_group);
        let mut reader = Reader::new(&self.node.group);
        let mut messages = Vec::with_capacity(listed.page.rows.len());
        for (due, topic) in listed.page.rows.iter().zip(&listed.names) {
            let body = due.body();
            let body = LeasedMessage { log_index: body.log_index, slot: body.slot, ..LeasedMessage::default() };
            let stored = reader.read(&body).await?;
            messages.push(TimerMessage {
                topic: topic.clone(),
                message_id: stored.message_id,
                recall_handle: handles.waiting_text(&handle(due)),
                keys: stored.keys,
                tag: stored.tag.unwrap_or_default(),
                body_bytes: due.timer.body_bytes,
                delivery_ms: due.at_ms,
                born_ms: u64::try_from(stored.born_ms).unwrap_or_default(),
            });
        }
        Ok(messages)
    }
}

fn handle(due: &Due) -> WaitingHandle {
    WaitingHandle {
        log_index: due.place.log_index,
        slot: due.place.slot,
        delivery_ms: due.at_ms,
        message_id_hash: due.timer.message_id_hash,
    }
}
