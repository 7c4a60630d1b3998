//! `updateTopicList` and `updateSubGroupList`: topics and consumer groups out of a file.

use super::{PerGroup, Where, export};
use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_admin_client::topic::put_topic;
use raftmq_proto::admin::{PutConsumerGroupRequest, PutTopicRequest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Create or change the topics of a JSON file: RocketMQ's list of topic configurations, or what exportMetadata wrote.
///
/// Every row is looked at before the first is sent. Message types are set where a topic is created.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin updateTopicList -n localhost:9876 -c DefaultCluster -f topics.json")]
pub(crate) struct Topics {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Create or change the consumer groups of a JSON file: RocketMQ's list of subscription groups, or what exportMetadata
/// wrote.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin updateSubGroupList -n localhost:9876 -c DefaultCluster -f groups.json")]
pub(crate) struct Groups {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    pub output: ShortOutput,
}

#[derive(Debug, Args)]
struct From {
    #[command(flatten)]
    place: Where,
    /// The file.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    consent: Consent,
}

/// Fields of one row, each of which may be absent.
struct Row<'a> {
    file: &'a Path,
    number: usize,
    fields: &'a Value,
}

impl Row<'_> {
    fn wrong(&self, what: &str) -> AdminError {
        AdminError::Usage(format!("{}: row {}: {what}", self.file.display(), self.number + 1))
    }

    fn name(&self, field: &str) -> Result<String, AdminError> {
        let name = self.fields.get(field).and_then(Value::as_str).filter(|name| !name.is_empty());
        name.map(str::to_owned).ok_or_else(|| self.wrong(&format!("{field} is missing")))
    }

    fn number(&self, field: &str) -> Result<Option<u32>, AdminError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
                number.map(Some).ok_or_else(|| self.wrong(&format!("{field} = {value} must be a number")))
            }
        }
    }

    fn flag(&self, field: &str) -> Result<Option<bool>, AdminError> {
        match self.fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                value.as_bool().map(Some).ok_or_else(|| self.wrong(&format!("{field} = {value} must be true or false")))
            }
        }
    }

    /// RocketMQ writes a sign before each key.
    fn attributes(&self) -> Result<BTreeMap<String, String>, AdminError> {
        let Some(Value::Object(fields)) = self.fields.get("attributes") else { return Ok(BTreeMap::new()) };
        let attribute = |(key, value): (&String, &Value)| match value.as_str() {
            Some(value) => Ok((key.trim_start_matches('+').to_owned(), value.to_owned())),
            None => Err(self.wrong(&format!("attribute {key} = {value} must be a text"))),
        };
        fields.iter().map(attribute).collect()
    }
}

fn topic(row: &Row<'_>) -> Result<PutTopicRequest, AdminError> {
    Ok(PutTopicRequest {
        name: row.name("topicName")?,
        read_queues: row.number("readQueueNums")?,
        write_queues: row.number("writeQueueNums")?,
        permission: row.number("perm")?,
        ordered: row.flag("order")?,
        attributes: row.attributes()?.into_iter().collect(),
        ..PutTopicRequest::default()
    })
}

fn consumer_group(row: &Row<'_>) -> Result<PutConsumerGroupRequest, AdminError> {
    Ok(PutConsumerGroupRequest {
        name: row.name("groupName")?,
        consume_enable: row.flag("consumeEnable")?,
        ordered: row.flag("consumeMessageOrderly")?,
        retry_max: row.number("retryMaxTimes")?,
        attributes: row.attributes()?.into_iter().collect(),
        remove_attributes: Vec::new(),
    })
}

