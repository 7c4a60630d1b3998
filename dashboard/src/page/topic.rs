//! One topic: its queues, its route, who consumes it, sending a message to it.

use super::topics::{permission, shape};
use crate::app::{Page, Problem, Visit, present};
use crate::form::link;
use crate::phrase::Phrase as P;
use crate::samples::is_lite;
use crate::view::{
    UNKNOWN, change, change_to, confirmation, fold, hidden, known, number, paged_of, per_second, table, text, time,
};
use maud::{Markup, html};
use raftmq_admin_client::dead_letter::PREFIX as DEAD;
use raftmq_admin_client::directory::{Directory, Group};
use raftmq_admin_client::progress::{diff, queues_of};
use raftmq_proto::admin::{QueueStatus, Topic, TopicRouteRequest, TopicStatusRequest};
use raftmq_proto::rocketmq::MessageType;
use std::collections::BTreeMap;

/// What a broker group has of a topic.
struct Hosted {
    group: Group,
    /// Its settings, where its route tells them.
    topic: Option<Topic>,
    queues: Vec<QueueStatus>,
}

/// What of a topic waits for a consumer group, is in flight, and waits for another attempt.
#[derive(Default)]
struct Consumed {
    waiting: u64,
    flight: u64,
    retrying: u64,
    /// Of lite topics, which have no queue that could be moved.
    lite: bool,
}

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let name = visit.query.get("name").to_owned();
    let directory = visit.directory()?;
    let mut hosts = Vec::new();
    let mut consumers: BTreeMap<String, Consumed> = BTreeMap::new();
    for group in visit.groups().await? {
        let Some(hosted) = hosted(&directory, &group, &name).await? else { continue };
        hosts.push(hosted);
        for queue in present(queues_of(&directory, &group, "", &name).await)?.unwrap_or_default() {
            let sums = consumers.entry(queue.consumer_group.clone()).or_default();
            sums.waiting += diff(&queue);
            sums.flight += queue.in_flight;
            sums.retrying += queue.retrying;
            sums.lite |= queue.lite_topics > 0;
        }
    }
    if hosts.is_empty() {
        return Err(Problem::Missing(format!("{}: {name}", visit.t(P::NoSuchTopic))));
    }
    let traffic = visit.app.samples.traffic(&name);
    let lite = hosts.iter().filter_map(|hosted| hosted.topic.as_ref()).any(is_lite);
    // Messages to lite topics are in no queue of their topic.
    let of_queues = |of: fn(&QueueStatus) -> u64| known(Some(sum(&hosts, of)).filter(|_| !lite));
    let body = html! {
        dl.cards {
            div { dt { (visit.t(P::In)) } dd { (per_second(traffic.and_then(|traffic| traffic.incoming))) } }
            div { dt { (visit.t(P::Out)) } dd { (per_second(traffic.and_then(|traffic| traffic.outgoing))) } }
            div { dt { (visit.t(P::MessagesEver)) } dd { (of_queues(|queue| queue.max_offset)) } }
            div { dt { (visit.t(P::MessagesKept)) } dd { (of_queues(|queue| queue.max_offset.saturating_sub(queue.min_offset))) } }
            div { dt { (visit.t(P::Consumers)) } dd { (consumers.len()) } }
        }
        p { a href=(link("/messages", &[("topic", &name)])) { (visit.t(P::Messages)) } }
        (settings(visit, &hosts))
        (queues(visit, &hosts))
        (consumed(visit, &name, &consumers))
        (route(visit, &hosts))
        (forms(visit, &name, hosts.iter().find_map(|hosted| hosted.topic.as_ref())))
    };
    Ok(Page::live(name.clone(), body))
}

async fn hosted(directory: &Directory, group: &Group, name: &str) -> Result<Option<Hosted>, Problem> {
    let status = directory.read_group(group, |mut node, stale| {
        let request = TopicStatusRequest { name: name.to_owned(), stale };
        async move { Ok(node.topic_status(request).await?.into_inner()) }
    });
    let Some((_, status)) = present(status.await)? else { return Ok(None) };
    let route = directory.on_group(group, |mut node| {
        let request = TopicRouteRequest { name: name.to_owned() };
        async move { Ok(node.topic_route(request).await?.into_inner()) }
    });
    let (_, route) = route.await?;
    let own = route.broker_groups.into_iter().find(|found| found.broker_group == group.name);
    Ok(Some(Hosted { group: group.clone(), topic: own.and_then(|found| found.topic), queues: status.queues }))
}

fn sum(hosts: &[Hosted], of: fn(&QueueStatus) -> u64) -> u64 {
    hosts.iter().flat_map(|hosted| &hosted.queues).map(of).sum()
}

