//! Topics: the list, by name and by type of message; creating, changing and deleting one in all broker groups.

use super::delete_everywhere;
use crate::app::{Page, Problem, Visit, topics};
use crate::form::{Fields, link};
use crate::phrase::Phrase as P;
use crate::view::{change, field, fold, known, number, paged, per_second, required, search, table, wanted};
use maud::{Markup, html};
use raftmq_admin_client::topic::put_topic;
use raftmq_proto::admin::{DeleteTopicRequest, PutTopicRequest, Topic};
use raftmq_proto::rocketmq::MessageType;
use std::collections::{BTreeMap, BTreeSet};

/// Types that a topic can be made for.
const TYPES: [MessageType; 6] = [
    MessageType::Normal,
    MessageType::Fifo,
    MessageType::Delay,
    MessageType::Transaction,
    MessageType::Priority,
    MessageType::Lite,
];
/// All types that consumers of queues get in any order or in order of a message group.
const MIXED: &str = "MIXED";

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let groups = visit.groups().await?;
    let all = topics(&visit.directory()?, &groups).await?;
    let kind = visit.query.get("type");
    let rows: Vec<(&String, &Vec<(String, Topic)>)> = all
        .iter()
        .filter(|(name, hosts)| {
            wanted(visit, name) && (kind.is_empty() || types(hosts).iter().any(|known| known == kind))
        })
        .collect();
    let (shown, pager) = paged(visit, &rows);
    let cells: Vec<Vec<Markup>> = shown
        .iter()
        .map(|(name, hosts)| {
            let traffic = visit.app.samples.traffic(name);
            let queues: u64 = hosts.iter().map(|(_, topic)| u64::from(topic.write_queues)).sum();
            let groups: Vec<&str> = hosts.iter().map(|(group, _)| group.as_str()).collect();
            vec![
                html! { a href=(link("/topic", &[("name", name)])) { (name) } },
                html! { (types(hosts).into_iter().collect::<Vec<_>>().join(", ")) },
                html! { (number(queues)) },
                html! { (hosts.first().map_or("–", |(_, topic)| permission(topic.permission))) },
                html! { (groups.join(", ")) },
                html! { (known(traffic.map(|traffic| traffic.stored))) },
                html! { (per_second(traffic.and_then(|traffic| traffic.incoming))) },
                html! { (per_second(traffic.and_then(|traffic| traffic.outgoing))) },
            ]
        })
        .collect();
    let head =
        [P::Topic, P::MessageType, P::WriteQueues, P::Permission, P::BrokerGroups, P::MessagesEver, P::In, P::Out];
    let body = html! {
        (search(visit, html! {
            label { (visit.t(P::MessageType)) " " select name="type" {
                option value="" { (visit.t(P::All)) }
                @for known in TYPES {
                    option value=(known.as_str_name()) selected[known.as_str_name() == kind] { (known.as_str_name()) }
                }
            } }
        }))
        (table(visit, visit.t(P::Topics), &head, &cells))
        (pager)
        (fold(visit, P::NewTopic, change(visit, "/topic/put", P::NewTopic, html! {
            (required(visit, P::Topic, "name", ""))
            label { (visit.t(P::MessageType)) " " select name="type" {
                @for known in TYPES { option value=(known.as_str_name()) { (known.as_str_name()) } }
                option value=(MIXED) { (MIXED) }
            } }
            (shape(visit, None))
        })))
    };
    Ok(Page::new(visit.t(P::Topics), body))
}

/// Names of the types of messages that a topic takes.
fn types(hosts: &[(String, Topic)]) -> BTreeSet<String> {
    let values = hosts.iter().flat_map(|(_, topic)| &topic.message_types);
    values
        .map(|value| {
            MessageType::try_from(*value).map_or_else(|_| value.to_string(), |known| known.as_str_name().to_owned())
        })
        .collect()
}

pub(super) fn permission(permission: u32) -> &'static str {
    match permission {
        2 => "W",
        4 => "R",
        6 => "RW",
        _ => "–",
    }
}

/// Fields of what can be changed of a topic.
pub(super) fn shape(visit: &Visit, topic: Option<&Topic>) -> Markup {
    let value = |of: fn(&Topic) -> u32| topic.map(|topic| of(topic).to_string()).unwrap_or_default();
    let chosen = topic.map_or(6, |topic| topic.permission);
    let attributes: BTreeMap<&String, &String> =
        topic.iter().flat_map(|topic| &topic.attributes).filter(|(key, _)| *key != "message.type").collect();
    html! {
        (field(visit, P::ReadQueues, "read", &value(|topic| topic.read_queues)))
        (field(visit, P::WriteQueues, "write", &value(|topic| topic.write_queues)))
        label { (visit.t(P::Permission)) " " select name="permission" {
            @for value in [6, 4, 2] { option value=(value) selected[value == chosen] { (permission(value)) } }
        } }
        (field(visit, P::Attributes, "attributes", &signed(attributes)))
    }
}

/// Attributes as the form for changing them takes them.
pub(super) fn signed(attributes: BTreeMap<&String, &String>) -> String {
    let parts: Vec<String> = attributes.iter().map(|(key, value)| format!("+{key}={value}")).collect();
    parts.join(",")
}

/// What to set and what to take away, of `+key=value,-key`.
pub(super) fn changes(text: &str) -> Result<(BTreeMap<String, String>, Vec<String>), Problem> {
    let (mut set, mut remove) = (BTreeMap::new(), Vec::new());
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match (part.strip_prefix('+').and_then(|rest| rest.split_once('=')), part.strip_prefix('-')) {
            (Some((key, value)), _) => drop(set.insert(key.to_owned(), value.to_owned())),
            (None, Some(key)) => remove.push(key.to_owned()),
            (None, None) => return Err(Problem::Refused(format!("{part}: +key=value | -key"))),
        }
    }
    Ok((set, remove))
}

pub(crate) async fn put(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let name = fields.get("name");
    let (mut attributes, remove_attributes) = changes(fields.get("attributes"))?;
    if !fields.get("type").is_empty() {
        attributes.insert("message.type".to_owned(), fields.get("type").to_owned());
    }
    let request = PutTopicRequest {
        name: name.to_owned(),
        read_queues: fields.number("read")?,
        write_queues: fields.number("write")?,
        permission: fields.number("permission")?,
        attributes,
        remove_attributes,
        ..PutTopicRequest::default()
    };
    let groups = visit.groups().await?;
    if groups.is_empty() {
        return Err(Problem::Refused(visit.t(P::NoGroups).to_owned()));
    }
    let mut done = Vec::new();
    for (group, put) in put_topic(&visit.directory()?, &groups, request).await {
        match put {
            Ok(_) => done.push(group),
            // What other broker groups did stands; the sentence says which one did not.
            Err(error) => return Err(Problem::Refused(format!("{group}: {error}"))),
        }
    }
    Ok(format!("{name}: {} ({})", visit.t(P::TopicStored), done.join(", ")))
}

pub(crate) async fn delete(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    delete_everywhere(visit, fields, P::NoSuchTopic, |mut node, name| async move {
        node.delete_topic(DeleteTopicRequest { name }).await
    })
    .await
}
