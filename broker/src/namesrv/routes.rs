//! What the name servers told about other broker groups, kept for the time when they are gone.
//!
//! Two name servers may know different things: one was just wiped, one has not heard of a change. So the answers of
//! all are merged, by broker group, and the newest wins. What no name server mentions any more is believed to be gone
//! only when they have been up for long enough to have heard of it.

use super::server::Server;
use parking_lot::RwLock;
use raftmq_proto::namesrv::{Member, RouteRequest, RouteResponse, Topic};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How often the name servers are asked whether anything changed.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
/// For one answer during a refresh.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(3);
/// A client waits at most this long for a topic that this node has not heard of.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);
/// When one name server has answered, the others get this much longer.
const LOOKUP_OTHERS: Duration = Duration::from_millis(100);
/// What was learned in a refresh is the present for this long.
const CURRENT_FOR: Duration = Duration::from_secs(12);
/// A topic that no broker group had is asked for again after this.
const ABSENT_FOR: Duration = Duration::from_secs(2);
/// Topics that are kept; the rest is asked for each time.
const TOPICS_MAX: usize = 200_000;
/// Topics kept as absent.
const ABSENT_MAX: usize = 10_000;
/// `apache.rocketmq.v2.MessageType.FIFO`.
const FIFO: i32 = 2;
/// `apache.rocketmq.v2.MessageType.LITE`.
const LITE: i32 = 5;
/// Topics in one request.
const REQUEST_TOPICS_MAX: usize = 1_000;
/// A name server that has been up for this long has heard of every broker group that lives.
const SETTLED_MS: u64 = 150_000;

/// A topic in another broker group.
#[derive(Debug, Clone, PartialEq)]
pub struct ForeignRoute {
    /// Name of the broker group.
    pub broker_group: String,
    /// Its queues, permission and message types there.
    pub topic: Topic,
    /// Members of the broker group, by label.
    pub members: Vec<Member>,
}

impl ForeignRoute {
    /// The broker groups that keep the topic's message groups there.
    #[must_use]
    pub fn owners(&self) -> Vec<String> {
        owners_in(&self.broker_group, &self.topic.fifo_owners)
    }
}

/// Who keeps message groups by the row that `broker_group` has of a topic: it alone when the row names nobody.
pub(super) fn owners_in(broker_group: &str, named: &[String]) -> Vec<String> {
    if named.is_empty() { vec![broker_group.to_owned()] } else { named.to_vec() }
}

/// A handle to the routes of other broker groups; cheap to clone.
#[derive(Clone, Default)]
pub struct Routes {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    started: OnceLock<Started>,
    known: RwLock<Known>,
    absent: RwLock<HashMap<String, Instant>>,
    /// When the last look at the name servers found nothing that is not known here.
    current: RwLock<Option<Instant>>,
}

struct Started {
    cluster: String,
    own_group: String,
    servers: Vec<Arc<Server>>,
}

/// What has been learned.
#[derive(Debug, Default, PartialEq)]
struct Known {
    groups: BTreeMap<Arc<str>, Group>,
    topics: HashMap<String, Vec<(Arc<str>, Topic)>>,
}

#[derive(Debug, Clone, PartialEq)]
struct Group {
    term: u64,
    version: u64,
    members: Vec<Member>,
}

impl Routes {
    /// Broker groups other than this node's own that host a topic, by name. A topic that this node has not heard of
    /// is asked for first, for a second at most, unless no name server answers these days.
    pub async fn of(&self, topic: &str) -> Vec<ForeignRoute> {
        let Some(started) = self.inner.started.get() else { return Vec::new() };
        if let Some(known) = self.known(topic) {
            return known;
        }
        // Most clusters have one broker group: there is nobody to ask about.
        let current = self.inner.current.read().is_some_and(|at| at.elapsed() < CURRENT_FOR);
        if current && self.inner.known.read().groups.is_empty() {
            return Vec::new();
        }
        if self.inner.absent.read().get(topic).is_some_and(|since| since.elapsed() < ABSENT_FOR) {
            return Vec::new();
        }
        let answers = started.ask(&[topic.to_owned()], 0, LOOKUP_TIMEOUT, Some(LOOKUP_OTHERS)).await;
        if answers.is_empty() {
            return Vec::new();
        }
        let mut known = self.inner.known.write();
        known.learn(&answers, &[topic.to_owned()]);
        let routes = known.routes(topic).unwrap_or_default();
        drop(known);
        if routes.is_empty() {
            let mut absent = self.inner.absent.write();
            if absent.len() >= ABSENT_MAX {
                absent.clear();
            }
            absent.insert(topic.to_owned(), Instant::now());
        }
        routes
    }

