//! Ends the sessions of clients that are gone, and keeps the leader told of everyone's clients and clocks.

use super::REPORT_EVERY;
use super::slow_disk::Watchdog;
use crate::broker::Node;
use crate::room;
use crate::store;
use futures::{StreamExt, stream};
use raft_store::Term;
use raftmq_proto::command::EndSession;
use raftmq_proto::command::command::Kind;
use raftmq_proto::forward::ReportRequest;
use raftmq_proto::forward::forward_client::ForwardClient;
use std::time::Duration;
use tokio::time::Instant;

/// The leader reads all sessions this often, and hears of those that begin and end meanwhile.
const SESSIONS_READ_EVERY: Duration = Duration::from_secs(30);

/// A member reports all its clients this often, and meanwhile those that it heard from.
const ALL_REPORTED_EVERY: Duration = Duration::from_secs(30);

/// So many sessions are ended side by side.
const ENDED_MAX: usize = 64;

/// A report that the leader refused is made again after this: it may not know yet that it leads, and after a restart
/// of the group it waits for its members' clocks.
const REPORT_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// On the leader: ends sessions, looks whether there is room for sends, and hands leadership over when this node's
/// disk is slow or its clock far off. Runs until dropped.
pub(super) async fn run(node: &Node, term: Term) {
    let mut watchdog = Watchdog::new(node.settings().slow_disk.clone());
    let mut read_at: Option<Instant> = None;
    loop {
        next_report(node, REPORT_EVERY).await;
        node.gate.decide(&node.group);
        watchdog.adjust(&node.settings().slow_disk);
        watchdog.watch(node).await;
        if read_at.is_none_or(|at| at.elapsed() >= SESSIONS_READ_EVERY) {
            let now = Instant::now();
            match clients_with_session(node).await {
                Ok(clients) => {
                    node.registry.sessions(clients, now);
                    read_at = Some(now);
                }
                Err(error) => tracing::error!(%error, "cannot read sessions"),
            }
        }
        stream::iter(node.registry.gone())
            .for_each_concurrent(ENDED_MAX, |client_id| async move {
                // Of thousands, some may be heard again meanwhile.
                if !node.registry.is_gone(&client_id) {
                    return;
                }
                tracing::info!(client_id, "client is silent for 2.5 heartbeat periods, its session ends");
                let end = Kind::EndSession(EndSession { client_id, term: term.0 });
                if let Err(error) = node.proposer.submit(end, Vec::new(), None).await {
                    tracing::debug!(%error, "session was not ended");
                }
            })
            .await;
        yield_to_a_better_clock(node).await;
    }
}

/// Every client that has a session.
async fn clients_with_session(node: &Node) -> anyhow::Result<Vec<String>> {
    let state = node.group.state();
    // Ten thousand rows are no work for a thread that others wait for.
    let sessions = tokio::task::spawn_blocking(move || store::session::sessions(&state)).await??;
    let mut clients: Vec<String> = sessions.into_iter().map(|(client_id, _, _)| client_id).collect();
    clients.dedup();
    Ok(clients)
}

/// A node whose clock is far from the median of the voters' does not lead (design decision 5).
async fn yield_to_a_better_clock(node: &Node) {
    let limit = node.settings().clock_skew_ms_max;
    let voters = node.group.voters().len();
    let Some(skew) = node.clock.skew_ms(voters) else { return };
    if skew.unsigned_abs() > limit && voters > 1 {
        tracing::warn!(
            skew_ms = skew,
            limit_ms = limit,
            "this node's clock is off (clockSkewMaxMs), leadership is handed over"
        );
        if let Err(error) = node.group.transfer_leadership(None).await {
            tracing::warn!(%error, "leadership could not be handed over");
        }
    }
}

/// On a follower: reports to the leader. Runs until dropped.
pub(super) async fn report(node: &Node) {
    let mut told: Option<Told> = None;
    loop {
        let leadership = node.group.leadership();
        // A node that was elected and does not lead yet has nobody to report to.
        let leader = leadership.leader.filter(|leader| *leader != node.group.node());
        let mut wait = REPORT_EVERY;
        if let Some(channel) = leader.and_then(|leader| node.group.peer_channel(leader)) {
            let now = Instant::now();
            told = told.filter(|told| told.term == leadership.term && told.all_at.elapsed() < ALL_REPORTED_EVERY);
            let request = ReportRequest {
                node: node.group.node(),
                term: leadership.term.0,
                clock_ms: node.clock.wall(),
                clients: node.registry.report(told.map(|told| told.last_at)),
                shortage: node.group.shortage().map(room::to_wire),
                marks: node.outlets.agreement.report(),
                sync_us: node.paces.own(node.group.sync_figures()).map_or(0, micros),
                log: Some(node.uses.own(node)),
                version: *node.config.versions.end(),
            };
            let reported = tokio::time::timeout(REPORT_EVERY, ForwardClient::new(channel).report(request)).await;
            match reported {
                Ok(Ok(reply)) => {
                    let reply = reply.into_inner();
                    told = Told::after(told, leadership.term, reply.clients_kept, now);
                    if let Some(time_ms) = reply.time_ms {
                        node.clock.told(time_ms);
                    }
                    if let Some(majority) = reply.deviates_from {
                        super::agreement::told(node, majority);
                    }
                    node.gate.told(Some(reply.sends_refused).filter(|why| !why.is_empty()));
                }
                Ok(Err(status)) => {
                    tracing::debug!(%status, "the leader did not take this node's report");
                    // A node that was removed is refused for good.
                    wait = if node.group.removed() { REPORT_EVERY } else { REPORT_AGAIN_AFTER };
                }
                Err(_) => tracing::debug!("the leader did not take this node's report in time"),
            }
        }
        next_report(node, wait).await;
    }
}

/// What the leader was told of this node's clients.
#[derive(Clone, Copy)]
struct Told {
    term: Term,
    /// The number of what the leader keeps.
    kept: u64,
    /// It was told of all of them.
    all_at: Instant,
    /// It was told of those that were heard from since the time before.
    last_at: Instant,
}

impl Told {
    /// After a report made at `now`, of all clients if nothing was told `before`, that the leader keeps as `kept`.
    fn after(before: Option<Told>, term: Term, kept: u64, now: Instant) -> Option<Told> {
        match before {
            None if kept != 0 => Some(Told { term, kept, all_at: now, last_at: now }),
            Some(before) if before.kept == kept => Some(Told { last_at: now, ..before }),
            // It keeps nothing, or nothing of what it was told before.
            _ => None,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// When a report is due: after `wait`, or at once when a disk has become full or has room again.
async fn next_report(node: &Node, wait: Duration) {
    // What comes in the latter case, or not in time, comes with the next one.
    let _ = tokio::time::timeout(wait, node.group.shortage_changed()).await;
}

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, Term, Told};

    #[tokio::test(start_paused = true)]
    async fn all_clients_are_reported_to_whoever_keeps_none() {
        let began = Instant::now();
        assert!(Told::after(None, Term(1), 0, began).is_none(), "a leader that does not say is told of all each time");
        let first = Told::after(None, Term(1), 7, began).expect("kept");
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = Told::after(Some(first), Term(1), 7, Instant::now()).expect("kept");
        assert_eq!((second.all_at, second.last_at), (began, Instant::now()));
        assert!(Told::after(Some(second), Term(1), 8, Instant::now()).is_none(), "it began anew");
        assert!(Told::after(Some(second), Term(1), 0, Instant::now()).is_none());
    }
}
