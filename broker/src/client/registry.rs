//! Who is alive. Each node remembers when it last heard from each of its clients; members report theirs to the
//! leader, which alone decides that a client is gone.
//!
//! A lost connection is not a death, since it may be ours: only a termination notice, or silence towards every
//! member for [`SILENT_PERIODS_TENTHS`] of that SDK's heartbeat periods, ends a session (design decision 13).

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
/// The leader looks for clients that are gone after this at the latest.
const LOOK_AFTER: Duration = Duration::from_secs(30);

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

#[derive(Clone, Copy)]
struct Leading {
    term: Term,
    since: Instant,
    /// Of what is kept in [`Clients::group`], which began empty.
    number: u64,
}

#[derive(Default)]
struct Clients {
    /// Heard from on this node.
    ours: HashMap<String, Seen>,
    /// On the leader: heard from on another member, in the present term, and on which.
    group: HashMap<String, (Seen, NodeId)>,
    /// While this node leads.
    leading: Option<Leading>,
    /// On the leader: clients with a session, and when that was noticed. The member that the client called reports it
    /// a little later than the session begins.
    sessions: HashMap<String, Instant>,
    /// On the leader: none of them is gone before this. `None` when that is not known: it is found out by a look at all
    /// of them, which ten thousand clients are not given each second.
    none_gone_before: Option<Instant>,
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
        clients.heard(&seen);
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
        clients.none_gone_before = None;
    }

    /// How many clients called on this node lately.
    #[must_use]
    pub fn count(&self) -> usize {
        self.clients.lock().ours.len()
    }

    /// What this node tells the leader: of all its clients, or of those that it has heard from `since`. Forgets clients
    /// that are long silent.
    pub fn report(&self, since: Option<Instant>) -> Vec<ClientReport> {
        let mut clients = self.clients.lock();
        clients.ours.retain(|_, seen| seen.at.elapsed() < FORGET_AFTER);
        clients
            .ours
            .iter()
            .filter(|(_, seen)| since.is_none_or(|since| seen.at >= since))
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

    /// A report of member `node` reached this node. Answers with the number of what is kept: as long as that stays the
    /// same, nothing of this report is forgotten. 0 while this node does not lead, or not yet.
    pub fn reported(&self, node: NodeId, reports: Vec<ClientReport>) -> u64 {
        let now = Instant::now();
        let mut clients = self.clients.lock();
        let Some(leading) = clients.leading else { return 0 };
        for report in reports {
            let Some(at) = now.checked_sub(Duration::from_millis(report.silent_ms)) else { continue };
            let seen = Seen { at, period: Duration::from_millis(report.period_ms).max(Duration::from_secs(1)) };
            clients.heard(&seen);
            let known = clients.group.entry(report.client_id).or_insert((seen, node));
            if seen.at > known.0.at {
                *known = (seen, node);
            }
        }
        leading.number
    }

    /// This node leads in `term`: it knows nothing yet of clients that other members hold.
    pub fn lead(&self, term: Term) {
        let mut clients = self.clients.lock();
        if clients.leading.is_none_or(|leading| leading.term != term) {
            let number = rand::random::<u64>() | 1;
            clients.leading = Some(Leading { term, since: Instant::now(), number });
            clients.group.clear();
            clients.sessions.clear();
            clients.none_gone_before = None;
        }
    }

    /// This node does not lead.
    pub fn follow(&self) {
        let mut clients = self.clients.lock();
        clients.leading = None;
        clients.group.clear();
        clients.sessions.clear();
    }

    /// A client has a session that it had not before.
    pub fn session_began(&self, client_id: &str) {
        let mut clients = self.clients.lock();
        if clients.leading.is_some() && !clients.sessions.contains_key(client_id) {
            clients.sessions.insert(client_id.to_owned(), Instant::now());
            clients.none_gone_before = None;
        }
    }

    /// A client has no session any more.
    pub fn session_ended(&self, client_id: &str) {
        self.clients.lock().sessions.remove(client_id);
    }

    /// These clients have a session, as the rows say that were read from `read_at` on. What began since is not
    /// forgotten; what ended since is found to be gone once more, which changes nothing.
    pub fn sessions(&self, clients_with_session: Vec<String>, read_at: Instant) {
        let mut clients = self.clients.lock();
        if clients.leading.is_none() {
            return;
        }
        let mut before = std::mem::take(&mut clients.sessions);
        let now = Instant::now();
        clients.sessions = clients_with_session
            .into_iter()
            .map(|client_id| {
                let noticed = before.remove(&client_id).unwrap_or(now);
                (client_id, noticed)
            })
            .collect();
        clients.sessions.extend(before.into_iter().filter(|(_, noticed)| *noticed >= read_at));
        clients.none_gone_before = None;
    }

    /// Which of the clients with a session are gone. After an election none is, for one full span of silence, and
    /// neither is one whose session is newer than that.
    pub fn gone(&self) -> Vec<String> {
        let mut clients = self.clients.lock();
        let now = Instant::now();
        if clients.none_gone_before.is_some_and(|before| now < before) {
            return Vec::new();
        }
        clients.group.retain(|_, (seen, _)| seen.at.elapsed() < FORGET_AFTER);
        let (mut gone, mut next) = (Vec::new(), now + LOOK_AFTER);
        for client_id in clients.sessions.keys() {
            match clients.gone_at(client_id) {
                Some(at) if at <= now => gone.push(client_id.clone()),
                at => next = at.map_or(next, |at| next.min(at)),
            }
        }
        // Who is gone stays so until its session has ended.
        clients.none_gone_before = gone.is_empty().then_some(next);
        gone.sort_unstable();
        gone
    }

    /// Whether the client is still one of [`Registry::gone`].
    pub fn is_gone(&self, client_id: &str) -> bool {
        self.clients.lock().is_gone(client_id)
    }
}