    /// The same as [`Routes::of`], but every name server that answers is asked now, so that what was just made or just
    /// deleted elsewhere counts.
    pub async fn ask(&self, topic: &str) -> Vec<ForeignRoute> {
        if let Some(started) = self.inner.started.get() {
            let answers = started.ask(&[topic.to_owned()], 0, LOOKUP_TIMEOUT, Some(LOOKUP_OTHERS)).await;
            self.inner.known.write().learn(&answers, &[topic.to_owned()]);
        }
        self.known(topic).unwrap_or_default()
    }

    /// What each name server that answers knows now of topics, this node's own broker group included; at most 1,000.
    pub(crate) async fn ask_about(&self, topics: &[String]) -> Vec<RouteResponse> {
        let Some(started) = self.inner.started.get() else { return Vec::new() };
        let request = RouteRequest { except_broker_group: String::new(), ..started.request(topics.to_vec(), 0) };
        started.send(&request, LOOKUP_TIMEOUT, None).await
    }

    /// The other broker groups that this node knows.
    pub(crate) fn others(&self) -> BTreeSet<String> {
        self.inner.known.read().groups.keys().map(ToString::to_string).collect()
    }

    /// Whether another broker group spreads the message groups of a topic over others than `owners`, as far as this node
    /// knows: its name and the owners that it has.
    #[must_use]
    pub fn disagrees(&self, topic: &str, owners: &[&str]) -> Option<(String, Vec<String>)> {
        self.inner.known.read().disagrees(topic, owners)
    }

    /// `host:port` of the public API of each member of another broker group that serves clients, by label.
    #[must_use]
    pub fn members_of(&self, broker_group: &str) -> Vec<String> {
        let known = self.inner.known.read();
        let members = known.groups.get(broker_group).map(|group| group.members.as_slice()).unwrap_or_default();
        let addresses = members.iter().filter(|member| member.serves).filter_map(|member| member.addresses.as_ref());
        addresses.map(|addresses| addresses.grpc.clone()).filter(|address| !address.is_empty()).collect()
    }

    /// What is known of a topic without asking anybody; `None` when nothing is.
    #[must_use]
    pub fn known(&self, topic: &str) -> Option<Vec<ForeignRoute>> {
        self.inner.known.read().routes(topic)
    }

    pub(super) fn start(&self, cluster: String, own_group: String, servers: Vec<Arc<Server>>) {
        self.inner.started.get_or_init(|| Started { cluster, own_group, servers });
    }

    /// Keeps what is known up to date, together with the topics that `own` names: those of this node's own group are
    /// what clients will ask it for. Runs until dropped.
    pub(super) async fn refresh(&self, own: impl Fn() -> Vec<String>) {
        let Some(started) = self.inner.started.get() else { return };
        let mut stamps: Vec<u64> = vec![0; started.servers.len()];
        let mut own_count = 0;
        loop {
            let (mut changed, mut answered) = (false, false);
            for (server, stamp) in started.servers.iter().zip(&mut stamps) {
                if server.failed_lately() {
                    continue;
                }
                let request = started.request(Vec::new(), *stamp);
                if let Some(answer) = server.route(request, REFRESH_TIMEOUT).await {
                    answered = true;
                    changed |= !answer.unchanged;
                    *stamp = answer.stamp;
                }
            }
            let own = own();
            if changed || own.len() > own_count {
                own_count = own.len();
                self.learn_all(started, own).await;
            }
            if answered {
                *self.inner.current.write() = Some(Instant::now());
            }
            tokio::time::sleep(REFRESH_EVERY).await;
        }
    }

    async fn learn_all(&self, started: &Started, own: Vec<String>) {
        let mut names = own;
        names.extend(self.inner.known.read().topics.keys().cloned());
        names.sort_unstable();
        names.dedup();
        names.truncate(TOPICS_MAX);
        // One empty request at least: members of a group change without any topic.
        let parts = names.chunks(REQUEST_TOPICS_MAX).map(<[String]>::to_vec).collect::<Vec<_>>();
        for names in if parts.is_empty() { vec![Vec::new()] } else { parts } {
            let answers = started.ask(&names, 0, REFRESH_TIMEOUT, None).await;
            if answers.is_empty() {
                return;
            }
            self.inner.known.write().learn(&answers, &names);
        }
    }
}

