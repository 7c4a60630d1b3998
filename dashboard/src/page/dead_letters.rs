//! Dead letters of a consumer group: what is there, and sending one or many to their topic again.

use super::message::excerpt;
use super::messages::{Found, at_place, find, place_of};
use super::send::store;
use crate::app::{Page, Problem, Visit, topics};
use crate::form::{Fields, link};
use crate::phrase::Phrase as P;
use crate::view::{change, hidden, table, text, time};
use maud::{Markup, html};
use raftmq_admin_client::dead_letter::{self, PREFIX as DEAD, Unfit, origin};
use raftmq_admin_client::message::{millis, resource};
use raftmq_proto::rocketmq::{ListMessageRequest, Message};

/// Dead letters of one page; as many can be sent at once.
const LETTERS: i32 = 50;

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let directory = visit.directory()?;
    let groups = visit.groups().await?;
    let all = topics(&directory, &groups).await?;
    let owners: Vec<&str> = all.keys().filter_map(|name| name.strip_prefix(DEAD)).collect();
    let chosen = visit.query.get("group");
    let mut found: Vec<Found> = Vec::new();
    if !chosen.is_empty() {
        for group in &groups {
            let only = visit.query.get("at");
            if !only.is_empty() && only != group.name {
                continue;
            }
            let scroll = Some(visit.query.get("scroll")).filter(|scroll| !scroll.is_empty() && !only.is_empty());
            let request = ListMessageRequest {
                topic: resource(&format!("{DEAD}{chosen}")),
                max_message_nums: LETTERS,
                scroll_id: scroll.map(str::to_owned),
                ..ListMessageRequest::default()
            };
            found.extend(find(&directory, group, request).await?);
        }
    }
    let body = html! {
        form.search method="get" action="/dead-letters" role="search" {
            label { (visit.t(P::ConsumerGroup)) " " input type="text" name="group" value=(chosen) list="owners" required; }
            datalist #owners { @for name in owners.iter().take(200) { option value=(name) {} } }
            button type="submit" { (visit.t(P::Search)) }
        }
        @if chosen.is_empty() {
            (table(visit, visit.t(P::GroupsWithDeadLetters), &[P::ConsumerGroup], &owners.iter().take(200).map(|name| {
                vec![html! { a href=(link("/dead-letters", &[("group", name)])) { (name) } }]
            }).collect::<Vec<_>>()))
        } @else { (list(visit, chosen, &found)) }
    };
    Ok(Page::new(visit.t(P::DeadLetters), body))
}

fn list(visit: &Visit, chosen: &str, found: &[Found]) -> Markup {
    let mut rows = Vec::new();
    for found in found {
        for message in &found.messages {
            let known = message.system_properties.clone().unwrap_or_default();
            let (topic, id) = origin(message);
            rows.push(vec![
                html! { a href=(place_of(&found.group, message)) { (text(&known.message_id)) } },
                html! {
                    @if visit.may_change() {
                        input type="checkbox" form="resend" name=(format!("letter-{}", rows.len())) value=(place_of(&found.group, message))
                            aria-label=(format!("{} {}", visit.t(P::Resend), known.message_id));
                    }
                },
                html! { (time(millis(known.store_timestamp.as_ref()))) },
                html! { (text(&topic)) },
                html! { (text(&id)) },
                html! { (text(&known.keys.join(" "))) },
                html! { (excerpt(message)) },
            ]);
        }
    }
    let head = [P::MessageId, P::Resend, P::StoredAt, P::OriginTopic, P::OriginId, P::Keys, P::Body];
    html! {
        (table(visit, chosen, &head, &rows))
        @for found in found.iter().filter(|found| !found.scroll.is_empty()) {
            p { a href=(link("/dead-letters", &[("group", chosen), ("at", &found.group), ("scroll", &found.scroll)])) { (visit.t(P::GoOnReading)) " · " (found.group) } }
        }
        @if visit.may_change() && !rows.is_empty() {
            form #resend.change method="post" action="/dead-letters/resend" {
                (hidden("token", &visit.app.sessions.form_token(&visit.id))) (hidden("back", &visit.here()))
                button type="submit" { (visit.t(P::ResendChosen)) }
            }
        }
    }
}

/// For one message, on its own page; nothing when it is no dead letter.
pub(super) fn resend_form(visit: &Visit, message: &Message) -> Markup {
    let topic = message.topic.as_ref().map_or("", |topic| topic.name.as_str());
    html! {
        @if topic.starts_with(DEAD) {
            (change(visit, "/dead-letters/resend", P::Resend, hidden("letter-0", &visit.here())))
        }
    }
}

/// Sends the chosen ones to their topics again, each as a new message: the letter stays, and its old id would be taken
/// for a repeat.
pub(crate) async fn resend(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let mut sent = Vec::new();
    for number in 0..LETTERS * 4 {
        let letter = fields.get(&format!("letter-{number}"));
        let Some((_, query)) = letter.split_once('?') else { continue };
        let (_, message) = at_place(visit, &Fields::parse(query.as_bytes())).await?;
        match resend_one(visit, message).await {
            Ok(id) => sent.push(id),
            Err(Problem::Refused(why)) => {
                return Err(Problem::Refused(format!("{} {}; {why}", visit.t(P::LettersSent), sent.len())));
            }
            Err(other) => return Err(other),
        }
    }
    if sent.is_empty() {
        return Err(Problem::Refused(visit.t(P::NothingChosen).to_owned()));
    }
    Ok(format!("{} {}: {}", visit.t(P::LettersSent), sent.len(), sent.join(", ")))
}

async fn resend_one(visit: &Visit, letter: Message) -> Result<String, Problem> {
    let takes = dead_letter::takes(&visit.directory()?, &origin(&letter).0).await?;
    let again = dead_letter::again(letter, &takes).map_err(|unfit| match unfit {
        Unfit::NoLetter(id) => format!("{id}: {}", visit.t(P::NoOrigin)),
        Unfit::NoType { topic, takes } => format!("{topic}: {} ({takes})", visit.t(P::TopicTakesNone)),
    })?;
    store(visit, again).await.map(|stored| stored.message_id)
}
