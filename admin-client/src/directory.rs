//! Who is where: broker groups and their nodes, from the name servers or from one node named with `-b`.

use crate::connect::{self, Admin, Token, at, try_another};
use crate::error::AdminError;
use raftmq_proto::admin::GroupStatusRequest;
use raftmq_proto::namesrv::{
    BrokerGroup, ListNodesRequest, ListNodesResponse, ListTopicsRequest, Role, RouteRequest, RouteResponse,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::Status;

/// A name server that hangs is not waited for longer.
const NAME_SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// When one name server has answered, the others get this much longer: one that hangs holds nobody up.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(300);

/// What every command needs to find its way.
#[derive(Clone)]
pub struct Directory {
    /// `host:port` each.
    pub name_servers: Vec<String>,
    /// What calls show.
    pub token: Token,
    /// Takes a sentence about an answer that is not all that it could be, where the caller goes on all the same.
    pub notice: fn(&str),
}

/// A broker group as the name servers or one of its nodes know it.
#[derive(Debug, Clone, Default)]
pub struct Group {
    /// Its cluster.
    pub cluster: String,
    /// `brokerName`.
    pub name: String,
    /// Raft id of the leader; 0 when none is known.
    pub leader: u64,
    /// Of that leader.
    pub term: u64,
    /// By label.
    pub nodes: Vec<Node>,
}

/// A broker node.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Raft id.
    pub node: u64,
    /// `dLegerSelfId`.
    pub label: String,
    /// `host:port` of `raftmq.admin.v1`; empty when it is not known.
    pub admin: String,
    /// `host:port` of the public API.
    pub grpc: String,
    /// `host:port` for other members.
    pub peer: String,
    /// It belongs to the group; a node that waits to be admitted does not.
    pub member: bool,
    /// It votes.
    pub voter: bool,
    /// As it reported.
    pub role: Role,
    /// As it reported.
    pub term: u64,
    /// Version of its program.
    pub program: String,
    /// It reported lately.
    pub alive: bool,
}

impl Group {
    /// The leader first, then nodes that reported lately, then the rest.
    pub fn by_promise(&self) -> Vec<&Node> {
        let mut nodes: Vec<&Node> = self.nodes.iter().filter(|node| !node.admin.is_empty()).collect();
        nodes.sort_by_key(|node| (node.node != self.leader, !node.alive, !node.member));
        nodes
    }
}

/// Where a command goes.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// All broker groups of a cluster.
    Cluster(&'a str),
    /// The broker group of the node at this admin address.
    Broker(&'a str),
    /// All broker groups of the only cluster.
    OnlyCluster,
}

impl<'a> Target<'a> {
    /// From `-b` and `-c`.
    pub fn new(broker: Option<&'a str>, cluster: Option<&'a str>) -> Target<'a> {
        match (broker, cluster) {
            (Some(broker), _) => Target::Broker(broker),
            (None, Some(cluster)) => Target::Cluster(cluster),
            (None, None) => Target::OnlyCluster,
        }
    }
}

impl Directory {
    /// The broker groups that a command goes to; never none.
    pub async fn groups(&self, target: Target<'_>) -> Result<Vec<Group>, AdminError> {
        match target {
            Target::Broker(address) => Ok(vec![self.group_of(address).await?]),
            Target::Cluster(cluster) => {
                let all = self.all().await?;
                let clusters = clusters(&all);
                let groups: Vec<Group> = all.into_iter().filter(|group| group.cluster == cluster).collect();
                if groups.is_empty() {
                    return Err(unknown_cluster(cluster, &clusters));
                }
                Ok(groups)
            }
            Target::OnlyCluster => {
                let all = self.all().await?;
                let clusters = clusters(&all);
                match clusters.len() {
                    0 => Err(AdminError::Unknown(format!(
                        "no broker has reported to {} so far; start one with namesrvAddr set to it",
                        self.name_servers.join(" or ")
                    ))),
                    1 => Ok(all),
                    _ => Err(AdminError::Usage(format!(
                        "there is more than one cluster: name one of {} with -c",
                        clusters.into_iter().collect::<Vec<_>>().join(", ")
                    ))),
                }
            }
        }
    }

