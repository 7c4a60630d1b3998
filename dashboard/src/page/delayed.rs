//! Delayed messages by the time at which they are due, and taking one back before that.

use super::waiting;
use crate::app::{Page, Problem, Visit, present};
use crate::form::{Fields, link};
use crate::phrase::Phrase as P;
use crate::view::{bytes, change, hidden, known, required, table, text, time};
use maud::{Markup, html};
use raftmq_admin_client::message::resource;
use raftmq_admin_client::public::{Client, check, hosts, on_group};
use raftmq_proto::admin::{ListTimersRequest, ListTimersResponse, TimerMessage};
use raftmq_proto::rocketmq::{Code, RecallMessageRequest};

/// Of each broker group, on one page.
const MESSAGES: u32 = 100;

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let directory = visit.directory()?;
    let (topic, only) = (visit.query.get("topic"), visit.query.get("at"));
    let mut found: Vec<(String, ListTimersResponse)> = Vec::new();
    for group in visit.groups().await? {
        if !only.is_empty() && only != group.name {
            continue;
        }
        let from = if only.is_empty() { "" } else { visit.query.get("from") };
        let page = directory.read_group(&group, |mut node, stale| {
            let request = ListTimersRequest {
                topic: topic.to_owned(),
                messages_max: MESSAGES,
                from: from.to_owned(),
                stale,
                ..ListTimersRequest::default()
            };
            async move { Ok(node.list_timers(request).await?.into_inner()) }
        });
        if let Some((_, page)) = present(page.await)? {
            found.push((group.name, page));
        }
    }
    let waiting: u64 = found.iter().map(|(_, page)| page.waiting).sum();
    let rows: Vec<Vec<Markup>> = found
        .iter()
        .flat_map(|(group, page)| page.messages.iter().map(|timer| cells(visit, group, timer, page.now_ms)))
        .collect();
    let head = [
        P::MessageId,
        P::Topic,
        P::DeliveryTime,
        P::DueIn,
        P::BornAt,
        P::Tag,
        P::Keys,
        P::Size,
        P::RecallHandle,
        P::Recall,
    ];
    let body = html! {
        form.search method="get" action="/delayed" role="search" {
            label { (visit.t(P::Topic)) " " input type="search" name="topic" value=(topic); }
            button type="submit" { (visit.t(P::Search)) }
        }
        p { (visit.t(P::WaitingMessages)) " " (known(Some(waiting))) }
        (table(visit, visit.t(P::DelayedByTime), &head, &rows))
        @for (group, page) in found.iter().filter(|(_, page)| !page.next.is_empty()) {
            p { a href=(link("/delayed", &[("topic", topic), ("at", group), ("from", &page.next)])) { (visit.t(P::GoOnReading)) " · " (group) } }
        }
        p { (visit.t(P::RecallExplained)) }
        @if !visit.may_change() { p { (visit.t(P::MayOnlyLook)) } }
        (change(visit, "/delayed/recall", P::Recall, html! {
            (required(visit, P::Topic, "topic", topic))
            (required(visit, P::RecallHandle, "handle", ""))
        }))
    };
    Ok(Page::new(visit.t(P::Delayed), body))
}

fn cells(visit: &Visit, group: &str, timer: &TimerMessage, now_ms: u64) -> Vec<Markup> {
    let recall = html! { (hidden("topic", &timer.topic)) (hidden("handle", &timer.recall_handle)) };
    vec![
        html! { a href=(waiting::place_of(group, &timer.topic, &timer.recall_handle)) { (text(&timer.message_id)) } },
        html! { a href=(link("/topic", &[("name", &timer.topic)])) { (timer.topic) } },
        html! { (time(timer.delivery_ms)) },
        html! { (until(timer.delivery_ms.saturating_sub(now_ms))) },
        html! { (time(timer.born_ms)) },
        html! { (text(&timer.tag)) },
        html! { (text(&timer.keys.join(" "))) },
        html! { (bytes(u64::from(timer.body_bytes))) },
        html! { (timer.recall_handle) },
        change(visit, "/delayed/recall", P::Recall, recall),
    ]
}

/// `59 s`, `3 min`, `2 h 5 min`, `40 d`.
pub(super) fn until(ms: u64) -> String {
    let seconds = ms.div_ceil(1_000);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

pub(crate) async fn recall(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let directory = visit.directory()?;
    let client = Client::new("dashboard", directory.token.credentials.clone());
    let topic = fields.get("topic");
    let groups = hosts(&directory, topic, None).await?;
    let several = groups.len() > 1;
    let mut last = None;
    for group in groups {
        let request = RecallMessageRequest { topic: resource(topic), recall_handle: fields.get("handle").to_owned() };
        let (address, answer) = on_group(&directory, &group, |mut node| {
            let request = client.request(request.clone());
            async move { Ok(node.recall_message(request).await?.into_inner()) }
        })
        .await?;
        match check(&address, answer.status.as_ref()) {
            Ok(()) => return Ok(format!("{}: {}", visit.t(P::Recalled), answer.message_id)),
            // The handle may be another broker group's.
            Err(error)
                if several && answer.status.as_ref().is_some_and(|status| status.code() != Code::TooManyRequests) =>
            {
                last = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match last {
        Some(error) => Err(error.into()),
        None => Err(Problem::Refused(visit.t(P::NoGroups).to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::until;

    #[test]
    fn how_long_it_takes() {
        let shown = [0, 1, 119_000, 120_000, 7_500_000, 3_456_000_000].map(until);
        assert_eq!(shown, ["0 s", "1 s", "119 s", "2 min", "2 h 5 min", "40 d"]);
    }
}
