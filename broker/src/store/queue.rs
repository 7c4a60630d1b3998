//! Queues: `min ≤ next`.
//!
//! Append moves `next`; retention moves `min`, from the beginning of one run to that of another. Offsets in `min..next`
//! each have a place in a run of the `message` table, and the runs touch: the one after `first..first + count` begins at
//! `first + count`.

use super::codec::Reader;
use super::{StateError, TopicId, key};
use raft_store::ReadState;

const TABLE: &str = key::TABLES[key::QUEUE.0 as usize];

/// A queue of a topic. Where nothing was ever stored, all is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Queue {
    /// Offset of the oldest message that is kept.
    pub min: u64,
    /// Offset that the next message gets.
    pub next: u64,
    /// Cluster time at which the last message was stored, ms since the Unix epoch.
    pub last_store_ms: u64,
}

impl Queue {
    pub(crate) fn encode(self) -> [u8; 24] {
        let mut value = [0; 24];
        value[..8].copy_from_slice(&self.min.to_be_bytes());
        value[8..16].copy_from_slice(&self.next.to_be_bytes());
        value[16..].copy_from_slice(&self.last_store_ms.to_be_bytes());
        value
    }
}

/// A queue of a topic.
///
/// # Errors
/// When the row cannot be read.
pub fn queue(state: &impl ReadState, topic: TopicId, number: u16) -> Result<Queue, StateError> {
    let Some(value) = state.get(key::QUEUE, &key::queue(topic, number))? else { return Ok(Queue::default()) };
    let mut reader = Reader::new(TABLE, &value);
    let queue = Queue { min: reader.u64()?, next: reader.u64()?, last_store_ms: reader.u64()? };
    reader.end()?;
    if queue.min > queue.next {
        return Err(StateError::Corrupt { table: TABLE, what: format!("min {} > next {}", queue.min, queue.next) });
    }
    Ok(queue)
}

/// Runs stored to a topic so far: the next one goes to queue `turn % write queues`.
pub(crate) fn turn(state: &impl ReadState, topic: TopicId) -> Result<u64, StateError> {
    let Some(value) = state.get(key::QUEUE, &key::turn(topic))? else { return Ok(0) };
    let mut reader = Reader::new(TABLE, &value);
    let turn = reader.u64()?;
    reader.end()?;
    Ok(turn)
}
