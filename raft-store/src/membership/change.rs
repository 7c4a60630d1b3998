//! One change, from the first look at the voters to the last step.

use super::steps::Steps;
use super::view::{ANSWERS_WITHIN, Levels, View, labels};
use super::{ChangePhase, ChangeProgress, MemberError, Newcomer};
use crate::bootstrap;
use crate::group::{RaftGroup, Shared};
use crate::raft_types::{log_id_from_wire, node_from_wire};
use crate::status::Member;
use crate::types::{LogIndex, NodeAddresses, NodeId, NodeInfo};
use openraft::ChangeMembers;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks at a node that is being filled.
const LOOK: Duration = Duration::from_millis(200);

/// A node that is being filled is asked what it has applied at every third look.
const ASK_EVERY: u32 = 3;

/// A node that takes nothing for this long is given up; the command can be run again.
const STUCK_AFTER: Duration = Duration::from_secs(45);

/// A voter that lost its vote has this long to finish what its clients wait for.
const FAREWELL: Duration = Duration::from_secs(1);

/// Between two looks at who answered.
const ANSWERS_LOOK: Duration = Duration::from_millis(20);

/// The voters of a leader that was only just elected have this long to answer it.
const ANSWERS_WAIT: Duration = Duration::from_secs(3);

/// A change under way.
pub(super) struct Change<'g, T> {
    pub(super) group: &'g RaftGroup,
    pub(super) shared: &'g Arc<Shared>,
    pub(super) steps: Steps,
    pub(super) tell: T,
    pub(super) changed: bool,
}

/// How a newcomer stands in the membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Voter,
    Learner,
    Unknown,
}