    /// Every broker group that any name server knows, the newest of what they know, by cluster and name.
    pub async fn all(&self) -> Result<Vec<Group>, AdminError> {
        let request = ListNodesRequest::default();
        let answers = self.ask(|mut client| async move { Ok(client.list_nodes(request).await?.into_inner()) }).await?;
        Ok(merge(answers))
    }

    /// Every topic by cluster.
    pub async fn topics(&self) -> Result<BTreeMap<String, BTreeSet<String>>, AdminError> {
        let answers = self
            .ask(|mut client| async move {
                let mut parts = client.list_topics(ListTopicsRequest::default()).await?.into_inner();
                let mut topics = Vec::new();
                while let Some(part) = parts.next().await {
                    topics.extend(part?.topics);
                }
                Ok(topics)
            })
            .await?;
        let mut topics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for route in answers.into_iter().flatten() {
            for host in route.broker_groups {
                topics.entry(host.cluster).or_default().insert(route.topic.clone());
            }
        }
        Ok(topics)
    }

    /// What the name servers say of a topic: for each broker group that hosts it, the newest.
    pub async fn route(&self, topic: &str) -> Result<Vec<(BrokerGroup, raftmq_proto::namesrv::Topic)>, AdminError> {
        let request = RouteRequest { topics: vec![topic.to_owned()], ..RouteRequest::default() };
        let answers = self.ask(|mut client| async move { Ok(client.route(request).await?.into_inner()) }).await?;
        Ok(merge_routes(answers))
    }

    /// Asks all name servers at once; the answers of those that answer.
    async fn ask<T, F>(&self, call: impl FnOnce(connect::NameServer) -> F + Clone) -> Result<Vec<T>, AdminError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Status>> + Send + 'static,
    {
        let mut calls = JoinSet::new();
        for address in &self.name_servers {
            let (address, answer) = (address.clone(), call.clone()(connect::name_server(address, &self.token)?));
            calls.spawn(async move { answer.await.map_err(|status| at(&address, &status)) });
        }
        let (mut answers, mut reasons) = (Vec::new(), Vec::new());
        let mut until = Instant::now() + NAME_SERVER_TIMEOUT;
        while let Ok(Some(joined)) = tokio::time::timeout_at(until, calls.join_next()).await {
            match joined {
                Ok(Ok(answer)) => {
                    answers.push(answer);
                    until = until.min(Instant::now() + OTHERS_TIMEOUT);
                }
                Ok(Err(reason)) => reasons.push(reason),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        if answers.is_empty() {
            if reasons.len() < self.name_servers.len() {
                reasons.push(format!("no answer within {} s", NAME_SERVER_TIMEOUT.as_secs()));
            }
            return Err(AdminError::NoNameServer { reasons: reasons.join(", ") });
        }
        Ok(answers)
    }

    /// The broker group of the node at an admin address, as that node knows it.
    async fn group_of(&self, address: &str) -> Result<Group, AdminError> {
        let status = connect::admin(address, &self.token)?.group_status(GroupStatusRequest {}).await;
        let status = status.map_err(|status| match try_another(&status) {
            true => AdminError::Unknown(format!(
                "{}; -b takes a broker's brokerIP1:listenPort, as clusterList shows it under #Addr",
                at(address, &status)
            )),
            false => AdminError::refused(address, &status),
        })?;
        let status = status.into_inner();
        let mut nodes: Vec<Node> = status
            .members
            .into_iter()
            .map(|member| Node {
                node: member.node,
                label: member.label,
                admin: member.admin,
                grpc: member.grpc,
                peer: member.peer,
                member: true,
                voter: member.voter,
                alive: true,
                ..Node::default()
            })
            .collect();
        if !nodes.iter().any(|node| node.node == status.node) {
            let (admin, label) = (address.to_owned(), status.label);
            nodes.push(Node { node: status.node, label, admin, alive: true, ..Node::default() });
        }
        Ok(Group {
            cluster: status.cluster,
            name: status.broker_group,
            leader: status.leader,
            term: status.term,
            nodes,
        })
    }

    /// As [`Directory::on_group`], for reads: where no node can promise that it has all that was acknowledged, because
    /// there is no leader, what one of them has is better than nothing, and a line says so.
    pub async fn read_group<T, F>(
        &self,
        group: &Group,
        mut call: impl FnMut(Admin, bool) -> F,
    ) -> Result<(String, T), AdminError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        match self.on_group(group, |node| call(node, false)).await {
            Err(refused @ AdminError::NoNode { .. }) => {
                let Ok(answer) = self.on_group(group, |node| call(node, true)).await else { return Err(refused) };
                (self.notice)(&format!(
                    "broker group {} has no leader; {} answers with what it has, which may not be the newest",
                    group.name, answer.0
                ));
                Ok(answer)
            }
            outcome => outcome,
        }
    }

    /// Asks the nodes of a group, the leader first, until one answers; its admin address and the answer.
    pub async fn on_group<T, F>(
        &self,
        group: &Group,
        mut call: impl FnMut(Admin) -> F,
    ) -> Result<(String, T), AdminError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut reasons = Vec::new();
        for node in group.by_promise() {
            match call(connect::admin(&node.admin, &self.token)?).await {
                Ok(answer) => return Ok((node.admin.clone(), answer)),
                Err(status) if try_another(&status) => reasons.push(at(&node.admin, &status)),
                Err(status) => return Err(AdminError::refused(&node.admin, &status)),
            }
        }
        Err(AdminError::NoNode { broker_group: group.name.clone(), reasons: reasons.join(", ") })
    }
}

