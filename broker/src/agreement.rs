//! Whether the members compute the same rows (design decision 5).
//!
//! Every row that changes goes into a rolling checksum, so two members with the same checksum after the same entry made
//! the same changes all the way. Each keeps its checksum as of some entries, the same ones everywhere ([`Mark`]);
//! followers report theirs, and the leader compares. A member whose checksum is not that of a majority of the voters
//! cannot be trusted with what it serves: it stops, and fills its rows anew from the log when it is started again.

use parking_lot::Mutex;
use raft_store::{LogIndex, Member, NodeId};
use raftmq_proto::forward::Mark;
use std::collections::{BTreeMap, VecDeque};

/// Of each span of so many entries, the first that is a command has a mark.
const SPAN_ENTRIES: u64 = 64;

/// Marks that are kept of each member: one that is further behind is compared once it has caught up.
const MARKS_MAX: usize = 1024;

/// Marks in a report, the newest: what a member applies between two of them, and more.
const REPORTED_MAX: usize = 64;

/// What a leader makes of a member's marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same, or nothing to compare yet.
    Agrees,
    /// A majority of the voters has this mark, the member another one.
    Deviates(Mark),
    /// A majority of the voters has this mark, this node itself another one.
    WeDeviate(Mark),
    /// They differ after this entry, and no majority agrees: a voter is missing.
    Undecided(LogIndex),
}

/// What this node knows of its own rows and, while it leads, of the other members'.
#[derive(Default)]
pub(crate) struct Agreement {
    own: Mutex<Marks>,
    members: Mutex<BTreeMap<NodeId, Marks>>,
}

/// Marks of one member, by rising index.
#[derive(Default)]
struct Marks(VecDeque<Mark>);

impl Marks {
    fn push(&mut self, mark: Mark) {
        // A node that was started again begins anew behind what it reported.
        while self.0.back().is_some_and(|last| last.index >= mark.index) {
            self.0.pop_back();
        }
        if self.0.len() == MARKS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(mark);
    }

    fn at(&self, index: u64) -> Option<Mark> {
        let place = self.0.binary_search_by_key(&index, |mark| mark.index).ok()?;
        self.0.get(place).copied()
    }
}

impl Agreement {
    /// The command at `index` was applied, and led to `checksum`.
    pub(crate) fn applied(&self, LogIndex(index): LogIndex, checksum: u64) {
        let mut own = self.own.lock();
        if own.0.back().is_none_or(|last| index / SPAN_ENTRIES > last.index / SPAN_ENTRIES) {
            own.push(Mark { index, checksum });
        }
    }

    /// The rows were replaced: marks of the earlier ones say nothing of them.
    pub(crate) fn replaced(&self) {
        self.own.lock().0.clear();
    }

    /// What this node tells the leader.
    pub(crate) fn report(&self) -> Vec<Mark> {
        let own = self.own.lock();
        own.0.iter().skip(own.0.len().saturating_sub(REPORTED_MAX)).copied().collect()
    }

    /// Takes a member's report on the leader, and compares at the last entry that both have a mark of.
    pub(crate) fn reported(&self, node: NodeId, marks: Vec<Mark>, this: NodeId, members: &[Member]) -> Verdict {
        let mut known = self.members.lock();
        known.retain(|node, _| members.iter().any(|member| member.id == *node));
        let theirs = known.entry(node).or_default();
        for mark in marks {
            theirs.push(mark);
        }
        let own = self.own.lock();
        let Some((mine, mark)) = theirs.0.iter().rev().find_map(|mark| Some((own.at(mark.index)?, *mark))) else {
            return Verdict::Agrees;
        };
        if mine == mark {
            return Verdict::Agrees;
        }
        let (mut voters, mut marks) = (0, Vec::new());
        for voter in members.iter().filter(|member| member.voter) {
            voters += 1;
            let of_voter =
                if voter.id == this { Some(mine) } else { known.get(&voter.id).and_then(|of| of.at(mark.index)) };
            marks.extend(of_voter);
        }
        let majority = |wanted: Mark| marks.iter().filter(|found| **found == wanted).count() * 2 > voters;
        match () {
            () if majority(mine) => Verdict::Deviates(mine),
            () if majority(mark) => Verdict::WeDeviate(mark),
            () => Verdict::Undecided(LogIndex(mark.index)),
        }
    }

