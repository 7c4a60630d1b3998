//! One consumer group: progress and lag by queue, its clients and what they subscribe to, its settings; moving it.

use super::consumers::shape;
use super::time_field;
use crate::app::{Page, Problem, Visit, present};
use crate::form::{Fields, link};
use crate::phrase::Phrase as P;
use crate::view::{
    change, change_to, confirmation, field, fold, fold_if, hidden, known, number, paged, paged_of, table, text, time,
};
use maud::{Markup, html};
use raftmq_admin_client::dead_letter::PREFIX as DEAD;
use raftmq_admin_client::progress::{clients_of, diff, queues_of};
use raftmq_proto::admin::{
    Client, ConsumerGroup, GetConsumerGroupRequest, QueueProgress, ResetOffsetRequest, TopicStatusRequest,
};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let name = visit.query.get("name").to_owned();
    let directory = visit.directory()?;
    let mut settings: Vec<(String, ConsumerGroup)> = Vec::new();
    let mut queues: Vec<(String, QueueProgress)> = Vec::new();
    let mut clients: BTreeMap<String, Client> = BTreeMap::new();
    let mut all_clients = true;
    let mut dead: Option<u64> = Some(0);
    for group in visit.groups().await? {
        let found = directory.read_group(&group, |mut node, stale| {
            let request = GetConsumerGroupRequest { name: name.clone(), stale };
            async move { Ok(node.get_consumer_group(request).await?.into_inner()) }
        });
        if let Some((_, found)) = present(found.await)?
            && let Some(known) = found.consumer_group
        {
            settings.push((group.name.clone(), known));
        }
        let found = present(queues_of(&directory, &group, &name, "").await)?.unwrap_or_default();
        queues.extend(found.into_iter().map(|queue| (group.name.clone(), queue)));
        match clients_of(&directory, &group, &name, "").await {
            Ok(found) => {
                for client in found {
                    clients.entry(client.client_id.clone()).or_insert(client);
                }
            }
            // As by a broker of an older version.
            Err(_) => all_clients = false,
        }
        let letters = directory.read_group(&group, |mut node, stale| {
            let request = TopicStatusRequest { name: format!("{DEAD}{name}"), stale };
            async move { Ok(node.topic_status(request).await?.into_inner()) }
        });
        dead = match present(letters.await) {
            // Without the topic there never was one.
            Ok(found) => {
                let queues = found.map(|(_, status)| status.queues).unwrap_or_default();
                dead.map(|sum| {
                    sum + queues.iter().map(|queue| queue.max_offset.saturating_sub(queue.min_offset)).sum::<u64>()
                })
            }
            Err(_) => None,
        };
    }
    if settings.is_empty() && clients.is_empty() && queues.is_empty() {
        return Err(Problem::Missing(format!("{}: {name}", visit.t(P::NoSuchConsumerGroup))));
    }
    queues.sort_by(|(a_group, a), (b_group, b)| (&a.topic, a_group, a.queue).cmp(&(&b.topic, b_group, b.queue)));
    let total = |of: fn(&QueueProgress) -> u64| {
        known(Some(queues.iter().map(|(_, queue)| of(queue)).sum()).filter(|_| !queues.is_empty()))
    };
    let mut ways: BTreeMap<&str, u32> = BTreeMap::new();
    for (_, queue) in queues.iter().filter(|(_, queue)| queue.filters > 1) {
        ways.insert(&queue.topic, queue.filters);
    }
    // Lite topics have no queue that could be moved.
    let movable = queues.iter().filter(|(_, queue)| queue.lite_topics == 0);
    let topics: BTreeSet<&str> = movable.map(|(_, queue)| queue.topic.as_str()).collect();
    let body = html! {
        dl.cards {
            div { dt { (visit.t(P::Lag)) } dd { (total(diff)) } }
            div { dt { (visit.t(P::InFlight)) } dd { (total(|queue| queue.in_flight)) } }
            div { dt { (visit.t(P::Retrying)) } dd { (total(|queue| queue.retrying)) } }
            div { dt { (visit.t(P::DeadLetters)) } dd { a href=(link("/dead-letters", &[("group", &name)])) { (known(dead)) } } }
            div { dt { (visit.t(P::Clients)) } dd { (known(Some(clients.len() as u64).filter(|_| all_clients))) } }
        }
        @for (topic, ways) in &ways {
            p.note.bad role="alert" { (topic) ": " (visit.t(P::FiltersDiffer)) " (" (ways) ")" }
        }
        (progress(visit, &queues))
        (connected(visit, &clients))
        (subscriptions(visit, &clients))
        (configuration(visit, &settings))
        (forms(visit, &name, &topics, settings.first().map(|(_, known)| known)))
    };
    Ok(Page::live(name.clone(), body))
}

