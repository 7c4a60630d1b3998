//! What the charts are made of: a look at every node each 2 s, and a bounded ring of what was seen.
//!
//! Rates are differences of a node's own counters between two looks. Every member counts all of its group's messages,
//! so one that answered both times is enough; when none did, the rate is not known, which is not 0.

use crate::app::{App, topics};
use parking_lot::Mutex;
use raftmq_admin_client::directory::{Directory, Group};
use raftmq_admin_client::error::AdminError;
use raftmq_admin_client::look::{Seen, leader, look};
use raftmq_admin_client::progress::{diff, queues_of};
use raftmq_admin_client::time::now_ms;
use raftmq_proto::admin::{Topic, TopicStatusRequest};
use raftmq_proto::rocketmq::MessageType;
use raftmq_proto::signature::NoProof;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tonic::Code;

/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two counts of topics and backlog, which read more.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// Samples that are kept: 15 minutes.
const SAMPLES_MAX: usize = 450;
/// Changes of leaders that are kept.
const EVENTS_MAX: usize = 50;
/// Topics without consumers that are asked for one by one; of more, those with consumers are counted alone.
const LONELY_TOPICS_MAX: usize = 200;
/// A look that is older does not count as what is now.
const FRESH: Duration = Duration::from_secs(6);

/// Figures of one moment; what is not known is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sample {
    /// Ms since the Unix epoch.
    pub at_ms: u64,
    /// Messages a second, over all broker groups.
    pub incoming: Option<f64>,
    pub outgoing: Option<f64>,
    pub backlog: Option<u64>,
}

/// A change of leaders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub at_ms: u64,
    pub broker_group: String,
    /// Label of who leads and its term; `None` when nobody does.
    pub leader: Option<(String, u64)>,
}

/// A broker group as it was seen.
#[derive(Debug, Clone)]
pub(crate) struct GroupSeen {
    pub group: Group,
    pub nodes: Vec<Seen>,
}

impl GroupSeen {
    fn answers(&self) -> bool {
        self.nodes.iter().any(|node| node.live.is_some())
    }

    /// Who leads and says so.
    pub(crate) fn leading(&self) -> Option<&Seen> {
        let (node, _) = leader(&self.group, &self.nodes);
        let leads = |seen: &&Seen| seen.live.as_ref().is_some_and(|live| live.role == "leader" && live.node == node);
        self.nodes.iter().find(leads)
    }
}

/// Messages a topic was ever given, and what went in and out in a second lately.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Traffic {
    pub stored: u64,
    pub incoming: Option<f64>,
    /// Messages that consumer groups got for the first time.
    pub outgoing: Option<f64>,
}

/// Broker group, topic and consumer group.
type Share = (String, String, String);

/// What one count has found.
#[derive(Default)]
struct Counted {
    backlog: Option<u64>,
    stored: BTreeMap<String, u64>,
    /// Messages up to which consumer groups have come, over all queues.
    progress: BTreeMap<Share, u64>,
    /// Some topics were not counted.
    partly: bool,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    groups: Vec<GroupSeen>,
    problem: Option<String>,
    wants_login: bool,
    ring: VecDeque<Sample>,
    events: VecDeque<Event>,
    /// (node, boot) → messages in and out, and when.
    counters: BTreeMap<(u64, u64), (u64, u64, Instant)>,
    counted: Option<Instant>,
    backlog: Option<u64>,
    traffic: BTreeMap<String, Traffic>,
    progress: BTreeMap<Share, u64>,
    /// Some topics were not counted.
    partly: bool,
}

/// What was seen lately.
#[derive(Default)]
pub(crate) struct Samples(Mutex<State>);

/// A copy of what the overview shows.
pub(crate) struct Overview {
    pub groups: Vec<GroupSeen>,
    pub problem: Option<String>,
    pub ring: Vec<Sample>,
    pub events: Vec<Event>,
    pub traffic: BTreeMap<String, Traffic>,
    pub partly: bool,
}

impl Samples {
    pub(crate) fn overview(&self) -> Overview {
        let state = self.0.lock();
        Overview {
            groups: state.groups.clone(),
            problem: state.problem.clone(),
            ring: state.ring.iter().copied().collect(),
            events: state.events.iter().cloned().collect(),
            traffic: state.traffic.clone(),
            partly: state.partly,
        }
    }

    pub(crate) fn traffic(&self, topic: &str) -> Option<Traffic> {
        self.0.lock().traffic.get(topic).copied()
    }

    pub(crate) fn fresh_groups(&self) -> Option<Vec<Group>> {
        let state = self.0.lock();
        let fresh = state.problem.is_none() && state.looked.is_some_and(|at| at.elapsed() < FRESH);
        fresh.then(|| state.groups.iter().map(|seen| seen.group.clone()).collect())
    }

