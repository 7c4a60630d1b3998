//! Forming a group out of empty nodes, once.
//!
//! Every node of the list asks every other who it is. The first label of the list initialises the group, and only
//! when all the others answered: empty, same cluster and group, same list. An empty node whose peers belong to a
//! group already stays out of it, however its label stood in it before: its disk is not the one that the group
//! knows, and only an administrator can tell a replaced disk from a wrong address.

use crate::group::Shared;
use crate::raft_types::{node_from_wire, node_to_wire};
use crate::types::{NodeId, NodeInfo};
use futures::future::join_all;
use openraft::async_runtime::WatchReceiver;
use raftmq_proto::raft as wire;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(100);

/// Between two rounds once the first ten seconds brought nothing.
const LATER_ROUND: Duration = Duration::from_secs(1);

/// What one round of questions came to.
enum Verdict {
    /// Everyone is empty and agrees, and it is this node that initialises.
    Form(BTreeMap<NodeId, NodeInfo>),
    /// Not yet; the sentence says for what.
    Wait(String),
    /// The peers have a group already, without this disk.
    StayOut(String),
}

/// Asks until this node belongs to a group, by forming it or by being admitted to it.
pub(crate) async fn run(shared: &Shared) {
    let mut round = 0_u32;
    loop {
        match shared.raft().is_initialized().await {
            Ok(false) => {}
            Ok(true) => {
                shared.set_waiting(None);
                // What a new member replays of earlier memberships says nothing, nor one between two others.
                let mut metrics = shared.raft().server_metrics();
                loop {
                    let joint = metrics.borrow_and_update().membership_config.get_joint_config().len() > 1;
                    if shared.has_vote() && !joint {
                        compare_with_membership(shared);
                        return;
                    }
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
            }
            Err(_) => return,
        }
        match ask_all(shared).await {
            Verdict::Form(nodes) => {
                tracing::info!(nodes = nodes.len(), "forming the group");
                if let Err(error) = shared.raft().initialize(nodes).await {
                    tracing::warn!(%error, "the group was not formed");
                }
                continue;
            }
            Verdict::Wait(why) => {
                if shared.set_waiting(Some(why.clone())) {
                    tracing::info!("waiting to form the group: {why}");
                }
            }
            Verdict::StayOut(why) => {
                if shared.set_waiting(Some(why.clone())) {
                    tracing::error!("staying out of the group: {why}");
                }
            }
        }
        round += 1;
        tokio::time::sleep(if round < 100 { ROUND } else { LATER_ROUND }).await;
    }
}

/// The list of peers has served its purpose: where the replicated membership differs from it, that is said once.
fn compare_with_membership(shared: &Shared) {
    let members = shared.voters();
    let listed: Vec<_> = shared.peers().iter().map(|peer| (peer.label.clone(), peer.address.clone())).collect();
    if !members.is_empty() && listed.len() > 1 && members != listed {
        tracing::warn!(
            ?members,
            ?listed,
            "the list of peers is not the group's membership; the membership holds, the list is ignored"
        );
    }
}

async fn ask_all(shared: &Shared) -> Verdict {
    let us = shared.identity();
    let others: Vec<_> = shared.peers().iter().filter(|peer| peer.label != us.label).collect();
    let answers = join_all(others.iter().map(|peer| ask(shared, &peer.address))).await;
    let mut nodes = BTreeMap::from([(us.node, shared.info().clone())]);
    let mut wait = None;
    for (peer, answer) in others.iter().zip(answers) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) => {
                wait.get_or_insert(format!("{} does not answer at {}: {}", peer.label, peer.address, status.message()));
                continue;
            }
        };
        if (answer.cluster.as_str(), answer.group.as_str()) != (us.cluster.as_str(), us.group.as_str()) {
            wait.get_or_insert(format!(
                "{} is a node of group {} in cluster {}, not of group {} in cluster {}; correct the address of {}",
                peer.address, answer.group, answer.cluster, us.group, us.cluster, peer.label
            ));
            continue;
        }
        if answer.initialised {
            let holder = answer.holder.clone().and_then(node_from_wire);
            if holder.is_some_and(|(id, info)| id == us.node && info.disk == us.disk) {
                wait.get_or_insert(format!("{} knows this node; its leader is about to call", peer.label));
                continue;
            }
            return Verdict::StayOut(stay_out(shared, peer.label.as_str(), &answer));
        }
        let same_list = answer.peers == shared.wire_peers();
        let Some((id, info)) = answer.node.and_then(node_from_wire) else {
            wait.get_or_insert(format!("{} does not say who it is", peer.address));
            continue;
        };
        if info.label != peer.label {
            wait.get_or_insert(format!(
                "{} answers as {}, the list of peers calls it {}; correct the list or the label",
                peer.address, info.label, peer.label
            ));
        } else if !same_list {
            wait.get_or_insert(format!("{} has another list of peers; make the lists equal on all nodes", peer.label));
        } else if nodes.insert(id, info).is_some() {
            wait.get_or_insert(format!("{} has the id of another node; was a data folder copied?", peer.label));
        }
    }
    if let Some(why) = wait {
        return Verdict::Wait(why);
    }
    match shared.peers().first() {
        Some(first) if first.label != us.label => Verdict::Wait(format!("{} is about to form it", first.label)),
        _ => Verdict::Form(nodes),
    }
}

/// Asks whoever answers at `address` who it is, for a second.
pub(crate) async fn ask(shared: &Shared, address: &str) -> Result<wire::HelloReply, Status> {
    let us = shared.identity();
    let request = wire::HelloRequest {
        cluster: us.cluster.clone(),
        group: us.group.clone(),
        from: Some(node_to_wire(us.node, shared.info())),
        peers: shared.wire_peers(),
    };
    let mut client =
        shared.network().stranger(address).map_err(|error| Status::invalid_argument(format!("no address: {error}")))?;
    match tokio::time::timeout(Duration::from_secs(1), client.hello(request)).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer within a second")),
    }
}

/// Says why an empty node stays out, and what would admit it.
fn stay_out(shared: &Shared, peer: &str, answer: &wire::HelloReply) -> String {
    let us = shared.identity();
    let (held, command) = match answer.holder.clone().and_then(node_from_wire) {
        Some((id, info)) => (
            format!(
                "the group knows {} as node {id:x} on disk {}, and this folder is another and empty",
                us.label, info.disk
            ),
            "replacePeer",
        ),
        None => (format!("the group has no member {}", us.label), "addPeer"),
    };
    format!("{peer} belongs to a group already; {held}. To admit this node run: {}", admission(shared, command))
}

/// The command line that admits this node.
pub(crate) fn admission(shared: &Shared, command: &str) -> String {
    let us = shared.identity();
    format!(
        "mqadmin {command} -c {} -b {} -l {} --node {:x} --disk {} --address {}",
        us.cluster,
        us.group,
        us.label,
        us.node,
        us.disk,
        shared.info().addresses.peer
    )
}
