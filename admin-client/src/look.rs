//! How the nodes of a broker group are, each by its own word.

use crate::connect::{self, at};
use crate::directory::{Directory, Group, Node};
use crate::error::AdminError;
use raftmq_proto::admin::{GroupStatusRequest, GroupStatusResponse};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;

/// A node that does not answer by then is shown as the name servers know it.
const STATUS_TIMEOUT: Duration = Duration::from_secs(3);

/// What is known of a node from the name servers and from itself.
#[derive(Debug, Clone)]
pub struct Seen {
    /// As the name servers know it.
    pub node: Node,
    /// What it says of itself; `None` when it does not answer.
    pub live: Option<GroupStatusResponse>,
}

/// Asks every node of a group for its status; also why some did not answer.
///
/// # Errors
/// An address that is none.
pub async fn look(directory: &Directory, group: &Group) -> Result<(Vec<Seen>, Vec<String>), AdminError> {
    let mut calls = JoinSet::new();
    for node in group.nodes.iter().filter(|node| !node.admin.is_empty()) {
        let mut client = connect::admin(&node.admin, &directory.token)?;
        let (id, address) = (node.node, node.admin.clone());
        calls.spawn(async move {
            let status = tokio::time::timeout(STATUS_TIMEOUT, client.group_status(GroupStatusRequest {})).await;
            match status {
                Ok(Ok(status)) => (id, Ok(status.into_inner())),
                Ok(Err(status)) => (id, Err(at(&address, &status))),
                Err(_) => (id, Err(format!("{address}: no answer within {} s", STATUS_TIMEOUT.as_secs()))),
            }
        });
    }
    let mut live: BTreeMap<u64, GroupStatusResponse> = BTreeMap::new();
    let mut silent = Vec::new();
    while let Some(joined) = calls.join_next().await {
        match joined {
            // Another node may have taken the address over.
            Ok((id, Ok(status))) if status.node == id => drop(live.insert(id, status)),
            Ok((id, Ok(status))) => {
                silent.push(format!("node {id:x} is gone: {} ({:x}) has its address", status.label, status.node));
            }
            Ok((_, Err(reason))) => silent.push(reason),
            Err(error) => silent.push(error.to_string()),
        }
    }
    silent.sort_unstable();
    let seen = group.nodes.iter().map(|node| Seen { live: live.remove(&node.node), node: node.clone() });
    Ok((seen.collect(), silent))
}

/// Raft id and term of whoever leads the highest term among those that answered; else whom the name servers name.
#[must_use]
pub fn leader(group: &Group, seen: &[Seen]) -> (u64, u64) {
    let leads = seen.iter().filter_map(|seen| seen.live.as_ref()).filter(|status| status.role == "leader");
    let leads = leads.max_by_key(|status| status.term).map(|status| (status.node, status.term));
    leads.unwrap_or((group.leader, group.term))
}

/// Entries that each member is behind, as the leader counts.
#[must_use]
pub fn lags(leader: u64, seen: &[Seen]) -> BTreeMap<u64, u64> {
    let leading = seen.iter().find(|seen| seen.node.node == leader).and_then(|seen| seen.live.as_ref());
    let members = leading.into_iter().flat_map(|status| &status.members);
    members.filter_map(|member| Some((member.node, member.lag?))).collect()
}
