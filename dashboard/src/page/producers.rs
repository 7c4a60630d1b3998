//! Producers that are connected, and what they publish to.

use super::consumer::client_cells;
use crate::app::{Page, Problem, Visit};
use crate::form::link;
use crate::phrase::Phrase as P;
use crate::view::{paged, search, table, wanted};
use maud::{Markup, html};
use raftmq_admin_client::progress::clients_of;
use raftmq_proto::admin::Client;
use std::collections::BTreeMap;

pub(crate) async fn show(visit: &Visit) -> Result<Page, Problem> {
    let directory = visit.directory()?;
    let mut producers: BTreeMap<String, Client> = BTreeMap::new();
    for group in visit.groups().await? {
        for client in clients_of(&directory, &group, "", "").await? {
            if client.consumer_group.is_empty() {
                producers.entry(client.client_id.clone()).or_insert(client);
            }
        }
    }
    let rows: Vec<&Client> = producers
        .values()
        .filter(|client| wanted(visit, &client.client_id) || client.publishes.iter().any(|topic| wanted(visit, topic)))
        .collect();
    let (shown, pager) = paged(visit, &rows);
    let cells: Vec<Vec<Markup>> = shown
        .iter()
        .map(|client| {
            let mut cells = client_cells(client);
            cells.push(html! {
                @for topic in &client.publishes { a href=(link("/topic", &[("name", topic)])) { (topic) } " " }
                @if client.publishes.is_empty() { "–" }
            });
            cells
        })
        .collect();
    let body = html! {
        (search(visit, html! {}))
        (table(visit, visit.t(P::Producers), &[P::Client, P::Language, P::Version, P::Host, P::Address, P::Topics], &cells))
        (pager)
    };
    Ok(Page::new(visit.t(P::Producers), body))
}
