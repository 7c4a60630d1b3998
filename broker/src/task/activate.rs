//! Begins the newest version of commands that every member knows (`machine/version.rs`): on the leader, as soon as all
//! of them have said so. Learners count: they apply the same entries. So does a member that is down: it may come back
//! with the build that it had.

use super::REPORT_EVERY;
use crate::broker::Node;
use parking_lot::Mutex;
use raft_store::{Member, NodeId};
use raftmq_proto::command::Activate;
use raftmq_proto::command::command::Kind;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// What a member said counts for this long: it may be stopped and started with another build.
const REPORT_AGE_MAX: Duration = Duration::from_secs(3);

/// An activation that is not in the log by then is refused by every replica: a leader that lost its office keeps what
/// it proposed and sends it to the next one, and members may have other builds by that time.
const PROPOSED_WITHIN: Duration = Duration::from_secs(2);

/// What the members' builds know, as they reported to this node.
#[derive(Default)]
pub(crate) struct Builds {
    members: Mutex<BTreeMap<NodeId, (u32, Instant)>>,
}

/// What is to be done about versions.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// The newest that this node knows is active.
    Nothing,
    /// These do not know a version that this node knows, or have not said so.
    Wait(Vec<String>),
    /// Every member knows this one.
    Activate(u32),
}

impl Builds {
    /// A member said which version it knows.
    pub(crate) fn reported(&self, node: NodeId, version: u32) {
        self.members.lock().insert(node, (version, Instant::now()));
    }

    /// The version that a member knows, if it said so lately.
    pub(crate) fn knows(&self, node: NodeId) -> Option<u32> {
        let members = self.members.lock();
        let (version, at) = members.get(&node)?;
        (at.elapsed() <= REPORT_AGE_MAX).then_some(*version)
    }

    /// What a leader does that is `this` node and knows versions up to `own`.
    fn step(&self, members: &[Member], this: NodeId, own: u32, active: u32) -> Step {
        self.members.lock().retain(|node, _| members.iter().any(|member| member.id == *node));
        if own <= active {
            return Step::Nothing;
        }
        let (mut all_know, mut behind) = (own, Vec::new());
        for member in members.iter().filter(|member| member.id != this) {
            match self.knows(member.id) {
                Some(known) if known >= own => {}
                Some(known) => {
                    all_know = all_know.min(known);
                    behind.push(format!("{} knows {known}", member.label));
                }
                None => {
                    all_know = active;
                    behind.push(format!("{} does not report", member.label));
                }
            }
        }
        if all_know > active { Step::Activate(all_know) } else { Step::Wait(behind) }
    }
}

/// Looks after each round of reports whether there is something to activate, until dropped.
pub(super) async fn run(node: &Node) {
    let own = *node.config.versions.end();
    let (mut behind, mut told) = (Vec::new(), Vec::new());
    loop {
        // This node applies all that is committed before it leads, and whatever it proposes comes behind that.
        let active = node.proposer.version();
        match node.builds.step(&node.group.members(), node.group.node(), own, active) {
            Step::Nothing => {}
            Step::Wait(members) => {
                // Twice in a row: a leader that was only just elected has heard of nobody.
                if members == behind && members != told {
                    tracing::info!(
                        version = own,
                        active,
                        members = members.join(", "),
                        "a version of commands waits until every member knows it"
                    );
                    told.clone_from(&members);
                }
                behind = members;
            }
            Step::Activate(version) => {
                let activate = Kind::Activate(Activate { version });
                let deadline = Instant::now() + PROPOSED_WITHIN;
                if let Err(error) = node.proposer.submit(activate, Vec::new(), Some(deadline)).await {
                    tracing::debug!(%error, version, "a version was not activated");
                }
            }
        }
        tokio::time::sleep(REPORT_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::{Builds, REPORT_AGE_MAX, Step};
    use raft_store::{Member, NodeAddresses, NodeId};
    use std::time::Duration;

    fn member(id: NodeId, voter: bool) -> Member {
        let addresses = NodeAddresses::default();
        Member { id, label: format!("n{id}"), addresses, voter, matched: None, lag: None, last_ack: None }
    }

    fn wait(members: &[&str]) -> Step {
        Step::Wait(members.iter().map(|member| (*member).to_owned()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_begins_once_all_members_know_it() {
        let builds = Builds::default();
        let members = [member(1, true), member(2, true), member(3, true), member(4, false)];
        let step = |members: &[Member], active| builds.step(members, 1, 3, active);
        assert_eq!(step(&members[..1], 0), Step::Activate(3), "a node alone waits for nobody");
        assert_eq!(step(&members[..3], 1), wait(&["n2 does not report", "n3 does not report"]));
        builds.reported(2, 3);
        builds.reported(3, 1);
        assert_eq!(step(&members[..3], 1), wait(&["n3 knows 1"]));
        assert_eq!(step(&members[..3], 0), Step::Activate(1), "the newest that all of them know");
        builds.reported(3, 3);
        assert_eq!(step(&members[..3], 1), Step::Activate(3));
        assert_eq!(step(&members[..3], 3), Step::Nothing);
        assert_eq!(step(&members, 1), wait(&["n4 does not report"]), "a learner applies the same entries");
        // One that says no version is of a build that knows none.
        builds.reported(4, 0);
        assert_eq!(step(&members, 0), wait(&["n4 knows 0"]));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_reported_long_ago_does_not_count() {
        let builds = Builds::default();
        let members = [member(1, true), member(2, true)];
        builds.reported(2, 2);
        assert_eq!(builds.step(&members, 1, 2, 1), Step::Activate(2));
        tokio::time::advance(REPORT_AGE_MAX + Duration::from_millis(1)).await;
        assert_eq!(builds.step(&members, 1, 2, 1), wait(&["n2 does not report"]));
        assert_eq!(builds.knows(2), None);
        // It is back with the build from before.
        builds.reported(2, 1);
        assert_eq!(builds.step(&members, 1, 2, 1), wait(&["n2 knows 1"]));
    }

    #[tokio::test(start_paused = true)]
    async fn members_that_are_gone_are_forgotten() {
        let builds = Builds::default();
        builds.reported(2, 1);
        assert_eq!(builds.step(&[member(1, true)], 1, 2, 1), Step::Activate(2));
        assert_eq!(builds.step(&[member(1, true), member(2, true)], 1, 2, 1), wait(&["n2 does not report"]));
    }
}