    /// On a member that was told of a majority's mark: whether its own is another one.
    pub(crate) fn deviates(&self, majority: Mark) -> bool {
        self.own.lock().at(majority.index).is_some_and(|own| own != majority)
    }
}

#[cfg(test)]
mod tests {
    use super::{Agreement, Mark, SPAN_ENTRIES, Verdict};
    use raft_store::{LogIndex, Member, NodeAddresses, NodeId};

    fn member(id: NodeId, voter: bool) -> Member {
        let addresses = NodeAddresses { peer: String::new(), admin: String::new(), grpc: String::new() };
        Member { id, label: format!("n{id}"), addresses, voter, matched: None, lag: None, last_ack: None }
    }

    /// A node that applied `entries`, each with a checksum that `salt` sets apart from another node's.
    fn node(entries: impl IntoIterator<Item = u64>, salt: u64) -> Agreement {
        let agreement = Agreement::default();
        for index in entries {
            agreement.applied(LogIndex(index), index * 31 + salt);
        }
        agreement
    }

    #[test]
    fn members_mark_the_same_entries_and_agree() {
        let members = [member(1, true), member(2, true), member(3, true)];
        let leader = node(1..1000, 0);
        // This one was started again in the middle of a span.
        assert_eq!(leader.reported(2, node(333..990, 0).report(), 1, &members), Verdict::Agrees);
        assert_eq!(leader.reported(3, Vec::new(), 1, &members), Verdict::Agrees);
        assert!(!leader.report().is_empty());
    }

    #[test]
    fn the_majority_is_right_wherever_the_leader_stands() {
        let members = [member(1, true), member(2, true), member(3, true), member(4, false)];
        let leader = node(1..1000, 0);
        let last = LogIndex(990 / SPAN_ENTRIES * SPAN_ENTRIES);
        let right = Mark { index: last.0, checksum: last.0 * 31 };
        let wrong = node(1..990, 7);
        // One voter is unknown: two that differ are no majority, however often they say so.
        for _ in 0..2 {
            assert_eq!(leader.reported(2, wrong.report(), 1, &members), Verdict::Undecided(last));
        }
        // A learner is told, and decides nothing.
        assert_eq!(leader.reported(4, wrong.report(), 1, &members), Verdict::Undecided(last));
        assert_eq!(leader.reported(3, node(1..1000, 0).report(), 1, &members), Verdict::Agrees);
        assert_eq!(leader.reported(2, wrong.report(), 1, &members), Verdict::Deviates(right));
        assert_eq!(leader.reported(4, wrong.report(), 1, &members), Verdict::Deviates(right));
        assert!(wrong.deviates(right));
        assert!(!node(1..990, 0).deviates(right));

        let leader = node(1..1000, 7);
        assert_eq!(leader.reported(3, node(1..990, 0).report(), 1, &members), Verdict::Undecided(last));
        assert_eq!(leader.reported(2, node(1..990, 0).report(), 1, &members), Verdict::WeDeviate(right));
    }

    #[test]
    fn what_a_member_reported_before_it_was_filled_anew_does_not_count() {
        let members = [member(1, true), member(2, true), member(3, true)];
        let leader = node(1..1000, 0);
        leader.reported(3, node(1..1000, 0).report(), 1, &members);
        let found = leader.reported(2, node(1..1000, 7).report(), 1, &members);
        assert!(matches!(found, Verdict::Deviates(_)), "{found:?}");
        assert_eq!(leader.reported(2, node(1..500, 0).report(), 1, &members), Verdict::Agrees);
        assert_eq!(leader.reported(2, node(1..1000, 0).report(), 1, &members), Verdict::Agrees);
    }
}
