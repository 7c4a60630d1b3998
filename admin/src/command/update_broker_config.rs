//! `updateBrokerConfig`: changes a setting of running nodes.

use super::Where;
use crate::confirm::Consent;
use crate::connect;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::UpdateConfigRequest;
use serde_json::json;
use std::fmt::Write as _;

/// Change a setting of a node while it runs, or of every node of a cluster.
///
/// It is in effect for what begins afterwards, and kept in the node's storePathRootDir for its next start, over its
/// configuration file. Keys that are read at start only are refused. An empty value takes a change back.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin updateBrokerConfig -n localhost:9876 -c DefaultCluster -k fileReservedTime -v 72"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The key, as getBrokerConfig shows it.
    #[arg(short = 'k', long = "key")]
    key: String,
    /// The value; empty for what the configuration file says.
    #[arg(short = 'v', long = "value", allow_hyphen_values = true)]
    value: String,
    /// Accepted and ignored: there are no containers.
    #[arg(short = 'a', long = "updateAllBroker", hide = true, num_args = 0..=1)]
    _all: Option<Option<bool>>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let Arguments { key, value, .. } = arguments;
    let nodes = arguments.place.nodes(directory).await?;
    arguments.consent.ask(&format!("{key} becomes {value:?} on {}.", nodes.join(", ")))?;
    let (mut text, mut rows, mut failures, mut of_group) = (String::new(), Vec::new(), Vec::new(), false);
    for address in nodes {
        let request = UpdateConfigRequest { key: key.clone(), value: value.clone() };
        match connect::admin(&address, &directory.token)?.update_config(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
                let (before, after) = (shown(&answer.before), shown(&answer.after));
                let _ = writeln!(text, "update broker config success, {address}\n{key}: {before} -> {after}");
                of_group |= answer.of_group;
                rows.push(json!({
                    "brokerName": answer.broker_group,
                    "label": answer.label,
                    "addr": address,
                    "key": key,
                    "before": answer.before,
                    "after": answer.after,
                    "keptIn": answer.file,
                }));
            }
            Err(status) => failures.push(connect::at(&address, &status)),
        }
    }
    if of_group && rows.len() == 1 && arguments.place.names_a_node() {
        text += "What the leader has counts for the whole broker group: use -c to set it on every node.\n";
    }
    Ok(Outcome { text, json: rows.into(), failures })
}
