//! `producer`: every producer that a broker group knows.

use super::Where;
use super::consumer_connection::{connected, to_json};
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use std::collections::BTreeMap;

/// List the producers that brokers know, by topic.
///
/// RocketMQ lists them by producer group, which its gRPC clients do not have. One that has not sent yet has no topic.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin producer -n localhost:9876 -b 127.0.0.1:10911")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (mut clients, failures) = connected(directory, &arguments.place, "", "").await?;
    clients.retain(|client| client.consumer_group.is_empty());
    let mut by_topic: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for client in &clients {
        if client.publishes.is_empty() {
            by_topic.entry("").or_default().push(client);
        }
        for topic in &client.publishes {
            by_topic.entry(topic).or_default().push(client);
        }
    }
    let mut table = Table::new(&["#Topic", "#ClientId", "#ClientAddr", "#Language", "#Version"]);
    let mut rows = Vec::new();
    for (topic, clients) in by_topic {
        for client in clients {
            table.row(vec![
                topic.to_owned(),
                client.client_id.clone(),
                client.address.clone(),
                client.language.clone(),
                client.version.clone(),
            ]);
            let mut row = to_json(client);
            row["topic"] = topic.into();
            rows.push(row);
        }
    }
    Ok(Outcome { text: table.to_string(), json: rows.into(), failures })
}