impl<T: FnMut(ChangeProgress) + Send> Change<'_, T> {
    pub(super) fn tell(&mut self, phase: ChangePhase) {
        (self.tell)(ChangeProgress { phase, behind: 0, entries: 0, delivered_bytes: 0 });
    }

    fn view(&self) -> Result<View, MemberError> {
        View::of(self.shared)
    }

    /// The members after each voter had time to answer since now: who died a moment ago is not counted on. A step that
    /// needs a voter which never comes back could neither be finished nor taken back.
    async fn fresh_view(&self) -> Result<View, MemberError> {
        let began = Instant::now();
        loop {
            let view = self.view()?;
            let since = began.elapsed();
            // Who is silent is not counted on in any case.
            let old_news = |member: &Member| {
                member.id != view.own && view.answers(member) && member.last_ack.is_none_or(|ago| ago >= since)
            };
            if since > ANSWERS_WITHIN || !view.voters().any(old_news) {
                return Ok(view);
            }
            sleep(ANSWERS_LOOK).await;
        }
    }

    async fn step(&mut self, view: &View, change: ChangeMembers<NodeId, NodeInfo>) -> Result<(), MemberError> {
        self.steps.take(view, change).await?;
        self.changed = true;
        Ok(())
    }

    pub(super) async fn wait_for_answers(&self) -> Result<(), MemberError> {
        let deadline = Instant::now() + ANSWERS_WAIT;
        loop {
            match self.fresh_view().await?.decides() {
                Err(MemberError::Refused(_)) if Instant::now() < deadline => sleep(LOOK).await,
                outcome => return outcome,
            }
        }
    }

    pub(super) async fn add(&mut self, newcomer: &Newcomer) -> Result<(), MemberError> {
        let view = self.view()?;
        let standing = self.standing(&view, newcomer)?;
        if standing == Standing::Voter {
            return Ok(());
        }
        if let Some(holder) = view.labelled(&newcomer.label).find(|member| member.voter) {
            return Err(MemberError::Refused(format!(
                "{} is a member already, as node {:x}; mqadmin replacePeer puts another node in its place",
                holder.label, holder.id
            )));
        }
        self.admit(newcomer, standing, None).await?;
        self.tell(ChangePhase::Voting);
        let view = self.fresh_view().await?;
        view.survives(None, Some(&newcomer.label))?;
        self.step(&view, ChangeMembers::AddVoterIds(BTreeSet::from([newcomer.node]))).await
    }

    pub(super) async fn replace(&mut self, newcomer: &Newcomer) -> Result<(), MemberError> {
        let view = self.view()?;
        let standing = self.standing(&view, newcomer)?;
        let place = |view: &View| view.labelled(&newcomer.label).find(|member| member.id != newcomer.node).cloned();
        let old = place(&view).filter(|member| member.voter);
        if standing != Standing::Voter {
            let Some(old) = &old else {
                let voters: Vec<&Member> = view.voters().collect();
                return Err(MemberError::Refused(format!(
                    "no voter is labelled {}, there are {}; mqadmin addPeer adds a node",
                    newcomer.label,
                    labels(&voters)
                )));
            };
            let alone = view.voters().count() == 1;
            if old.id == view.own && !alone {
                return Err(self.hand_over().await);
            }
            self.admit(newcomer, standing, (!alone).then_some(old.id)).await?;
            self.tell(ChangePhase::Voting);
            let view = self.fresh_view().await?;
            let join = ChangeMembers::AddVoterIds(BTreeSet::from([newcomer.node]));
            if alone {
                self.step(&view, join).await?;
            } else {
                view.survives(Some(old.id), Some(&newcomer.label))?;
                let leave = ChangeMembers::RemoveVoters(BTreeSet::from([old.id]));
                self.step(&view, ChangeMembers::Batch(vec![join, leave])).await?;
            }
        }
        // Whoever still has the label has lost its place.
        while let Some(old) = place(&self.view()?) {
            self.part(old).await?;
        }
        Ok(())
    }

    pub(super) async fn remove(&mut self, label: &str, node: Option<NodeId>) -> Result<(), MemberError> {
        let view = self.view()?;
        let found: Vec<Member> =
            view.labelled(label).filter(|member| node.is_none_or(|node| node == member.id)).cloned().collect();
        match found.as_slice() {
            [] => Ok(()),
            [member] => self.part(member.clone()).await,
            several => {
                let ids: Vec<String> = several.iter().map(|member| format!("{:x}", member.id)).collect();
                Err(MemberError::Refused(format!(
                    "several members are labelled {label}: name one of {} with --node",
                    ids.join(", ")
                )))
            }
        }
    }

    /// Takes a member's vote, if it has one, and then the member.
    async fn part(&mut self, member: Member) -> Result<(), MemberError> {
        let view = self.fresh_view().await?;
        if member.voter {
            view.survives(Some(member.id), None)?;
            if member.id == view.own {
                return Err(self.hand_over().await);
            }
            self.tell(ChangePhase::Voting);
            self.step(&view, ChangeMembers::RemoveVoters(BTreeSet::from([member.id]))).await?;
        }
        let view = self.view()?;
        if view.member(member.id).is_some_and(|member| view.answers(member)) {
            self.tell(ChangePhase::Leaving);
            sleep(FAREWELL).await;
        }
        let view = self.view()?;
        self.step(&view, ChangeMembers::RemoveNodes(BTreeSet::from([member.id]))).await
    }

    /// The leader itself is to go: another one must see to that.
    async fn hand_over(&mut self) -> MemberError {
        self.tell(ChangePhase::Voting);
        match self.group.transfer_leadership(None).await {
            Ok(to) => MemberError::NotLeader { leader: Some(to) },
            Err(error) => MemberError::Refused(format!(
                "the leader is to be removed and could not hand leadership over first: {error}; run the command again"
            )),
        }
    }

    fn standing(&self, view: &View, newcomer: &Newcomer) -> Result<Standing, MemberError> {
        let Some(member) = view.member(newcomer.node) else { return Ok(Standing::Unknown) };
        if self.shared.member_disk(newcomer.node).is_some_and(|disk| disk != newcomer.disk) {
            return Err(MemberError::Refused(format!(
                "node {:x} is a member with another disk than {}; an id belongs to one disk for ever: empty the folder \
                 of the node and start it, and it gets an id of its own",
                newcomer.node, newcomer.disk
            )));
        }
        if member.label != newcomer.label {
            return Err(MemberError::Refused(format!(
                "node {:x} is a member already, labelled {}",
                newcomer.node, member.label
            )));
        }
        Ok(if member.voter { Standing::Voter } else { Standing::Learner })
    }

    /// Makes the newcomer a learner and waits until it has what the leader has.
    async fn admit(
        &mut self,
        newcomer: &Newcomer,
        mut standing: Standing,
        replaced: Option<NodeId>,
    ) -> Result<(), MemberError> {
        let info = self.introduced(newcomer, standing).await?;
        let view = self.fresh_view().await?;
        view.survives(replaced, Some(&newcomer.label))?;
        // An earlier attempt of the same place that was given up, or of this node at another address.
        let mut stale: BTreeSet<NodeId> = view
            .labelled(&newcomer.label)
            .filter(|member| !member.voter && member.id != newcomer.node)
            .map(|member| member.id)
            .collect();
        if standing == Standing::Learner && self.shared.member(newcomer.node).as_ref() != Some(&info) {
            stale.insert(newcomer.node);
            standing = Standing::Unknown;
        }
        if !stale.is_empty() {
            self.step(&view, ChangeMembers::RemoveNodes(stale)).await?;
        }
        if standing == Standing::Unknown {
            let view = self.view()?;
            self.step(&view, ChangeMembers::AddNodes(BTreeMap::from([(newcomer.node, info)]))).await?;
        }
        self.fill(newcomer).await
    }

    /// Asks the node at the newcomer's address who it is.
    async fn introduced(&self, newcomer: &Newcomer, standing: Standing) -> Result<NodeInfo, MemberError> {
        let refused = |text: String| Err(MemberError::Refused(text));
        let Newcomer { label, node, disk, address } = newcomer;
        let answer = match bootstrap::ask(self.shared, address).await {
            Ok(answer) => answer,
            Err(status) => return refused(format!("no node answers at {address}: {}", status.message())),
        };
        let us = self.shared.identity();
        if (answer.cluster.as_str(), answer.group.as_str()) != (us.cluster.as_str(), us.group.as_str()) {
            return refused(format!(
                "{address} is a node of group {} in cluster {}, not of group {} in cluster {}",
                answer.group, answer.cluster, us.group, us.cluster
            ));
        }
        let Some((id, info)) = answer.node.and_then(node_from_wire) else {
            return refused(format!("the node at {address} does not say who it is"));
        };
        if (id, info.disk) != (*node, *disk) {
            return refused(format!(
                "{address} is node {id:x} on disk {}, not node {node:x} on disk {disk}: was its folder emptied again? \
                 Its log has the line that admits it",
                info.disk
            ));
        }
        if info.label != *label {
            return refused(format!("the node at {address} is labelled {}, not {label}", info.label));
        }
        let active = self.shared.active_version().map_err(|error| MemberError::Refused(error.to_string()))?;
        if answer.version < active {
            return refused(format!(
                "the group's commands are of version {active}, and the build of the node at {address} knows versions up \
                 to {}: upgrade {label} to a build that knows version {active}, and run the command again",
                answer.version
            ));
        }
        if answer.initialised && standing == Standing::Unknown {
            // A member that was removed may come back with what it has; nobody else brings a history along.
            let applied = answer.applied.map(log_id_from_wire);
            let ours = applied.is_some_and(|id| self.shared.log().log_id(id.index) == Some(id));
            if !ours {
                return refused(format!(
                    "the node at {address} has a log already, which is not this group's: empty its folder and start \
                     it, and run the line that it prints"
                ));
            }
        }
        let addresses = NodeAddresses { peer: address.clone(), ..info.addresses };
        Ok(NodeInfo { addresses, ..info })
    }

    async fn fill(&mut self, newcomer: &Newcomer) -> Result<(), MemberError> {
        let mut levels = Levels::default();
        let network = self.shared.network();
        let (delivered, filled) = (network.delivered(newcomer.node), network.filled(newcomer.node));
        let (mut applied, mut most, mut moved) = (None, (0, 0), Instant::now());
        for look in 0_u32.. {
            let view = self.view()?;
            let Some(member) = view.member(newcomer.node) else {
                return Err(MemberError::Refused(format!("{} was removed meanwhile", newcomer.label)));
            };
            if look.is_multiple_of(ASK_EVERY)
                && let Ok(answer) = bootstrap::ask(self.shared, &newcomer.address).await
            {
                applied = answer.applied.map(|id| id.index);
            }
            levels.saw(view.last);
            let matched = member.matched.map(|LogIndex(index)| index);
            let has = matched.min(applied);
            let delivered_bytes = delivered.load(Ordering::Relaxed);
            (self.tell)(ChangeProgress {
                phase: ChangePhase::Filling,
                // What it was sent of rows and old entries counts before it is in use.
                behind: (view.last + 1)
                    .saturating_sub(has.map_or(0, |has| has + 1).max(filled.load(Ordering::Relaxed))),
                entries: view.last + 1,
                delivered_bytes,
            });
            if levels.level(matched) && levels.level(applied) {
                break;
            }
            let far = (has.unwrap_or(0), delivered_bytes);
            if far > most {
                (most, moved) = (far, Instant::now());
            } else if moved.elapsed() > STUCK_AFTER {
                return Err(MemberError::Stuck(format!(
                    "{} at {} took nothing for {} s; see its log. It stays a member without a vote: run the command \
                     again to go on, or mqadmin removePeer to give it up",
                    newcomer.label,
                    newcomer.address,
                    STUCK_AFTER.as_secs()
                )));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}
