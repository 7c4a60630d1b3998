//! `getSyncStateSet`: the members of each broker group, and which of them have all that is committed.

use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::{GroupStatusRequest, GroupStatusResponse, Member};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::Status;

/// What was committed when the command began is on an in-sync member's disk within this.
const LEVEL_WITHIN: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// Show the members of each broker group: its leader, and who is in sync.
///
/// A voter is in sync when its disk holds, within a second, what was committed when the command began. A member without
/// a vote (a learner) never counts as in sync.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getSyncStateSet -n localhost:9876 -c DefaultCluster")]
pub(crate) struct Arguments {
    /// Only this broker group.
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    broker_group: Option<String>,
    /// Only in this cluster.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Accepted and ignored: there is no controller, the leader of a broker group knows its members.
    #[arg(short = 'a', long = "controllerAddress", hide = true)]
    _controller: Option<String>,
    /// Accepted and ignored: the members are shown once.
    #[arg(short = 'i', long = "interval", hide = true)]
    _interval: Option<u64>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (cluster, broker_group) = (arguments.cluster.as_deref(), arguments.broker_group.as_deref());
    let groups = super::groups_named(directory, cluster, broker_group).await?;
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for group in groups {
        match level(directory, &group).await {
            Ok((committed, status)) => {
                text += &describe(&group, committed, &status);
                rows.push(to_json(&group, committed, &status));
            }
            Err(error) => failures.push(super::failure(&group.name, &error)),
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

/// What was committed at first, and what the leader says when every voter has it, or when it was waited for long enough.
async fn level(directory: &Directory, group: &Group) -> Result<(u64, GroupStatusResponse), AdminError> {
    let (mut committed, until) = (None, Instant::now() + LEVEL_WITHIN);
    loop {
        let asked = directory.on_group(group, |mut node| async move {
            let status = node.group_status(GroupStatusRequest {}).await?.into_inner();
            match status.role.as_str() {
                "leader" => Ok(status),
                role => Err(Status::unavailable(format!("it is a {role} and knows of no member how far it is"))),
            }
        });
        let (_, status) = asked.await?;
        let committed = *committed.get_or_insert(status.committed_index.unwrap_or_default());
        let level = status.members.iter().filter(|member| member.voter).all(|member| in_sync(member, committed));
        if level || Instant::now() >= until {
            return Ok((committed, status));
        }
        sleep(PAUSE).await;
    }
}

fn in_sync(member: &Member, committed: u64) -> bool {
    member.voter && member.matched.is_some_and(|matched| matched >= committed)
}

/// The leader first; RocketMQ's broker ids.
fn members(status: &GroupStatusResponse) -> Vec<(usize, &Member)> {
    super::cluster_list::broker_ids(status.leader, &status.members, |member| member.node)
}

fn describe(group: &Group, committed: u64, status: &GroupStatusResponse) -> String {
    let members = members(status);
    let voters = members.iter().filter(|(_, member)| member.voter).count();
    let level = members.iter().filter(|(_, member)| in_sync(member, committed)).count();
    let leader = members.iter().find(|(_, member)| member.node == status.leader);
    let (label, address) = leader.map_or(("-", "-"), |(_, leader)| (leader.label.as_str(), leader.admin.as_str()));
    let mut text = String::new();
    for (label, value) in [
        ("#brokerName", group.name.clone()),
        ("#MasterBrokerId", "0".to_owned()),
        ("#MasterAddr", address.to_owned()),
        ("#MasterLabel", label.to_owned()),
        ("#MasterEpoch", status.term.to_string()),
        ("#SyncStateSetNums", level.to_string()),
        ("#Voters", format!("{voters} ({} may be down)", voters.saturating_sub(1) / 2)),
        ("#Learners", (members.len() - voters).to_string()),
    ] {
        let _ = writeln!(text, "{label}\t{value}");
    }
    let (level, behind): (Vec<_>, Vec<_>) = members.iter().partition(|(_, member)| in_sync(member, committed));
    for (head, members) in [("InSyncReplica", level), ("NotInSyncReplica", behind)] {
        for (id, member) in members {
            let _ = writeln!(text, "{head}:\tReplicaIdentity{}", identity(&group.name, id, member, status.leader));
        }
    }
    text + "\n"
}

fn role(member: &Member, leader: u64) -> &'static str {
    match (member.node == leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
}

fn identity(broker_group: &str, id: usize, member: &Member, leader: u64) -> String {
    let figure = |name: &str, value: Option<u64>| value.map(|value| format!(", {name}={value}")).unwrap_or_default();
    format!(
        "{{brokerName='{broker_group}', brokerId={id}, brokerAddress='{}', label='{}', role={}{}{}}}",
        member.admin,
        member.label,
        role(member, leader),
        figure("lag", member.lag),
        figure("lastAckMs", member.last_ack_ms),
    )
}

fn to_json(group: &Group, committed: u64, status: &GroupStatusResponse) -> Value {
    let rows = members(status).into_iter().map(|(id, member)| {
        json!({
            "brokerId": id,
            "label": member.label,
            "node": format!("{:x}", member.node),
            "addr": member.admin,
            "role": role(member, status.leader),
            "inSync": in_sync(member, committed),
            "matched": member.matched,
            "lag": member.lag,
            "lastAckMs": member.last_ack_ms,
        })
    });
    json!({
        "cluster": group.cluster,
        "brokerName": group.name,
        "term": status.term,
        "leader": format!("{:x}", status.leader),
        "committed": committed,
        "members": rows.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_by_what_they_have() {
        let member = |node: u64, voter, matched| Member {
            node,
            label: format!("n{node}"),
            admin: format!("h:{node}"),
            voter,
            matched,
            lag: Some(0),
            ..Member::default()
        };
        let status = GroupStatusResponse {
            leader: 2,
            term: 4,
            members: vec![
                member(1, true, Some(6)),
                member(2, true, Some(9)),
                member(3, true, Some(7)),
                member(4, true, None),
                member(5, false, Some(9)),
            ],
            ..GroupStatusResponse::default()
        };
        let group = Group { name: "G".to_owned(), ..Group::default() };
        let text = describe(&group, 7, &status);
        for line in [
            "#MasterAddr\th:2",
            "#MasterEpoch\t4",
            "#SyncStateSetNums\t2",
            "#Voters\t4 (1 may be down)",
            "#Learners\t1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let lines = |head: &str| -> Vec<&str> { text.lines().filter(|line| line.starts_with(head)).collect() };
        let level = lines("InSyncReplica:");
        assert_eq!(level.len(), 2, "{text}");
        assert!(level[0].contains("brokerId=0, brokerAddress='h:2', label='n2', role=leader"), "{text}");
        let behind = lines("NotInSyncReplica:");
        assert_eq!(behind.len(), 3, "{text}");
        assert!(behind[2].contains("label='n5', role=learner, lag=0}"), "a learner has no vote: {text}");
    }
}