fn progress(visit: &Visit, queues: &[(String, QueueProgress)]) -> Markup {
    let (shown, pager) = paged(visit, queues);
    let rows: Vec<Vec<Markup>> = shown
        .iter()
        .map(|(group, queue)| {
            vec![
                html! { a href=(link("/topic", &[("name", &queue.topic)])) { (queue.topic) } },
                match queue.lite_topics {
                    0 => html! { (group) " · " (queue.queue) },
                    count => html! { (group) " · " (visit.t(P::LiteTopics)) ": " (number(count)) @if queue.lite_more { "+" } },
                },
                html! { (number(queue.broker_offset)) },
                html! { (number(queue.progress)) },
                html! { (number(diff(queue))) },
                html! { (number(queue.in_flight)) },
                // Told once for a topic, at its first queue.
                html! { @if queue.queue == 0 { (number(queue.retrying)) } },
                html! { (time(queue.last_ms)) },
            ]
        })
        .collect();
    let head = [P::Topic, P::Queue, P::NextOffset, P::Progress, P::Lag, P::InFlight, P::Retrying, P::LastConsumed];
    html! { (table(visit, visit.t(P::ProgressByQueue), &head, &rows)) (pager) }
}

pub(super) fn client_cells(client: &Client) -> Vec<Markup> {
    vec![
        html! { (client.client_id) },
        html! { (text(&client.language)) },
        html! { (text(&client.version)) },
        html! { (text(&client.hostname)) },
        html! { (text(&client.address)) },
    ]
}

fn connected(visit: &Visit, clients: &BTreeMap<String, Client>) -> Markup {
    let all: Vec<&Client> = clients.values().collect();
    let (shown, pager) = paged_of(visit, "clients", P::Clients, &all);
    let rows: Vec<Vec<Markup>> = shown.iter().map(|client| client_cells(client)).collect();
    let head = [P::Client, P::Language, P::Version, P::Host, P::Address];
    html! { (table(visit, visit.t(P::Clients), &head, &rows)) (pager) }
}

fn subscriptions(visit: &Visit, clients: &BTreeMap<String, Client>) -> Markup {
    let mut shares: BTreeMap<(&str, bool, &str), usize> = BTreeMap::new();
    for known in clients.values().flat_map(|client| &client.subscriptions) {
        *shares.entry((&known.topic, known.is_sql, &known.expression)).or_default() += 1;
    }
    let all: Vec<_> = shares.into_iter().collect();
    let (shown, pager) = paged_of(visit, "subscriptions", P::Subscriptions, &all);
    let rows: Vec<Vec<Markup>> = shown
        .iter()
        .map(|((topic, is_sql, expression), clients)| {
            vec![
                html! { a href=(link("/topic", &[("name", topic)])) { (topic) } },
                html! { (if *is_sql { "SQL92" } else { "TAG" }) },
                html! { code { (expression) } },
                html! { (clients) },
            ]
        })
        .collect();
    let head = [P::Topic, P::FilterKind, P::Expression, P::Clients];
    html! { (table(visit, visit.t(P::Subscriptions), &head, &rows)) (pager) }
}