fn settings(visit: &Visit, hosts: &[Hosted]) -> Markup {
    let head =
        [P::BrokerGroup, P::MessageType, P::Queues, P::Permission, P::Attributes, P::Version, P::Created, P::Changed];
    let rows: Vec<Vec<Markup>> = hosts
        .iter()
        .map(|Hosted { group, topic, .. }| {
            let Some(topic) = topic else {
                // Made a moment ago, or gone since the queues were read.
                return std::iter::once(html! { (group.name) })
                    .chain(std::iter::repeat_n(html! { (UNKNOWN) }, head.len() - 1))
                    .collect();
            };
            let mut attributes: Vec<String> =
                topic.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            attributes.sort_unstable();
            let types: Vec<&str> = topic
                .message_types
                .iter()
                .map(|value| MessageType::try_from(*value).map_or(UNKNOWN, |known| known.as_str_name()))
                .collect();
            vec![
                html! { (group.name) },
                html! { (types.join(", ")) },
                html! { (topic.read_queues) " / " (topic.write_queues) },
                html! { (permission(topic.permission)) },
                html! { (text(&attributes.join(", "))) },
                html! { (topic.version) },
                html! { (time(topic.created_ms)) },
                html! { (time(topic.updated_ms)) },
            ]
        })
        .collect();
    table(visit, visit.t(P::Configuration), &head, &rows)
}

fn queues(visit: &Visit, hosts: &[Hosted]) -> Markup {
    let all: Vec<(&str, &QueueStatus)> = hosts
        .iter()
        .flat_map(|hosted| hosted.queues.iter().map(move |queue| (hosted.group.name.as_str(), queue)))
        .collect();
    let (shown, pager) = paged_of(visit, "queues", P::Queues, &all);
    let rows: Vec<Vec<Markup>> = shown
        .iter()
        .map(|(group, queue)| {
            vec![
                html! { (group) " · " (queue.queue) },
                html! { (number(queue.min_offset)) },
                html! { (number(queue.max_offset)) },
                html! { (number(queue.max_offset.saturating_sub(queue.min_offset))) },
                html! { (time(queue.first_store_ms)) },
                html! { (time(queue.last_store_ms)) },
            ]
        })
        .collect();
    let head = [P::Queue, P::FirstOffset, P::NextOffset, P::MessagesKept, P::OldestMessage, P::LastMessage];
    html! { (table(visit, visit.t(P::Queues), &head, &rows)) (pager) }
}

fn consumed(visit: &Visit, topic: &str, consumers: &BTreeMap<String, Consumed>) -> Markup {
    let all: Vec<(&String, &Consumed)> = consumers.iter().collect();
    let (shown, pager) = paged_of(visit, "consumers", P::Consumers, &all);
    let rows: Vec<Vec<Markup>> = shown
        .iter()
        .map(|(name, sums)| {
            vec![
                html! { a href=(link("/consumer", &[("name", name)])) { (name) } },
                html! { (number(sums.waiting)) },
                html! { (number(sums.flight)) },
                html! { (number(sums.retrying)) },
                html! {
                    @if visit.may_change() && !sums.lite {
                        a href=(format!("{}#move", link("/consumer", &[("name", name), ("topic", topic)])))
                            aria-label=(format!("{} {name}", visit.t(P::MoveProgress))) { (visit.t(P::MoveProgress)) }
                    }
                },
            ]
        })
        .collect();
    let head = [P::ConsumerGroup, P::Lag, P::InFlight, P::Retrying, P::Progress];
    html! { (table(visit, visit.t(P::Consumers), &head, &rows)) (pager) }
}

fn route(visit: &Visit, hosts: &[Hosted]) -> Markup {
    let mut rows = Vec::new();
    for Hosted { group, .. } in hosts {
        for node in group.nodes.iter().filter(|node| node.member) {
            rows.push(vec![
                html! { (group.name) " · " (node.label) },
                html! { (text(&node.grpc)) },
                html! { (visit.t(if node.voter { P::Yes } else { P::No })) },
            ]);
        }
    }
    table(visit, visit.t(P::Route), &[P::Node, P::ClientAddress, P::Voter], &rows)
}

fn forms(visit: &Visit, name: &str, topic: Option<&Topic>) -> Markup {
    let takes: Vec<MessageType> = topic
        .iter()
        .flat_map(|topic| &topic.message_types)
        .filter_map(|value| MessageType::try_from(*value).ok())
        .collect();
    html! {
        @if !name.starts_with(DEAD) {
            (fold(visit, P::SendTestMessage, change(visit, "/topic/send", P::Send, super::send::fields(visit, name, &takes))))
            (fold(visit, P::ChangeTopic, change(visit, "/topic/put", P::ChangeTopic, html! {
                (hidden("name", name)) (shape(visit, topic))
            })))
        }
        (fold(visit, P::DeleteTopic, html! {
            p { (visit.t(P::DeletionIsFinal)) }
            (change_to(visit, "/topic/delete", "/topics", P::DeleteTopic, confirmation(visit, name)))
        }))
    }
}
