//! `consumerStatus`: what brokers know of the clients of a consumer group, and what a client says of its threads.

use super::Where;
use super::consumer_connection::connected;
use super::message::resource;
use super::public::{check, on_group_admin};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::rocketmq::{
    ConsumerRunningInfo, GetConsumerRunningInfoRequest, PrintThreadStackTraceRequest, Resource,
};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Show the running info of the clients of a consumer group, or of one, as brokers know it.
///
/// With -s, the client is asked for the stacks of its threads, which those in Java answer.
#[derive(Debug, Args)]
#[command(
    visible_alias = "consumer",
    after_help = "Example: mqadmin consumerStatus -n localhost:9876 -g YourConsumerGroup"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The consumer group.
    #[arg(short = 'g', long = "consumerGroup", value_name = "GROUP")]
    group: String,
    /// Only this client, as consumerConnection names it.
    #[arg(short = 'i', long = "clientId", value_name = "CLIENT")]
    client: Option<String>,
    /// Ask for the stacks of its threads too.
    #[arg(short = 's', long = "jstack")]
    stacks: bool,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (clients, mut failures) = connected(directory, &arguments.place, &arguments.group, "").await?;
    let mut ids: Vec<String> = clients.into_iter().map(|client| client.client_id).collect();
    if let Some(only) = &arguments.client {
        ids.retain(|id| id == only);
    }
    if ids.is_empty() && failures.is_empty() {
        let of = arguments.client.as_ref().map(|client| format!(" {client}")).unwrap_or_default();
        failures.push(format!("no client{of} of consumer group {} is connected", arguments.group));
    }
    let groups = directory.groups(arguments.place.target()).await?;
    let (mut text, mut rows) = (String::new(), Vec::new());
    for id in ids {
        for group in &groups {
            match running(directory, group, &arguments.group, &id).await {
                Ok(info) => {
                    text += &lines(&group.name, &id, &info);
                    rows.push(to_json(&group.name, &id, &info));
                }
                Err(error) => failures.push(super::failure(&group.name, &error)),
            }
        }
        if arguments.stacks {
            match stacks(directory, &groups, &arguments.group, &id).await {
                Ok(stacks) => {
                    let _ = writeln!(text, "#Stacks of {id}#\n{stacks}");
                    rows.push(json!({ "clientId": id, "jstack": stacks }));
                }
                Err(error) => failures.push(format!("{id}: {error}")),
            }
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

async fn running(
    directory: &Directory,
    group: &Group,
    consumer_group: &str,
    client_id: &str,
) -> Result<ConsumerRunningInfo, AdminError> {
    let request = GetConsumerRunningInfoRequest {
        group: resource(consumer_group),
        client_id: client_id.to_owned(),
        ..GetConsumerRunningInfoRequest::default()
    };
    let (address, answer) = on_group_admin(directory, group, |mut node| {
        let request = request.clone();
        async move { Ok(node.get_consumer_running_info(request).await?.into_inner()) }
    })
    .await?;
    check(&address, answer.status.as_ref())?;
    Ok(answer.consumer_running_info.unwrap_or_default())
}

/// From whichever broker group reaches it.
async fn stacks(
    directory: &Directory,
    groups: &[Group],
    consumer_group: &str,
    client_id: &str,
) -> Result<String, AdminError> {
    let request = PrintThreadStackTraceRequest {
        client_id: client_id.to_owned(),
        group: resource(consumer_group),
        ..PrintThreadStackTraceRequest::default()
    };
    let mut last = None;
    for group in groups {
        let asked = on_group_admin(directory, group, |mut node| {
            let request = request.clone();
            async move { Ok(node.print_thread_stack_trace(request).await?.into_inner()) }
        });
        let outcome = asked.await.and_then(|(address, answer)| {
            check(&address, answer.status.as_ref()).map(|()| answer.thread_stack_trace.unwrap_or_default())
        });
        match outcome {
            Ok(stacks) => return Ok(stacks),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| AdminError::Unknown("there is no broker group".to_owned())))
}

fn name(resource: Option<&Resource>) -> &str {
    resource.map_or("", |resource| resource.name.as_str())
}

fn lines(broker_group: &str, client_id: &str, info: &ConsumerRunningInfo) -> String {
    let mut text = format!("#Consumer {client_id} in broker group {broker_group}#\n");
    let mut properties: Vec<_> = info.properties.iter().collect();
    properties.sort();
    for (key, value) in properties {
        let _ = writeln!(text, "{key:<40}: {value}");
    }
    let mut subscriptions: Vec<_> = info.subscriptions.iter().collect();
    subscriptions.sort_by_key(|(topic, _)| topic.as_str());
    text += "#Subscription#\n";
    for (topic, filter) in subscriptions {
        let _ = writeln!(text, "{topic:<40}: {}", filter.expression);
    }
    text + "\n"
}

fn to_json(broker_group: &str, client_id: &str, info: &ConsumerRunningInfo) -> Value {
    let subscriptions: serde_json::Map<String, Value> =
        info.subscriptions.iter().map(|(topic, filter)| (topic.clone(), filter.expression.clone().into())).collect();
    let queues: Vec<Value> = info
        .message_queue_table
        .iter()
        .map(|item| {
            let queue = item.message_queue.clone().unwrap_or_default();
            json!({ "topic": name(queue.topic.as_ref()), "queueId": queue.id })
        })
        .collect();
    json!({
        "brokerName": broker_group,
        "clientId": client_id,
        "properties": info.properties,
        "subscriptions": subscriptions,
        "queues": queues,
    })
}