fn configuration(visit: &Visit, settings: &[(String, ConsumerGroup)]) -> Markup {
    let rows: Vec<Vec<Markup>> = settings
        .iter()
        .map(|(group, known)| {
            let yes = |value: bool| visit.t(if value { P::Yes } else { P::No });
            let mut attributes: Vec<String> =
                known.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
            attributes.sort_unstable();
            vec![
                html! { (group) },
                html! { (yes(known.consume_enable)) },
                html! { (yes(known.ordered)) },
                html! { (known.retry_max) },
                html! { (text(&attributes.join(", "))) },
                html! { (time(known.created_ms)) },
                html! { (time(known.updated_ms)) },
            ]
        })
        .collect();
    let head = [P::BrokerGroup, P::ConsumeEnabled, P::Ordered, P::RetriesMax, P::Attributes, P::Created, P::Changed];
    table(visit, visit.t(P::Configuration), &head, &rows)
}

fn forms(visit: &Visit, name: &str, topics: &BTreeSet<&str>, known: Option<&ConsumerGroup>) -> Markup {
    // A topic's page links here.
    let chosen = visit.query.get("topic");
    let open = topics.contains(chosen);
    let which = html! {
        (hidden("name", name))
        label { (visit.t(P::Topic)) " " select name="topic" {
            @for topic in topics { option value=(topic) selected[*topic == chosen] { (topic) } }
        } }
    };
    html! {
        @if !topics.is_empty() {
            div #move {}
            (fold_if(visit, P::ResetToTime, open, html! {
                p { (visit.t(P::ResetVoidsLeases)) }
                (change(visit, "/consumer/reset", P::ResetToTime, html! {
                    (which)
                    label { (visit.t(P::TimeUtc)) " " input type="text" name="at" required placeholder="2026-11-23 18:00:00" autocomplete="off"; }
                    (field(visit, P::OnlyQueue, "queue", ""))
                }))
            }))
            (fold_if(visit, P::SkipBacklog, open, html! {
                p { (visit.t(P::SkippingIsFinal)) }
                (change(visit, "/consumer/reset", P::SkipBacklog, html! { (which) (hidden("end", "true")) (confirmation(visit, name)) }))
            }))
        }
        (fold(visit, P::ChangeConsumerGroup, change(visit, "/consumer/put", P::ChangeConsumerGroup, html! {
            (hidden("name", name)) (shape(visit, known))
        })))
        (fold(visit, P::DeleteConsumerGroup, html! {
            p { (visit.t(P::DeletionIsFinal)) }
            (change_to(visit, "/consumer/delete", "/consumers", P::DeleteConsumerGroup, confirmation(visit, name)))
        }))
    }
}

pub(crate) async fn reset(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let to_end = fields.get("end") == "true";
    if to_end {
        super::confirmed(visit, fields)?;
    }
    let time_ms = time_field(fields, "at")?;
    if !to_end && time_ms.is_none() {
        return Err(Problem::Refused(visit.t(P::TimeMissing).to_owned()));
    }
    let (name, topic) = (fields.get("name").to_owned(), fields.get("topic").to_owned());
    let request = ResetOffsetRequest {
        consumer_group: name.clone(),
        topic: topic.clone(),
        queue: fields.number("queue")?,
        time_ms: time_ms.filter(|_| !to_end),
        offset: None,
    };
    let directory = visit.directory()?;
    let mut places = Vec::new();
    for group in visit.groups().await? {
        let reset = directory.on_group(&group, |mut node| {
            let request = request.clone();
            async move { Ok(node.reset_offset(request).await?.into_inner()) }
        });
        // A broker group that does not host the topic has nothing to move.
        let Some((_, answer)) = present(reset.await)? else { continue };
        places.extend(answer.queues.iter().map(|place| format!("{} {} → {}", group.name, place.queue, place.offset)));
    }
    if places.is_empty() {
        return Err(Problem::Missing(format!("{}: {topic}", visit.t(P::NoSuchTopic))));
    }
    places.truncate(64);
    Ok(format!("{name}, {topic}: {} ({})", visit.t(P::GroupMoved), places.join("; ")))
}
