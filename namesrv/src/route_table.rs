//! What the name server holds: broker groups, their nodes, members and topics, each from the newest report.
//!
//! The table is pure: it reads no clock, it takes `now_ms`, milliseconds since the name server started. It keeps
//! reported topics and members as they came off the wire, because it never looks into them and the digest of a
//! topic table is defined on that form.
//!
//! ```text
//! report ─▶ node      newest (boot, sequence) of each node
//!        ─▶ leader    whoever leads the highest term
//!        ─▶ members,  highest (term, version): what a group looks like is decided by its log, so a higher log
//!           topics    index is the newer truth, and a leader of a higher term the better witness
//! ```

use prost::Message as _;
use raftmq_proto::digest::TopicDigest;
use raftmq_proto::namesrv::{Member, ReportRequest, Role, Topic};
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::Xxh3;

/// Members a broker group may report.
pub const MEMBERS_MAX: usize = 64;
/// Characters of any name or address in a report.
pub const TEXT_CHARS_MAX: usize = 255;
/// Another node may deliver a topic table that was asked for and did not come after this.
const ASK_AGAIN_MS: u64 = 5_000;

/// Bounds of the table, and how long silence lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Broker groups of all clusters.
    pub groups_max: usize,
    /// Nodes of all broker groups.
    pub nodes_max: usize,
    /// Topics, summed over the broker groups.
    pub topics_max: usize,
    /// A node that has not reported for longer is dead.
    pub silence_ms: u64,
    /// A node that has not reported for longer is forgotten.
    pub forget_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            groups_max: 4_096,
            nodes_max: 16_384,
            topics_max: 2_000_000,
            silence_ms: 120_000,
            forget_ms: 24 * 3_600_000,
        }
    }
}

/// Why a report was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The table is full.
    #[error("the name server holds {limit} {what}, its limit; raise {key} or report to another name server")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How many it may hold.
        limit: usize,
        /// The configuration key that changes it.
        key: &'static str,
    },
}

/// What a node is told after its report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// Its topics are wanted.
    pub want_topics: bool,
    /// Version that the broker group's record has now.
    pub held_version: u64,
    /// Digest of the topics that are held.
    pub held_digest: TopicDigest,
    /// Highest term in which a leader has reported.
    pub leader_term: u64,
    /// The node was not known before, or came back with another boot.
    pub new_node: bool,
}

/// A topic table, or changes to the one with `base`, from one node.
#[derive(Debug, Clone, Default)]
pub struct TopicsReport {
    /// Cluster and broker group of the sender.
    pub cluster: String,
    /// Broker group of the sender.
    pub broker_group: String,
    /// Raft id of the sender.
    pub node: u64,
    /// Log index as of which the result holds.
    pub version: u64,
    /// Digest of the result.
    pub digest: TopicDigest,
    /// What the changes apply to; `None` for a whole table.
    pub base: Option<TopicDigest>,
    /// Topics that are new or different.
    pub put: Vec<Topic>,
    /// Topics that are gone.
    pub removed: Vec<String>,
}

/// What came of a topic table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The table held is the one sent, or a newer one.
    Yes,
    /// The changes do not lead from what is held to the digest.
    WantFull,
    /// The broker group is not known (any more): report first.
    No,
}

/// A node as of its last report.
#[derive(Debug, Clone)]
pub struct Node {
    /// The report, without members and changes.
    pub report: ReportRequest,
    /// When it came.
    pub reported_ms: u64,
}

/// A broker group as of the newest report.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Highest term in which a leader is known, and that leader's Raft id (0 for none).
    pub leader_term: u64,
    /// Raft id of that leader.
    pub leader: u64,
    /// Term and version of the report that gave members and digest.
    pub term: u64,
    /// Log index as of which they hold.
    pub version: u64,
    /// Members, dead ones included.
    pub members: Vec<Member>,
    /// Digest of the topics the group has; [`Group::topics`] may still be behind it.
    pub digest: TopicDigest,
    /// Nodes by Raft id.
    pub nodes: BTreeMap<u64, Node>,
    topics: BTreeSet<ByName>,
    topics_digest: TopicDigest,
    /// A first table has arrived.
    topics_known: bool,
    /// Node that was asked for topics, and when.
    asked: Option<(u64, u64)>,
}

/// A topic, ordered by its name alone.
#[derive(Debug, Clone)]
struct ByName(Topic);

