//! When Tick has something to do.

use super::{StateError, deadline, half, lite, timer, work};
use raft_store::ReadState;

/// The cluster time in ms at which a Tick has something to do, when that is not after `horizon_ms`; 0 when work
/// is waiting already. The horizon keeps the search short: ask for the time until the next look.
///
/// # Errors
/// When a row cannot be read.
pub fn earliest(state: &impl ReadState, horizon_ms: u64) -> Result<Option<u64>, StateError> {
    if work::first(state)?.is_some() {
        return Ok(Some(0));
    }
    let lease = deadline::due(state, horizon_ms, 1)?.first().map(|(at_ms, _, _)| *at_ms);
    let timer = timer::due(state, horizon_ms, 1)?.first().map(|due| due.at_ms);
    let check = half::due(state, b'c', horizon_ms, 1)?.first().map(|(at_ms, _)| *at_ms);
    let forget = half::due(state, b'f', horizon_ms, 1)?.first().map(|(at_ms, _)| *at_ms);
    let lite = lite::due(state, horizon_ms, 1)?.first().map(|due| due.at_ms);
    Ok([lease, timer, check, forget, lite].into_iter().flatten().min())
}
