//! `getBrokerEpoch`: the terms of each broker group as the logs of its nodes have them.

use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::{GroupStatusRequest, GroupStatusResponse};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Show the terms in each node's log, with the index of each one's first entry.
///
/// An epoch is a term of Raft: it has one leader. Its end is the beginning of the next one, of the last one the end of
/// the log. Of a term that began before the oldest entry that is kept, the beginning is that entry.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getBrokerEpoch -n localhost:9876 -b RaftNode00")]
pub(crate) struct Arguments {
    /// Only this broker group.
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    broker_group: Option<String>,
    /// Only in this cluster.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Accepted and ignored: the terms are shown once.
    #[arg(short = 'i', long = "interval", hide = true)]
    _interval: Option<u64>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (cluster, broker_group) = (arguments.cluster.as_deref(), arguments.broker_group.as_deref());
    let groups = super::groups_named(directory, cluster, broker_group).await?;
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for group in groups {
        let (mut found, mut leader) = (Vec::new(), (0, 0));
        for node in group.nodes.iter().filter(|node| !node.admin.is_empty()) {
            let mut client = crate::connect::admin(&node.admin, &directory.token)?;
            match client.group_status(GroupStatusRequest {}).await {
                Ok(status) => {
                    let status = status.into_inner();
                    leader = leader.max((status.term, status.leader));
                    found.push((node.admin.clone(), status));
                }
                Err(status) => {
                    let at = crate::connect::at(&node.admin, &status);
                    failures.push(format!("{} of {}: {at}", node.label, group.name));
                }
            }
        }
        for (id, (address, status)) in super::cluster_list::broker_ids(leader.1, &found, |(_, status)| status.node) {
            text += &describe(&group, id, address, status);
            rows.push(to_json(&group, id, address, status));
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

/// Term, leader, first index and the index after the last one.
fn epochs(status: &GroupStatusResponse) -> Vec<(u64, String, u64, u64)> {
    let end = status.last_index.map_or(0, |last| last + 1);
    let ends = status.terms.iter().skip(1).map(|next| next.first_index).chain([end]);
    let leader = |node: u64| {
        let member = status.members.iter().find(|member| member.node == node);
        member.map_or_else(|| format!("{node:x}"), |member| member.label.clone())
    };
    status.terms.iter().zip(ends).map(|(term, end)| (term.term, leader(term.node), term.first_index, end)).collect()
}

fn describe(group: &Group, id: usize, address: &str, status: &GroupStatusResponse) -> String {
    let mut text = format!(
        "#clusterName\t{}\n#brokerName\t{}\n#brokerAddr\t{address}\n#brokerId\t{id}\n",
        group.cluster, group.name
    );
    for (term, leader, start, end) in epochs(status) {
        let _ = writeln!(
            text,
            "#Epoch: EpochEntry{{epoch={term}, startOffset={start}, endOffset={end}, leader='{leader}'}}"
        );
    }
    text + "\n"
}

fn to_json(group: &Group, id: usize, address: &str, status: &GroupStatusResponse) -> Value {
    let terms = epochs(status).into_iter().map(
        |(term, leader, start, end)| json!({ "term": term, "leader": leader, "firstIndex": start, "endIndex": end }),
    );
    json!({
        "cluster": group.cluster,
        "brokerName": group.name,
        "brokerId": id,
        "addr": address,
        "label": status.label,
        "terms": terms.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_proto::admin::{Member, TermStart};

    #[test]
    fn a_term_ends_where_the_next_one_begins() {
        let term = |term, node, first_index| TermStart { term, node, first_index };
        let members = vec![Member { node: 0xa, label: "n0".to_owned(), ..Member::default() }];
        let terms = vec![term(1, 0xa, 5), term(4, 0xb, 9)];
        let status = GroupStatusResponse { terms, members, last_index: Some(20), ..GroupStatusResponse::default() };
        let group = Group { cluster: "C".to_owned(), name: "G".to_owned(), ..Group::default() };
        let text = describe(&group, 0, "h:1", &status);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..4], ["#clusterName\tC", "#brokerName\tG", "#brokerAddr\th:1", "#brokerId\t0"]);
        let epochs = [
            "#Epoch: EpochEntry{epoch=1, startOffset=5, endOffset=9, leader='n0'}",
            "#Epoch: EpochEntry{epoch=4, startOffset=9, endOffset=21, leader='b'}",
        ];
        assert_eq!(lines[4..6], epochs);
        let empty = GroupStatusResponse::default();
        assert!(!describe(&group, 1, "h:2", &empty).contains("Epoch"), "a node without a log has no terms");
    }
}
