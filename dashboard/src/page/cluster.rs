//! Broker groups and their nodes in full; handing leadership over and removing a member.

use super::confirmed;
use super::overview::{micros, role};
use crate::app::{Page, Problem, Visit};
use crate::form::{Fields, link};
use crate::phrase::Phrase as P;
use crate::samples::GroupSeen;
use crate::view::{UNKNOWN, bytes, change, confirmation, fold, hidden, known, known_unless_0, table, text, time};
use maud::{Markup, html};
use raftmq_admin_client::connect;
use raftmq_admin_client::directory::Node;
use raftmq_admin_client::look::look;
use raftmq_proto::admin::change_members_request::Change;
use raftmq_proto::admin::{
    ChangeMembersRequest, ChangePhase, DiskMarks, GetConfigRequest, GroupStatusResponse, MemberToRemove,
    TransferLeaderRequest,
};
use tonic::Status;

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let directory = visit.directory()?;
    let mut groups = Vec::new();
    for group in visit.groups().await? {
        let (nodes, silent) = look(&directory, &group).await?;
        groups.push((GroupSeen { group, nodes }, silent));
    }
    let body = html! {
        @for (seen, silent) in &groups {
            h2 { (seen.group.cluster) " · " (seen.group.name) }
            @for reason in silent { p.note.bad { (reason) } }
            @for live in seen.nodes.iter().filter_map(|node| node.live.as_ref()).filter(|live| !live.trouble.is_empty()) {
                p.note.bad role="alert" { (live.label) ": " (live.trouble) }
            }
            (nodes(visit, seen))
            (disks(visit, seen))
            (peers(visit, seen))
            (actions(visit, seen))
        }
        @if groups.is_empty() { p { (visit.t(P::NoGroups)) } } @else { (super::admission::form(visit)) }
    };
    Ok(Page::live(visit.t(P::Cluster), body))
}

fn nodes(visit: &Visit, seen: &GroupSeen) -> Markup {
    let cell = |value: Option<String>| html! { (value.unwrap_or_else(|| "–".to_owned())) };
    let rows: Vec<Vec<Markup>> = seen
        .nodes
        .iter()
        .map(|node| {
            let live = node.live.as_ref();
            let of = |value: fn(&GroupStatusResponse) -> Option<u64>| html! { (known(live.and_then(value))) };
            vec![
                html! { a href=(link("/node", &[("address", &node.node.admin)])) { (node.node.label) } },
                role(visit, live.map(|live| live.role.as_str())),
                of(|live| Some(live.term)),
                of(|live| live.last_index),
                of(|live| live.committed_index),
                of(|live| live.applied_index),
                of(|live| live.purged_index),
                cell(live.map(|live| micros(live.fsync_p99_us))),
                disk(live),
                cell(live.map(|live| bytes(live.log_bytes))),
                cell(live.map(|live| time(live.oldest_message_ms))),
                cell(live.map(|live| duration(live.uptime_ms))),
                html! { (text(live.map_or(node.node.program.as_str(), |live| live.version.as_str()))) },
                html! { (text(&node.node.grpc)) },
                html! { (text(&node.node.admin)) },
            ]
        })
        .collect();
    let head = [
        P::Node,
        P::Role,
        P::Term,
        P::LastIndex,
        P::Committed,
        P::Applied,
        P::Purged,
        P::FsyncP99,
        P::DiskUsed,
        P::LogSize,
        P::OldestMessage,
        P::Uptime,
        P::Version,
        P::ClientAddress,
        P::AdminAddress,
    ];
    table(visit, visit.t(P::Nodes), &head, &rows)
}

/// Part of a disk that is in use, with the mark above which messages that are too old go.
fn disk(live: Option<&GroupStatusResponse>) -> Markup {
    let live = live.filter(|live| live.disk_used_ratio > 0.0);
    let Some(live) = live else { return html! { (UNKNOWN) } };
    let percent = format!("{:.0} %", live.disk_used_ratio * 100.0);
    let mark = live.disk.as_ref().map(|disk| format!("{:.2}", f64::from(disk.clean_percent) / 100.0));
    html! {
        meter min="0" max="1" high=[mark] value=(format!("{:.3}", live.disk_used_ratio)) aria-label=(percent) {} " " (percent)
    }
}