/// Every row of a file, or what is wrong with the first that is.
fn read<T>(file: &Path, table: &str, row: impl Fn(&Row<'_>) -> Result<T, AdminError>) -> Result<Vec<T>, AdminError> {
    let rows = export::rows(file, table)?;
    rows.iter().enumerate().map(|(number, fields)| row(&Row { file, number, fields })).collect()
}

pub(crate) async fn topics(directory: &Directory, arguments: &Topics) -> Result<Outcome, AdminError> {
    let From { place, file, consent } = &arguments.from;
    let requests = read(file, "topicConfigTable", topic)?;
    let groups = directory.groups(place.target()).await?;
    consent.ask(&format!("{} topics are created or changed.", requests.len()))?;
    let mut report = PerGroup::default();
    for mut request in requests {
        let name = request.name.clone();
        for group in &groups {
            // A topic has the message types that it was created with: an export names them all the same.
            let known = export::topics(directory, group).await?;
            if known.iter().any(|topic| topic.name == name) {
                request.attributes.remove("message.type");
            }
        }
        for (group, put) in put_topic(directory, &groups, request).await {
            match put {
                Ok((address, answer)) => {
                    let text = format!("submit topic {name} to {address} success.\n");
                    let row = json!({ "brokerName": group, "addr": address, "topic": name, "created": answer.created });
                    report.done(&text, row);
                }
                Err(error) => report.failed(&format!("{group}, topic {name}"), &error),
            }
        }
    }
    Ok(report.outcome())
}

pub(crate) async fn groups(directory: &Directory, arguments: &Groups) -> Result<Outcome, AdminError> {
    let From { place, file, consent } = &arguments.from;
    let requests = read(file, "subscriptionGroupTable", consumer_group)?;
    let groups = directory.groups(place.target()).await?;
    consent.ask(&format!("{} consumer groups are created or changed.", requests.len()))?;
    let mut report = PerGroup::default();
    for request in requests {
        for group in &groups {
            let put = directory.on_group(group, |mut node| {
                let request = request.clone();
                async move { Ok(node.put_consumer_group(request).await?.into_inner()) }
            });
            let name = &request.name;
            match put.await {
                Ok((address, answer)) => {
                    let text = format!("submit subscription group {name} to {address} success.\n");
                    let row =
                        json!({ "brokerName": group.name, "addr": address, "group": name, "created": answer.created });
                    report.done(&text, row);
                }
                Err(error) => report.failed(&format!("{}, consumer group {name}", group.name), &error),
            }
        }
    }
    Ok(report.outcome())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: &Value) -> Row<'_> {
        Row { file: Path::new("topics.json"), number: 0, fields }
    }

    #[test]
    fn rows_as_rocketmq_and_as_exports_write_them() {
        let fields = json!({
            "topicName": "T", "readQueueNums": 4, "writeQueueNums": 2, "perm": 6, "order": false, "topicSysFlag": 0,
            "attributes": { "+message.type": "FIFO", "cleanup.policy": "DELETE" },
        });
        let request = topic(&row(&fields)).expect("a good row");
        assert_eq!((request.read_queues, request.write_queues, request.ordered), (Some(4), Some(2), Some(false)));
        assert_eq!(request.attributes["message.type"], "FIFO");
        assert_eq!(request.attributes["cleanup.policy"], "DELETE");
        let fields = json!({ "groupName": "G", "retryMaxTimes": 3 });
        let request = consumer_group(&row(&fields)).expect("a good row");
        assert_eq!((request.retry_max, request.consume_enable), (Some(3), None));
    }

    #[test]
    fn rows_that_make_no_sense_are_named() {
        for (fields, part) in [
            (json!({}), "row 1: topicName is missing"),
            (json!({ "topicName": "" }), "topicName is missing"),
            (json!({ "topicName": "T", "perm": "rw" }), "perm = \"rw\" must be a number"),
            (json!({ "topicName": "T", "readQueueNums": -1 }), "must be a number"),
            (json!({ "topicName": "T", "order": 1 }), "must be true or false"),
            (json!({ "topicName": "T", "attributes": { "a": 1 } }), "must be a text"),
            (json!([1]), "topicName is missing"),
        ] {
            let refused = topic(&row(&fields)).expect_err(part).to_string();
            assert!(refused.contains(part), "{refused}");
        }
    }
}