impl Borrow<str> for ByName {
    fn borrow(&self) -> &str {
        &self.0.name
    }
}

impl PartialEq for ByName {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for ByName {}

impl PartialOrd for ByName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.name.cmp(&other.0.name)
    }
}

/// Cluster and broker group.
pub type GroupName = (String, String);

/// All that is known.
#[derive(Debug)]
pub struct RouteTable {
    limits: Limits,
    groups: BTreeMap<GroupName, Group>,
}

/// What time did to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expired {
    /// It has been silent for longer than [`Limits::silence_ms`].
    Dead {
        /// Cluster and broker group.
        group: GroupName,
        /// Its name in configuration files.
        label: String,
        /// Its Raft id.
        node: u64,
    },
    /// It has been silent for longer than [`Limits::forget_ms`].
    Forgotten {
        /// Cluster and broker group.
        group: GroupName,
        /// Its name in configuration files.
        label: String,
        /// Its Raft id.
        node: u64,
    },
}

impl RouteTable {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> RouteTable {
        RouteTable { limits, groups: BTreeMap::new() }
    }

    /// Bounds, and how long silence lasts.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Other ones from here on. What is there already stays.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes a heartbeat.
    ///
    /// # Errors
    /// [`Refused`] when the report makes no sense or the table is full; nothing has changed then.
    pub fn report(&mut self, mut report: ReportRequest, now_ms: u64) -> Result<Reported, Refused> {
        check(&report)?;
        let name = (report.cluster.clone(), report.broker_group.clone());
        self.make_room(&name, &report)?;
        let topics_elsewhere = self.topic_count() - self.groups.get(&name).map_or(0, |group| group.topics.len());
        let group = self.groups.entry(name).or_default();

        let known = group.nodes.get(&report.node);
        let new_node = known.is_none_or(|known| known.report.boot != report.boot);
        if known.is_some_and(|known| (known.report.boot, known.report.sequence) > (report.boot, report.sequence)) {
            return Ok(group.answer(false, false));
        }
        let members = std::mem::take(&mut report.members);
        let changes = report.changes.take();
        group.forget_predecessors(&report, &members, now_ms, self.limits.silence_ms);
        group.learn_leader(&report);

        let leads = report.role() == Role::Leader;
        let newer = (leads && report.term > group.term) || report.version > group.version;
        let corrected = leads && (report.term, report.version) == (group.term, group.version);
        if newer || corrected {
            if leads {
                group.term = group.term.max(report.term);
            }
            group.version = report.version;
            if !members.is_empty() {
                // Who was a member and is none any more has been removed: it is not missed.
                let stays = |node: u64| members.iter().any(|member| member.node == node);
                let removed: Vec<u64> =
                    group.members.iter().map(|member| member.node).filter(|node| !stays(*node)).collect();
                group.nodes.retain(|node, _| !removed.contains(node));
                group.members = members;
            }
            group.digest = TopicDigest(report.digest);
        }
        let (node, digest) = (report.node, TopicDigest(report.digest));
        group.nodes.insert(node, Node { report, reported_ms: now_ms });

        if group.digest == TopicDigest::default() && group.topics_digest != group.digest {
            group.topics.clear();
            group.topics_digest = TopicDigest::default();
        }
        // What a node says that is new here, or lags, is not what its broker group has.
        group.topics_known |= group.term > 0 && group.topics_digest == group.digest;
        let mut want_topics = digest == group.digest && group.topics_digest != digest;
        if want_topics && let Some(changes) = changes {
            let base = TopicDigest(changes.base_digest);
            let fits = topics_elsewhere + group.topics.len() + changes.put.len() <= self.limits.topics_max;
            if fits && group.change_topics(base, digest, changes.put, &changes.removed) {
                want_topics = false;
            }
        }
        // The nodes of a group all see a change at about the same time; one table is enough.
        if want_topics
            && let Some((asked, at)) = group.asked
            && asked != node
            && now_ms < at + ASK_AGAIN_MS
        {
            want_topics = false;
        }
        if want_topics {
            group.asked = Some((node, now_ms));
        }
        Ok(group.answer(want_topics, new_node))
    }

