//! Learning that one is no member any more.
//!
//! Nobody sends anything to a node that was removed: it would stand for election for ever, in vain, and keep its
//! clients waiting. So a node that hears of no leader asks the others whether they still know it. Their word counts
//! when they know of a committed membership that is as new as the one this node has. A node that learns that it was
//! removed stands for no election and serves no clients; its process stays, to say so. When a leader calls it again,
//! because it was admitted again, it is a member again.

use crate::bootstrap::{admission, ask};
use crate::group::Shared;
use crate::raft_types::{log_id_from_wire, node_from_wire};
use crate::types::NodeId;
use futures::future::join_all;
use openraft::ServerState;
use raftmq_proto::raft as wire;
use std::collections::BTreeSet;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// A leader that was heard of within this time, and twice the longest election wait, makes a question needless.
const SILENCE: Duration = Duration::from_millis(300);

/// Looks as long as Raft runs.
pub(crate) async fn run(shared: &Shared) {
    // The last membership that this node had when it was told.
    let mut told_at = None;
    loop {
        tokio::time::sleep(LOOK).await;
        shared.network().keep(|id| shared.member(id).is_some());
        let metrics = shared.raft().server_metrics();
        let state = openraft::async_runtime::WatchReceiver::borrow_watched(&metrics).state;
        let heard = shared.silence().is_some_and(|silence| silence < 2 * shared.election_max() + SILENCE);
        if state == ServerState::Leader || heard {
            // What it has of memberships may be of the time before: the entry that admits it comes with the others.
            let (known, member) = shared.own_membership();
            if (known > told_at || !member) && shared.retired().send_replace(false) {
                tracing::info!("a leader calls this node, which is a member again");
                shared.raft().runtime_config().elect(true);
                shared.set_waiting(None);
            }
            continue;
        }
        if *shared.retired().borrow() {
            // Once removed is removed for ever, unless a leader calls.
            continue;
        }
        match shared.raft().is_initialized().await {
            // What an empty node waits for is not this one's business.
            Ok(false) => continue,
            Ok(true) => {}
            Err(_) => return,
        }
        if let Some(why) = removed(shared).await {
            tracing::error!("this node is no member of its group: {why}");
            told_at = shared.own_membership().0;
            shared.raft().runtime_config().elect(false);
            shared.set_waiting(Some(why));
            shared.retired().send_replace(true);
        }
    }
}

/// Asks everyone that this node knows of whether it was removed. Gives a sentence that says by whom it was told.
async fn removed(shared: &Shared) -> Option<String> {
    let us = shared.identity();
    let mut addresses: BTreeSet<String> = shared.peers().iter().map(|peer| peer.address.clone()).collect();
    addresses.extend(shared.members_addresses());
    addresses.remove(&shared.info().addresses.peer);
    addresses.remove("");
    let answers = join_all(addresses.iter().map(|address| ask(shared, address))).await;
    let ours = (us.cluster.as_str(), us.group.as_str());
    let answers = answers.into_iter().flatten();
    let mut same_group = answers.filter(|answer| (answer.cluster.as_str(), answer.group.as_str()) == ours);
    same_group.find_map(|answer| told(shared, us.node, &answer))
}

fn told(shared: &Shared, own: NodeId, answer: &wire::HelloReply) -> Option<String> {
    let theirs = answer.membership.map(log_id_from_wire)?;
    let (label, _) = answer.node.clone().and_then(node_from_wire).map(|(id, info)| (info.label, id))?;
    if answer.knows_caller {
        return None;
    }
    let by = format!("{label} says that the membership of entry {} is without it", theirs.index);
    match shared.own_membership() {
        // As far as this node knows it is a member, as of an entry that the other has too, or an older one.
        (Some(known), true) if theirs.index >= known => {}
        // It learns, and has not come to the entry that makes it a member; or it has come to the one that removes it.
        // Which of the two, a leader knows.
        (_, false) if answer.node.as_ref().is_some_and(|node| node.id == answer.leader) => {}
        _ => return None,
    }
    let label = &shared.identity().label;
    let after = match answer.holder.clone().and_then(node_from_wire) {
        Some((id, info)) if id != own => format!(
            "node {id:x} at {} has its place. Stop this process, and keep or delete its folder",
            info.addresses.peer
        ),
        _ => format!(
            "stop this process, and keep or delete its folder; or admit it again as {label} by: {}",
            admission(shared, "addPeer")
        ),
    };
    Some(format!("{by}; it has no vote, serves no clients and is sent nothing; {after}"))
}
