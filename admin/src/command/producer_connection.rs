//! `producerConnection`: which producers are connected.

use super::Where;
use super::consumer_connection::{connected, to_json};
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use raftmq_proto::admin::Client;

/// Show the producers that are connected: those of a topic, or all.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin producerConnection -n localhost:9876 -t TestTopic")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The topic; all producers when left out. A producer is known by its topics from its first message on.
    #[arg(short = 't', long = "topic", default_value = "", hide_default_value = true)]
    topic: String,
    /// Accepted and ignored: producers of RocketMQ 5 have no group.
    #[arg(short = 'g', long = "producerGroup", hide = true)]
    _group: Option<String>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (mut clients, mut failures) = connected(directory, &arguments.place, "", &arguments.topic).await?;
    clients.retain(|client| client.consumer_group.is_empty());
    if clients.is_empty() && failures.is_empty() {
        let of = if arguments.topic.is_empty() { String::new() } else { format!(" of topic {}", arguments.topic) };
        failures.push(format!("no producer{of} is connected"));
    }
    let mut table = Table::new(&["#ClientId", "#ClientAddr", "#Language", "#Version", "#Topics"]);
    let mut rows = Vec::new();
    for client in clients {
        let mut row = to_json(&client);
        row["topics"] = client.publishes.clone().into();
        rows.push(row);
        let Client { client_id, address, language, version, publishes, .. } = client;
        table.row(vec![client_id, address, language, version, publishes.join(",")]);
    }
    Ok(Outcome { text: table.to_string(), json: rows.into(), failures })
}
