//! Changes of the broker group's members, with progress.

use super::door::Caller;
use super::status::to_member;
use super::{AdminService, Parts};
use crate::broker::Node;
use raft_store::{ChangePhase, ChangeProgress, DiskId, MemberChange, MemberError, Newcomer};
use raftmq_proto::admin::{self as pb, ChangeMembersRequest, ChangeMembersResponse};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Parts that wait to be read; progress is left out when they are not.
const PARTS_MAX: usize = 16;

/// What was delivered within this time gives the bytes in a second.
const RATE_OVER: Duration = Duration::from_secs(1);

impl AdminService {
    /// Begins a change, which is given up when nobody reads the answer any more.
    pub(super) fn change_members(
        &self,
        request: ChangeMembersRequest,
        caller: Caller,
    ) -> Result<Parts<ChangeMembersResponse>, Status> {
        let (us, them) = (&self.node.config, (&request.cluster, &request.broker_group));
        if (&us.cluster, &us.broker_group) != them {
            return Err(Status::failed_precondition(format!(
                "this is a node of broker group {} in cluster {}, not of {} in {}; nothing was changed",
                us.broker_group, us.cluster, request.broker_group, request.cluster
            )));
        }
        let change = parse(request.change)?;
        let (parts, answer) = mpsc::channel(PARTS_MAX);
        let node = self.node.clone();
        self.node.calls.spawn(async move {
            let outcome = tokio::select! {
                outcome = carry_out(&node, change.clone(), &parts) => outcome,
                () = parts.closed() => Err(Status::cancelled("given up by the caller")),
                () = node.closing.cancelled() => Err(Status::unavailable("this node stops")),
            };
            let logged = match &outcome {
                Ok(done) if done.changed => "done",
                Ok(_) => "nothing to do",
                Err(status) => status.message(),
            };
            tracing::info!(
                target: "audit",
                user = caller.name,
                address = caller.address,
                %change,
                outcome = logged,
                "change of the members asked for"
            );
            // Nobody may be left to read it.
            let _ = parts.send(outcome).await;
        });
        Ok(Box::pin(ReceiverStream::new(answer)))
    }
}

async fn carry_out(
    node: &Arc<Node>,
    change: MemberChange,
    parts: &mpsc::Sender<Result<ChangeMembersResponse, Status>>,
) -> Result<ChangeMembersResponse, Status> {
    let mut rate = Rate::default();
    let tell = |progress: ChangeProgress| {
        let part = ChangeMembersResponse {
            phase: phase(progress.phase).into(),
            behind: progress.behind,
            entries: progress.entries,
            delivered_bytes: progress.delivered_bytes,
            bytes_per_second: rate.of(progress.delivered_bytes),
            ..ChangeMembersResponse::default()
        };
        // A part that does not fit is followed by a newer one.
        let _ = parts.try_send(Ok(part));
    };
    let done = node.group.change_members(change, tell).await.map_err(|error| refused(node, &error))?;
    Ok(ChangeMembersResponse {
        phase: pb::ChangePhase::Done.into(),
        members: done.members.into_iter().map(to_member).collect(),
        changed: done.changed,
        ..ChangeMembersResponse::default()
    })
}

/// Bytes in a second.
#[derive(Default)]
struct Rate {
    since: Option<(Instant, u64)>,
    last: u64,
}

impl Rate {
    fn of(&mut self, bytes: u64) -> u64 {
        let (at, before) = *self.since.get_or_insert_with(|| (Instant::now(), bytes));
        let passed = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        if at.elapsed() >= RATE_OVER {
            self.last = bytes.saturating_sub(before).saturating_mul(1000) / passed.max(1);
            self.since = Some((Instant::now(), bytes));
        }
        self.last
    }
}

fn phase(phase: ChangePhase) -> pb::ChangePhase {
    match phase {
        ChangePhase::Checking => pb::ChangePhase::Checking,
        ChangePhase::Filling => pb::ChangePhase::Filling,
        ChangePhase::Voting => pb::ChangePhase::Voting,
        ChangePhase::Leaving => pb::ChangePhase::Leaving,
    }
}

fn parse(change: Option<pb::change_members_request::Change>) -> Result<MemberChange, Status> {
    use pb::change_members_request::Change;
    match change {
        Some(Change::Add(node)) => newcomer(node).map(MemberChange::Add),
        Some(Change::Replace(node)) => newcomer(node).map(MemberChange::Replace),
        Some(Change::Remove(member)) if !member.label.is_empty() => {
            Ok(MemberChange::Remove { label: member.label, node: Some(member.node).filter(|node| *node != 0) })
        }
        _ => Err(Status::invalid_argument("the request names no node")),
    }
}

fn newcomer(node: pb::Newcomer) -> Result<Newcomer, Status> {
    let invalid = |what: &str| Err(Status::invalid_argument(format!("{what}; the node's log has the right line")));
    let Ok(disk) = u128::from_str_radix(&node.disk, 16) else {
        return invalid(&format!("{:?} is no disk: 32 hexadecimal digits name one", node.disk));
    };
    if node.label.is_empty() || node.node == 0 || disk == 0 {
        return invalid("a new member has a label, an id and a disk");
    }
    if !node.address.contains(':') {
        return invalid(&format!("{:?} is not HOST:PORT", node.address));
    }
    Ok(Newcomer { label: node.label, node: node.node, disk: DiskId(disk), address: node.address })
}

fn refused(node: &Node, error: &MemberError) -> Status {
    match error {
        MemberError::NotLeader { leader } => {
            let known = node.group.members().into_iter().find(|member| Some(member.id) == *leader);
            Status::unavailable(match known {
                Some(leader) => {
                    format!("{error}; ask {} at {}", leader.label, leader.addresses.admin)
                }
                None => format!("{error}, and knows of no leader"),
            })
        }
        MemberError::Closed => Status::unavailable(error.to_string()),
        MemberError::Refused(_) | MemberError::Stuck(_) => Status::failed_precondition(error.to_string()),
        MemberError::Busy | MemberError::Unconfirmed(_) => Status::aborted(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::{DiskId, MemberChange, Newcomer, parse, pb};
    use pb::change_members_request::Change;

    fn node(disk: &str, address: &str) -> pb::Newcomer {
        pb::Newcomer { label: "n1".to_owned(), node: 7, disk: disk.to_owned(), address: address.to_owned() }
    }

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let disk = "000000000000000000000000000000ff";
        let newcomer = Newcomer { label: "n1".to_owned(), node: 7, disk: DiskId(255), address: "h:1".to_owned() };
        assert_eq!(parse(Some(Change::Add(node(disk, "h:1")))).ok(), Some(MemberChange::Add(newcomer.clone())));
        assert_eq!(parse(Some(Change::Replace(node(disk, "h:1")))).ok(), Some(MemberChange::Replace(newcomer)));
        let remove = pb::MemberToRemove { label: "n1".to_owned(), node: 0 };
        let removal = MemberChange::Remove { label: "n1".to_owned(), node: None };
        assert_eq!(parse(Some(Change::Remove(remove))).ok(), Some(removal));
        for (wrong, part) in
            [(node("xyz", "h:1"), "no disk"), (node("0", "h:1"), "an id"), (node(disk, "h"), "HOST:PORT")]
        {
            let refused = parse(Some(Change::Add(wrong))).expect_err("refused");
            assert!(refused.message().contains(part), "{}", refused.message());
        }
        assert!(parse(None).is_err());
    }
}
