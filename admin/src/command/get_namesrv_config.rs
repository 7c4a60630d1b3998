//! `getNamesrvConfig`: what name servers were told.

use super::get_broker_config::{Shown, lines, to_json};
use crate::connect;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::namesrv::{GetConfigRequest, Setting};
use serde_json::json;
use std::fmt::Write as _;

/// Show the configuration that the name servers run with, defaults included and secrets as `***`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getNamesrvConfig -n localhost:9876")]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, _: &Arguments) -> Result<Outcome, AdminError> {
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for address in &directory.name_servers {
        match connect::name_server(address, &directory.token)?.get_config(GetConfigRequest {}).await {
            Ok(answer) => {
                let settings: Vec<Shown> = answer.into_inner().settings.into_iter().map(shown).collect();
                let _ = writeln!(text, "============{address}============\n{}", lines(&settings));
                rows.push(json!({ "addr": address, "config": to_json(&settings) }));
            }
            Err(status) => failures.push(connect::at(address, &status)),
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

fn shown(setting: Setting) -> Shown {
    Shown { key: setting.key, value: setting.value, source: setting.source, unused: setting.unused }
}
