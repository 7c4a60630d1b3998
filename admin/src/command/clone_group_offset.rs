//! `cloneGroupOffset`: has one consumer group go on where another one is.

use super::{PerGroup, Where};
use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use crate::table::Table;
use clap::Args;
use raftmq_admin_client::progress::queues_of;
use raftmq_proto::admin::ResetOffsetRequest;
use serde_json::json;
use tonic::Code;

/// Move a consumer group in a topic to where another consumer group is, also while its consumers run.
///
/// What the other one has leased or is to get again stays its own: its progress has passed that already. A consumer
/// group that does not exist is made by updateSubGroup first.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin cloneGroupOffset -n localhost:9876 -s SourceGroup -d NewGroup -t TestTopic")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The consumer group whose progress counts.
    #[arg(short = 's', long = "srcGroup", value_name = "GROUP")]
    from: String,
    /// The consumer group that is moved.
    #[arg(short = 'd', long = "destGroup", value_name = "GROUP")]
    to: String,
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// Accepted and ignored: consumers may run.
    #[arg(short = 'o', long = "offline", hide = true, num_args = 0..=1)]
    _offline: Option<Option<bool>>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: LongOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let Arguments { from, to, topic, .. } = arguments;
    arguments.consent.ask(&format!("Consumer group {to} goes on in topic {topic} where {from} is."))?;
    let mut report = PerGroup::default();
    let mut table = Table::new(&["#Broker Name", "#QID", "#Offset"]);
    let mut unknown = Vec::new();
    for group in directory.groups(arguments.place.target()).await? {
        let queues = match queues_of(directory, &group, from, topic).await {
            Ok(queues) => queues,
            Err(AdminError::Refused { code: Code::NotFound, message, .. }) => {
                unknown.push(format!("broker group {}: {message}", group.name));
                continue;
            }
            Err(error) => {
                report.failed(&group.name, &error);
                continue;
            }
        };
        if queues.iter().any(|queue| queue.lite_topics > 0) {
            unknown.push(format!("broker group {}: lite topics of {topic} have no queue to go on in", group.name));
        }
        for queue in queues.into_iter().filter(|queue| queue.lite_topics == 0) {
            let request = ResetOffsetRequest {
                consumer_group: to.clone(),
                topic: topic.clone(),
                queue: Some(queue.queue),
                time_ms: None,
                offset: Some(queue.progress),
            };
            let moved = directory.on_group(&group, |mut node| {
                let request = request.clone();
                async move { Ok(node.reset_offset(request).await?.into_inner()) }
            });
            match moved.await {
                Ok((_, answer)) => {
                    for at in answer.queues {
                        table.row(vec![group.name.clone(), at.queue.to_string(), at.offset.to_string()]);
                        report.done("", json!({ "brokerName": group.name, "queueId": at.queue, "offset": at.offset }));
                    }
                }
                Err(error) => {
                    report.failed(&group.name, &error);
                    break;
                }
            }
        }
    }
    // One that has received in no broker group is a mistake; in some of them, it is not.
    if table.is_empty() && report.failures.is_empty() {
        unknown.push(format!("consumer group {from} has received nothing from topic {topic}"));
        report.failures.append(&mut unknown);
    }
    report.text = if table.is_empty() { String::new() } else { format!("{table}clone group offset success.\n") };
    Ok(report.outcome())
}