    pub(crate) fn last_groups(&self) -> Option<Vec<Group>> {
        let state = self.0.lock();
        (!state.groups.is_empty()).then(|| state.groups.iter().map(|seen| seen.group.clone()).collect())
    }

    pub(crate) fn wants_login(&self) -> bool {
        self.0.lock().wants_login
    }

    /// Takes in what a look has shown.
    fn take(&self, groups: Vec<GroupSeen>, now: Instant, at_ms: u64) {
        let state = &mut *self.0.lock();
        for seen in &groups {
            let leads = seen.leading().and_then(|node| node.live.as_ref()).map(|live| (live.label.clone(), live.term));
            let name = &seen.group.name;
            let last = state.events.iter().rev().find(|event| event.broker_group == *name);
            if last.is_none_or(|event| event.leader != leads) {
                let event = Event { at_ms, broker_group: name.clone(), leader: leads };
                push(&mut state.events, event, EVENTS_MAX);
            }
        }
        let counters = counters(&groups, now);
        let rates: Option<Vec<(f64, f64)>> = groups.iter().map(|seen| rate(seen, &state.counters, &counters)).collect();
        let rates = rates.filter(|rates| !rates.is_empty());
        let sample = Sample {
            at_ms,
            incoming: rates.as_ref().map(|rates| rates.iter().map(|rate| rate.0).sum()),
            outgoing: rates.as_ref().map(|rates| rates.iter().map(|rate| rate.1).sum()),
            backlog: state.backlog.filter(|_| state.counted.is_some_and(|at| at.elapsed() < 3 * COUNT_EVERY)),
        };
        push(&mut state.ring, sample, SAMPLES_MAX);
        state.counters = counters;
        state.groups = groups;
        state.problem = None;
        state.looked = Some(now);
    }

    fn fail(&self, error: &AdminError, at_ms: u64) {
        let mut state = self.0.lock();
        state.problem = Some(error.to_string());
        push(&mut state.ring, Sample { at_ms, ..Sample::default() }, SAMPLES_MAX);
    }

    /// What a call that nobody signed was answered with says whether one must sign in; a signed one says nothing.
    fn learn(&self, signed: bool, refused: bool) {
        let mut state = self.0.lock();
        state.wants_login = refused || (signed && state.wants_login);
    }

    fn count(&self, counted: Counted, now: Instant) {
        let state = &mut *self.0.lock();
        // A broker group that did not answer is in one of two sums only.
        let whole = state.backlog.is_some() && counted.backlog.is_some();
        let since = state.counted.filter(|_| whole).map(|at| now.saturating_duration_since(at).as_secs_f64());
        let rate = |more: Option<u64>| {
            more.zip(since).filter(|(_, since)| *since > 0.0).map(|(more, since)| float(more) / since)
        };
        // By topic; not known where a consumer group was moved back.
        let mut taken: BTreeMap<&str, Option<u64>> = BTreeMap::new();
        for (share @ (_, topic, _), now) in &counted.progress {
            // A consumer group that is new has not taken what it begins behind.
            let more = state.progress.get(share).map_or(Some(0), |was| now.checked_sub(*was));
            let sum = taken.entry(topic).or_insert(Some(0));
            *sum = sum.zip(more).map(|(sum, more)| sum + more);
        }
        let was = std::mem::take(&mut state.traffic);
        let traffic = counted.stored.iter().map(|(topic, stored)| {
            // A topic that was made anew counts from 0 again.
            let incoming = rate(was.get(topic).and_then(|was| stored.checked_sub(was.stored)));
            let outgoing = rate(taken.get(topic.as_str()).copied().unwrap_or(Some(0)));
            (topic.clone(), Traffic { stored: *stored, incoming, outgoing })
        });
        state.traffic = traffic.collect();
        (state.backlog, state.partly, state.counted) = (counted.backlog, counted.partly, Some(now));
        state.progress = counted.progress;
    }
}

fn push<T>(ring: &mut VecDeque<T>, value: T, max: usize) {
    if ring.len() == max {
        ring.pop_front();
    }
    ring.push_back(value);
}

// Messages of a moment are far below 2^52.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(value: u64) -> f64 {
    value as f64
}

type Counters = BTreeMap<(u64, u64), (u64, u64, Instant)>;

fn counters(groups: &[GroupSeen], now: Instant) -> Counters {
    let live = groups.iter().flat_map(|seen| &seen.nodes).filter_map(|node| node.live.as_ref());
    live.map(|live| ((live.node, live.boot), (live.messages_in, live.messages_out, now))).collect()
}

