//! Saves the random wait of an election when a leader's process died.
//!
//! A killed process resets its connections. A follower that sees the leader's stream of entries break and cannot
//! connect to it any more asks for a pre-vote the moment the leader's lease has ended, plus a few milliseconds by
//! the order of nodes so that two followers do not ask at once. Nothing is granted before the lease ends: peers
//! apply the same rule, so this only removes the wait that keeps candidates apart.

use crate::group::Shared;
use crate::types::NodeId;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Between the candidacies of two followers.
const APART: Duration = Duration::from_millis(15);

/// Our clock reads the last sign of life a little before Raft does.
const MARGIN: Duration = Duration::from_millis(5);

/// How often a pre-vote that came to nothing is asked for again; afterwards Raft's own timer decides.
const ATTEMPTS: u32 = 5;

/// Handles every loss that the service reports, one at a time.
pub(crate) async fn run(shared: &Shared, mut losses: mpsc::Receiver<NodeId>) {
    while let Some(lost) = losses.recv().await {
        if shared.leader() == Some(lost) && is_gone(shared, lost).await {
            stand_for_election(shared, lost).await;
        }
    }
}

/// Whether the leader cannot be connected to any more: refused, unknown by now, or silent.
async fn is_gone(shared: &Shared, leader: NodeId) -> bool {
    let Some(info) = shared.member(leader) else { return false };
    let attempt = TcpStream::connect(info.addresses.peer.as_str());
    !matches!(tokio::time::timeout(shared.election_min() / 2, attempt).await, Ok(Ok(_)))
}

/// Asks for a pre-vote when the lease ends, unless the leader gives a sign of life before.
async fn stand_for_election(shared: &Shared, lost: NodeId) {
    let Some(heard) = shared.last_heard(lost) else { return };
    tracing::info!(leader = format_args!("{lost:x}"), "the leader's process is gone, its lease is waited for");
    let lease_end = heard + shared.election_max() + MARGIN + APART * shared.rank_without(lost);
    for _ in 0..ATTEMPTS {
        tokio::time::sleep_until(lease_end.max(Instant::now() + MARGIN)).await;
        if shared.leader() != Some(lost)
            || shared.last_heard(lost) != Some(heard)
            || shared.raft().trigger().elect(true).await.is_err()
        {
            return;
        }
        tokio::time::sleep(APART).await;
    }
}
