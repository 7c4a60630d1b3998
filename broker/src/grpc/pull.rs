//! PullMessage: reads a queue from an offset, without a lease, for readers that keep their own progress.
//!
//! The stream holds a status, the messages, and the offset to go on from. An offset that does not exist is answered
//! with the nearest that does. Rows that this node has applied are committed, so what a reader saw stays; a node that
//! seems to lag behind the offset asked for catches up before it says that there is no such offset.

use super::Front;
use super::caller::{Caller, DEADLINE_MARGIN};
use super::convert::{self, Delivery};
use super::offset::{Named, signed};
use super::status::{self, ApiError};
use crate::deliver::read::Reader;
use crate::filter::{FilterRow, MessageFilter};
use crate::store::{message, queue};
use futures::StreamExt;
use raftmq_proto::command::LeasedMessage;
use raftmq_proto::rocketmq as v2;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::{Request, Status};
use v2::pull_message_response::Content;

/// Bodies of one answer; one message goes in any case.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Messages looked at before others get a turn.
const LOOK_MESSAGES_MAX: usize = 1_024;
/// Tells the polls of this node apart: what wakes one reader must wake every other, too.
static POLLS: AtomicU64 = AtomicU64::new(0);

/// The responses of one pull.
pub(super) type Pulled = Pin<Box<dyn Stream<Item = Result<v2::PullMessageResponse, Status>> + Send>>;

pub(super) fn handle(front: &Arc<Front>, request: Request<v2::PullMessageRequest>) -> Pulled {
    let front = front.clone();
    // Nothing is taken from anybody: a client that goes away drops the whole of it.
    let responses = async move {
        let mut next = None;
        let pulled = pull(&front, request, &mut next).await.and_then(|messages| {
            let bytes = messages.iter().map(|message| message.body.len()).sum();
            Ok((messages, front.deliver(bytes)?))
        });
        let (status, messages, room) = match pulled {
            Ok((messages, room)) => (status::ok(), messages, Some(room)),
            Err(error) => (front.log("PullMessage", error), Vec::new(), None),
        };
        let contents = std::iter::once(Content::Status(status))
            .chain(messages.into_iter().map(Content::Message))
            .chain(next.map(|next| Content::NextOffset(signed(next))));
        let responses = contents.map(|content| Ok(v2::PullMessageResponse { content: Some(content) }));
        // What the client has not taken counts until it has, or goes away.
        futures::stream::iter(responses.collect::<Vec<_>>()).inspect(move |_| _ = &room)
    };
    Box::pin(futures::stream::once(responses).flatten())
}

/// What a client asks for, checked.
struct Ask {
    named: Named,
    /// The topic as the client writes it.
    resource: v2::Resource,
    filter: MessageFilter,
    /// What the index says of it.
    row: FilterRow,
    messages_max: usize,
    /// When the poll ends without messages.
    end: Instant,
}

/// The messages from the offset asked for; `next` is set to where to go on, as far as that is known.
async fn pull(
    front: &Front,
    request: Request<v2::PullMessageRequest>,
    next: &mut Option<u64>,
) -> Result<Vec<v2::Message>, ApiError> {
    let (caller, request) = Caller::split(request);
    let client_id = front.admit(&caller, &request)?;
    let permit = front.permit(&caller, &request)?;
    convert::consumer_group(request.group)?;
    let filter = convert::filter(request.filter_expression.as_ref(), &front.node.settings().grpc)?;
    let resource = request.message_queue.as_ref().and_then(|queue| queue.topic.clone()).unwrap_or_default();
    let named = front.queue(request.message_queue).await?;
    let settings = front.node.settings();
    let limits = &settings.grpc;
    let batch = u32::try_from(request.batch_size).unwrap_or_default().clamp(1, limits.receive_batch_max);
    let polling_ms = request.long_polling_timeout.as_ref().map_or(0, convert::duration_ms);
    let polling_ms = u64::try_from(polling_ms).unwrap_or_default().min(limits.long_polling_ms_max);
    let end = caller.arrived() + Duration::from_millis(polling_ms);
    let end = caller.deadline().map_or(end, |deadline| end.min(deadline.checked_sub(DEADLINE_MARGIN).unwrap_or(end)));
    let mut at = front.reachable(&named, request.offset, next, &caller).await?;
    let ask = Ask { row: filter.row(), filter, named, resource, messages_max: batch as usize, end };

    let poll = format!("\0pull {}", POLLS.fetch_add(1, Ordering::Relaxed));
    let mut waiter = front.node.waiters.enter(client_id, ask.named.topic.as_str(), &poll, &ask.filter)?;
    loop {
        waiter.look();
        front.still(permit.as_ref())?;
        let found = match look(front, &ask, &mut at).await {
            Err(error @ ApiError::OffsetOutOfRange { nearest, .. }) => {
                *next = Some(nearest);
                return Err(error);
            }
            found => found?,
        };
        *next = Some(at);
        if !found.messages.is_empty() {
            return Ok(found.messages);
        }
        if found.more {
            tokio::task::yield_now().await;
            if Instant::now() < ask.end {
                continue;
            }
            return Err(ApiError::NothingNew);
        }
        let ended = waiter.ended();
        tokio::select! {
            () = ended => return Err(ApiError::NothingNew),
            () = waiter.wait() => {}
            () = tokio::time::sleep_until(ask.end) => return Err(ApiError::NothingNew),
            () = front.closing.cancelled() => return Err(ApiError::NothingNew),
        }
    }
}