/// In and out of a broker group, by a node that answered now and before: the leader where it did.
fn rate(seen: &GroupSeen, before: &Counters, now: &Counters) -> Option<(f64, f64)> {
    let live = seen.nodes.iter().filter_map(|node| node.live.as_ref());
    let known = live.filter_map(|live| {
        let key = (live.node, live.boot);
        let ((in_was, out_was, at), (in_now, out_now, now)) = (before.get(&key)?, now.get(&key)?);
        let seconds = now.saturating_duration_since(*at).as_secs_f64();
        let (more_in, more_out) = (in_now.checked_sub(*in_was)?, out_now.checked_sub(*out_was)?);
        (seconds > 0.0).then(|| (live.role == "leader", float(more_in) / seconds, float(more_out) / seconds))
    });
    known.max_by_key(|(leads, ..)| *leads).map(|(_, more_in, more_out)| (more_in, more_out))
}

/// Looks at the cluster for as long as the dashboard runs.
pub(crate) async fn keep_looking(app: &App) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut counted: Option<Instant> = None;
    loop {
        every.tick().await;
        let credentials = app.config.credentials.clone().or_else(|| app.sessions.latest_credentials());
        let signed = credentials.is_some();
        let Ok(directory) = app.directory(credentials, "") else { continue };
        match once(&directory).await {
            Ok((groups, silent)) => {
                // Of a group whose nodes are all down nothing is learned.
                if silent.iter().any(|reason| says_unsigned(reason)) || groups.iter().any(GroupSeen::answers) {
                    app.samples.learn(signed, silent.iter().any(|reason| says_unsigned(reason)));
                }
                let names: Vec<Group> = groups.iter().map(|seen| seen.group.clone()).collect();
                app.samples.take(groups, Instant::now(), now_ms());
                if counted.is_none_or(|at| at.elapsed() >= COUNT_EVERY) {
                    count(app, &directory, &names).await;
                    counted = Some(Instant::now());
                }
            }
            Err(error) => {
                if says_unsigned(&error.to_string()) {
                    app.samples.learn(signed, true);
                }
                app.samples.fail(&error, now_ms());
            }
        }
    }
}

/// Whether it was refused because nobody has signed in.
fn says_unsigned(reason: &str) -> bool {
    reason.contains(&NoProof::Unsigned.to_string())
}

async fn once(directory: &Directory) -> Result<(Vec<GroupSeen>, Vec<String>), AdminError> {
    let (mut groups, mut silent) = (Vec::new(), Vec::new());
    for group in directory.all().await? {
        let (nodes, reasons) = look(directory, &group).await?;
        silent.extend(reasons);
        groups.push(GroupSeen { group, nodes });
    }
    Ok((groups, silent))
}

/// Whether a topic's messages are in its lite topics.
pub(crate) fn is_lite(topic: &Topic) -> bool {
    topic.message_types.contains(&MessageType::Lite.into())
}

