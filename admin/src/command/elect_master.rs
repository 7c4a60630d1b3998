//! `electMaster`: hands the leadership of a broker group to another member.

use super::PerGroup;
use crate::directory::{Directory, Group, Target};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::TransferLeaderRequest;
use serde_json::json;

/// Hand the leadership of a broker group to another member, without a gap that clients notice.
#[derive(Debug, Args)]
#[command(
    visible_alias = "transferLeader",
    after_help = "Example: mqadmin electMaster -n localhost:9876 -c RaftCluster -b n1"
)]
pub(crate) struct Arguments {
    /// Who is to lead: its label, #BID or #Addr of clusterList; left out, the member that is closest behind.
    #[arg(short = 'b', long = "brokerId", value_name = "NODE")]
    node: Option<String>,
    /// Only in this cluster.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Only in this broker group; needless where there is one.
    #[arg(long = "brokerName", value_name = "NAME")]
    broker_name: Option<String>,
    /// Accepted and ignored: there is no controller, members elect by themselves.
    #[arg(short = 'a', long = "controllerAddress", hide = true)]
    _controller: Option<String>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let mut groups = directory.groups(Target::new(None, arguments.cluster.as_deref())).await?;
    let known: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
    if let Some(name) = &arguments.broker_name {
        groups.retain(|group| group.name == *name);
        if groups.is_empty() {
            return Err(AdminError::Unknown(format!(
                "no broker group is called {name}; there are {}",
                known.join(", ")
            )));
        }
    }
    // A label exists in every group; whose leader is meant must be said.
    if groups.len() > 1 && !names_one(arguments.node.as_deref(), &groups) {
        return Err(AdminError::Usage(format!(
            "there is more than one broker group: name one of {} with --brokerName",
            known.join(", ")
        )));
    }
    let mut report = PerGroup::default();
    for group in groups {
        let chosen = match &arguments.node {
            Some(wanted) => match find(&group, wanted) {
                Some(node) => Some(node),
                None if known.len() > 1 => continue,
                None => {
                    let labels: Vec<&str> = group.nodes.iter().map(|node| node.label.as_str()).collect();
                    return Err(AdminError::Unknown(format!(
                        "broker group {} has no member {wanted}; it has {}",
                        group.name,
                        labels.join(", ")
                    )));
                }
            },
            None => None,
        };
        let request = TransferLeaderRequest { node: chosen.unwrap_or(0), label: String::new() };
        let transferred = directory.on_group(&group, |mut node| {
            let request = request.clone();
            async move { Ok(node.transfer_leader(request).await?.into_inner()) }
        });
        match transferred.await {
            Ok((_, answer)) => {
                let name = |id: u64| {
                    let node = group.nodes.iter().find(|node| node.node == id);
                    node.map_or_else(|| format!("{id:x}"), |node| format!("{} ({})", node.label, node.admin))
                };
                let (from, to) = (name(answer.from), name(answer.to));
                let text = if answer.from == answer.to {
                    format!("broker group {} is led by {to} already, in term {}\n", group.name, answer.term)
                } else {
                    format!(
                        "broker group {}: leadership went from {from} to {to}, in term {}\n",
                        group.name, answer.term
                    )
                };
                let json = json!({
                    "brokerName": group.name,
                    "from": format!("{:x}", answer.from),
                    "to": format!("{:x}", answer.to),
                    "term": answer.term,
                });
                report.done(&text, json);
            }
            Err(error) => report.failed(&group.name, &error),
        }
    }
    Ok(report.outcome())
}

/// Whether an address says by itself which group is meant.
fn names_one(wanted: Option<&str>, groups: &[Group]) -> bool {
    wanted.is_some_and(|wanted| {
        wanted.contains(':') && groups.iter().filter(|group| find(group, wanted).is_some()).count() == 1
    })
}

/// A member by address, label, Raft id in hexadecimal, or number in clusterList.
fn find(group: &Group, wanted: &str) -> Option<u64> {
    let member = |test: &dyn Fn(&crate::directory::Node) -> bool| {
        group.nodes.iter().find(|node| node.member && test(node)).map(|node| node.node)
    };
    member(&|node| node.admin == wanted || node.grpc == wanted || node.peer == wanted)
        .or_else(|| member(&|node| node.label == wanted))
        .or_else(|| member(&|node| format!("{:x}", node.node) == wanted))
        .or_else(|| {
            let number: usize = wanted.parse().ok()?;
            let ids = super::cluster_list::broker_ids(group.leader, &group.nodes, |node| node.node);
            ids.into_iter().find(|(id, _)| *id == number).map(|(_, node)| node.node)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Node;

    #[test]
    fn members_by_any_of_their_names() {
        let node = |node: u64| Node {
            node,
            label: format!("n{}", node - 0xa0),
            admin: format!("h:{}", node - 0xa0),
            member: true,
            ..Node::default()
        };
        let group = Group { leader: 0xa1, nodes: vec![node(0xa0), node(0xa1), node(0xa2)], ..Group::default() };
        for (wanted, found) in [
            ("n2", Some(0xa2)),
            ("h:0", Some(0xa0)),
            ("a1", Some(0xa1)),
            ("0", Some(0xa1)),
            ("3", Some(0xa2)),
            ("x", None),
        ] {
            assert_eq!(find(&group, wanted), found, "{wanted}");
        }
        assert!(names_one(Some("h:1"), std::slice::from_ref(&group)));
        assert!(!names_one(Some("n1"), &[group]));
    }
}
