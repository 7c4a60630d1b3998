//! Who is alive. Each node remembers when it last heard from each of its clients; members report theirs to the
//! leader, which alone decides that a client is gone.
//!
//! A lost connection is not a death, since it may be ours: only a termination notice, or silence towards every
//! member for [`SILENT_PERIODS`] of that SDK's heartbeat periods, ends a session (design decision 13).

use parking_lot::Mutex;
use raft_store::{NodeId, Term};
use raftmq_proto::forward::ClientReport;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Missed heartbeats, in tenths of a period, after which a client is gone.
const SILENT_PERIODS_TENTHS: u32 = 25;
/// Heartbeat period of an SDK that did not say otherwise.
pub const HEARTBEAT_PERIOD: Duration = Duration::from_secs(10);
/// The Rust SDK's.
pub const HEARTBEAT_PERIOD_RUST: Duration = Duration::from_secs(30);
/// A client that is silent for this long is forgotten here, whatever the leader decides.
const FORGET_AFTER: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    period: Duration,
}

impl Seen {
    fn gone_at(&self) -> Instant {
        self.at + self.period * SILENT_PERIODS_TENTHS / 10
    }
}

#[derive(Default)]
struct Clients {
    /// Heard from on this node.
    ours: HashMap<String, Seen>,
    /// On the leader: heard from on another member, in the present term, and on which.
    group: HashMap<String, (Seen, NodeId)>,
    /// When this node began to lead.
    leading: Option<(Term, Instant)>,
    /// On the leader: when a client's session was first looked at. The member that the client called reports it a
    /// little later than the session begins.
    noticed: HashMap<String, Instant>,
}

/// The clients that this node knows of.
#[derive(Default)]
pub struct Registry {
    clients: Mutex<Clients>,
}

impl Registry {
    /// A client called. `language` is its `x-mq-language`.
    pub fn seen(&self, client_id: &str, language: &str) {
        let period = if language.eq_ignore_ascii_case("RUST") { HEARTBEAT_PERIOD_RUST } else { HEARTBEAT_PERIOD };
        let seen = Seen { at: Instant::now(), period };
        let mut clients = self.clients.lock();
        match clients.ours.get_mut(client_id) {
            Some(known) => *known = seen,
            None => {
                clients.ours.insert(client_id.to_owned(), seen);
            }
        }
    }

    /// A client said that it ends.
    pub fn ended(&self, client_id: &str) {
        let mut clients = self.clients.lock();
        clients.ours.remove(client_id);
        clients.group.remove(client_id);
    }

    /// How many clients called on this node lately.
    #[must_use]
    pub fn count(&self) -> usize {
        self.clients.lock().ours.len()
    }

    /// What this node tells the leader; forgets clients that are long silent.
    pub fn report(&self) -> Vec<ClientReport> {
        let mut clients = self.clients.lock();
        clients.ours.retain(|_, seen| seen.at.elapsed() < FORGET_AFTER);
        clients
            .ours
            .iter()
            .map(|(client_id, seen)| ClientReport {
                client_id: client_id.clone(),
                silent_ms: millis(seen.at.elapsed()),
                period_ms: millis(seen.period),
            })
            .collect()
    }

    /// Whether the client called, here or as far as this node was told, within its span of silence.
    #[must_use]
    pub fn is_alive(&self, client_id: &str) -> bool {
        let clients = self.clients.lock();
        let heard = [clients.ours.get(client_id), clients.group.get(client_id).map(|(seen, _)| seen)];
        heard.into_iter().flatten().any(|seen| Instant::now() < seen.gone_at())
    }

    /// The other member that heard from the client last, as far as this node, which leads, was told.
    #[must_use]
    pub fn holder(&self, client_id: &str) -> Option<NodeId> {
        self.clients.lock().group.get(client_id).map(|(_, node)| *node)
    }

    /// A report of member `node` reached this node, which leads.
    pub fn reported(&self, node: NodeId, reports: Vec<ClientReport>) {
        let now = Instant::now();
        let mut clients = self.clients.lock();
        for report in reports {
            let Some(at) = now.checked_sub(Duration::from_millis(report.silent_ms)) else { continue };
            let seen = Seen { at, period: Duration::from_millis(report.period_ms).max(Duration::from_secs(1)) };
            let known = clients.group.entry(report.client_id).or_insert((seen, node));
            if seen.at > known.0.at {
                *known = (seen, node);
            }
        }
    }

    /// This node leads in `term`: it knows nothing yet of clients that other members hold.
    pub fn lead(&self, term: Term) {
        let mut clients = self.clients.lock();
        if clients.leading.is_none_or(|(known, _)| known != term) {
            clients.leading = Some((term, Instant::now()));
            clients.group.clear();
            clients.noticed.clear();
        }
    }