impl Started {
    fn request(&self, topics: Vec<String>, known_stamp: u64) -> RouteRequest {
        RouteRequest { cluster: self.cluster.clone(), topics, except_broker_group: self.own_group.clone(), known_stamp }
    }

    /// Asks all name servers that answered lately, at once.
    async fn ask(
        &self,
        topics: &[String],
        known_stamp: u64,
        timeout: Duration,
        others: Option<Duration>,
    ) -> Vec<RouteResponse> {
        self.send(&self.request(topics.to_vec(), known_stamp), timeout, others).await
    }

    /// Asks them this.
    async fn send(&self, request: &RouteRequest, timeout: Duration, others: Option<Duration>) -> Vec<RouteResponse> {
        let mut calls = JoinSet::new();
        for server in self.servers.iter().filter(|server| !server.failed_lately()) {
            let (server, request) = (server.clone(), request.clone());
            calls.spawn(async move { server.route(request, timeout).await });
        }
        let mut answers = Vec::new();
        let mut until = None;
        loop {
            let next = match until {
                Some(until) => match tokio::time::timeout_at(until, calls.join_next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
                None => calls.join_next().await,
            };
            match next {
                Some(Ok(Some(answer))) => {
                    answers.push(answer);
                    until = others.map(|others| Instant::now() + others);
                }
                Some(_) => {}
                None => break,
            }
        }
        answers
    }
}

impl Known {
    fn routes(&self, topic: &str) -> Option<Vec<ForeignRoute>> {
        let hosts = self.topics.get(topic)?;
        let routes = hosts.iter().map(|(name, topic)| ForeignRoute {
            broker_group: name.to_string(),
            topic: topic.clone(),
            members: self.groups.get(name).map(|group| group.members.clone()).unwrap_or_default(),
        });
        Some(routes.collect())
    }

    fn disagrees(&self, topic: &str, owners: &[&str]) -> Option<(String, Vec<String>)> {
        // What is open is agreed on before anything is stored by it.
        let shares =
            |topic: &Topic| !topic.fifo_open && topic.message_types.iter().any(|kind| [FIFO, LITE].contains(kind));
        let hosts = self.topics.get(topic)?.iter().filter(|(_, topic)| shares(topic));
        let mut theirs = hosts.map(|(name, topic)| (name.to_string(), owners_in(name, &topic.fifo_owners)));
        theirs.find(|(_, theirs)| theirs != owners)
    }

