//! `topicRoute`: the broker groups that host a topic, their members and queues.

use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use serde_json::{Map, Value, json};

/// Show where a topic is, in the form of RocketMQ's route data.
///
/// Under brokerAddrs the leader has the number 0. Members are listed whether they live or not: a death changes no
/// route.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin topicRoute -n localhost:9876 -t TestTopic")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// Print a table instead of route data.
    #[arg(short = 'l', long = "list")]
    list: bool,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let routes = directory.route(&arguments.topic).await?;
    if routes.is_empty() {
        return Err(AdminError::Unknown(format!(
            "no broker group hosts a topic {}; create it with updateTopic, topicList shows those there are",
            arguments.topic
        )));
    }
    let mut brokers = Vec::new();
    let mut queues = Vec::new();
    let mut table = Table::new(&["#ClusterName", "#BrokerName", "#BrokerAddrs", "#ReadQueue", "#WriteQueue", "#Perm"]);
    for (group, topic) in &routes {
        let mut addresses = Map::new();
        let mut endpoints = Vec::new();
        for (id, member) in super::cluster_list::broker_ids(group.leader, &group.members, |member| member.node) {
            let member_addresses = member.addresses.clone().unwrap_or_default();
            addresses.insert(id.to_string(), Value::from(member_addresses.admin));
            endpoints.push(member_addresses.grpc);
        }
        let listed: Vec<&str> = addresses.values().filter_map(Value::as_str).collect();
        table.row(vec![
            group.cluster.clone(),
            group.name.clone(),
            listed.join(","),
            topic.read_queues.to_string(),
            topic.write_queues.to_string(),
            topic.permission.to_string(),
        ]);
        brokers.push(json!({
            "brokerAddrs": addresses,
            "brokerName": group.name,
            "cluster": group.cluster,
            "grpcEndpoints": endpoints,
            "term": group.term,
        }));
        let types: Vec<String> = topic.message_types.iter().map(|value| super::message_type_name(*value)).collect();
        queues.push(json!({
            "brokerName": group.name,
            "perm": topic.permission,
            "readQueueNums": topic.read_queues,
            "topicSysFlag": 0,
            "writeQueueNums": topic.write_queues,
            "messageTypes": types,
        }));
    }
    let json = json!({ "brokerDatas": brokers, "filterServerTable": {}, "queueDatas": queues });
    let text = if arguments.list { table.to_string() } else { format!("{json:#}\n") };
    Ok(Outcome::done(text, json))
}
