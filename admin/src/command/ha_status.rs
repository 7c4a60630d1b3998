//! `haStatus`: replication as each node sees it.

use super::Where;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use raftmq_proto::admin::{GroupStatusRequest, GroupStatusResponse};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Show the state of replication: indexes, votes and fsync times of each node, and each leader's view of its peers.
#[derive(Debug, Args)]
#[command(visible_alias = "raftStatus", after_help = "Example: mqadmin haStatus -n localhost:9876 -c DefaultCluster")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// Accepted and ignored: the state is printed once.
    #[arg(short = 'i', long = "interval", hide = true)]
    _interval: Option<u64>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for group in directory.groups(arguments.place.target()).await? {
        let mut nodes = Table::new(&[
            "#Label",
            "#Addr",
            "#Role",
            "#Term",
            "#Last",
            "#Committed",
            "#Applied",
            "#Purged",
            "#Flush",
            "#Fsync p50/p99(us)",
            "#Log(bytes)",
        ]);
        let mut peers = Table::new(&["#Peer", "#Addr", "#Voter", "#Matched", "#Lag", "#LastAck(ms)"]);
        let (mut answered, mut troubles) = (0, String::new());
        for node in group.nodes.iter().filter(|node| !node.admin.is_empty()) {
            let mut client = crate::connect::admin(&node.admin, &directory.token)?;
            let status = match client.group_status(GroupStatusRequest {}).await {
                Ok(status) => status.into_inner(),
                Err(status) => {
                    failures.push(format!(
                        "{} of {}: {}",
                        node.label,
                        group.name,
                        crate::connect::at(&node.admin, &status)
                    ));
                    continue;
                }
            };
            answered += 1;
            if !status.trouble.is_empty() {
                let _ = writeln!(troubles, "{} says: {}", status.label, status.trouble);
            }
            nodes.row(vec![
                status.label.clone(),
                node.admin.clone(),
                status.role.clone(),
                status.term.to_string(),
                index(status.last_index),
                index(status.committed_index),
                index(status.applied_index),
                index(status.purged_index),
                status.flush.clone(),
                format!("{}/{}", status.fsync_p50_us, status.fsync_p99_us),
                status.log_bytes.to_string(),
            ]);
            if status.role == "leader" {
                for member in &status.members {
                    peers.row(vec![
                        member.label.clone(),
                        member.peer.clone(),
                        member.voter.to_string(),
                        index(member.matched),
                        index(member.lag),
                        index(member.last_ack_ms),
                    ]);
                }
            }
            rows.push(to_json(&node.admin, &status));
        }
        let _ = writeln!(text, "#Cluster Name: {}  #Broker Name: {}\n{nodes}", group.cluster, group.name);
        text.push_str(&troubles);
        if !peers.is_empty() {
            let _ = writeln!(text, "{peers}");
        } else if answered > 0 {
            let _ = writeln!(text, "no node that answers leads this broker group\n");
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

fn index(value: Option<u64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn to_json(address: &str, status: &GroupStatusResponse) -> Value {
    let members: Vec<Value> = status
        .members
        .iter()
        .map(|member| {
            json!({
                "node": format!("{:x}", member.node),
                "label": member.label,
                "addr": member.admin,
                "grpc": member.grpc,
                "peer": member.peer,
                "voter": member.voter,
                "matched": member.matched,
                "lag": member.lag,
                "lastAckMs": member.last_ack_ms,
                "commandVersionKnown": member.command_version_known,
            })
        })
        .collect();
    json!({
        "cluster": status.cluster,
        "brokerName": status.broker_group,
        "label": status.label,
        "node": format!("{:x}", status.node),
        "addr": address,
        "boot": status.boot,
        "role": status.role,
        "term": status.term,
        "leader": format!("{:x}", status.leader),
        "vote": { "term": status.vote_term, "node": format!("{:x}", status.vote_node) },
        "last": status.last_index,
        "committed": status.committed_index,
        "applied": status.applied_index,
        "purged": status.purged_index,
        "members": members,
        "fsyncP50Us": status.fsync_p50_us,
        "fsyncP99Us": status.fsync_p99_us,
        "version": status.version,
        "commandVersion": status.command_version,
        "commandVersionKnown": status.command_version_known,
        "logBytes": status.log_bytes,
        "flush": status.flush,
        "topics": status.topics,
        "consumerGroups": status.consumer_groups,
        "trouble": status.trouble,
        "messagesIn": status.messages_in,
        "messagesOut": status.messages_out,
        "messagesSentAgain": status.messages_sent_again,
        "messageIdsReused": status.message_ids_reused,
    })
}
