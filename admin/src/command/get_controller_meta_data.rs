//! `getControllerMetaData`: who decides, under the names that RocketMQ has for it.

use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_admin_client::look::{leader, look};
use serde_json::json;
use std::fmt::Write as _;

/// Show the Raft group behind each broker name as RocketMQ shows its controllers: leader and peers.
///
/// There is no controller here: members of a broker group elect their leader by themselves. haStatus shows more.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getControllerMetaData -n localhost:9876")]
pub(crate) struct Arguments {
    /// Accepted and ignored: the name servers know the nodes.
    #[arg(short = 'a', long = "controllerAddress", hide = true)]
    _controller: Option<String>,
    /// Only in this cluster.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Only this broker group.
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    broker_group: Option<String>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (cluster, broker_group) = (arguments.cluster.as_deref(), arguments.broker_group.as_deref());
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for group in super::groups_named(directory, cluster, broker_group).await? {
        let (seen, silent) = look(directory, &group).await?;
        failures.extend(silent);
        let (leader, term) = leader(&group, &seen);
        let leads = group.nodes.iter().find(|node| node.node == leader);
        let (label, address) = leads.map_or(("", ""), |node| (node.label.as_str(), node.peer.as_str()));
        let voters: Vec<_> = group.nodes.iter().filter(|node| node.member && node.voter).collect();
        let _ = writeln!(text, "#ControllerGroup\t{}", group.name);
        let _ = writeln!(text, "#ControllerLeaderId\t{}", if label.is_empty() { "-" } else { label });
        let _ = writeln!(text, "#ControllerLeaderAddress\t{}", if address.is_empty() { "-" } else { address });
        for node in &voters {
            let _ = writeln!(text, "#Peer:\t{}:{}", node.label, node.peer);
        }
        let _ = writeln!(text);
        let peers = voters
            .iter()
            .map(|node| json!({ "id": node.label, "node": format!("{:x}", node.node), "addr": node.peer }));
        rows.push(json!({
            "group": group.name,
            "cluster": group.cluster,
            "term": term,
            "controllerLeaderId": Some(label).filter(|label| !label.is_empty()),
            "controllerLeaderAddress": Some(address).filter(|address| !address.is_empty()),
            "peers": peers.collect::<Vec<_>>(),
        }));
    }
    // A node that is down is a finding of this command, not a failure of it.
    for failure in failures {
        eprintln!("mqadmin: {failure}");
    }
    Ok(Outcome::done(text, rows.into()))
}
