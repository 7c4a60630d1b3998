//! Consumer groups: the list with what waits for each; creating, changing and deleting one in all broker groups.

use super::delete_everywhere;
use super::topics::{changes, signed};
use crate::app::{Page, Problem, Visit};
use crate::form::{Fields, link};
use crate::phrase::Phrase as P;
use crate::view::{change, field, fold, known, paged, required, search, table, wanted};
use maud::{Markup, html};
use raftmq_admin_client::directory::{Directory, Group};
use raftmq_admin_client::error::AdminError;
use raftmq_admin_client::progress::{clients_of, diff, queues_of};
use raftmq_proto::admin::{
    ConsumerGroup, DeleteConsumerGroupRequest, ListConsumerGroupsRequest, PutConsumerGroupRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use tokio_stream::StreamExt as _;

/// What is known of a consumer group over all broker groups.
#[derive(Default)]
struct Known {
    ordered: bool,
    topics: BTreeSet<String>,
    waiting: u64,
    flight: u64,
    retrying: u64,
    /// Those that are known of.
    clients: BTreeSet<String>,
}

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let directory = visit.directory()?;
    let mut all: BTreeMap<String, Known> = BTreeMap::new();
    // Not those of a broker group that does not tell, such as one of an older version.
    let mut all_clients = true;
    for group in visit.groups().await? {
        for found in listed(&directory, &group).await? {
            all.entry(found.name).or_default().ordered |= found.ordered;
        }
        for queue in queues_of(&directory, &group, "", "").await? {
            let known = all.entry(queue.consumer_group.clone()).or_default();
            known.waiting += diff(&queue);
            known.flight += queue.in_flight;
            known.retrying += queue.retrying;
            known.topics.insert(queue.topic);
        }
        let Ok(clients) = clients_of(&directory, &group, "", "").await else {
            all_clients = false;
            continue;
        };
        // Some connect before anything is stored for them.
        for client in clients.into_iter().filter(|client| !client.consumer_group.is_empty()) {
            all.entry(client.consumer_group).or_default().clients.insert(client.client_id);
        }
    }
    let mut rows: Vec<(&String, &Known)> = all.iter().filter(|(name, _)| wanted(visit, name)).collect();
    if visit.query.get("sort") == "lag" {
        rows.sort_by_key(|(name, known)| (std::cmp::Reverse(known.waiting), *name));
    }
    let (shown, pager) = paged(visit, &rows);
    let cells: Vec<Vec<Markup>> = shown
        .iter()
        .map(|(name, found)| {
            // Without a topic there is nothing to be behind of, or to hold.
            let of = |count: u64| known(Some(count).filter(|_| !found.topics.is_empty()));
            vec![
                html! { a href=(link("/consumer", &[("name", name)])) { (name) } },
                html! { (known(Some(found.clients.len() as u64).filter(|_| all_clients))) },
                html! { (found.topics.len()) },
                html! { (of(found.waiting)) },
                html! { (of(found.flight)) },
                html! { (of(found.retrying)) },
                html! { (visit.t(if found.ordered { P::Yes } else { P::No })) },
            ]
        })
        .collect();
    let head = [P::ConsumerGroup, P::Clients, P::Topics, P::Lag, P::InFlight, P::Retrying, P::Ordered];
    let body = html! {
        (search(visit, html! {
            label { (visit.t(P::SortBy)) " " select name="sort" {
                option value="" { (visit.t(P::Name)) }
                option value="lag" selected[visit.query.get("sort") == "lag"] { (visit.t(P::Lag)) }
            } }
        }))
        (table(visit, visit.t(P::Consumers), &head, &cells))
        (pager)
        (fold(visit, P::NewConsumerGroup, change(visit, "/consumer/put", P::NewConsumerGroup, html! {
            (required(visit, P::ConsumerGroup, "name", "")) (shape(visit, None))
        })))
    };
    Ok(Page::new(visit.t(P::Consumers), body))
}

pub(super) async fn listed(directory: &Directory, group: &Group) -> Result<Vec<ConsumerGroup>, AdminError> {
    let listed = directory.read_group(group, |mut node, stale| async move {
        let mut parts = node.list_consumer_groups(ListConsumerGroupsRequest { stale }).await?.into_inner();
        let mut found = Vec::new();
        while let Some(part) = parts.next().await {
            found.extend(part?.consumer_groups);
        }
        Ok(found)
    });
    listed.await.map(|(_, found)| found)
}

/// Fields of what can be changed of a consumer group.
pub(super) fn shape(visit: &Visit, known: Option<&ConsumerGroup>) -> Markup {
    let choice = |label, name: &str, value: bool| {
        html! {
            label { (visit.t(label)) " " select name=(name) {
                option value="true" selected[value] { (visit.t(P::Yes)) }
                option value="false" selected[!value] { (visit.t(P::No)) }
            } }
        }
    };
    let attributes: BTreeMap<&String, &String> = known.iter().flat_map(|known| &known.attributes).collect();
    html! {
        (choice(P::ConsumeEnabled, "enabled", known.is_none_or(|known| known.consume_enable)))
        (choice(P::Ordered, "ordered", known.is_some_and(|known| known.ordered)))
        (field(visit, P::RetriesMax, "retries", &known.map(|known| known.retry_max.to_string()).unwrap_or_default()))
        (field(visit, P::Attributes, "attributes", &signed(attributes)))
    }
}

pub(crate) async fn put(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let name = fields.get("name").to_owned();
    let directory = visit.directory()?;
    let (attributes, remove_attributes) = changes(fields.get("attributes"))?;
    let request = PutConsumerGroupRequest {
        name: name.clone(),
        consume_enable: fields.number("enabled")?,
        ordered: fields.number("ordered")?,
        retry_max: fields.number("retries")?,
        attributes,
        remove_attributes,
    };
    let mut done = Vec::new();
    for group in visit.groups().await? {
        directory
            .on_group(&group, |mut node| {
                let request = request.clone();
                async move { node.put_consumer_group(request).await }
            })
            .await?;
        done.push(group.name);
    }
    Ok(format!("{name}: {} ({})", visit.t(P::GroupStored), done.join(", ")))
}

pub(crate) async fn delete(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    delete_everywhere(visit, fields, P::NoSuchConsumerGroup, |mut node, name| async move {
        node.delete_consumer_group(DeleteConsumerGroupRequest { name }).await
    })
    .await
}
