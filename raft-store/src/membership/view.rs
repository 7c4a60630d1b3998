//! What the leader sees of the members, and whether they are enough to decide.

use super::MemberError;
use crate::group::{Shared, members};
use crate::raft_types::RaftLogId;
use crate::status::Member;
use crate::types::NodeId;
use openraft::ServerState;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// A member that was heard of within this time answers.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_millis(1500);

/// A voter that lacks no more entries than this is level: under load a few are always under way.
const LAG_MAX: u64 = 1000;

/// Who has all that the leader had so long ago has caught up.
const LEVEL_AGE: Duration = Duration::from_secs(2);

/// The members as of one membership, and how far they are.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) own: NodeId,
    /// The membership.
    pub(super) id: Option<RaftLogId>,
    /// It is on its way from one set of voters to another.
    pub(super) joint: bool,
    pub(super) members: Vec<Member>,
    /// The leader's last entry.
    pub(super) last: u64,
}

impl View {
    /// What this node sees, which must lead.
    pub(super) fn of(shared: &Shared) -> Result<View, MemberError> {
        if shared.closed() {
            return Err(MemberError::Closed);
        }
        let own = shared.identity().node;
        let metrics = shared.metrics();
        if metrics.state != ServerState::Leader || !shared.leads() {
            return Err(MemberError::NotLeader { leader: metrics.current_leader.filter(|leader| *leader != own) });
        }
        Ok(View {
            own,
            id: *metrics.membership_config.log_id(),
            joint: metrics.membership_config.get_joint_config().len() > 1,
            members: members(&metrics),
            last: metrics.last_log_index.unwrap_or(0),
        })
    }

    pub(super) fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    pub(super) fn labelled<'v>(&'v self, label: &'v str) -> impl Iterator<Item = &'v Member> {
        self.members.iter().filter(move |member| member.label == label)
    }

    pub(super) fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.voter)
    }

    /// It was heard of a moment ago.
    pub(super) fn answers(&self, member: &Member) -> bool {
        member.id == self.own || member.last_ack.is_some_and(|ago| ago < ANSWERS_WITHIN)
    }

    /// It answers, and has about all that the leader has.
    fn healthy(&self, member: &Member) -> bool {
        member.id == self.own || (self.answers(member) && member.lag.is_some_and(|lag| lag <= LAG_MAX))
    }

    /// Whether a majority of the present voters can decide.
    pub(super) fn decides(&self) -> Result<(), MemberError> {
        let voters: Vec<&Member> = self.voters().collect();
        let (able, needed) = (self.able(&voters), majority(voters.len()));
        if able.len() >= needed {
            return Ok(());
        }
        Err(MemberError::Refused(format!(
            "of the voters {} only {} answer and have caught up, and a change of the members takes {needed} of them: \
             start the others first",
            labels(&voters),
            or_none(&able),
        )))
    }

    /// Whether the group can decide once `leaving` has no vote and `joining`, which has caught up, has one.
    pub(super) fn survives(&self, leaving: Option<NodeId>, joining: Option<&str>) -> Result<(), MemberError> {
        let staying: Vec<&Member> = self.voters().filter(|member| Some(member.id) != leaving).collect();
        let able = self.able(&staying);
        let joins = usize::from(joining.is_some());
        let needed = majority(staying.len() + joins);
        if staying.len() + joins == 0 {
            return Err(MemberError::Refused("the group would have no voter left".to_owned()));
        }
        if able.len() + joins >= needed {
            return Ok(());
        }
        let mut after = labels(&staying);
        if let Some(joining) = joining {
            after = if after.is_empty() { joining.to_owned() } else { format!("{after}, {joining}") };
        }
        Err(MemberError::Refused(format!(
            "the voters would be {after}, of which only {} answer and have caught up, and {needed} must for the group \
             to go on: start the others first, or replace one that is lost",
            or_none(&able),
        )))
    }

    fn able<'m>(&self, voters: &[&'m Member]) -> Vec<&'m Member> {
        voters.iter().copied().filter(|member| self.healthy(member)).collect()
    }
}

fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

pub(super) fn labels(members: &[&Member]) -> String {
    members.iter().map(|member| member.label.as_str()).collect::<Vec<_>>().join(", ")
}

