//! `updateTopic`: creates a topic in every broker group, or changes it there.

use super::{Attribute, PerGroup, Where, message_type_name, parse_attribute, split};
use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use clap::Args;
use raftmq_admin_client::topic::put_topic;
use raftmq_proto::admin::{PutTopicRequest, Topic};
use serde_json::{Value, json};

/// Create a topic, or change it.
///
/// Returns when every broker group has committed it. What is not given stays as it is; a new topic gets 8 queues,
/// permission 6 and message type NORMAL.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin updateTopic -n localhost:9876 -c DefaultCluster -t TestTopic -a +message.type=NORMAL"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// Queues that consumers read.
    #[arg(short = 'r', long = "readQueueNums", value_name = "QUEUES", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    read_queues: Option<u32>,
    /// Queues that producers write.
    #[arg(short = 'w', long = "writeQueueNums", value_name = "QUEUES", value_parser = clap::value_parser!(u32).range(1..=65_535))]
    write_queues: Option<u32>,
    /// 2 = write, 4 = read, 6 = both.
    #[arg(short = 'p', long = "perm", value_parser = parse_permission)]
    permission: Option<u32>,
    /// Whether the topic is ordered.
    #[arg(short = 'o', long = "order", value_name = "BOOL", action = clap::ArgAction::Set)]
    ordered: Option<bool>,
    /// +key=value sets an attribute, -key takes one away.
    #[arg(
        short = 'a',
        long = "attributes",
        value_delimiter = ',',
        value_parser = parse_attribute,
        allow_hyphen_values = true
    )]
    attributes: Vec<Attribute>,
    /// Accepted and ignored: there are no units here.
    #[arg(short = 'u', long = "unit", hide = true, action = clap::ArgAction::Set)]
    _unit: Option<bool>,
    /// Accepted and ignored: there are no units here.
    #[arg(short = 's', long = "hasUnitSub", hide = true, action = clap::ArgAction::Set)]
    _unit_subscription: Option<bool>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: LongOutput,
}

pub(super) fn parse_permission(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(permission @ (2 | 4 | 6)) => Ok(permission),
        _ => Err("must be 2, 4 or 6 (write, read, both)".to_owned()),
    }
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let Arguments { topic, read_queues, write_queues, permission, .. } = arguments;
    ask_for(directory, topic, &Wanted { read_queues, write_queues, permission }, &arguments.consent).await?;
    let (attributes, remove_attributes) = split(&arguments.attributes);
    let groups = directory.groups(arguments.place.target()).await?;
    let request = PutTopicRequest {
        name: arguments.topic.clone(),
        read_queues: arguments.read_queues,
        write_queues: arguments.write_queues,
        permission: arguments.permission,
        ordered: arguments.ordered,
        attributes,
        remove_attributes,
        ..PutTopicRequest::default()
    };
    let mut report = PerGroup::default();
    for (group, put) in put_topic(directory, &groups, request).await {
        match put {
            Ok((address, answer)) => {
                let topic = answer.topic.unwrap_or_default();
                let text = format!("create topic to {address} success.\n{}\n", config_line(&topic));
                let created = answer.created;
                report.done(
                    &text,
                    json!({ "brokerName": group, "addr": address, "created": created, "topic": to_json(&topic) }),
                );
            }
            Err(error) => report.failed(&group, &error),
        }
    }
    Ok(report.outcome())
}

/// What a topic is to have; `None` for what stays.
pub(super) struct Wanted<'a> {
    pub read_queues: &'a Option<u32>,
    pub write_queues: &'a Option<u32>,
    pub permission: &'a Option<u32>,
}

/// Asks before a change that takes queues or a permission away from clients that run.
pub(super) async fn ask_for(
    directory: &Directory,
    topic: &str,
    wanted: &Wanted<'_>,
    consent: &Consent,
) -> Result<(), AdminError> {
    if !consent.asks() {
        return Ok(());
    }
    for (group, row) in directory.route(topic).await? {
        let lost = losses(&row, wanted);
        if !lost.is_empty() {
            let lost = lost.join(" and ");
            return consent.ask(&format!("Clients of topic {topic} in broker group {} lose {lost}.", group.name));
        }
    }
    Ok(())
}

/// What clients of a topic lose.
fn losses(row: &raftmq_proto::namesrv::Topic, wanted: &Wanted<'_>) -> Vec<&'static str> {
    let permission = wanted.permission.unwrap_or(row.permission);
    let gone = |bit: u32| row.permission & bit != 0 && permission & bit == 0;
    let fewer = |wanted: &Option<u32>, has: u32| wanted.is_some_and(|wanted| wanted < has);
    [
        (gone(2), "the permission to send"),
        (gone(4), "the permission to receive"),
        (fewer(wanted.write_queues, row.write_queues), "queues to write"),
        (fewer(wanted.read_queues, row.read_queues), "queues to read, with what is in them"),
    ]
    .into_iter()
    .filter_map(|(lost, what)| lost.then_some(what))
    .collect()
}

/// As RocketMQ prints a topic.
pub(super) fn config_line(topic: &Topic) -> String {
    let types: Vec<String> = topic.message_types.iter().map(|value| message_type_name(*value)).collect();
    let mut attributes: Vec<String> = topic.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    attributes.sort_unstable();
    format!(
        "TopicConfig [topicName={}, readQueueNums={}, writeQueueNums={}, perm={}, topicFilterType=SINGLE_TAG, \
         topicSysFlag=0, order={}, attributes={{{}}}, messageTypes=[{}], version={}]",
        topic.name,
        topic.read_queues,
        topic.write_queues,
        super::permission_text(topic.permission),
        topic.ordered,
        attributes.join(", "),
        types.join(", "),
        topic.version
    )
}

/// A topic for programs.
pub(super) fn to_json(topic: &Topic) -> Value {
    let types: Vec<String> = topic.message_types.iter().map(|value| message_type_name(*value)).collect();
    json!({
        "topicName": topic.name,
        "readQueueNums": topic.read_queues,
        "writeQueueNums": topic.write_queues,
        "perm": topic.permission,
        "order": topic.ordered,
        "attributes": topic.attributes,
        "messageTypes": types,
        "messageGroupsIn": topic.fifo_owners,
        "version": topic.version,
        "createdMs": topic.created_ms,
        "updatedMs": topic.updated_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_in_a_line() {
        let topic = Topic {
            name: "T".to_owned(),
            read_queues: 8,
            write_queues: 4,
            permission: 6,
            message_types: vec![1],
            attributes: [("message.type".to_owned(), "NORMAL".to_owned())].into(),
            version: 2,
            ..Topic::default()
        };
        let line = config_line(&topic);
        for part in ["topicName=T,", "readQueueNums=8", "writeQueueNums=4", "perm=RW-", "messageTypes=[NORMAL]"] {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn what_clients_lose() {
        let row = raftmq_proto::namesrv::Topic { read_queues: 4, write_queues: 4, permission: 6, ..Default::default() };
        let lost = |read_queues, write_queues, permission| {
            let (read_queues, write_queues, permission) = (&read_queues, &write_queues, &permission);
            losses(&row, &Wanted { read_queues, write_queues, permission })
        };
        assert!(lost(None, None, None).is_empty());
        assert!(lost(Some(4), Some(8), Some(6)).is_empty());
        assert_eq!(lost(Some(2), None, Some(4)), ["the permission to send", "queues to read, with what is in them"]);
        assert_eq!(lost(None, Some(1), Some(2)), ["the permission to receive", "queues to write"]);
    }
}