impl Clients {
    fn is_gone(&self, client_id: &str) -> bool {
        self.gone_at(client_id).is_some_and(|at| Instant::now() >= at)
    }

    /// A client was heard from, which may put an end to its session earlier than what was known of it: it may heartbeat
    /// more often than the one before it, or than one that nobody has heard from.
    fn heard(&mut self, seen: &Seen) {
        self.none_gone_before = self.none_gone_before.map(|before| before.min(seen.gone_at()));
    }

    /// When a client with a session is gone, if nobody hears from it.
    fn gone_at(&self, client_id: &str) -> Option<Instant> {
        let (leading, noticed) = (self.leading?, self.sessions.get(client_id)?);
        let since = leading.since.max(*noticed);
        let heard = [self.ours.get(client_id), self.group.get(client_id).map(|(seen, _)| seen)];
        // A client that nobody has heard from yet may be one that heartbeats slowly.
        let unheard = Seen { at: since, period: HEARTBEAT_PERIOD_RUST };
        let seen = heard.into_iter().flatten().max_by_key(|seen| seen.at).copied().unwrap_or(unheard);
        let span = Seen { at: since, period: seen.period };
        Some(seen.gone_at().max(span.gone_at()))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{ClientReport, Duration, Instant, Registry};
    use raft_store::Term;
    use rand::{RngExt, SeedableRng};

    /// What the leader finds gone of the clients that have a session.
    fn gone(registry: &Registry, sessions: &[&str]) -> Vec<String> {
        registry.sessions(sessions.iter().map(|&client_id| client_id.to_owned()).collect(), Instant::now());
        registry.gone()
    }

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
        assert!(gone(&registry, &["java", "rust"]).is_empty());
        pass(24).await;
        assert!(gone(&registry, &["java", "rust"]).is_empty());
        pass(1).await;
        assert_eq!(gone(&registry, &["java", "rust"]), ["java"]);
        pass(50).await;
        assert_eq!(gone(&registry, &["java", "rust"]), ["java", "rust"]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_election_nobody_is_gone_for_a_full_span() {
        let registry = Registry::default();
        registry.seen("java", "JAVA");
        pass(300).await;
        registry.lead(Term(2));
        assert!(gone(&registry, &["java", "never-heard-of"]).is_empty());
        pass(24).await;
        assert!(gone(&registry, &["java", "never-heard-of"]).is_empty());
        pass(1).await;
        assert_eq!(gone(&registry, &["java", "never-heard-of"]), ["java"]);
        pass(50).await;
        assert_eq!(gone(&registry, &["java", "never-heard-of"]), ["java", "never-heard-of"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_any_member_heard_counts() {
        let (leader, member) = (Registry::default(), Registry::default());
        assert_eq!(leader.reported(3, member.report(None)), 0);
        leader.lead(Term(1));
        pass(100).await;
        member.seen("go", "GO");
        assert!(gone(&leader, &["go"]).is_empty());
        pass(20).await;
        assert_eq!((leader.is_alive("go"), leader.holder("go")), (false, None));
        let kept = leader.reported(3, member.report(None));
        assert_eq!((kept != 0, leader.reported(3, Vec::new())), (true, kept));
        assert_eq!((leader.is_alive("go"), leader.holder("go")), (true, Some(3)));
        assert!(gone(&leader, &["go"]).is_empty());
        pass(5).await;
        assert_eq!(gone(&leader, &["go"]), ["go"]);
        assert!(!leader.is_alive("go") && !member.is_alive("go"));
        // It is heard again while others are ended.
        member.seen("go", "GO");
        leader.reported(3, member.report(None));
        assert!(!leader.is_gone("go"));
        // What is kept begins anew, and says so.
        leader.follow();
        leader.lead(Term(1));
        assert_ne!(leader.reported(3, Vec::new()), kept);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_there_before_its_member_reports_the_client() {
        let leader = Registry::default();
        leader.lead(Term(1));
        // This client called here once, long ago; now it calls another member.
        leader.seen("moved", "GO");
        pass(300).await;
        assert!(gone(&leader, &["moved", "new"]).is_empty());
        pass(1).await;
        assert!(gone(&leader, &["moved", "new"]).is_empty());
        pass(24).await;
        assert_eq!(gone(&leader, &["moved", "new"]), ["moved"]);
        // A session that begins again is new again, whoever says so.
        assert_eq!(gone(&leader, &["new"]), [""; 0]);
        assert_eq!(gone(&leader, &["moved", "new"]), [""; 0]);
        leader.session_ended("moved");
        leader.session_began("moved");
        pass(24).await;
        leader.session_began("moved");
        assert_eq!(leader.gone(), [""; 0]);
        pass(1).await;
        assert_eq!(leader.gone(), ["moved"]);
    }

    /// The leader does not look at all sessions each time; a client that is gone must be found all the same.
    #[tokio::test(start_paused = true)]
    async fn nobody_who_is_gone_is_overlooked_between_looks() {
        let mut random = rand::rngs::SmallRng::seed_from_u64(11);
        let leader = Registry::default();
        leader.lead(Term(1));
        let (mut found, mut ended) = (0, 0);
        for _ in 0..20_000 {
            let client = format!("c{}", random.random_range(0..40_u32));
            match random.random_range(0..100_u32) {
                0..40 => pass(random.random_range(0..4)).await,
                40..60 => leader.seen(&client, if random.random() { "RUST" } else { "GO" }),
                60..80 => {
                    let (silent_ms, period_ms) = (random.random_range(0..90_000), random.random_range(0..40_000));
                    leader.reported(2, vec![ClientReport { client_id: client, silent_ms, period_ms }]);
                }
                80..90 => leader.session_began(&client),
                90..93 => leader.session_ended(&client),
                93 => {
                    let names = (0..random.random_range(0..40_u32)).map(|number| format!("c{number}")).collect();
                    leader.sessions(names, Instant::now());
                }
                94 => {
                    leader.follow();
                    leader.lead(Term(2));
                }
                _ => leader.ended(&client),
            }
            let mut all: Vec<String> = {
                let clients = leader.clients.lock();
                clients.sessions.keys().filter(|client| clients.is_gone(client)).cloned().collect()
            };
            all.sort_unstable();
            assert_eq!(leader.gone(), all);
            found += all.len();
            if random.random_range(0..4_u32) == 0 {
                all.iter().for_each(|client| leader.session_ended(client));
                ended += all.len();
            }
        }
        assert!(found > 1_000 && ended > 100, "{found} were found gone, {ended} sessions ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_begins_while_the_rows_are_read_is_not_forgotten() {
        let leader = Registry::default();
        leader.session_began("before");
        leader.lead(Term(1));
        pass(100).await;
        let read_at = Instant::now();
        leader.session_began("new");
        leader.sessions(Vec::new(), read_at);
        pass(74).await;
        assert_eq!(leader.gone(), [""; 0]);
        pass(1).await;
        assert_eq!(leader.gone(), ["new"]);
        leader.sessions(Vec::new(), Instant::now());
        assert_eq!(leader.gone(), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_says_what_was_heard_since_the_one_before() {
        let member = Registry::default();
        let names = |since| {
            let mut names: Vec<_> = member.report(since).into_iter().map(|report| report.client_id).collect();
            names.sort_unstable();
            names
        };
        member.seen("a", "GO");
        pass(1).await;
        let first = Instant::now();
        assert_eq!(names(None), ["a"]);
        member.seen("b", "GO");
        assert_eq!(names(Some(first)), ["b"]);
        pass(1).await;
        assert_eq!(names(Some(Instant::now())), [""; 0]);
        member.seen("a", "GO");
        assert_eq!(names(Some(Instant::now())), ["a"]);
        assert_eq!(names(None), ["a", "b"]);
    }
}