fn or_none(members: &[&Member]) -> String {
    if members.is_empty() { "none".to_owned() } else { labels(members) }
}

/// Where the leader's log ended lately.
#[derive(Debug, Default)]
pub(super) struct Levels {
    seen: VecDeque<(Instant, u64)>,
}

impl Levels {
    /// The log ends at `last` now.
    pub(super) fn saw(&mut self, last: u64) {
        let now = Instant::now();
        self.seen.push_back((now, last));
        // The newest that is old enough stays.
        while self.seen.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= LEVEL_AGE) {
            self.seen.pop_front();
        }
    }

    /// Whether whoever has all up to `upto` has caught up.
    pub(super) fn level(&self, upto: Option<u64>) -> bool {
        let Some(upto) = upto else { return false };
        let old = self.seen.front().filter(|(at, _)| at.elapsed() >= LEVEL_AGE);
        old.is_some_and(|(_, last)| upto >= *last) || self.seen.back().is_some_and(|(_, last)| upto >= *last)
    }
}

#[cfg(test)]
mod tests {
    use super::{LEVEL_AGE, Levels, View};
    use crate::status::Member;
    use crate::types::{LogIndex, NodeAddresses};
    use std::time::Duration;

    /// Node 1 leads. Of each voter: whether it answers, and its lag.
    fn view(voters: &[(u64, bool, u64)]) -> View {
        let member = |(id, answers, lag): &(u64, bool, u64)| Member {
            id: *id,
            label: format!("n{id}"),
            addresses: NodeAddresses::default(),
            voter: true,
            matched: Some(LogIndex(5_000u64.saturating_sub(*lag))),
            lag: Some(*lag),
            last_ack: answers.then_some(Duration::from_millis(40)),
        };
        View { own: 1, id: None, joint: false, members: voters.iter().map(member).collect(), last: 5_000 }
    }

    /// A step and what the refusal says, if it is one.
    fn check(voters: &[(u64, bool, u64)], leaving: Option<u64>, joining: Option<&str>, refused: Option<&str>) {
        let outcome = view(voters).survives(leaving, joining);
        match refused {
            None => assert!(outcome.is_ok(), "{outcome:?}"),
            Some(part) => {
                let text = outcome.expect_err("refused").to_string();
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn a_majority_of_the_voters_to_come_must_be_able() {
        let (up, down, behind) = ((2, true, 0), (2, false, 0), (2, true, 9_999));
        let (third, third_down) = ((3, true, 3), (3, false, 0));
        let leader = (1, true, 0);
        // Replacing the third.
        check(&[leader, up, third], Some(3), Some("n4"), None);
        check(&[leader, up, third_down], Some(3), Some("n4"), None);
        check(&[leader, down, third], Some(3), Some("n4"), None);
        // Removing one.
        check(&[leader, up, third_down], Some(3), None, None);
        check(&[leader, up, third_down], Some(2), None, Some("n1, n3, of which only n1 answer"));
        check(&[leader, behind, third], Some(3), None, Some("2 must"));
        check(&[leader, up], Some(2), None, None);
        check(&[leader], Some(1), None, Some("no voter left"));
        check(&[leader, up, third, (4, false, 0), (5, false, 0)], Some(3), None, Some("3 must"));
        // Adding one.
        check(&[leader], None, Some("n2"), None);
        check(&[leader, up, third], None, Some("n4"), None);
        check(&[leader, down, third], None, Some("n4"), None);
        assert!(view(&[leader, down, third_down]).decides().is_err());
        assert!(view(&[leader, behind, third]).decides().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn caught_up_is_who_has_what_there_was_a_moment_ago() {
        let mut levels = Levels::default();
        levels.saw(100);
        assert!(!levels.level(None) && !levels.level(Some(99)));
        assert!(levels.level(Some(100)), "nothing is missing");
        for step in 1..=5 {
            tokio::time::advance(LEVEL_AGE / 4).await;
            levels.saw(100 + step * 10);
        }
        // The log grows by ten with each look; what was there four looks ago counts.
        assert!(!levels.level(Some(109)));
        assert!(levels.level(Some(110)));
    }
}