/// Backlog, and what is in each topic.
async fn count(app: &App, directory: &Directory, groups: &[Group]) {
    let mut counted = Counted { backlog: Some(0), ..Counted::default() };
    let Ok(all) = topics(directory, groups).await else { return };
    for group in groups {
        let mut here: BTreeMap<String, BTreeMap<u32, u64>> = BTreeMap::new();
        match queues_of(directory, group, "", "").await {
            Ok(queues) => {
                let waiting: u64 = queues.iter().map(diff).sum();
                counted.backlog = counted.backlog.map(|sum| sum.saturating_add(waiting));
                // A sum over lite topics falls when one of them goes, and is no count of what came in.
                for queue in queues.into_iter().filter(|queue| queue.lite_topics == 0) {
                    let share = (group.name.clone(), queue.topic.clone(), queue.consumer_group);
                    *counted.progress.entry(share).or_default() += queue.progress;
                    here.entry(queue.topic).or_default().insert(queue.queue, queue.broker_offset);
                }
            }
            Err(_) => counted.backlog = None,
        }
        // Messages to lite topics are in no queue of their topic.
        let counts = |name: &String, topic: &Topic| *name == group.name && !is_lite(topic);
        let hosted = all.iter().filter(|(_, hosts)| hosts.iter().any(|(name, topic)| counts(name, topic)));
        let mut lonely: Vec<String> =
            hosted.map(|(name, _)| name.clone()).filter(|name| !here.contains_key(name)).collect();
        counted.partly |= lonely.len() > LONELY_TOPICS_MAX;
        lonely.truncate(LONELY_TOPICS_MAX);
        let asked = directory
            .on_group(group, |mut node| {
                let lonely = lonely.clone();
                async move {
                    let mut sums = Vec::new();
                    for name in lonely {
                        match node.topic_status(TopicStatusRequest { name: name.clone(), stale: true }).await {
                            Ok(status) => {
                                sums.push((name, status.into_inner().queues.iter().map(|q| q.max_offset).sum::<u64>()))
                            }
                            Err(status) if status.code() == Code::NotFound => {}
                            Err(status) => return Err(status),
                        }
                    }
                    Ok(sums)
                }
            })
            .await;
        match asked {
            Ok((_, sums)) => sums.into_iter().for_each(|(name, sum)| *counted.stored.entry(name).or_default() += sum),
            Err(_) => counted.partly = true,
        }
        for (name, queues) in here {
            *counted.stored.entry(name).or_default() += queues.values().sum::<u64>();
        }
    }
    app.samples.count(counted, Instant::now());
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_admin_client::directory::Node;
    use raftmq_proto::admin::GroupStatusResponse;

    fn seen(nodes: &[(u64, &str, u64, Option<u64>)]) -> Vec<GroupSeen> {
        let nodes = nodes.iter().map(|(node, role, term, messages)| Seen {
            node: Node { node: *node, label: format!("n{node}"), ..Node::default() },
            live: messages.map(|messages_in| GroupStatusResponse {
                node: *node,
                boot: 1,
                label: format!("n{node}"),
                role: (*role).to_owned(),
                term: *term,
                messages_in,
                ..GroupStatusResponse::default()
            }),
        });
        vec![GroupSeen { group: Group { name: "G".to_owned(), ..Group::default() }, nodes: nodes.collect() }]
    }

    #[test]
    fn a_failover_is_seen_and_what_is_not_known_is_no_zero() {
        let samples = Samples::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        samples.take(seen(&[(1, "leader", 4, Some(10)), (2, "follower", 4, Some(10))]), at(0), 1_000);
        samples.take(seen(&[(1, "leader", 4, Some(30)), (2, "follower", 4, Some(29))]), at(2), 3_000);
        samples.take(seen(&[(1, "leader", 4, None), (2, "candidate", 5, Some(32))]), at(4), 5_000);
        samples.take(seen(&[(1, "leader", 4, None), (2, "leader", 5, Some(32))]), at(6), 7_000);
        samples.take(seen(&[(1, "follower", 5, None), (2, "leader", 5, None)]), at(8), 9_000);
        let overview = samples.overview();
        let incoming: Vec<Option<f64>> = overview.ring.iter().map(|sample| sample.incoming).collect();
        assert_eq!(incoming, [None, Some(10.0), Some(1.5), Some(0.0), None]);
        let leaders: Vec<Option<(&str, u64)>> =
            overview.events.iter().map(|event| event.leader.as_ref().map(|(l, t)| (l.as_str(), *t))).collect();
        assert_eq!(leaders, [Some(("n1", 4)), None, Some(("n2", 5)), None]);
    }

    #[test]
    fn the_ring_is_bounded() {
        let samples = Samples::default();
        for second in 0..SAMPLES_MAX as u64 + 5 {
            samples.take(Vec::new(), Instant::now(), second);
        }
        assert_eq!(samples.overview().ring.len(), SAMPLES_MAX);
        assert_eq!(samples.overview().ring[0], Sample { at_ms: 5, ..Sample::default() });
    }

    fn counted(stored: u64, progress: &[(&str, u64)]) -> Counted {
        let share = |name: &str| ("B".to_owned(), "T".to_owned(), name.to_owned());
        Counted {
            backlog: Some(0),
            stored: [("T".to_owned(), stored), ("lonely".to_owned(), 1)].into(),
            progress: progress.iter().map(|(name, at)| (share(name), *at)).collect(),
            partly: false,
        }
    }

    #[test]
    fn rates_of_topics_are_those_since_the_last_count() {
        let samples = Samples::default();
        let start = Instant::now();
        let seen = |second: u64, counted: Counted| {
            samples.count(counted, start + Duration::from_secs(second));
            let traffic = samples.traffic("T").expect("counted");
            (traffic.stored, traffic.incoming, traffic.outgoing)
        };
        assert_eq!(seen(0, counted(100, &[("a", 50)])), (100, None, None));
        assert_eq!(seen(10, counted(120, &[("a", 90)])), (120, Some(2.0), Some(4.0)));
        assert_eq!(samples.traffic("lonely").and_then(|traffic| traffic.outgoing), Some(0.0), "nobody consumes it");
        // One that is new begins somewhere.
        assert_eq!(seen(20, counted(120, &[("a", 100), ("b", 120)])), (120, Some(0.0), Some(1.0)));
        assert_eq!(seen(30, counted(120, &[("a", 0), ("b", 120)])), (120, Some(0.0), None), "moved back");
        assert_eq!(seen(40, counted(4, &[("a", 4), ("b", 120)])), (4, None, Some(0.4)), "made anew");
        // Somebody did not answer, and then did.
        assert_eq!(seen(50, Counted { backlog: None, ..counted(4, &[]) }), (4, None, None));
        assert_eq!(seen(60, counted(9, &[("a", 9)])), (9, None, None));
        assert_eq!(samples.traffic("none"), None);
    }
}
