//! `deleteSubGroup`: deletes a consumer group with its progress in every broker group.

use super::{PerGroup, Where};
use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::DeleteConsumerGroupRequest;
use serde_json::json;
use tonic::Code;

/// Delete a consumer group with its progress; one of the same name created later starts afresh.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin deleteSubGroup -n localhost:9876 -c DefaultCluster -g YourConsumerGroup")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The consumer group.
    #[arg(short = 'g', long = "groupName")]
    group: String,
    /// Accepted and ignored: progress always goes with the group.
    #[arg(short = 'r', long = "removeOffset", hide = true, action = clap::ArgAction::Set)]
    _remove_offset: Option<bool>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let name = &arguments.group;
    let request = DeleteConsumerGroupRequest { name: name.clone() };
    let what = format!("Consumer group {name} is deleted, and how far it has come is forgotten.");
    arguments.consent.ask(&what)?;
    let mut report = PerGroup::default();
    let mut deleted = 0;
    for group in directory.groups(arguments.place.target()).await? {
        let delete = directory.on_group(&group, |mut node| {
            let request = request.clone();
            async move { Ok(node.delete_consumer_group(request).await?.into_inner()) }
        });
        match delete.await {
            Ok((address, _)) => {
                deleted += 1;
                let text = format!("delete subscription group [{name}] from broker [{address}] success.\n");
                report.done(&text, json!({ "brokerName": group.name, "deleted": true }));
            }
            Err(AdminError::Refused { code: Code::NotFound, .. }) => {
                let text = format!("subscription group [{name}] is not in broker group [{}].\n", group.name);
                report.done(&text, json!({ "brokerName": group.name, "deleted": false }));
            }
            Err(error) => report.failed(&group.name, &error),
        }
    }
    if deleted == 0 && report.failures.is_empty() {
        report.failures.push(format!("no broker group has a consumer group {name}"));
    }
    Ok(report.outcome())
}
