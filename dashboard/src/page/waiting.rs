//! A message that is in no queue yet: delayed, or part of an open transaction. Its properties, its body, and what is to come.

use super::delayed::until;
use super::message::full;
use super::transactions::ending;
use crate::app::{Page, Problem, Visit, present};
use crate::form::link;
use crate::phrase::Phrase as P;
use crate::view::{change_to, hidden, table, text, time};
use maud::{Markup, html};
use raftmq_admin_client::message::{resource, timestamp};
use raftmq_proto::admin::{GetWaitingMessageRequest, GetWaitingMessageResponse};
use raftmq_proto::rocketmq::{Message, SystemProperties};

/// Where one is shown, by its recall handle or transaction id.
pub(super) fn place_of(group: &str, topic: &str, name: &str) -> String {
    link("/waiting", &[("group", group), ("topic", topic), ("name", name)])
}

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let (group, topic, name) = (visit.query.get("group"), visit.query.get("topic"), visit.query.get("name"));
    let directory = visit.directory()?;
    let groups = visit.groups().await?;
    let missing = || Problem::Missing(format!("{}: {name}", visit.t(P::WaitsNoMore)));
    let found = groups.iter().find(|known| known.name == group).ok_or_else(missing)?;
    let answer = directory.read_group(found, |mut node, stale| {
        let request = GetWaitingMessageRequest { topic: topic.to_owned(), name: name.to_owned(), stale };
        async move { Ok(node.get_waiting_message(request).await?.into_inner()) }
    });
    let (_, answer) = present(answer.await)?.ok_or_else(missing)?;
    let body = html! {
        (full(visit, group, &message(topic, &answer)))
        (timeline(visit, &answer))
        @match &answer.half {
            Some(half) => { p.faint { (visit.t(P::FirstWordCounts)) } (ending(visit, group, half, "/transactions")) }
            None => (change_to(visit, "/delayed/recall", "/delayed", P::Recall, html! { (hidden("topic", topic)) (hidden("handle", name)) }))
        }
    };
    Ok(Page::new(visit.t(P::WaitingMessage), body))
}

/// As the public API would show it, without a place in a queue.
fn message(topic: &str, answer: &GetWaitingMessageResponse) -> Message {
    let at = |ms: u64| Some(ms).filter(|ms| *ms > 0).map(timestamp);
    Message {
        topic: resource(topic),
        user_properties: answer.properties.clone().into_iter().collect(),
        system_properties: Some(SystemProperties {
            message_id: answer.message_id.clone(),
            tag: Some(answer.tag.clone()).filter(|tag| !tag.is_empty()),
            keys: answer.keys.clone(),
            body_encoding: answer.body_encoding,
            message_type: answer.message_type,
            born_timestamp: at(answer.born_ms),
            born_host: answer.born_host.clone(),
            store_timestamp: at(answer.half.as_ref().map_or(0, |half| half.stored_ms)),
            store_host: answer.store_host.clone(),
            delivery_timestamp: at(answer.delivery_ms),
            ..SystemProperties::default()
        }),
        body: answer.body.clone(),
    }
}

/// What was done to it and what comes next, in order.
fn timeline(visit: &Visit, answer: &GetWaitingMessageResponse) -> Markup {
    let t = |phrase| visit.t(phrase);
    let in_ms = |at_ms: u64| until(at_ms.saturating_sub(answer.now_ms));
    let made = vec![html! { (time(answer.born_ms)) }, html! { (t(P::EventMade)) }, html! { (text(&answer.born_host)) }];
    let log = html! { (t(P::LogIndex)) " " (answer.log_index) };
    let mut rows = vec![made];
    match &answer.half {
        Some(half) => {
            rows.push(vec![html! { (time(half.stored_ms)) }, html! { (t(P::EventStored)) }, log]);
            let asked = html! { (half.checks) " / " (half.checks_max) " · " (text(&half.producer)) };
            rows.push(vec![html! { "–" }, html! { (t(P::ProducerAsked)) }, asked]);
            let given_up = half.stored_ms.saturating_add(half.age_max_ms);
            let state = match half.parked {
                true => html! { span.bad { (t(P::Parked)) } },
                false => html! { (t(P::DueIn)) " " (in_ms(given_up)) },
            };
            rows.push(vec![html! { (time(given_up)) }, html! { (t(P::NobodyAskedAfter)) }, state]);
        }
        None => {
            // The log has its time in no row.
            rows.push(vec![html! { "–" }, html! { (t(P::EventStored)) }, log]);
            let due = html! { (t(P::DueIn)) " " (in_ms(answer.delivery_ms)) };
            rows.push(vec![html! { (time(answer.delivery_ms)) }, html! { (t(P::EventDue)) }, due]);
        }
    }
    table(visit, t(P::History), &[P::Time, P::Event, P::Remark], &rows)
}