    /// Takes a topic table that was asked for.
    ///
    /// # Errors
    /// [`Refused::Full`] when there are too many topics.
    pub fn put_topics(&mut self, report: TopicsReport) -> Result<Taken, Refused> {
        let held = self.topic_count();
        let limit = self.limits.topics_max;
        let Some(group) = self.groups.get_mut(&(report.cluster, report.broker_group)) else {
            return Ok(Taken::No);
        };
        if !group.nodes.contains_key(&report.node) {
            return Ok(Taken::No);
        }
        group.asked = None;
        // Between the request and the last part the group may have moved on; the next report asks again.
        if group.topics_digest == group.digest || (report.version < group.version && report.digest != group.digest) {
            return Ok(Taken::Yes);
        }
        let replaced = if report.base.is_none() { group.topics.len() } else { 0 };
        if held - replaced + report.put.len() > limit {
            return Err(Refused::Full { what: "topics", limit, key: "topicsMax" });
        }
        let taken = match report.base {
            Some(base) => group.change_topics(base, report.digest, report.put, &report.removed),
            None => group.replace_topics(report.digest, report.put),
        };
        if taken && report.version > group.version {
            group.version = report.version;
            group.digest = report.digest;
        }
        Ok(if taken { Taken::Yes } else { Taken::WantFull })
    }

    /// Broker groups of a cluster, or of all when it is empty.
    pub fn groups(&self, cluster: &str) -> impl Iterator<Item = (&GroupName, &Group)> {
        self.groups.iter().filter(move |(name, _)| cluster.is_empty() || name.0 == cluster)
    }

    /// Broker groups of a cluster (all when it is empty) that host a topic.
    pub fn hosts<'t>(
        &'t self,
        cluster: &str,
        topic: &str,
    ) -> impl Iterator<Item = (&'t GroupName, &'t Group, &'t Topic)> {
        self.groups(cluster).filter_map(move |(name, group)| Some((name, group, group.topic(topic)?)))
    }

    /// Up to `max` topic names of a cluster (all when it is empty) after `after`, in order.
    #[must_use]
    pub fn topic_names(&self, cluster: &str, after: Option<&str>, max: usize) -> Vec<String> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for (_, group) in self.groups(cluster) {
            names.extend(group.topics.range::<str, _>((from, Unbounded)).take(max).map(|topic| topic.0.name.as_str()));
        }
        names.into_iter().take(max).map(str::to_owned).collect()
    }

    /// Changes whenever a route of the cluster may, `except` aside; never 0.
    #[must_use]
    pub fn stamp(&self, cluster: &str, except: &str) -> u64 {
        let mut hash = Xxh3::new();
        for (name, group) in self.groups(cluster).filter(|(name, _)| name.1 != except) {
            hash.update(name.0.as_bytes());
            hash.update(&[0]);
            hash.update(name.1.as_bytes());
            hash.update(&[0, u8::from(group.topics_known)]);
            hash.update(&group.topics_digest.0.to_le_bytes());
            for member in &group.members {
                hash.update(&member.encode_length_delimited_to_vec());
            }
        }
        hash.digest().max(1)
    }

    /// Whether a node has reported within the limit.
    #[must_use]
    pub fn alive(&self, node: &Node, now_ms: u64) -> bool {
        now_ms.saturating_sub(node.reported_ms) <= self.limits.silence_ms
    }

    /// Forgets nodes that have been silent for long, and names those that died since `last_ms`.
    pub fn expire(&mut self, last_ms: u64, now_ms: u64) -> Vec<Expired> {
        let limits = self.limits;
        let mut expired = Vec::new();
        self.groups.retain(|name, group| {
            group.nodes.retain(|id, node| {
                let label = || node.report.label.clone();
                if now_ms.saturating_sub(node.reported_ms) > limits.forget_ms {
                    expired.push(Expired::Forgotten { group: name.clone(), label: label(), node: *id });
                    return false;
                }
                let silent = |at: u64| at.saturating_sub(node.reported_ms) > limits.silence_ms;
                if silent(now_ms) && !silent(last_ms) {
                    expired.push(Expired::Dead { group: name.clone(), label: label(), node: *id });
                }
                true
            });
            !group.nodes.is_empty()
        });
        expired
    }

    fn topic_count(&self) -> usize {
        self.groups.values().map(|group| group.topics.len()).sum()
    }

    fn make_room(&self, name: &GroupName, report: &ReportRequest) -> Result<(), Refused> {
        let group = self.groups.get(name);
        if group.is_none() && self.groups.len() >= self.limits.groups_max {
            return Err(Refused::Full { what: "broker groups", limit: self.limits.groups_max, key: "brokerGroupsMax" });
        }
        if group.is_none_or(|group| !group.nodes.contains_key(&report.node)) {
            let nodes: usize = self.groups.values().map(|group| group.nodes.len()).sum();
            if nodes >= self.limits.nodes_max {
                return Err(Refused::Full { what: "nodes", limit: self.limits.nodes_max, key: "nodesMax" });
            }
        }
        Ok(())
    }
}

