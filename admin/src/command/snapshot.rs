//! `snapshot`: writes a node's rows to disk, so that its next start is short.

use super::Where;
use crate::connect;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::FlushRowsRequest;
use serde_json::json;
use std::fmt::Write as _;

/// Have nodes write to disk what they have in memory of the broker group's state, so that their next start replays
/// nothing of it.
///
/// Nodes do so by themselves every while, and when they are stopped. Nothing is lost without it: it makes the start after
/// a crash, or after a kill that is to come, shorter.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin snapshot -n localhost:9876 -c DefaultCluster")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for address in arguments.place.nodes(directory).await? {
        match connect::admin(&address, &directory.token)?.flush_rows(FlushRowsRequest {}).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let index = answer.applied_index;
                let _ = writeln!(
                    text,
                    "snapshot of {} ({address}) success: what it applied up to entry {index} is on its disk",
                    answer.label
                );
                rows.push(json!({
                    "brokerName": answer.broker_group,
                    "label": answer.label,
                    "addr": address,
                    "appliedIndex": index,
                }));
            }
            Err(status) => failures.push(connect::at(&address, &status)),
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}
