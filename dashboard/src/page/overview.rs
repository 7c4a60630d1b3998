//! The first page: how the cluster is at a glance, and who led when.

use crate::app::{Page, Problem, Visit};
use crate::chart::over_time;
use crate::form::link;
use crate::phrase::Phrase as P;
use crate::samples::{GroupSeen, Overview, float};
use crate::view::{known, per_second, table, time};
use maud::{Markup, html};
use raftmq_admin_client::look::lags;

/// Topics and events that are listed.
const TOP: usize = 10;

pub(crate) fn show(visit: &Visit) -> Result<Page, Problem> {
    let seen = visit.app.samples.overview();
    let t = |phrase| visit.t(phrase);
    let body = html! {
        @if let Some(problem) = &seen.problem { p.note.bad role="alert" { (problem) } }
        (cards(visit, &seen))
        div.charts {
            (over_time(t(P::MessagesPerSecond), &seen.ring, &[(t(P::In), |s| s.incoming), (t(P::Out), |s| s.outgoing)]))
            (over_time(t(P::Backlog), &seen.ring, &[(t(P::Backlog), |s| s.backlog.map(float))]))
        }
        (groups(visit, &seen.groups))
        (latencies(visit, &seen.groups))
        (events(visit, &seen))
        (top(visit, &seen))
        @if seen.partly { p.faint { (t(P::CountedPartly)) } }
    };
    Ok(Page::live(t(P::Overview), body))
}

fn cards(visit: &Visit, seen: &Overview) -> Markup {
    let now = seen.ring.last().copied().unwrap_or_default();
    let nodes = seen.groups.iter().flat_map(|group| &group.nodes);
    let (all, up) = (nodes.clone().count(), nodes.filter(|node| node.live.is_some()).count());
    let leading = seen.groups.iter().filter(|group| group.leading().is_some()).count();
    let nothing = seen.groups.is_empty();
    let of = |some: usize, all: usize| if nothing { "–".to_owned() } else { format!("{some} / {all}") };
    let fsync = seen.groups.iter().filter_map(|group| Some(group.leading()?.live.as_ref()?.fsync_p99_us)).max();
    html! {
        dl.cards {
            div { dt { (visit.t(P::In)) } dd { (per_second(now.incoming)) } }
            div { dt { (visit.t(P::Out)) } dd { (per_second(now.outgoing)) } }
            div { dt { (visit.t(P::Backlog)) } dd { (known(now.backlog)) } }
            div { dt { (visit.t(P::NodesUp)) } dd.bad[up < all] { (of(up, all)) } }
            div { dt { (visit.t(P::GroupsLed)) } dd.bad[leading < seen.groups.len()] { (of(leading, seen.groups.len())) } }
            div { dt { (visit.t(P::FsyncP99)) } dd { (micros(fsync.unwrap_or(0))) } }
        }
    }
}

/// Microseconds as milliseconds; 0 says that there was none.
pub(super) fn micros(us: u64) -> String {
    if us == 0 { "–".to_owned() } else { format!("{:.2} ms", float(us) / 1_000.0) }
}

fn groups(visit: &Visit, groups: &[GroupSeen]) -> Markup {
    let mut rows = Vec::new();
    for seen in groups {
        let (leader, _) = raftmq_admin_client::look::leader(&seen.group, &seen.nodes);
        let lags = lags(leader, &seen.nodes);
        for node in &seen.nodes {
            let live = node.live.as_ref();
            let lag = lags.get(&node.node.node).copied();
            rows.push(vec![
                html! { (seen.group.name) },
                html! { (node.node.label) },
                role(visit, live.map(|live| live.role.as_str())),
                html! { (known(live.map(|live| live.term))) },
                html! { (known(if node.node.node == leader { live.map(|_| 0) } else { lag })) },
            ]);
        }
    }
    table(visit, visit.t(P::Nodes), &[P::BrokerGroup, P::Node, P::Role, P::Term, P::Lag], &rows)
}

/// How long calls took lately, on each node that answered any.
fn latencies(visit: &Visit, groups: &[GroupSeen]) -> Markup {
    let of = |call: &str| match call {
        "SendMessage" => P::Send,
        "ReceiveMessage" => P::Receive,
        _ => P::Acknowledge,
    };
    let mut rows = Vec::new();
    for seen in groups {
        for live in seen.nodes.iter().filter_map(|node| node.live.as_ref()) {
            for call in &live.latencies {
                rows.push(vec![
                    html! { (seen.group.name) " · " (live.label) },
                    html! { (visit.t(of(&call.call))) },
                    html! { (known(Some(call.calls))) },
                    html! { (micros(call.p50_us)) },
                    html! { (micros(call.p99_us)) },
                ]);
            }
        }
    }
    html! {
        (table(visit, visit.t(P::CallLatencies), &[P::Node, P::Call, P::CallsLately, P::Median, P::Slowest], &rows))
        p.faint { (visit.t(P::LatenciesExplained)) }
    }
}

/// What a node is, and whether that is well.
pub(super) fn role(visit: &Visit, role: Option<&str>) -> Markup {
    match role {
        Some("leader") => html! { strong.good { (visit.t(P::Leader)) } },
        Some("follower") => html! { (visit.t(P::Follower)) },
        Some("learner") => html! { (visit.t(P::Learner)) },
        Some("candidate") => html! { span.bad { (visit.t(P::Candidate)) } },
        Some(other) => html! { span.bad { (other) } },
        None => html! { span.bad { (visit.t(P::Down)) } },
    }
}

fn events(visit: &Visit, seen: &Overview) -> Markup {
    let events = seen.events.iter().rev().take(TOP);
    let rows: Vec<Vec<Markup>> = events
        .map(|event| {
            let what = match &event.leader {
                Some((label, term)) => html! { strong { (label) } " · " (visit.t(P::Term)) " " (term) },
                None => html! { span.bad { (visit.t(P::NoLeader)) } },
            };
            vec![html! { (time(event.at_ms)) }, html! { (event.broker_group) }, what]
        })
        .collect();
    table(visit, visit.t(P::LeaderChanges), &[P::Time, P::BrokerGroup, P::Leader], &rows)
}

fn top(visit: &Visit, seen: &Overview) -> Markup {
    let mut topics: Vec<_> = seen.traffic.iter().collect();
    topics.sort_by(|(a_name, a), (b_name, b)| {
        let busier = b.incoming.unwrap_or(-1.0).total_cmp(&a.incoming.unwrap_or(-1.0));
        busier.then(b.stored.cmp(&a.stored)).then(a_name.cmp(b_name))
    });
    let rows: Vec<Vec<Markup>> = topics
        .into_iter()
        .take(TOP)
        .map(|(name, traffic)| {
            vec![
                html! { a href=(link("/topic", &[("name", name)])) { (name) } },
                html! { (per_second(traffic.incoming)) },
                html! { (per_second(traffic.outgoing)) },
                html! { (known(Some(traffic.stored))) },
            ]
        })
        .collect();
    table(visit, visit.t(P::TopTopics), &[P::Topic, P::In, P::Out, P::MessagesEver], &rows)
}