    /// Merges answers to a request for `names`.
    fn learn(&mut self, answers: &[RouteResponse], names: &[String]) {
        // For each broker group, the answer that knows most of it.
        let mut best: BTreeMap<&str, (&RouteResponse, &raftmq_proto::namesrv::BrokerGroup)> = BTreeMap::new();
        for answer in answers.iter().filter(|answer| !answer.unchanged) {
            for group in &answer.broker_groups {
                let held = best.get(group.name.as_str());
                let newer = |held: &raftmq_proto::namesrv::BrokerGroup| {
                    (group.topics_known, group.version, group.term) > (held.topics_known, held.version, held.term)
                };
                if held.is_none_or(|(_, held)| newer(held)) {
                    best.insert(&group.name, (answer, group));
                }
            }
        }
        let settled = !answers.is_empty() && answers.iter().all(|answer| answer.age_ms >= SETTLED_MS);
        let mut trusted: Vec<(Arc<str>, HashMap<&str, &Topic>)> = Vec::new();
        for (name, (answer, group)) in &best {
            // A name server without the topics yet must not make them vanish.
            if group.members.is_empty() || !group.topics_known {
                continue;
            }
            let name: Arc<str> = Arc::from(*name);
            let members = group.members.clone();
            self.groups.insert(name.clone(), Group { term: group.term, version: group.version, members });
            let hosted = answer.topics.iter().flat_map(|route| &route.broker_groups);
            let hosted = hosted.filter(|host| *host.broker_group == *name).filter_map(|host| host.topic.as_ref());
            let hosted = hosted.map(|topic| (topic.name.as_str(), topic)).collect();
            trusted.push((name, hosted));
        }
        if settled {
            self.groups.retain(|name, _| best.contains_key(&**name));
        }
        for topic in names {
            let mut hosts: BTreeMap<Arc<str>, Topic> =
                self.topics.remove(topic).unwrap_or_default().into_iter().collect();
            hosts.retain(|name, _| self.groups.contains_key(name));
            for (name, hosted) in &trusted {
                match hosted.get(topic.as_str()) {
                    Some(topic) => hosts.insert(name.clone(), (*topic).clone()),
                    None => hosts.remove(name),
                };
            }
            if !hosts.is_empty() && self.topics.len() < TOPICS_MAX {
                self.topics.insert(topic.clone(), hosts.into_iter().collect());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_proto::namesrv::{BrokerGroup, TopicInGroup, TopicRoute};

    /// An answer of a name server that knows one broker group, `version` and the topics in it.
    fn answer(age_ms: u64, group: &str, version: u64, topics: &[&str]) -> RouteResponse {
        let route = |name: &&str| TopicRoute {
            topic: (*name).to_owned(),
            broker_groups: vec![TopicInGroup {
                cluster: "C".to_owned(),
                broker_group: group.to_owned(),
                topic: Some(Topic { name: (*name).to_owned(), version, ..Topic::default() }),
            }],
        };
        RouteResponse {
            topics: topics.iter().map(route).collect(),
            broker_groups: vec![BrokerGroup {
                cluster: "C".to_owned(),
                name: group.to_owned(),
                version,
                members: vec![Member { node: version, ..Member::default() }],
                topics_known: true,
                ..BrokerGroup::default()
            }],
            age_ms,
            ..RouteResponse::default()
        }
    }

    fn check(steps: &[(&[RouteResponse], &str)]) {
        let mut known = Known::default();
        for (answers, expected) in steps {
            known.learn(answers, &["t".to_owned()]);
            let routes = known.routes("t").unwrap_or_default();
            let text: Vec<String> = routes
                .iter()
                .map(|route| {
                    let member = route.members.first().map_or(0, |member| member.node);
                    format!("{}:{}:{member}", route.broker_group, route.topic.version)
                })
                .collect();
            assert_eq!(text.join(" "), *expected);
        }
    }

    const OLD: u64 = SETTLED_MS;

    #[test]
    fn the_newest_answer_wins_for_each_group() {
        check(&[
            (&[answer(OLD, "A", 5, &["t"]), answer(OLD, "A", 7, &["t"])], "A:7:7"),
            (&[answer(OLD, "A", 8, &["t"]), answer(OLD, "B", 2, &["t"])], "A:8:8 B:2:2"),
        ]);
    }

    #[test]
    fn a_deleted_topic_goes_and_its_group_stays() {
        check(&[(&[answer(OLD, "A", 5, &["t"])], "A:5:5"), (&[answer(OLD, "A", 6, &[])], "")]);
    }

    #[test]
    fn a_name_server_that_was_wiped_takes_nothing_away() {
        let mut waiting = answer(1_000, "A", 6, &[]);
        waiting.broker_groups[0].topics_known = false;
        check(&[
            (&[answer(OLD, "A", 5, &["t"])], "A:5:5"),
            (&[RouteResponse { age_ms: 1_000, ..RouteResponse::default() }], "A:5:5"),
            (&[waiting], "A:5:5"),
            (&[], "A:5:5"),
            (&[answer(40_000, "A", 6, &["t"])], "A:6:6"),
        ]);
    }

    #[test]
    fn broker_groups_that_spread_message_groups_differently_are_told_apart() {
        let mut known = Known::default();
        let mut b = answer(OLD, "B", 1, &["t", "u"]);
        let [t, u] = &mut b.topics[..] else { unreachable!("two topics") };
        for route in [&mut *t, u] {
            let topic = route.broker_groups[0].topic.as_mut().expect("there");
            topic.message_types = vec![FIFO];
        }
        t.broker_groups[0].topic.as_mut().expect("there").fifo_owners = ["A", "B"].map(str::to_owned).to_vec();
        known.learn(&[b.clone()], &["t".to_owned(), "u".to_owned()]);
        assert_eq!(known.disagrees("t", &["A", "B"]), None);
        let differs = Some(("B".to_owned(), vec!["A".to_owned(), "B".to_owned()]));
        assert_eq!(known.disagrees("t", &["B", "A"]), differs);
        // A row that names nobody is kept by its own broker group.
        assert_eq!(known.disagrees("u", &["B"]), None);
        assert_eq!(known.disagrees("u", &["A"]), Some(("B".to_owned(), vec!["B".to_owned()])));
        assert_eq!(known.disagrees("nowhere", &["A"]), None);
    }

    #[test]
    fn a_group_that_settled_name_servers_do_not_know_is_gone() {
        let (empty, young) = (RouteResponse { age_ms: OLD, ..RouteResponse::default() }, RouteResponse::default());
        check(&[
            (&[answer(OLD, "A", 5, &["t"])], "A:5:5"),
            (&[empty.clone(), young], "A:5:5"),
            (&[empty.clone(), empty], ""),
        ]);
    }
}