    /// This node does not lead.
    pub fn follow(&self) {
        let mut clients = self.clients.lock();
        clients.leading = None;
        clients.group.clear();
        clients.noticed.clear();
    }

    /// Which of the clients with a session are gone. After an election none is, for one full span of silence, and
    /// neither is one whose session is newer than that.
    pub fn gone<'c>(&self, sessions: impl Iterator<Item = &'c str>) -> Vec<String> {
        let now = Instant::now();
        let mut clients = self.clients.lock();
        let Some((_, election)) = clients.leading else { return Vec::new() };
        clients.group.retain(|_, (seen, _)| seen.at.elapsed() < FORGET_AFTER);
        let before = std::mem::take(&mut clients.noticed);
        let noticed: HashMap<String, Instant> =
            sessions.map(|client_id| (client_id.to_owned(), before.get(client_id).copied().unwrap_or(now))).collect();
        let mut gone: Vec<String> = noticed
            .iter()
            .filter(|(client_id, noticed)| {
                let since = election.max(**noticed);
                let heard = [clients.ours.get(*client_id), clients.group.get(*client_id).map(|(seen, _)| seen)];
                // A client that nobody has heard from yet may be one that heartbeats slowly.
                let unheard = Seen { at: since, period: HEARTBEAT_PERIOD_RUST };
                let seen = heard.into_iter().flatten().max_by_key(|seen| seen.at).copied().unwrap_or(unheard);
                let span = Seen { at: since, period: seen.period };
                now >= seen.gone_at().max(span.gone_at())
            })
            .map(|(client_id, _)| client_id.clone())
            .collect();
        gone.sort_unstable();
        clients.noticed = noticed;
        gone
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Duration, Registry};
    use raft_store::Term;

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_gone_after_two_and_a_half_periods_of_its_own() {
        let registry = Registry::default();
        registry.lead(Term(1));
        pass(100).await;
        registry.seen("java", "JAVA");
        registry.seen("rust", "RUST");
        assert!(registry.gone(["java", "rust"].into_iter()).is_empty());
        pass(24).await;
        assert!(registry.gone(["java", "rust"].into_iter()).is_empty());
        pass(1).await;
        assert_eq!(registry.gone(["java", "rust"].into_iter()), ["java"]);
        pass(50).await;
        assert_eq!(registry.gone(["java", "rust"].into_iter()), ["java", "rust"]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_election_nobody_is_gone_for_a_full_span() {
        let registry = Registry::default();
        registry.seen("java", "JAVA");
        pass(300).await;
        registry.lead(Term(2));
        assert!(registry.gone(["java", "never-heard-of"].into_iter()).is_empty());
        pass(24).await;
        assert!(registry.gone(["java", "never-heard-of"].into_iter()).is_empty());
        pass(1).await;
        assert_eq!(registry.gone(["java", "never-heard-of"].into_iter()), ["java"]);
        pass(50).await;
        assert_eq!(registry.gone(["java", "never-heard-of"].into_iter()), ["java", "never-heard-of"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_any_member_heard_counts() {
        let (leader, member) = (Registry::default(), Registry::default());
        leader.lead(Term(1));
        pass(100).await;
        member.seen("go", "GO");
        assert!(leader.gone(["go"].into_iter()).is_empty());
        pass(20).await;
        assert_eq!((leader.is_alive("go"), leader.holder("go")), (false, None));
        leader.reported(3, member.report());
        assert_eq!((leader.is_alive("go"), leader.holder("go")), (true, Some(3)));
        assert!(leader.gone(["go"].into_iter()).is_empty());
        pass(5).await;
        assert_eq!(leader.gone(["go"].into_iter()), ["go"]);
        assert!(!leader.is_alive("go") && !member.is_alive("go"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_there_before_its_member_reports_the_client() {
        let leader = Registry::default();
        leader.lead(Term(1));
        // This client called here once, long ago; now it calls another member.
        leader.seen("moved", "GO");
        pass(300).await;
        assert!(leader.gone(["moved", "new"].into_iter()).is_empty());
        pass(1).await;
        assert!(leader.gone(["moved", "new"].into_iter()).is_empty());
        pass(24).await;
        assert_eq!(leader.gone(["moved", "new"].into_iter()), ["moved"]);
        // A session that begins again is new again.
        assert_eq!(leader.gone(["new"].into_iter()), [""; 0]);
        assert_eq!(leader.gone(["moved", "new"].into_iter()), [""; 0]);
    }
}
