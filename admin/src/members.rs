//! What `addPeer`, `replacePeer` and `removePeer` have in common: which broker group, the way to its leader until the
//! change is committed, and progress on standard error.

use crate::connect::{self, at, try_another};
use crate::directory::{Directory, Group, Target};
use crate::error::AdminError;
use crate::output::Outcome;
use crate::progress::{Progress, bar};
use clap::Args;
use raftmq_proto::admin::change_members_request::Change;
use raftmq_proto::admin::{ChangeMembersRequest, ChangeMembersResponse, ChangePhase, Member, Newcomer};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

/// A leader is looked for this long, also when the one that was at work died.
const LEADER_WITHIN: Duration = Duration::from_secs(15);
/// Between two looks for a leader.
const PAUSE: Duration = Duration::from_millis(300);
/// A leader that is at work says something within this time.
const SILENCE_MAX: Duration = Duration::from_secs(25);

/// The broker group whose members change.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Its cluster; needless where there is one.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// The broker group; needless where there is one.
    #[arg(short = 'b', long = "brokerName", value_name = "GROUP")]
    broker_group: Option<String>,
    /// The broker group of the node with this address (#Addr of clusterList), where no name server answers.
    #[arg(long = "brokerAddr", value_name = "ADDRESS", conflicts_with = "cluster")]
    broker: Option<String>,
}

impl Place {
    pub(crate) async fn group(&self, directory: &Directory) -> Result<Group, AdminError> {
        let mut groups = directory.groups(Target::new(self.broker.as_deref(), self.cluster.as_deref())).await?;
        let known: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
        let known = known.join(", ");
        if let Some(wanted) = &self.broker_group {
            groups.retain(|group| group.name == *wanted);
        }
        match groups.len() {
            0 => Err(AdminError::Unknown(format!(
                "no broker group is called {}; there are {known}",
                self.broker_group.as_deref().unwrap_or_default()
            ))),
            1 => Ok(groups.remove(0)),
            _ => Err(AdminError::Usage(format!("there is more than one broker group: name one of {known} with -b"))),
        }
    }
}

/// The node that joins, in the words of the line that it logs.
#[derive(Debug, Args)]
pub(crate) struct NewNode {
    /// Its dLegerSelfId.
    #[arg(short = 'l', long = "label", value_name = "LABEL")]
    pub label: String,
    /// Its Raft id, in hexadecimal.
    #[arg(long = "node", value_name = "ID", value_parser = node_id)]
    node: u64,
    /// Its disk, 32 hexadecimal digits.
    #[arg(long = "disk", value_name = "DISK")]
    disk: String,
    /// Where the members reach it: its own entry in dLegerPeers.
    #[arg(long = "address", value_name = "HOST:PORT")]
    address: String,
}

impl NewNode {
    pub(crate) fn newcomer(&self) -> Newcomer {
        let NewNode { label, node, disk, address } = self;
        Newcomer { label: label.clone(), node: *node, disk: disk.clone(), address: address.clone() }
    }
}

/// A Raft id as logs and tables show it.
pub(crate) fn node_id(text: &str) -> Result<u64, String> {
    match u64::from_str_radix(text.trim_start_matches("0x"), 16) {
        Ok(id) if id != 0 => Ok(id),
        _ => Err("a Raft id is a hexadecimal number, such as 3fa9c01b22d17e55".to_owned()),
    }
}

/// Has the change carried out by whoever leads, and the next leader when that one dies.
pub(crate) async fn change(
    directory: &Directory,
    place: &Place,
    change: Change,
) -> Result<(Group, ChangeMembersResponse), AdminError> {
    let mut progress = Told::new();
    let mut deadline = Instant::now() + LEADER_WITHIN;
    loop {
        // Anew each time: leadership moves, and so do members.
        let group = place.group(directory).await?;
        let request = ChangeMembersRequest {
            cluster: group.cluster.clone(),
            broker_group: group.name.clone(),
            change: Some(change.clone()),
        };
        let mut reasons = Vec::new();
        for node in group.by_promise() {
            let began = progress.parts;
            match on_node(directory, &node.admin, request.clone(), &mut progress).await {
                Ok(done) => {
                    progress.end();
                    return Ok((group, done));
                }
                Err(status) if try_another(&status) => reasons.push(at(&node.admin, &status)),
                Err(status) => {
                    progress.end();
                    return Err(AdminError::refused(&node.admin, &status));
                }
            }
            if progress.parts > began {
                // It was at work, and is not any more.
                deadline = Instant::now() + LEADER_WITHIN;
            }
        }
        if Instant::now() >= deadline {
            progress.end();
            return Err(AdminError::NoLeader {
                broker_group: group.name,
                seconds: LEADER_WITHIN.as_secs(),
                reasons: reasons.join(", "),
            });
        }
        sleep(PAUSE).await;
    }
}

