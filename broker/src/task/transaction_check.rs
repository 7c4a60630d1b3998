//! Asks producers what became of the transactions that they left open.
//!
//! Tick says of which half messages (`machine/half.rs`). The producer that sent one is asked first, then any other live
//! producer of its topic, on whichever member its stream ends. What could be written to somebody's stream counts as a
//! check, and the group hears of it only then: a leader that dies in between leaves the question to its successor, so
//! that a producer may be asked once more than was counted, and never less often.

use crate::broker::Node;
use crate::client::relay;
use crate::client::streams::{Told, Whom};
use crate::deliver::handle::{Handles, WaitingHandle};
use crate::deliver::read::{ReadError, Reader};
use crate::store::half::{self, HalfMessage, HalfState, Named};
use crate::store::timer::InLog;
use crate::store::{StateError, topic};
use futures::StreamExt;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Checked, CheckedMessage, LeasedMessage, StoredMessage, WaitingMessage};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Half messages that are looked at before the rows are read again; the machine hears of as many at once.
const ROUND_MAX: usize = 256;
/// Questions that are under way at once, and bytes of their messages.
const AT_ONCE: usize = 32;
const BYTES_AT_ONCE: usize = 16 << 20;
/// Somebody has been asked within this, or nobody.
const ASK_WITHIN: Duration = Duration::from_secs(20);
/// Looks again after this when there seems to be nothing to ask.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs until the task is dropped.
pub(super) async fn run(node: &Node) {
    let room = Semaphore::new(BYTES_AT_ONCE >> 10);
    loop {
        let wanted = half::wanted(&node.group.state(), ROUND_MAX).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read which transactions are to be checked");
            Vec::new()
        });
        let mut asked = false;
        let checks = futures::stream::iter(wanted).map(|named| check(node, &room, named));
        let mut checks = checks.buffer_unordered(AT_ONCE).ready_chunks(ROUND_MAX);
        while let Some(outcomes) = checks.next().await {
            let messages: Vec<CheckedMessage> = outcomes.into_iter().flatten().collect();
            if !messages.is_empty() {
                let checked = Kind::Checked(Checked { messages });
                match node.proposer.submit(checked, Vec::new(), None).await {
                    Ok(_) => asked = true,
                    Err(error) => tracing::debug!(%error, "the group was not told which transactions were checked"),
                }
            }
        }
        if !asked {
            tokio::select! {
                () = node.outlets.check_wanted.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

/// Asks about one half message. `None` when its rows go by themselves.
async fn check(node: &Node, room: &Semaphore, (id, place): Named) -> Option<CheckedMessage> {
    let found = || -> Result<_, StateError> {
        let state = node.group.state();
        // The rows of a topic that is gone are on their way out.
        let Some(name) = topic::name(&state, id)? else { return Ok(None) };
        Ok(Some((name, half::half(&state, id, place)?)))
    };
    let (topic, half) = match found() {
        Ok(found) => found?,
        Err(error) => {
            tracing::error!(%error, "cannot read a half message");
            return None;
        }
    };
    let waiting = WaitingMessage {
        topic: topic.clone(),
        log_index: place.log_index,
        slot: place.slot,
        message_id_hash: half.as_ref().map_or(0, |half| half.message_id_hash),
    };
    // One that was ended meanwhile is only to be taken off the list.
    let sent = match half.filter(|half| half.state == HalfState::Pending) {
        Some(half) => ask(node, room, topic, place, half).await,
        None => false,
    };
    Some(CheckedMessage { message: Some(waiting), sent })
}

/// Whether somebody was asked.
async fn ask(node: &Node, room: &Semaphore, topic: String, place: InLog, half: HalfMessage) -> bool {
    let kib = (half.body_bytes as usize).min(BYTES_AT_ONCE) >> 10;
    let _room = room.acquire_many(u32::try_from(kib.max(1)).expect("16 MiB at most")).await;
    // Retention may have moved the body; its name stays.
    let message = match read(node, half.body(place)).await {
        Ok(message) => message,
        Err(error) => {
            tracing::error!(%error, topic, "a half message cannot be read");
            return false;
        }
    };
    let message_id = message.message_id.clone();
    let transaction = WaitingHandle {
        log_index: place.log_index,
        slot: place.slot,
        delivery_ms: 0,
        message_id_hash: half.message_id_hash,
    };
    let transaction_id = Handles::of(&node.config.broker_group).waiting_text(&transaction);
    let told = Told::Orphaned { transaction_id, message, stored_ms: half.made_ms };
    let by = Instant::now() + ASK_WITHIN;
    let mut heard = relay::tell(node, &Whom::Client(half.producer), &told, by).await;
    if heard.is_none() {
        heard = relay::tell(node, &Whom::ProducerOf(topic.clone()), &told, by).await;
    }
    match &heard {
        Some(heard) => tracing::debug!(topic, message_id, producer = heard.client_id, "asked about a transaction"),
        None => tracing::debug!(topic, message_id, "nobody can be asked about a transaction"),
    }
    heard.is_some()
}

async fn read(node: &Node, InLog { log_index, slot }: InLog) -> Result<StoredMessage, ReadError> {
    Reader::new(&node.group).read(&LeasedMessage { log_index, slot, ..LeasedMessage::default() }).await
}
