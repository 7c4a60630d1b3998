//! One topic: its queues, its route, who consumes it, sending a message to it.

use super::topics::{DEAD, permission, shape};
use crate::app::{Page, Problem, Visit, present};
use crate::form::link;
use crate::phrase::Phrase as P;
use crate::view::{change, change_to, confirmation, field, fold, hidden, known, number, per_second, table, text, time};
use maud::{Markup, html};
use raftmq_admin_client::directory::Directory;
use raftmq_admin_client::directory::Group;
use raftmq_admin_client::progress::{diff, queues_of};
use raftmq_proto::admin::{QueueStatus, Topic, TopicRouteRequest, TopicStatusRequest};
use raftmq_proto::rocketmq::MessageType;
use std::collections::BTreeMap;

/// What a broker group has of a topic.
struct Hosted {
    group: Group,
    topic: Topic,
    queues: Vec<QueueStatus>,
}

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let name = visit.query.get("name").to_owned();
    let directory = visit.directory()?;
    let mut hosts = Vec::new();
    // Consumer group → messages that wait, in flight, that wait for another attempt.
    let mut consumers: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for group in visit.groups().await? {
        let Some(hosted) = hosted(&directory, &group, &name).await? else { continue };
        hosts.push(hosted);
        for queue in present(queues_of(&directory, &group, "", &name).await)?.unwrap_or_default() {
            let sums = consumers.entry(queue.consumer_group.clone()).or_default();
            *sums = (sums.0 + diff(&queue), sums.1 + queue.in_flight, sums.2 + queue.retrying);
        }
    }
    let Some(first) = hosts.first() else {
        return Err(Problem::Missing(format!("{}: {name}", visit.t(P::NoSuchTopic))));
    };
    let traffic = visit.app.samples.traffic(&name);
    let body = html! {
        dl.cards {
            div { dt { (visit.t(P::In)) } dd { (per_second(traffic.and_then(|traffic| traffic.rate))) } }
            div { dt { (visit.t(P::MessagesEver)) } dd { (number(sum(&hosts, |queue| queue.max_offset))) } }
            div { dt { (visit.t(P::MessagesKept)) } dd { (number(sum(&hosts, |queue| queue.max_offset.saturating_sub(queue.min_offset)))) } }
            div { dt { (visit.t(P::Consumers)) } dd { (consumers.len()) } }
        }
        p { a href=(link("/messages", &[("topic", &name)])) { (visit.t(P::Messages)) } }
        (settings(visit, &hosts))
        (queues(visit, &hosts))
        (consumed(visit, &consumers))
        (route(visit, &hosts))
        (forms(visit, &name, &first.topic))
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
    let topic = own.and_then(|found| found.topic).unwrap_or_default();
    Ok(Some(Hosted { group: group.clone(), topic, queues: status.queues }))
}

fn sum(hosts: &[Hosted], of: fn(&QueueStatus) -> u64) -> u64 {
    hosts.iter().flat_map(|hosted| &hosted.queues).map(of).sum()
}

fn settings(visit: &Visit, hosts: &[Hosted]) -> Markup {
    let rows: Vec<Vec<Markup>> = hosts
        .iter()
        .map(|Hosted { group, topic, .. }| {
            let mut attributes: Vec<String> =
                topic.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            attributes.sort_unstable();
            let types: Vec<&str> = topic
                .message_types
                .iter()
                .map(|value| MessageType::try_from(*value).map_or("–", |known| known.as_str_name()))
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
    let head =
        [P::BrokerGroup, P::MessageType, P::Queues, P::Permission, P::Attributes, P::Version, P::Created, P::Changed];
    table(visit, visit.t(P::Configuration), &head, &rows)
}

fn queues(visit: &Visit, hosts: &[Hosted]) -> Markup {
    let mut rows = Vec::new();
    for Hosted { group, queues, .. } in hosts {
        for queue in queues {
            rows.push(vec![
                html! { (group.name) " · " (queue.queue) },
                html! { (number(queue.min_offset)) },
                html! { (number(queue.max_offset)) },
                html! { (number(queue.max_offset.saturating_sub(queue.min_offset))) },
                html! { (time(queue.last_store_ms)) },
            ]);
        }
    }
    table(visit, visit.t(P::Queues), &[P::Queue, P::FirstOffset, P::NextOffset, P::MessagesKept, P::LastMessage], &rows)
}

fn consumed(visit: &Visit, consumers: &BTreeMap<String, (u64, u64, u64)>) -> Markup {
    let rows: Vec<Vec<Markup>> = consumers
        .iter()
        .map(|(name, (waiting, flight, retrying))| {
            vec![
                html! { a href=(link("/consumer", &[("name", name)])) { (name) } },
                html! { (known(Some(*waiting))) },
                html! { (number(*flight)) },
                html! { (number(*retrying)) },
            ]
        })
        .collect();
    table(visit, visit.t(P::Consumers), &[P::ConsumerGroup, P::Lag, P::InFlight, P::Retrying], &rows)
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

fn forms(visit: &Visit, name: &str, topic: &Topic) -> Markup {
    html! {
        @if !name.starts_with(DEAD) {
            (fold(visit, P::SendTestMessage, change(visit, "/topic/send", P::Send, html! {
                (hidden("topic", name))
                label { (visit.t(P::Body)) " " textarea name="body" required {} }
                (field(visit, P::Keys, "keys", ""))
                (field(visit, P::Tag, "tag", ""))
                (field(visit, P::MessageGroup, "message_group", ""))
                (field(visit, P::DeliverAt, "deliver_at", ""))
            })))
            (fold(visit, P::ChangeTopic, change(visit, "/topic/put", P::ChangeTopic, html! {
                (hidden("name", name)) (shape(visit, Some(topic)))
            })))
        }
        (fold(visit, P::DeleteTopic, html! {
            p { (visit.t(P::DeletionIsFinal)) }
            (change_to(visit, "/topic/delete", "/topics", P::DeleteTopic, confirmation(visit, name)))
        }))
    }
}