impl Front {
    /// The offset when the queue has it or will give it to its next message; else `next` is set to the nearest.
    async fn reachable(
        &self,
        named: &Named,
        offset: i64,
        next: &mut Option<u64>,
        caller: &Caller,
    ) -> Result<u64, ApiError> {
        let wanted = u64::try_from(offset).ok();
        let mut queue = queue::queue(&self.state(), named.id, named.number)?;
        if wanted.is_some_and(|wanted| wanted > queue.next) {
            self.catch_up(caller.answer_by()).await?;
            queue = queue::queue(&self.state(), named.id, named.number)?;
        }
        match wanted.filter(|wanted| (queue.min..=queue.next).contains(wanted)) {
            Some(wanted) => Ok(wanted),
            None => {
                let nearest = wanted.unwrap_or_default().clamp(queue.min, queue.next);
                *next = Some(nearest);
                Err(ApiError::OffsetOutOfRange { offset, min: queue.min, next: queue.next, nearest })
            }
        }
    }
}

struct Found {
    messages: Vec<v2::Message>,
    /// The look was cut before the end of the queue.
    more: bool,
}

/// That retention has not taken what stood at `at`.
fn still_there(front: &Front, named: &Named, at: u64) -> Result<(), ApiError> {
    let queue = queue::queue(&front.state(), named.id, named.number)?;
    if at >= queue.min {
        return Ok(());
    }
    let (offset, min, next) = (signed(at), queue.min, queue.next);
    Err(ApiError::OffsetOutOfRange { offset, min, next, nearest: min })
}

/// One look at the queue from `at`, which is moved behind what was looked at.
async fn look(front: &Front, ask: &Ask, at: &mut u64) -> Result<Found, ApiError> {
    let Named { id, number, topic } = &ask.named;
    still_there(front, &ask.named, *at)?;
    let places = message::places(&front.state(), *id, *number, *at, LOOK_MESSAGES_MAX)?;
    let more = places.len() == LOOK_MESSAGES_MAX;
    let mut reader = Reader::new(&front.node.group);
    let mut messages = Vec::new();
    let mut body_bytes = 0;
    for place in places {
        if messages.len() == ask.messages_max || body_bytes >= BODY_BYTES_MAX {
            break;
        }
        if ask.row.may_match(place.tag) {
            let leased = LeasedMessage {
                item: 0,
                queue: u32::from(*number),
                offset: place.offset,
                attempt: 1,
                log_index: place.log_index,
                slot: place.slot,
                store_ms: place.store_ms,
            };
            let stored = match reader.read(&leased).await {
                Ok(stored) => stored,
                Err(error) => {
                    // Retention may have taken it meanwhile.
                    still_there(front, &ask.named, place.offset)?;
                    let what = format!("{topic} queue {number} offset {}: {error}", place.offset);
                    return Err(ApiError::Internal(what));
                }
            };
            if ask.filter.matches(&stored) {
                if !messages.is_empty() && body_bytes + stored.body.len() > BODY_BYTES_MAX {
                    break;
                }
                body_bytes += stored.body.len();
                let delivery = Delivery { topic: &ask.resource, leased: &leased, receipt_handle: String::new() };
                let mut message = convert::delivered(stored, delivery);
                if let Some(system) = &mut message.system_properties {
                    // There is no lease, so nothing to acknowledge and no attempt.
                    (system.receipt_handle, system.delivery_attempt) = (None, None);
                }
                messages.push(message);
            }
        }
        *at = place.offset + 1;
    }
    Ok(Found { messages, more })
}