impl Group {
    /// The topic of that name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name).map(|topic| &topic.0)
    }

    /// How many topics are held.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// A first topic table has arrived.
    #[must_use]
    pub fn topics_known(&self) -> bool {
        self.topics_known
    }

    fn answer(&self, want_topics: bool, new_node: bool) -> Reported {
        Reported {
            want_topics,
            held_version: self.version,
            held_digest: self.topics_digest,
            leader_term: self.leader_term,
            new_node,
        }
    }

    /// A node with an empty disk comes back under a new Raft id: the old id at its label or address is history. When
    /// that was the last of the members, the record describes a group that no longer exists.
    fn forget_predecessors(&mut self, report: &ReportRequest, members: &[Member], now_ms: u64, silence_ms: u64) {
        let here = report.addresses.as_ref();
        self.nodes.retain(|id, node| {
            let there = node.report.addresses.as_ref();
            let same_label = !report.label.is_empty() && node.report.label == report.label;
            let same_peer =
                here.zip(there).is_some_and(|(here, there)| !here.peer.is_empty() && here.peer == there.peer);
            *id == report.node || !(same_label || same_peer)
        });
        if self.members.is_empty() || self.members.iter().any(|member| member.node == report.node) {
            return;
        }
        let witness = |node: &Node| now_ms.saturating_sub(node.reported_ms) <= silence_ms;
        let remembered = self.members.iter().any(|member| self.nodes.contains_key(&member.node));
        let witnessed = self.members.iter().any(|member| self.nodes.get(&member.node).is_some_and(witness));
        let other_group = members.iter().any(|member| member.node == report.node);
        if !remembered || (other_group && !witnessed) {
            *self = Group { nodes: std::mem::take(&mut self.nodes), ..Group::default() };
        }
    }

    fn learn_leader(&mut self, report: &ReportRequest) {
        if report.role() == Role::Leader {
            if report.term >= self.leader_term {
                self.leader_term = report.term;
                self.leader = report.node;
            }
        } else if report.leader != 0 && report.term > self.leader_term {
            self.leader_term = report.term;
            self.leader = report.leader;
        } else if report.node == self.leader && report.term >= self.leader_term {
            // It led and says itself that it does not any more.
            self.leader = 0;
        }
    }

    /// Applies changes when they lead from what is held to `digest`.
    fn change_topics(&mut self, base: TopicDigest, digest: TopicDigest, put: Vec<Topic>, removed: &[String]) -> bool {
        if base != self.topics_digest || (!self.topics_known && base != TopicDigest::default()) {
            return false;
        }
        let mut result = base;
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for name in put.iter().map(|topic| topic.name.as_str()).chain(removed.iter().map(String::as_str)) {
            if !seen.insert(name) {
                return false;
            }
            if let Some(old) = self.topics.get(name) {
                result.remove(&old.0);
            }
        }
        for topic in &put {
            result.add(topic);
        }
        if result != digest {
            return false;
        }
        for name in removed {
            self.topics.remove(name.as_str());
        }
        for topic in put {
            self.topics.replace(ByName(topic));
        }
        self.topics_digest = digest;
        self.topics_known = true;
        true
    }

    fn replace_topics(&mut self, digest: TopicDigest, topics: Vec<Topic>) -> bool {
        let mut result = TopicDigest::default();
        let mut table = BTreeSet::new();
        for topic in topics {
            result.add(&topic);
            table.replace(ByName(topic));
        }
        if result != digest {
            return false;
        }
        self.topics = table;
        self.topics_digest = digest;
        self.topics_known = true;
        true
    }
}

