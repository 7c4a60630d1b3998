//! `getConsumerConfig`: settings of a consumer group in every broker group.

use super::update_sub_group::{config_line, to_json};
use crate::directory::{Directory, Target};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::GetConsumerGroupRequest;
use serde_json::json;
use tonic::Code;

/// Show the settings of a consumer group in each broker group.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getConsumerConfig -n localhost:9876 -g YourConsumerGroup")]
pub(crate) struct Arguments {
    /// The consumer group.
    #[arg(short = 'g', long = "groupName")]
    group: String,
    /// Only in this cluster.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let groups = match &arguments.cluster {
        Some(cluster) => directory.groups(Target::Cluster(cluster)).await?,
        None => directory.all().await?,
    };
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for group in groups {
        let found = directory.read_group(&group, |mut node, stale| {
            let request = GetConsumerGroupRequest { name: arguments.group.clone(), stale };
            async move { Ok(node.get_consumer_group(request).await?.into_inner()) }
        });
        match found.await {
            Ok((_, answer)) => {
                let consumer_group = answer.consumer_group.unwrap_or_default();
                let head = format!("============={}:{}=============", group.cluster, group.name);
                text += &format!("{head}\n{}\n", config_line(&consumer_group));
                rows.push(json!({
                    "cluster": group.cluster,
                    "brokerName": group.name,
                    "group": to_json(&consumer_group),
                }));
            }
            Err(AdminError::Refused { code: Code::NotFound, .. }) => {}
            Err(error) => failures.push(super::failure(&group.name, &error)),
        }
    }
    if rows.is_empty() && failures.is_empty() {
        failures.push(format!("no broker group has a consumer group {}", arguments.group));
    }
    Ok(Outcome { text, json: rows.into(), failures })
}