fn clusters(groups: &[Group]) -> BTreeSet<String> {
    groups.iter().map(|group| group.cluster.clone()).collect()
}

fn unknown_cluster(cluster: &str, known: &BTreeSet<String>) -> AdminError {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    AdminError::Unknown(match known.as_slice() {
        [] => format!("no broker of cluster {cluster} has reported to the name servers so far"),
        known => format!("no cluster is called {cluster}; the name servers know {}", known.join(", ")),
    })
}

fn merge(answers: Vec<ListNodesResponse>) -> Vec<Group> {
    let mut groups: BTreeMap<(String, String), BrokerGroup> = BTreeMap::new();
    let mut nodes: BTreeMap<(String, String, u64), raftmq_proto::namesrv::Node> = BTreeMap::new();
    for answer in answers {
        for group in answer.broker_groups {
            let name = (group.cluster.clone(), group.name.clone());
            let held = groups.get(&name);
            if held.is_none_or(|held| (group.term, group.version) > (held.term, held.version)) {
                groups.insert(name, group);
            }
        }
        for node in answer.nodes {
            let name = (node.cluster.clone(), node.broker_group.clone(), node.node);
            if nodes.get(&name).is_none_or(|held| node.silent_ms < held.silent_ms) {
                nodes.insert(name, node);
            }
        }
    }
    let mut merged = Vec::new();
    for ((cluster, name), group) in groups {
        let mut all: BTreeMap<u64, Node> = BTreeMap::new();
        for member in group.members {
            let addresses = member.addresses.unwrap_or_default();
            all.insert(
                member.node,
                Node {
                    node: member.node,
                    label: member.label,
                    admin: addresses.admin,
                    grpc: addresses.grpc,
                    peer: addresses.peer,
                    member: true,
                    voter: member.voter,
                    role: Role::Unspecified,
                    ..Node::default()
                },
            );
        }
        let reported = nodes.values().filter(|node| node.cluster == cluster && node.broker_group == name);
        for report in reported {
            let node = all.entry(report.node).or_default();
            let addresses = report.addresses.clone().unwrap_or_default();
            node.node = report.node;
            node.label.clone_from(&report.label);
            (node.admin, node.grpc, node.peer) = (addresses.admin, addresses.grpc, addresses.peer);
            node.role = report.role();
            node.term = report.term;
            node.program.clone_from(&report.program);
            node.alive = report.alive;
        }
        let mut nodes: Vec<Node> = all.into_values().collect();
        nodes.sort_by(|a, b| (&a.label, a.node).cmp(&(&b.label, b.node)));
        merged.push(Group { cluster, name, leader: group.leader, term: group.term, nodes });
    }
    merged
}

