//! A node that joins a broker group, by the line that it logs: a member more, or one in the place of another.

use crate::app::{Problem, Visit};
use crate::form::Fields;
use crate::phrase::Phrase as P;
use crate::view::{change, fold};
use maud::{Markup, html};
use raftmq_proto::admin::change_members_request::Change;
use raftmq_proto::admin::{ChangeMembersRequest, ChangePhase, Newcomer};
use std::collections::BTreeMap;
use tonic::Status;

/// The form, below all broker groups.
pub(super) fn form(visit: &Visit) -> Markup {
    fold(
        visit,
        P::AdmitNode,
        html! {
            p { (visit.t(P::AdmissionExplained)) }
            (change(visit, "/cluster/admit", P::AdmitNode, html! {
                label { (visit.t(P::LineOfLog)) " " textarea name="line" required {} }
            }))
        },
    )
}

/// What the line says.
#[derive(Debug, PartialEq)]
struct Admission {
    cluster: String,
    group: String,
    replaces: bool,
    node: Newcomer,
}

impl Admission {
    /// `mqadmin replacePeer -c … -b … -l … --node … --disk … --address …`, wherever in the line.
    fn parse(line: &str) -> Option<Admission> {
        let mut words = line.split_whitespace().skip_while(|word| !["addPeer", "replacePeer"].contains(word));
        let replaces = words.next()? == "replacePeer";
        let mut flags: BTreeMap<&str, &str> = BTreeMap::new();
        while let Some(flag) = words.next().filter(|word| word.starts_with('-')) {
            // `-y` has no value.
            if flag != "-y" {
                flags.insert(flag, words.next()?);
            }
        }
        let get = |flag: &str| flags.get(flag).map(|value| (*value).to_owned());
        let node = u64::from_str_radix(get("--node")?.trim_start_matches("0x"), 16).ok()?;
        let node = Newcomer { label: get("-l")?, node, disk: get("--disk")?, address: get("--address")? };
        Some(Admission { cluster: get("-c")?, group: get("-b")?, replaces, node })
    }
}

pub(crate) async fn admit(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let line = fields.get("line");
    let admission = Admission::parse(line).ok_or_else(|| Problem::Refused(visit.t(P::NoSuchLine).to_owned()))?;
    let group = visit.group(&admission.cluster, &admission.group).await?;
    let label = admission.node.label.clone();
    let change = if admission.replaces { Change::Replace(admission.node) } else { Change::Add(admission.node) };
    let request =
        ChangeMembersRequest { cluster: group.cluster.clone(), broker_group: group.name.clone(), change: Some(change) };
    let directory = visit.directory()?;
    let (_, members) = directory
        .on_group(&group, |mut node| {
            let request = request.clone();
            async move {
                let mut parts = node.change_members(request).await?.into_inner();
                while let Some(part) = parts.message().await? {
                    if part.phase() == ChangePhase::Done {
                        return Ok(part.members);
                    }
                }
                Err(Status::unavailable("the answer ended early; send the form again: it goes on where it was"))
            }
        })
        .await?;
    let voters: Vec<&str> = members.iter().filter(|member| member.voter).map(|member| member.label.as_str()).collect();
    Ok(format!("{label}: {} · {} {}", visit.t(P::NodeAdmitted), visit.t(P::Voters), voters.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_an_empty_node_says_it_all() {
        let line = "2026-11-30 … mqadmin replacePeer -c RaftCluster -b RaftNode00 -l n1 --node 7f --disk ff00 --address h:40911";
        let admission = Admission::parse(line).expect("it is that line");
        assert!(admission.replaces && admission.group == "RaftNode00");
        assert_eq!((admission.node.node, admission.node.label.as_str()), (0x7f, "n1"));
        assert!(!Admission::parse(&line.replace("replacePeer", "addPeer")).expect("as well").replaces);
        assert!(Admission::parse(&format!("{line} -y")).is_some());
        for wrong in [
            "",
            "addPeer",
            "mqadmin addPeer -l",
            "mqadmin removePeer -l n1",
            "addPeer -c C -b G -l n1 --node x --disk f --address h:1",
        ] {
            assert_eq!(Admission::parse(wrong), None, "{wrong}");
        }
    }
}