/// Percent of a disk in use from which sends are refused, rounded down.
fn refusal_percent(disk: &DiskMarks) -> Option<u64> {
    let used = disk.total_bytes.saturating_sub(disk.send_free_bytes_min);
    (u128::from(used) * 100).checked_div(disk.total_bytes.into()).and_then(|percent| u64::try_from(percent).ok())
}

/// The disks of a broker group, and the marks on them that are in force.
fn disks(visit: &Visit, seen: &GroupSeen) -> Markup {
    let rows: Vec<Vec<Markup>> = seen
        .nodes
        .iter()
        .map(|node| {
            let marks = node.live.as_ref().and_then(|live| live.disk.as_ref());
            let of = |shown: &dyn Fn(&DiskMarks) -> String| html! { (marks.map_or_else(|| UNKNOWN.to_owned(), shown)) };
            vec![
                html! { (node.node.label) },
                disk(node.live.as_ref()),
                of(&|disk| format!("{} / {}", bytes(disk.free_bytes), bytes(disk.total_bytes))),
                of(&|disk| format!("{} %", disk.clean_percent)),
                of(&|disk| match disk.force_percent {
                    0 => visit.t(P::Never).to_owned(),
                    percent => format!("{percent} %"),
                }),
                of(&|disk| {
                    let percent = refusal_percent(disk).map(|percent| format!(" ({percent} %)")).unwrap_or_default();
                    format!("{}{percent}", bytes(disk.send_free_bytes_min))
                }),
            ]
        })
        .collect();
    let head = [P::Node, P::DiskUsed, P::DiskFree, P::CleanMark, P::ForceMark, P::RefusalMark];
    html! { (table(visit, visit.t(P::Disks), &head, &rows)) p.faint { (visit.t(P::MarksExplained)) } }
}

fn duration(ms: u64) -> String {
    let minutes = ms / 60_000;
    match minutes {
        0..60 => format!("{minutes} min"),
        60..2_880 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} d", minutes / 1_440),
    }
}

/// The leader's view of its peers.
fn peers(visit: &Visit, seen: &GroupSeen) -> Markup {
    let members = seen.leading().and_then(|node| node.live.as_ref()).map(|live| live.members.as_slice());
    let Some(members) = members else { return html! { p.note.bad { (visit.t(P::NoLeader)) } } };
    let rows: Vec<Vec<Markup>> = members
        .iter()
        .map(|member| {
            vec![
                html! { (member.label) },
                html! { (visit.t(if member.voter { P::Yes } else { P::No })) },
                html! { (known(member.matched)) },
                html! { (known(member.lag)) },
                html! { (known(member.last_ack_ms)) },
                html! { (text(&member.peer)) },
            ]
        })
        .collect();
    table(
        visit,
        visit.t(P::PeersOfLeader),
        &[P::Node, P::Voter, P::Matched, P::Lag, P::LastAckMs, P::PeerAddress],
        &rows,
    )
}

fn actions(visit: &Visit, seen: &GroupSeen) -> Markup {
    let names = html! { (hidden("cluster", &seen.group.cluster)) (hidden("group", &seen.group.name)) };
    html! {
        (fold(visit, P::TransferLeadership, change(visit, "/cluster/transfer", P::TransferLeadership, html! {
            (names)
            label { (visit.t(P::To)) " " select name="node" {
                option value="0" { (visit.t(P::ClosestBehind)) }
                @for node in seen.nodes.iter().filter(|node| node.node.member) {
                    option value=(node.node.node) { (node.node.label) }
                }
            } }
        })))
        @for node in seen.nodes.iter().filter(|node| node.node.member) {
            (fold_of(visit, &node.node, html! {
                p { (visit.t(P::RemovalIsFinal)) }
                (change(visit, "/cluster/remove", P::RemoveMember, html! {
                    (names) (hidden("node", &node.node.node.to_string())) (confirmation(visit, &node.node.label))
                }))
            }))
        }
    }
}

fn fold_of(visit: &Visit, node: &Node, content: Markup) -> Markup {
    html! {
        @if visit.may_change() {
            details { summary { (visit.t(P::RemoveMember)) " " (node.label) } (content) }
        }
    }
}

