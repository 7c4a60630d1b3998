//! `brokerConsumeStats`: what consumer groups have not finished in one broker group.

use crate::directory::{Directory, Target};
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use crate::table::Table;
use crate::time::human;
use clap::Args;
use raftmq_admin_client::progress::{diff, queues_of};
use serde_json::json;

/// Show the lag of every consumer group in every queue of the broker group of a node.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin brokerConsumeStats -b 127.0.0.1:10911")]
pub(crate) struct Arguments {
    /// The address of a node of the broker group (brokerIP1:listenPort, #Addr of clusterList).
    #[arg(short = 'b', long = "brokerAddr", value_name = "ADDRESS")]
    broker: String,
    /// Only where at least so many messages are not finished.
    #[arg(short = 'l', long = "level", value_name = "MESSAGES", default_value_t = 0)]
    level: u64,
    /// Accepted and ignored: an answer has 15 s.
    #[arg(short = 't', long = "timeoutMillis", hide = true)]
    _timeout: Option<u64>,
    /// Only topics that are ordered: accepted and ignored, the order holds by message group.
    #[arg(short = 'o', long = "order", hide = true, action = clap::ArgAction::Set)]
    _order: Option<bool>,
    #[command(flatten)]
    pub output: LongOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let mut table = Table::new(&[
        "#Topic",
        "#Group",
        "#Broker Name",
        "#QID",
        "#Broker Offset",
        "#Consumer Offset",
        "#Diff",
        "#LastTime",
    ]);
    let (mut rows, mut total) = (Vec::new(), 0);
    for group in directory.groups(Target::Broker(&arguments.broker)).await? {
        let mut queues = queues_of(directory, &group, "", "").await?;
        queues.retain(|queue| diff(queue) >= arguments.level);
        queues.sort_by(|a, b| (&a.topic, &a.consumer_group, a.queue).cmp(&(&b.topic, &b.consumer_group, b.queue)));
        for queue in queues {
            let behind = diff(&queue);
            total += behind;
            table.row(vec![
                queue.topic.clone(),
                queue.consumer_group.clone(),
                group.name.clone(),
                queue.queue.to_string(),
                queue.broker_offset.to_string(),
                queue.progress.to_string(),
                behind.to_string(),
                human(queue.last_ms).replace(' ', "#"),
            ]);
            rows.push(json!({
                "topic": queue.topic,
                "group": queue.consumer_group,
                "brokerName": group.name,
                "queueId": queue.queue,
                "brokerOffset": queue.broker_offset,
                "consumerOffset": queue.progress,
                "diff": behind,
                "lastTimeMs": queue.last_ms,
            }));
        }
    }
    Ok(Outcome::done(format!("{table}\nDiff Total: {total}\n"), rows.into()))
}