async fn on_node(
    directory: &Directory,
    address: &str,
    request: ChangeMembersRequest,
    progress: &mut Told,
) -> Result<ChangeMembersResponse, Status> {
    let mut client =
        connect::admin(address, &directory.token).map_err(|error| Status::unavailable(error.to_string()))?;
    let mut parts = client.change_members(request).await?.into_inner();
    loop {
        let part = match timeout(SILENCE_MAX, parts.message()).await {
            Ok(part) => part?.ok_or_else(|| Status::unavailable("the answer ended early"))?,
            Err(_) => return Err(Status::unavailable(format!("silent for {} s", SILENCE_MAX.as_secs()))),
        };
        if part.phase() == ChangePhase::Done {
            return Ok(part);
        }
        progress.show(&part);
    }
}

/// What is printed when a change is done.
pub(crate) fn outcome(did: &str, subject: &str, group: &Group, done: &ChangeMembersResponse, text: &str) -> Outcome {
    let voters: Vec<&Member> = done.members.iter().filter(|member| member.voter).collect();
    let labels: Vec<&str> = voters.iter().map(|member| member.label.as_str()).collect();
    let spare = voters.len().saturating_sub(1) / 2;
    let nothing = if done.changed { "" } else { " Nothing had to be done." };
    let members: Vec<_> = done
        .members
        .iter()
        .map(|member| {
            json!({
                "label": member.label,
                "node": format!("{:x}", member.node),
                "addr": member.admin,
                "peer": member.peer,
                "voter": member.voter,
            })
        })
        .collect();
    Outcome::done(
        format!(
            "{text}{nothing}\nvoters of broker group {}: {} ({spare} may be down)\n",
            group.name,
            labels.join(", ")
        ),
        json!({
            "did": did,
            "cluster": group.cluster,
            "brokerName": group.name,
            "label": subject,
            "changed": done.changed,
            "members": members,
        }),
    )
}

/// What is shown of a change.
struct Told {
    line: Progress,
    phase: Option<ChangePhase>,
    /// Parts that told of work.
    parts: u64,
}

impl Told {
    fn new() -> Told {
        Told { line: Progress::new(), phase: None, parts: 0 }
    }

    fn show(&mut self, part: &ChangeMembersResponse) {
        let phase = part.phase();
        self.parts += u64::from(phase != ChangePhase::Checking);
        self.line.show(&describe(part), self.phase.replace(phase) != Some(phase));
    }

    fn end(&mut self) {
        self.line.end();
    }
}

fn describe(part: &ChangeMembersResponse) -> String {
    match part.phase() {
        ChangePhase::Checking => "looking at the node and the voters".to_owned(),
        ChangePhase::Filling => {
            let has = part.entries.saturating_sub(part.behind);
            format!(
                "{}: {has} of {} entries, {:.1} MB, {:.1} MB/s",
                bar(has, part.entries),
                part.entries,
                megabytes(part.delivered_bytes),
                megabytes(part.bytes_per_second)
            )
        }
        ChangePhase::Voting => "changing the voters".to_owned(),
        ChangePhase::Leaving => "letting the node finish what its clients wait for".to_owned(),
        ChangePhase::Done => "done".to_owned(),
    }
}

// What is shown has one digit after the point.
#[allow(clippy::cast_precision_loss)]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_it_should_be() {
        let part = |behind, entries| ChangeMembersResponse {
            phase: ChangePhase::Filling.into(),
            behind,
            entries,
            delivered_bytes: 2_500_000,
            bytes_per_second: 1_000_000,
            ..ChangeMembersResponse::default()
        };
        let half = describe(&part(50, 100));
        assert_eq!(half, format!("[{}{}] 50 %: 50 of 100 entries, 2.5 MB, 1.0 MB/s", "#".repeat(15), ".".repeat(15)));
        assert!(describe(&part(0, 0)).contains("0 of 0 entries"));
        assert!(describe(&part(0, 7)).contains(&format!("[{}]", "#".repeat(30))));
        assert!(describe(&part(9, 7)).starts_with("[.."));
    }

    #[test]
    fn ids_are_hexadecimal_and_not_zero() {
        assert_eq!(node_id("a0"), Ok(160));
        assert_eq!(node_id("0xa0"), Ok(160));
        assert!(node_id("0").is_err() && node_id("n1").is_err() && node_id("").is_err());
    }
}