/// The configuration of one node.
pub(crate) async fn show_node(visit: &Visit) -> Result<Page, Problem> {
    let address = visit.query.get("address");
    // Keys are shown to nodes of the cluster, and to nobody whom a link names.
    let groups = visit.groups().await?;
    let node = groups.iter().flat_map(|group| &group.nodes).find(|node| node.admin == address && !address.is_empty());
    let node = node.ok_or_else(|| Problem::Missing(format!("{}: {address}", visit.t(P::NoSuchNode))))?;
    let mut client = connect::admin(&node.admin, &visit.directory()?.token)?;
    let answer = client.get_config(GetConfigRequest {}).await;
    let answer = answer.map_err(|status| refused(address, &status))?.into_inner();
    let rows: Vec<Vec<Markup>> = answer
        .settings
        .iter()
        .filter(|setting| crate::view::wanted(visit, &setting.key))
        .map(|setting| {
            vec![
                html! { code { (setting.key) } },
                html! { code { (setting.value.as_deref().unwrap_or("–")) } },
                html! { (if setting.source.is_empty() { visit.t(P::Default) } else { &setting.source }) },
                html! { @if setting.unused { (visit.t(P::NoEffect)) } },
            ]
        })
        .collect();
    let body = html! {
        p { (answer.broker_group) " · " (address) }
        (crate::view::search(visit, html! { input type="hidden" name="address" value=(address); }))
        (table(visit, visit.t(P::Configuration), &[P::Key, P::Value, P::Source, P::Remark], &rows))
    };
    Ok(Page::new(format!("{} {}", visit.t(P::Node), answer.label), body))
}

fn refused(address: &str, status: &Status) -> Problem {
    match status.code() {
        tonic::Code::Unauthenticated => Problem::SignIn,
        _ => Problem::Refused(connect::at(address, status)),
    }
}

pub(crate) async fn transfer(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let group = visit.group(fields.get("cluster"), fields.get("group")).await?;
    let request = TransferLeaderRequest { node: fields.number("node")?.unwrap_or(0), label: String::new() };
    let directory = visit.directory()?;
    let (_, answer) = directory
        .on_group(&group, |mut node| {
            let request = request.clone();
            async move { Ok(node.transfer_leader(request).await?.into_inner()) }
        })
        .await?;
    let name = |id: u64| {
        let node = group.nodes.iter().find(|node| node.node == id);
        node.map_or_else(|| format!("{id:x}"), |node| node.label.clone())
    };
    let (from, to) = (name(answer.from), name(answer.to));
    Ok(format!("{}: {from} → {to}, {} {}", visit.t(P::LeadershipWent), visit.t(P::Term), answer.term))
}

pub(crate) async fn remove(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let label = confirmed(visit, fields)?;
    let group = visit.group(fields.get("cluster"), fields.get("group")).await?;
    let member = MemberToRemove { label: label.clone(), node: fields.number("node")?.unwrap_or(0) };
    let request = ChangeMembersRequest {
        cluster: group.cluster.clone(),
        broker_group: group.name.clone(),
        change: Some(Change::Remove(member)),
    };
    let directory = visit.directory()?;
    let (_, voters) = directory
        .on_group(&group, |mut node| {
            let request = request.clone();
            async move {
                let mut parts = node.change_members(request).await?.into_inner();
                while let Some(part) = parts.message().await? {
                    if part.phase() == ChangePhase::Done {
                        return Ok(part.members.iter().filter(|member| member.voter).count() as u64);
                    }
                }
                Err(Status::unavailable("the answer ended early; ask again"))
            }
        })
        .await?;
    Ok(format!("{label}: {} · {} {}", visit.t(P::MemberRemoved), visit.t(P::Voters), known_unless_0(voters)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sends_are_refused_below_the_bytes_that_must_be_free() {
        let disk =
            |total_bytes, send_free_bytes_min| DiskMarks { total_bytes, send_free_bytes_min, ..DiskMarks::default() };
        assert_eq!(refusal_percent(&disk(1_000, 25)), Some(97));
        assert_eq!(refusal_percent(&disk(1_000, 2_000)), Some(0), "a disk that is too small");
        assert_eq!(refusal_percent(&disk(0, 0)), None);
    }
}
