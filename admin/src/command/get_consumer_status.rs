//! `getConsumerStatus`: the offsets of a consumer group in a topic, for each of its clients.

use super::Where;
use super::consumer_connection::connected;
use super::consumer_progress::queues_of;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use serde_json::json;

/// Show the offsets that the clients of a consumer group have in a topic.
///
/// They are the consumer group's, which brokers keep: any member may get messages of any queue, so each has the same. A
/// client that pulls may be elsewhere, and tells nobody before it stores an offset.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getConsumerStatus -n localhost:9876 -g YourConsumerGroup -t TestTopic")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The consumer group.
    #[arg(short = 'g', long = "group")]
    group: String,
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// Only this client, as consumerConnection names it.
    #[arg(short = 'i', long = "originClientId", value_name = "CLIENT")]
    client: Option<String>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let Arguments { group, topic, .. } = arguments;
    let (clients, mut failures) = connected(directory, &arguments.place, group, topic).await?;
    let mut ids: Vec<String> = clients.into_iter().map(|client| client.client_id).collect();
    if let Some(only) = &arguments.client {
        ids.retain(|id| id == only);
    }
    if ids.is_empty() && failures.is_empty() {
        let of = arguments.client.as_ref().map(|client| format!(" {client}")).unwrap_or_default();
        failures.push(format!(
            "no client{of} of consumer group {group} that subscribes to {topic} is connected; consumerProgress shows how far \
             the group is"
        ));
    }
    let mut queues = Vec::new();
    for broker_group in directory.groups(arguments.place.target()).await? {
        match queues_of(directory, &broker_group, group, topic).await {
            Ok(found) => queues.extend(found.into_iter().map(|queue| (broker_group.name.clone(), queue))),
            Err(AdminError::Refused { code: tonic::Code::NotFound, .. }) => {}
            Err(error) => failures.push(super::failure(&broker_group.name, &error)),
        }
    }
    let mut table = Table::new(&["#clientId", "#brokerName", "#queueId", "#offset"]);
    let mut rows = Vec::new();
    for id in &ids {
        for (broker_group, queue) in &queues {
            table.row(vec![id.clone(), broker_group.clone(), queue.queue.to_string(), queue.progress.to_string()]);
            rows.push(json!({
                "clientId": id,
                "brokerName": broker_group,
                "queueId": queue.queue,
                "offset": queue.progress,
            }));
        }
    }
    let of = arguments.client.as_deref().unwrap_or("null");
    let text = format!("get consumer status from client. group={group}, topic={topic}, originClientId={of}\n{table}");
    Ok(Outcome { text, json: rows.into(), failures })
}
