//! `topicList`: all topics, as the name servers know them.

use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::progress::Progress;
use crate::table::Table;
use clap::Args;
use raftmq_proto::admin::ConsumerProgressRequest;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use tokio_stream::StreamExt as _;

/// List all topics; with -c, their clusters and the consumer groups that received from them.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin topicList -n localhost:9876")]
pub(crate) struct Arguments {
    /// Show cluster and consumer groups of each topic.
    #[arg(short = 'c', long = "clusterModel")]
    clusters: bool,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let topics = directory.topics().await?;
    if !arguments.clusters {
        let names: BTreeSet<&String> = topics.values().flatten().collect();
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        return Ok(Outcome::done(text, json!(names)));
    }
    let (consumers, failures) = consumers(directory).await?;
    let mut table = Table::new(&["#Cluster Name", "#Topic", "#Consumer Group"]);
    let mut rows = Vec::new();
    for (cluster, names) in &topics {
        for name in names {
            let groups = consumers.get(&(cluster.clone(), name.clone()));
            let groups: Vec<&str> = groups.into_iter().flatten().map(String::as_str).collect();
            rows.push(json!({ "cluster": cluster, "topic": name, "consumerGroups": groups }));
            if groups.is_empty() {
                table.row(vec![cluster.clone(), name.clone(), String::new()]);
            }
            for group in groups {
                table.row(vec![cluster.clone(), name.clone(), group.to_owned()]);
            }
        }
    }
    Ok(Outcome { text: table.to_string(), json: rows.into(), failures })
}

type Consumers = BTreeMap<(String, String), BTreeSet<String>>;

/// Consumer groups by cluster and topic.
async fn consumers(directory: &Directory) -> Result<(Consumers, Vec<String>), AdminError> {
    let mut consumers = Consumers::new();
    let mut failures = Vec::new();
    let groups = directory.all().await?;
    let mut shown = Progress::patient();
    for (number, group) in groups.iter().enumerate() {
        shown.step(number, groups.len(), "broker groups asked for their consumer groups");
        let progress = directory.read_group(group, |mut node, stale| async move {
            let request = ConsumerProgressRequest { stale, ..ConsumerProgressRequest::default() };
            let mut parts = node.consumer_progress(request).await?.into_inner();
            let mut queues = Vec::new();
            while let Some(part) = parts.next().await {
                queues.extend(part?.queues);
            }
            Ok(queues)
        });
        match progress.await {
            Ok((_, queues)) => {
                for queue in queues {
                    let topic = (group.cluster.clone(), queue.topic);
                    consumers.entry(topic).or_default().insert(queue.consumer_group);
                }
            }
            Err(error) => failures.push(format!("consumer groups of broker group {} are missing: {error}", group.name)),
        }
    }
    Ok((consumers, failures))
}