fn check(report: &ReportRequest) -> Result<(), Refused> {
    let invalid = |text: String| Err(Refused::Invalid(text));
    if report.cluster.is_empty() || report.broker_group.is_empty() {
        return invalid("a report names its cluster (brokerClusterName) and broker group (brokerName)".to_owned());
    }
    if report.node == 0 {
        return invalid("a report carries the Raft id of its node".to_owned());
    }
    if report.members.len() > MEMBERS_MAX {
        return invalid(format!("{} members, the limit is {MEMBERS_MAX}", report.members.len()));
    }
    let addresses = report.addresses.iter().chain(report.members.iter().filter_map(|member| member.addresses.as_ref()));
    let texts = [&report.cluster, &report.broker_group, &report.label, &report.program].into_iter();
    let texts = texts.chain(report.members.iter().map(|member| &member.label));
    let texts = texts.chain(addresses.flat_map(|addresses| [&addresses.grpc, &addresses.admin, &addresses.peer]));
    for text in texts {
        if text.len() > TEXT_CHARS_MAX {
            return invalid(format!("a name or address of {} bytes, the limit is {TEXT_CHARS_MAX}", text.len()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_proto::namesrv::{Addresses, TopicChanges};

    fn topic(name: &str, version: u64) -> Topic {
        Topic { name: name.to_owned(), read_queues: 8, write_queues: 8, permission: 6, version, ..Topic::default() }
    }

    fn digest(topics: &[Topic]) -> TopicDigest {
        let mut digest = TopicDigest::default();
        topics.iter().for_each(|topic| digest.add(topic));
        digest
    }

    fn members(nodes: &[u64]) -> Vec<Member> {
        nodes.iter().map(|node| Member { node: *node, label: format!("n{node}"), ..Member::default() }).collect()
    }

    /// One of nodes 1 to 3 of one group, whose topics are given.
    struct Broker {
        node: u64,
        boot: u64,
        sequence: u64,
        role: Role,
        term: u64,
        version: u64,
        topics: Vec<Topic>,
        members: Vec<u64>,
    }

    impl Broker {
        fn new(node: u64) -> Broker {
            let role = if node == 1 { Role::Leader } else { Role::Follower };
            let topics = vec![topic("a", 1), topic("b", 1)];
            Broker { node, boot: 1, sequence: 0, role, term: 3, version: 10, topics, members: vec![1, 2, 3] }
        }

        fn report(&mut self) -> ReportRequest {
            self.sequence += 1;
            ReportRequest {
                cluster: "C".to_owned(),
                broker_group: "G".to_owned(),
                label: format!("n{}", self.node % 10),
                node: self.node,
                boot: self.boot,
                sequence: self.sequence,
                addresses: Some(Addresses { peer: format!("127.0.0.1:{}", self.node % 10), ..Addresses::default() }),
                role: self.role.into(),
                term: self.term,
                leader: if self.role == Role::Leader { self.node } else { 0 },
                members: members(&self.members),
                version: self.version,
                digest: digest(&self.topics).0,
                topic_count: self.topics.len() as u64,
                ..ReportRequest::default()
            }
        }

        fn table(&self) -> TopicsReport {
            TopicsReport {
                cluster: "C".to_owned(),
                broker_group: "G".to_owned(),
                node: self.node,
                version: self.version,
                digest: digest(&self.topics),
                base: None,
                put: self.topics.clone(),
                removed: Vec::new(),
            }
        }

        /// Reports, and sends the whole table when it is wanted.
        fn heartbeat(&mut self, table: &mut RouteTable, now_ms: u64) {
            let reported = table.report(self.report(), now_ms).expect("the report is valid");
            if reported.want_topics {
                assert_eq!(table.put_topics(self.table()), Ok(Taken::Yes));
            }
        }
    }

    fn state(table: &RouteTable) -> String {
        let mut text = String::new();
        for (name, group) in table.groups("") {
            let names: Vec<String> =
                group.topics.iter().map(|topic| format!("{}@{}", topic.0.name, topic.0.version)).collect();
            let members: Vec<u64> = group.members.iter().map(|member| member.node).collect();
            text += &format!(
                "{}/{} leader {}@{} version {} members {members:?} topics {}",
                name.0,
                name.1,
                group.leader,
                group.leader_term,
                group.version,
                names.join(" ")
            );
        }
        text
    }

    fn fed() -> (RouteTable, [Broker; 3]) {
        let mut table = RouteTable::new(Limits::default());
        let mut brokers = [Broker::new(1), Broker::new(2), Broker::new(3)];
        brokers.iter_mut().for_each(|broker| broker.heartbeat(&mut table, 0));
        (table, brokers)
    }

    const FED: &str = "C/G leader 1@3 version 10 members [1, 2, 3] topics a@1 b@1";

    #[test]
    fn a_wiped_table_is_right_after_one_report_of_each_node_in_any_order() {
        let (table, _) = fed();
        assert_eq!(state(&table), FED);
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]] {
            let mut table = RouteTable::new(Limits::default());
            let mut brokers = [Broker::new(1), Broker::new(2), Broker::new(3)];
            for broker in order {
                brokers[broker].heartbeat(&mut table, 0);
            }
            assert_eq!(state(&table), FED);
        }
    }

    #[test]
    fn only_one_node_is_asked_for_the_topics_of_its_group() {
        let mut table = RouteTable::new(Limits::default());
        let mut brokers = [Broker::new(1), Broker::new(2), Broker::new(3)];
        let wanted = |table: &mut RouteTable, broker: &mut Broker, now_ms: u64| {
            table.report(broker.report(), now_ms).expect("the report is valid").want_topics
        };
        assert!(wanted(&mut table, &mut brokers[0], 0));
        assert!(!wanted(&mut table, &mut brokers[1], 1));
        assert!(wanted(&mut table, &mut brokers[0], 2), "the same node may have lost the request");
        assert!(wanted(&mut table, &mut brokers[2], 2 + ASK_AGAIN_MS), "the first one did not deliver");
    }

    #[test]
    fn a_member_that_was_removed_is_not_missed() {
        let (mut table, mut brokers) = fed();
        brokers[0].version = 12;
        brokers[0].members = vec![1, 2];
        brokers[0].heartbeat(&mut table, 10);
        assert_eq!(state(&table), "C/G leader 1@3 version 12 members [1, 2] topics a@1 b@1");
        let nodes = |table: &RouteTable| -> Vec<u64> {
            table.groups("C").flat_map(|(_, group)| group.nodes.keys().copied()).collect()
        };
        assert_eq!(nodes(&table), [1, 2]);
        // One that waits to be admitted is shown before it is a member.
        let mut waits = Broker { role: Role::Learner, members: Vec::new(), ..Broker::new(4) };
        waits.version = 0;
        waits.heartbeat(&mut table, 20);
        assert_eq!(nodes(&table), [1, 2, 4]);
        assert_eq!(state(&table), "C/G leader 1@3 version 12 members [1, 2] topics a@1 b@1");
    }

    #[test]
    fn a_deposed_leader_cannot_overwrite_its_successor() {
        let (mut table, mut brokers) = fed();
        brokers[1].role = Role::Leader;
        brokers[1].term = 4;
        brokers[1].version = 20;
        brokers[1].topics = vec![topic("a", 2)];
        brokers[1].heartbeat(&mut table, 10);
        let after = "C/G leader 2@4 version 20 members [1, 2, 3] topics a@2";
        assert_eq!(state(&table), after);
        // It was stopped, wakes up, and still believes in its term.
        brokers[0].members = vec![1];
        brokers[0].heartbeat(&mut table, 20);
        assert_eq!(state(&table), after);
        // With its own old report again it fares no better.
        brokers[0].heartbeat(&mut table, 40_000);
        assert_eq!(state(&table), after);
        // It follows, catches up, and is a witness again.
        brokers[0].role = Role::Follower;
        brokers[0].term = 4;
        brokers[0].version = 21;
        brokers[0].members = vec![1, 2, 3];
        brokers[0].topics = vec![topic("a", 3)];
        brokers[0].heartbeat(&mut table, 50_000);
        assert_eq!(state(&table), "C/G leader 2@4 version 21 members [1, 2, 3] topics a@3");
    }

    #[test]
    fn a_delayed_report_changes_nothing() {
        let (mut table, mut brokers) = fed();
        let delayed = brokers[0].report();
        brokers[0].version = 12;
        brokers[0].topics.push(topic("c", 1));
        brokers[0].heartbeat(&mut table, 10);
        let after = "C/G leader 1@3 version 12 members [1, 2, 3] topics a@1 b@1 c@1";
        assert_eq!(state(&table), after);
        table.report(delayed, 20).expect("the report is valid");
        assert_eq!(state(&table), after);
    }

    #[test]
    fn changes_apply_to_the_digest_they_name_and_to_nothing_else() {
        let (mut table, mut brokers) = fed();
        let broker = &mut brokers[0];
        let base = digest(&broker.topics).0;
        broker.topics = vec![topic("a", 2), topic("c", 1)];
        broker.version = 11;
        let changes = |base| TopicChanges {
            base_digest: base,
            put: vec![topic("a", 2), topic("c", 1)],
            removed: vec!["b".to_owned()],
        };

        let mut report = broker.report();
        report.changes = Some(changes(base ^ 1));
        let reported = table.report(report, 10).expect("the report is valid");
        assert!(reported.want_topics, "a wrong base asks for the topics");
        assert_eq!(reported.held_digest.0, base);

        let mut report = broker.report();
        report.changes = Some(TopicChanges { removed: Vec::new(), ..changes(base) });
        assert!(table.report(report, 11).expect("the report is valid").want_topics, "a wrong result asks too");

        let mut report = broker.report();
        report.changes = Some(changes(base));
        assert!(!table.report(report, 12).expect("the report is valid").want_topics);
        assert_eq!(state(&table), "C/G leader 1@3 version 11 members [1, 2, 3] topics a@2 c@1");
    }

    #[test]
    fn changes_in_parts_that_do_not_fit_ask_for_the_whole_table() {
        let (mut table, mut brokers) = fed();
        let broker = &mut brokers[0];
        broker.topics.push(topic("c", 1));
        broker.version = 11;
        assert!(table.report(broker.report(), 10).expect("the report is valid").want_topics);
        let full = broker.table();
        let wrong_base = TopicsReport { base: Some(TopicDigest(7)), put: vec![topic("c", 1)], ..full.clone() };
        assert_eq!(table.put_topics(wrong_base), Ok(Taken::WantFull));
        let short = TopicsReport { put: vec![topic("c", 1)], ..full.clone() };
        assert_eq!(table.put_topics(short), Ok(Taken::WantFull));
        assert_eq!(table.put_topics(full), Ok(Taken::Yes));
        assert_eq!(state(&table), "C/G leader 1@3 version 11 members [1, 2, 3] topics a@1 b@1 c@1");
        let stranger = TopicsReport { node: 9, ..brokers[0].table() };
        assert_eq!(table.put_topics(stranger), Ok(Taken::No));
    }

    #[test]
    fn a_death_changes_the_node_list_and_no_route() {
        let (mut table, mut brokers) = fed();
        let stamp = table.stamp("C", "");
        brokers[1].heartbeat(&mut table, 119_000);
        brokers[2].heartbeat(&mut table, 119_000);
        let dead = Expired::Dead { group: ("C".to_owned(), "G".to_owned()), label: "n1".to_owned(), node: 1 };
        assert_eq!(table.expire(119_000, 120_000), []);
        assert_eq!(table.expire(120_000, 125_000), [dead]);
        assert_eq!(table.expire(125_000, 130_000), []);
        assert_eq!(state(&table), FED);
        assert_eq!(table.stamp("C", ""), stamp);
        let alive = |table: &RouteTable| {
            table
                .groups("")
                .flat_map(|(_, group)| group.nodes.values().map(|node| table.alive(node, 130_000)))
                .collect::<Vec<_>>()
        };
        assert_eq!(alive(&table), [false, true, true]);
    }

    #[test]
    fn silence_for_a_day_is_forgotten_and_so_is_an_empty_group() {
        let (mut table, _) = fed();
        let day = Limits::default().forget_ms;
        assert_eq!(table.expire(day, day + 1).len(), 3);
        assert_eq!(state(&table), "");
    }

    #[test]
    fn a_group_on_empty_disks_replaces_the_one_that_was_there() {
        let (mut table, _) = fed();
        for node in [11, 12, 13] {
            let mut broker = Broker::new(node);
            broker.role = if node == 13 { Role::Leader } else { Role::Follower };
            broker.term = 1;
            broker.version = 2;
            broker.topics = vec![topic("z", 1)];
            broker.members = vec![11, 12, 13];
            broker.heartbeat(&mut table, 1_000);
        }
        assert_eq!(state(&table), "C/G leader 13@1 version 2 members [11, 12, 13] topics z@1");
    }

    #[test]
    fn a_wiped_member_that_is_not_admitted_takes_no_route_away() {
        let (mut table, _) = fed();
        let mut wiped = Broker::new(13);
        wiped.role = Role::Follower;
        wiped.term = 0;
        wiped.version = 0;
        wiped.topics = Vec::new();
        wiped.members = Vec::new();
        wiped.heartbeat(&mut table, 1_000);
        assert_eq!(state(&table), FED);
        let nodes: Vec<u64> = table.groups("").flat_map(|(_, group)| group.nodes.keys().copied()).collect();
        assert_eq!(nodes, [1, 2, 13]);
    }

    #[test]
    fn a_group_without_topics_is_known_at_once_and_deleting_the_last_one_works() {
        let mut table = RouteTable::new(Limits::default());
        let mut broker = Broker::new(1);
        broker.topics = Vec::new();
        assert!(!table.report(broker.report(), 0).expect("the report is valid").want_topics);
        assert!(table.groups("").all(|(_, group)| group.topics_known()));
        broker.topics = vec![topic("a", 1)];
        broker.version = 11;
        broker.heartbeat(&mut table, 1);
        assert_eq!(table.topic_names("C", None, 10), ["a"]);
        broker.topics = Vec::new();
        broker.version = 12;
        broker.heartbeat(&mut table, 2);
        assert_eq!(table.topic_names("C", None, 10), [""; 0]);
    }

    #[test]
    fn topic_names_come_in_order_and_in_pages() {
        let (mut table, _) = fed();
        let mut other = Broker::new(5);
        other.topics = vec![topic("aa", 1), topic("b", 1), topic("c", 1)];
        let mut report = other.report();
        report.broker_group = "H".to_owned();
        assert!(table.report(report, 0).expect("the report is valid").want_topics);
        let full = TopicsReport { broker_group: "H".to_owned(), ..other.table() };
        assert_eq!(table.put_topics(full), Ok(Taken::Yes));
        assert_eq!(table.topic_names("C", None, 2), ["a", "aa"]);
        assert_eq!(table.topic_names("C", Some("aa"), 2), ["b", "c"]);
        assert_eq!(table.topic_names("C", Some("c"), 2), [""; 0]);
        assert_eq!(table.topic_names("D", None, 2), [""; 0]);
        assert_eq!(table.hosts("C", "b").count(), 2);
        assert_eq!(table.hosts("", "c").count(), 1);
        assert_ne!(table.stamp("C", ""), table.stamp("C", "G"));
    }

    #[test]
    fn bounds_hold_and_name_their_keys() {
        let limits = Limits { groups_max: 1, nodes_max: 2, topics_max: 1, ..Limits::default() };
        let mut table = RouteTable::new(limits);
        table.report(Broker::new(1).report(), 0).expect("the first node fits");
        assert_eq!(
            table.put_topics(Broker::new(1).table()),
            Err(Refused::Full { what: "topics", limit: 1, key: "topicsMax" })
        );
        table.report(Broker::new(2).report(), 0).expect("the second node fits");
        let refused = table.report(Broker::new(3).report(), 0).expect_err("the third does not");
        assert!(refused.to_string().contains("nodesMax"), "{refused}");
        let mut other = Broker::new(4).report();
        other.broker_group = "H".to_owned();
        assert!(table.report(other, 0).expect_err("one group only").to_string().contains("brokerGroupsMax"));
        let nameless = ReportRequest { cluster: String::new(), ..Broker::new(1).report() };
        assert!(matches!(table.report(nameless, 0), Err(Refused::Invalid(_))));
        let long = ReportRequest { label: "x".repeat(256), ..Broker::new(1).report() };
        assert!(matches!(table.report(long, 0), Err(Refused::Invalid(_))));
    }

    #[test]
    fn a_hundred_thousand_topics_cost_a_change_one_topic() {
        let mut table = RouteTable::new(Limits::default());
        let mut broker = Broker::new(1);
        broker.topics = (0..100_000).map(|number| topic(&format!("topic-{number}"), 1)).collect();
        broker.heartbeat(&mut table, 0);
        let base = digest(&broker.topics).0;
        broker.topics.push(topic("new", 1));
        broker.version += 1;
        let mut report = broker.report();
        report.changes = Some(TopicChanges { base_digest: base, put: vec![topic("new", 1)], removed: Vec::new() });
        assert!(report.encoded_len() < 1_000);
        assert!(!table.report(report, 1).expect("the report is valid").want_topics);
        assert_eq!(table.hosts("C", "new").count(), 1);
    }
}
