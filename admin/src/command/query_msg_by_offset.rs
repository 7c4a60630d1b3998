//! `queryMsgByOffset`: the message at an offset of a queue.

use super::message;
use super::queue::{host, offset, pull};
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use clap::Args;

/// Show the message at an offset of a queue.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin queryMsgByOffset -n localhost:9876 -t TestTopic -b RaftNode00 -i 0 -o 7")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// The broker group; needless where one hosts the topic.
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    broker: Option<String>,
    /// The queue.
    #[arg(short = 'i', long = "queueId", value_name = "QUEUE", value_parser = clap::value_parser!(u16))]
    queue: u16,
    /// The offset.
    #[arg(short = 'o', long = "offset", value_parser = clap::value_parser!(i64).range(0..))]
    offset: i64,
    /// Accepted and ignored: a body is shown as text where it is text, otherwise in hexadecimal.
    #[arg(short = 'f', long = "bodyFormat", hide = true)]
    _format: Option<String>,
    #[command(flatten)]
    pub output: LongOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let group = host(directory, &arguments.topic, arguments.broker.as_deref()).await?;
    let found = pull(directory, &group, &arguments.topic, arguments.queue, arguments.offset, 1).await?;
    // What is gone is passed over.
    let Some(message) = found.into_iter().find(|message| offset(message) == Some(arguments.offset)) else {
        let Arguments { topic, queue, offset, .. } = arguments;
        return Err(AdminError::Unknown(format!(
            "queue {queue} of topic {topic} in broker group {} has no message at offset {offset}; topicStatus shows the \
             offsets there are",
            group.name
        )));
    };
    Ok(Outcome::done(message::details(&group.name, &message), message::to_json(&group.name, &message)))
}
