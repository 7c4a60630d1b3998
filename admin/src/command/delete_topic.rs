//! `deleteTopic`: deletes a topic in every broker group.

use super::{PerGroup, Where};
use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::DeleteTopicRequest;
use serde_json::json;
use tonic::Code;

/// Delete a topic with its messages, in every broker group of the cluster.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin deleteTopic -n localhost:9876 -c DefaultCluster -t TestTopic")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let topic = &arguments.topic;
    let request = DeleteTopicRequest { name: topic.clone() };
    arguments.consent.ask(&format!("Topic {topic} and every message in it are deleted."))?;
    let mut report = PerGroup::default();
    let mut deleted = 0;
    let groups = directory.groups(arguments.place.target()).await?;
    for group in &groups {
        let delete = directory.on_group(group, |mut node| {
            let request = request.clone();
            async move { Ok(node.delete_topic(request).await?.into_inner()) }
        });
        let (name, cluster) = (&group.name, &group.cluster);
        match delete.await {
            Ok(_) => {
                deleted += 1;
                let text =
                    format!("delete topic [{topic}] from broker group [{name}] of cluster [{cluster}] success.\n");
                report.done(&text, json!({ "brokerName": name, "deleted": true }));
            }
            Err(AdminError::Refused { code: Code::NotFound, .. }) => {
                let text = format!("topic [{topic}] is not in broker group [{name}].\n");
                report.done(&text, json!({ "brokerName": name, "deleted": false }));
            }
            Err(error) => report.failed(name, &error),
        }
    }
    if deleted == 0 && report.failures.is_empty() {
        report.failures.push(format!("no broker group has a topic {topic}; topicList shows those there are"));
    }
    Ok(report.outcome())
}
