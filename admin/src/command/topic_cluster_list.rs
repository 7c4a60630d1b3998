//! `topicClusterList`: the clusters that host a topic.

use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use serde_json::json;
use std::collections::BTreeSet;

/// List the clusters that host a topic.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin topicClusterList -n localhost:9876 -t TestTopic")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let routes = directory.route(&arguments.topic).await?;
    let clusters: BTreeSet<&str> = routes.iter().map(|(group, _)| group.cluster.as_str()).collect();
    if clusters.is_empty() {
        return Err(AdminError::Unknown(format!("no cluster hosts a topic {}", arguments.topic)));
    }
    let text: String = clusters.iter().map(|cluster| format!("{cluster}\n")).collect();
    Ok(Outcome::done(text, json!(clusters)))
}
