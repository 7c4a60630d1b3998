//! Appends bodies again that hold up a trim, at a bounded rate: then the entries that held them can go.

use super::retention::{Failure, submit};
use crate::broker::Node;
use crate::command::Payload;
use crate::store::retention::{self, Held};
use bytes::Bytes;
use raft_store::LogIndex;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{Reappend, Reappended};
use std::time::Duration;

/// Bodies of one command, in bytes; one keeper's go in any case.
const COMMAND_BYTES_MAX: usize = 512 << 10;
/// Keepers of one command.
const COMMAND_KEEPERS_MAX: usize = 500;
/// Bytes a second: a small part of what a disk takes.
const BYTES_PER_SECOND: u64 = 16 << 20;

/// What one trim moved, and may move.
pub(super) struct Moved {
    bytes: u64,
    /// With more, moving costs more than the trim gains.
    bytes_max: u64,
}

impl Moved {
    /// For a trim up to an entry.
    pub(super) fn new(node: &Node, upto: u64) -> Moved {
        let freed: u64 =
            node.group.log_use().sealed.iter().filter(|file| file.end.0 <= upto).map(|file| file.bytes).sum();
        Moved { bytes: 0, bytes_max: freed / 2 }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Appends a piece of what holds up the trim. Returns false when it should end below the rest instead.
pub(super) async fn reappend(node: &Node, moved: &mut Moved) -> Result<bool, Failure> {
    let state = node.group.state();
    let Some(trim) = retention::trim(&state)? else { return Ok(false) };
    let held = retention::held(&state, &trim, COMMAND_KEEPERS_MAX)?;
    // A full disk has no room for bodies that are there already.
    if held.is_empty() || moved.bytes >= moved.bytes_max || node.gate.refusal().is_some() {
        return Ok(false);
    }
    let mut again = Reappend::default();
    let mut blobs: Vec<Bytes> = Vec::new();
    let mut bytes = 0;
    let mut last: Option<(u64, Payload)> = None;
    for Held { pin, slots } in held.into_iter().take(COMMAND_KEEPERS_MAX) {
        if bytes >= COMMAND_BYTES_MAX {
            break;
        }
        if last.as_ref().is_none_or(|(index, _)| *index != pin.log_index) {
            last = Some((pin.log_index, payload(node, pin.log_index).await?));
        }
        let Some((_, payload)) = &last else { break };
        let bodies: Result<Vec<Bytes>, _> = slots.iter().map(|slot| payload.slot(*slot)).collect();
        let bodies = bodies.map_err(|error| Failure::Proposal(format!("entry {}: {error}", pin.log_index)))?;
        bytes += bodies.iter().map(Bytes::len).sum::<usize>();
        let count = u32::try_from(bodies.len()).unwrap_or(u32::MAX);
        let keeper = pin.keeper.encode().into();
        again.moved.push(Reappended { log_index: pin.log_index, slot: pin.slot, count, keeper });
        blobs.extend(bodies);
    }
    submit(node, Kind::Reappend(again), blobs).await?;
    moved.bytes += bytes as u64;
    let takes = Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND as f64);
    tokio::time::sleep(takes).await;
    Ok(true)
}

async fn payload(node: &Node, index: u64) -> Result<Payload, Failure> {
    let broken = |what: String| Failure::Proposal(format!("entry {index}: {what}"));
    let bytes = node.group.payload(LogIndex(index)).await.map_err(|error| broken(error.to_string()))?;
    let bytes = bytes.ok_or_else(|| broken("it is not in the log".to_owned()))?;
    Payload::parse(bytes).map_err(|error| broken(error.to_string()))
}