fn merge_routes(answers: Vec<RouteResponse>) -> Vec<(BrokerGroup, raftmq_proto::namesrv::Topic)> {
    type Hosted = (BrokerGroup, Option<raftmq_proto::namesrv::Topic>);
    let mut best: BTreeMap<(String, String), Hosted> = BTreeMap::new();
    for answer in answers {
        for group in answer.broker_groups {
            let name = (group.cluster.clone(), group.name.clone());
            let newer = |(held, _): &Hosted| {
                (group.topics_known, group.version, group.term) > (held.topics_known, held.version, held.term)
            };
            if best.get(&name).is_none_or(newer) {
                let hosts = answer.topics.iter().flat_map(|route| &route.broker_groups);
                let mut hosts = hosts.filter(|host| (&host.cluster, &host.broker_group) == (&name.0, &name.1));
                let topic = hosts.next().and_then(|host| host.topic.clone());
                best.insert(name, (group, topic));
            }
        }
    }
    best.into_values().filter_map(|(group, topic)| Some((group, topic?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_proto::namesrv::{Addresses, Member, Node as WireNode, Topic, TopicInGroup, TopicRoute};

    fn answer(term: u64, leader: u64, silent_ms: [u64; 2]) -> ListNodesResponse {
        let addresses = |node: u64| Some(Addresses { admin: format!("h{node}:10911"), ..Addresses::default() });
        let member = |node: u64| Member {
            node,
            label: format!("n{node}"),
            addresses: addresses(node),
            voter: true,
            ..Member::default()
        };
        let node = |node: u64, silent_ms: u64| WireNode {
            cluster: "C".to_owned(),
            broker_group: "G".to_owned(),
            label: format!("n{node}"),
            node,
            addresses: addresses(node),
            role: if node == leader { Role::Leader } else { Role::Follower }.into(),
            term,
            silent_ms,
            alive: silent_ms < 120_000,
            ..WireNode::default()
        };
        ListNodesResponse {
            nodes: vec![node(1, silent_ms[0]), node(2, silent_ms[1])],
            broker_groups: vec![BrokerGroup {
                cluster: "C".to_owned(),
                name: "G".to_owned(),
                term,
                leader,
                version: term,
                members: vec![member(1), member(2), member(3)],
                ..BrokerGroup::default()
            }],
        }
    }

    #[test]
    fn the_newest_of_two_name_servers_wins() {
        let groups = merge(vec![answer(3, 1, [200_000, 10]), answer(4, 2, [10, 5])]);
        assert_eq!(groups.len(), 1);
        assert_eq!((groups[0].leader, groups[0].term), (2, 4));
        let nodes: Vec<_> = groups[0].nodes.iter().map(|node| (node.node, node.alive, node.role)).collect();
        assert_eq!(nodes, [(1, true, Role::Follower), (2, true, Role::Leader), (3, false, Role::Unspecified)]);
        let order: Vec<u64> = groups[0].by_promise().iter().map(|node| node.node).collect();
        assert_eq!(order, [2, 1, 3], "the leader first, the one that never reported last");
    }

    #[test]
    fn a_group_that_lost_a_topic_does_not_host_it() {
        let answer = |version, hosted: bool| RouteResponse {
            topics: if hosted {
                vec![TopicRoute {
                    topic: "t".to_owned(),
                    broker_groups: vec![TopicInGroup {
                        cluster: "C".to_owned(),
                        broker_group: "G".to_owned(),
                        topic: Some(Topic { version, ..Topic::default() }),
                    }],
                }]
            } else {
                Vec::new()
            },
            broker_groups: vec![BrokerGroup {
                cluster: "C".to_owned(),
                name: "G".to_owned(),
                version,
                topics_known: true,
                ..BrokerGroup::default()
            }],
            ..RouteResponse::default()
        };
        assert_eq!(merge_routes(vec![answer(3, true), answer(4, false)]).len(), 0);
        let routes = merge_routes(vec![answer(5, true), answer(4, false)]);
        assert_eq!(routes.iter().map(|(_, topic)| topic.version).collect::<Vec<_>>(), [5]);
    }
}
