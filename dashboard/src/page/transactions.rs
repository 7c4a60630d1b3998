//! Transactions that nobody has ended, and ending them by hand.

use super::waiting;
use crate::app::{Page, Problem, Visit, present};
use crate::form::{Fields, link};
use crate::phrase::Phrase as P;
use crate::view::{bytes, change_to, hidden, search, table, text, time};
use maud::{Markup, html};
use raftmq_proto::admin::{EndTransactionRequest, HalfMessage, ListHalfMessagesRequest};

/// Of each broker group, on one page.
const MESSAGES: u32 = 100;

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let directory = visit.directory()?;
    let parked = visit.query.get("parked") == "true";
    let only = visit.query.get("at");
    let mut found: Vec<(String, Vec<HalfMessage>, String)> = Vec::new();
    for group in visit.groups().await? {
        if !only.is_empty() && only != group.name {
            continue;
        }
        let from = if only.is_empty() { "" } else { visit.query.get("from") };
        let page = directory.read_group(&group, |mut node, stale| {
            let request = ListHalfMessagesRequest {
                topic: visit.query.get("q").to_owned(),
                parked,
                messages_max: MESSAGES,
                from: from.to_owned(),
                stale,
            };
            async move { Ok(node.list_half_messages(request).await?.into_inner()) }
        });
        if let Some((_, page)) = present(page.await)? {
            found.push((group.name, page.messages, page.next));
        }
    }
    let rows: Vec<Vec<Markup>> = found
        .iter()
        .flat_map(|(group, messages, _)| messages.iter().map(move |half| cells(visit, group, half)))
        .collect();
    let head = [
        P::TransactionId,
        P::Topic,
        P::MessageId,
        P::StoredAt,
        P::State,
        P::Checks,
        P::Producer,
        P::Keys,
        P::Size,
        P::Resolve,
    ];
    let body = html! {
        (search(visit, html! {
            label.inline { input type="checkbox" name="parked" value="true" checked[parked]; " " (visit.t(P::OnlyParked)) }
        }))
        p.faint { (visit.t(P::FirstWordCounts)) }
        (table(visit, visit.t(P::PendingTransactions), &head, &rows))
        @for (group, _, next) in found.iter().filter(|(_, _, next)| !next.is_empty()) {
            p { a href=(link("/transactions", &[("q", visit.query.get("q")), ("at", group), ("from", next)])) { (visit.t(P::GoOnReading)) " · " (group) } }
        }
    };
    Ok(Page::live(visit.t(P::Transactions), body))
}

fn cells(visit: &Visit, group: &str, half: &HalfMessage) -> Vec<Markup> {
    vec![
        html! { a href=(waiting::place_of(group, &half.topic, &half.transaction_id)) { (half.transaction_id) } },
        html! { a href=(link("/topic", &[("name", &half.topic)])) { (half.topic) } },
        html! { (text(&half.message_id)) },
        html! { (time(half.stored_ms)) },
        html! { @if half.parked { span.bad { (visit.t(P::Parked)) } } @else { (visit.t(P::Pending)) } },
        html! { (half.checks) " / " (half.checks_max) },
        html! { (text(&half.producer)) },
        html! { (text(&half.keys.join(" "))) },
        html! { (bytes(u64::from(half.body_bytes))) },
        ending(visit, group, half, &visit.here()),
    ]
}

/// Forms that end a transaction, and come back to a page that stays.
pub(super) fn ending(visit: &Visit, group: &str, half: &HalfMessage, back: &str) -> Markup {
    let end = |commit: &str, button: P| {
        let fields = html! {
            (hidden("group", group)) (hidden("topic", &half.topic)) (hidden("id", &half.transaction_id)) (hidden("commit", commit))
        };
        change_to(visit, "/transactions/end", back, button, fields)
    };
    html! { (end("true", P::Commit)) (end("false", P::RollBack)) }
}

pub(crate) async fn end(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let commit: bool = fields.number("commit")?.unwrap_or(false);
    let request = EndTransactionRequest {
        topic: fields.get("topic").to_owned(),
        transaction_id: fields.get("id").to_owned(),
        commit,
    };
    let groups = visit.groups().await?;
    let group = groups.iter().find(|group| group.name == fields.get("group"));
    let group = group.ok_or_else(|| Problem::Missing(visit.t(P::NoSuchGroup).to_owned()))?;
    let directory = visit.directory()?;
    directory
        .on_group(group, |mut node| {
            let request = request.clone();
            async move { node.end_transaction(request).await }
        })
        .await?;
    let did = if commit { P::CommittedMessage } else { P::RolledBack };
    Ok(format!("{}: {}", request.transaction_id, visit.t(did)))
}
