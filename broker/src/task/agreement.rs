//! What follows from members' checksums: a member whose rows deviate stops, whether it leads or not.

use crate::agreement::Verdict;
use crate::broker::Node;
use raft_store::{Member, NodeId};
use raftmq_proto::forward::Mark;

/// Takes the marks of `member` on the leader. Gives what the member is to be told.
pub(crate) fn judge(node: &Node, members: &[Member], member: NodeId, marks: Vec<Mark>) -> Option<Mark> {
    let label = || members.iter().find(|known| known.id == member).map_or("?", |known| known.label.as_str());
    match node.outlets.agreement.reported(member, marks, node.group.node(), members) {
        Verdict::Agrees => None,
        Verdict::Deviates(majority) => {
            tracing::error!(
                member = label(),
                index = majority.index,
                "the rows of a member are not those of the majority, it is told to stop"
            );
            Some(majority)
        }
        Verdict::WeDeviate(majority) => {
            stop(node, majority);
            None
        }
        Verdict::Undecided(index) => {
            tracing::error!(
                member = label(),
                index = index.0,
                "the rows of a member differ from this node's, and no majority tells which are right: start the \
                 members that are missing"
            );
            None
        }
    }
}

/// On a follower: the leader says that a majority has this mark.
pub(super) fn told(node: &Node, majority: Mark) {
    if node.outlets.agreement.deviates(majority) {
        stop(node, majority);
    }
}

fn stop(node: &Node, majority: Mark) {
    node.group.distrust_rows(&format!("after entry {} they are not what a majority has", majority.index));
}
