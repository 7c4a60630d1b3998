//! `topicStatus`: first and next offset and last store time of every queue.

use crate::directory::{Directory, Target};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use crate::time::human;
use clap::Args;
use raftmq_proto::admin::TopicStatusRequest;
use serde_json::json;
use tonic::Code;

/// Show the offsets of a topic's queues and when each was written last (UTC).
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin topicStatus -n localhost:9876 -t TestTopic")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// Only in this cluster.
    #[arg(short = 'c', long = "cluster", value_name = "CLUSTER")]
    cluster: Option<String>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let groups = match &arguments.cluster {
        Some(cluster) => directory.groups(Target::Cluster(cluster)).await?,
        None => directory.all().await?,
    };
    let mut table = Table::new(&["#Broker Name", "#QID", "#Min Offset", "#Max Offset", "#Last Updated"]);
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for group in groups {
        let status = directory.read_group(&group, |mut node, stale| {
            let request = TopicStatusRequest { name: arguments.topic.clone(), stale };
            async move { Ok(node.topic_status(request).await?.into_inner()) }
        });
        let queues = match status.await {
            Ok((_, status)) => status.queues,
            Err(AdminError::Refused { code: Code::NotFound, .. }) => continue,
            Err(error) => {
                failures.push(super::failure(&group.name, &error));
                continue;
            }
        };
        for queue in queues {
            table.row(vec![
                group.name.clone(),
                queue.queue.to_string(),
                queue.min_offset.to_string(),
                queue.max_offset.to_string(),
                human(queue.last_store_ms),
            ]);
            rows.push(json!({
                "brokerName": group.name,
                "queueId": queue.queue,
                "minOffset": queue.min_offset,
                "maxOffset": queue.max_offset,
                "lastUpdateMs": queue.last_store_ms,
            }));
        }
    }
    if table.is_empty() && failures.is_empty() {
        failures.push(format!("no broker group has a topic {}; topicList shows those there are", arguments.topic));
    }
    Ok(Outcome { text: table.to_string(), json: rows.into(), failures })
}
