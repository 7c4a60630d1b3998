//! When leases end. Rows of leases that ended before their time stay until Tick passes them, so that the low
//! end is always the first row.

use super::codec::key_u64;
use super::{ConsumerGroupId, LeaseId, StateError, key};
use raft_store::ReadState;
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::DEADLINE.0 as usize];

/// No deadline row stands below this key.
pub(crate) fn low(state: &impl ReadState) -> Result<Vec<u8>, StateError> {
    Ok(state.get(key::MACHINE, &key::machine(b'd'))?.unwrap_or_default())
}

/// Deadlines up to and including `now_ms`, earliest first, at most `rows_max`.
pub(crate) fn due(
    state: &impl ReadState,
    now_ms: u64,
    rows_max: usize,
) -> Result<Vec<(u64, ConsumerGroupId, LeaseId)>, StateError> {
    let until = now_ms.saturating_add(1).to_be_bytes();
    let mut rows = Vec::new();
    state.scan(key::DEADLINE, &low(state)?, &until, &mut |key, _| {
        rows.push(parse(key));
        if rows.len() < rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    rows.into_iter().collect()
}

fn parse(key: &[u8]) -> Result<(u64, ConsumerGroupId, LeaseId), StateError> {
    Ok((key_u64(TABLE, key, 0)?, ConsumerGroupId(key_u64(TABLE, key, 8)?), LeaseId(key_u64(TABLE, key, 16)?)))
}
