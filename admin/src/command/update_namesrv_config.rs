//! `updateNamesrvConfig`: changes a setting of running name servers.

use crate::confirm::Consent;
use crate::connect;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::namesrv::UpdateConfigRequest;
use serde_json::json;
use std::fmt::Write as _;

/// Change a setting of every name server that -n names, while they run.
///
/// It is in effect at once, and until the name server is started again: it writes nothing to disk, so put it into
/// namesrv.conf too. Keys that are read at start only are refused. An empty value takes a change back. Without access
/// control, name servers take it from their own machine only.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin updateNamesrvConfig -n localhost:9876 -k brokerSilenceMs -v 60000")]
pub(crate) struct Arguments {
    /// The key, as getNamesrvConfig shows it.
    #[arg(short = 'k', long = "key")]
    key: String,
    /// The value; empty for what the configuration file says.
    #[arg(short = 'v', long = "value", allow_hyphen_values = true)]
    value: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let Arguments { key, value, .. } = arguments;
    let servers = &directory.name_servers;
    arguments.consent.ask(&format!("{key} becomes {value:?} on {}.", servers.join(", ")))?;
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for address in servers {
        let request = UpdateConfigRequest { key: key.clone(), value: value.clone() };
        match connect::name_server(address, &directory.token)?.update_config(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
                let (before, after) = (shown(&answer.before), shown(&answer.after));
                let _ = writeln!(text, "update name server config success! {address}\n{key} : {before} -> {after}");
                rows.push(json!({ "addr": address, "key": key, "before": answer.before, "after": answer.after }));
            }
            Err(status) => failures.push(connect::at(address, &status)),
        }
    }
    if !rows.is_empty() {
        text += "It lasts until the name server is started again: write it into its namesrv.conf too.\n";
    }
    Ok(Outcome { text, json: rows.into(), failures })
}
