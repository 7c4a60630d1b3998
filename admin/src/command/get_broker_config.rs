//! `getBrokerConfig`: what a node was told at its start.

use super::Where;
use crate::connect;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::{GetConfigRequest, Setting};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

/// Show the configuration that a node runs with, defaults included and secrets as `***`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getBrokerConfig -n localhost:9876 -b 127.0.0.1:10911")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for address in arguments.place.nodes(directory).await? {
        match connect::admin(&address, &directory.token)?.get_config(GetConfigRequest {}).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let _ = writeln!(text, "============{address}============\n{}", lines(&answer.settings));
                rows.push(json!({
                    "brokerName": answer.broker_group,
                    "label": answer.label,
                    "addr": address,
                    "config": to_json(&answer.settings),
                }));
            }
            Err(status) => failures.push(connect::at(&address, &status)),
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

/// A setting as it is shown.
pub(super) type Shown = Setting;

/// RocketMQ's columns; what is not set is left out.
pub(super) fn lines(settings: &[Shown]) -> String {
    let mut text = String::new();
    for setting in settings {
        let Some(value) = &setting.value else { continue };
        let unused = if setting.unused { "  (no effect)" } else { "" };
        let _ = writeln!(text, "{:<50}=  {value}{unused}", setting.key);
    }
    text
}

pub(super) fn to_json(settings: &[Shown]) -> Value {
    let entry = |setting: &Setting| {
        let source = if setting.source.is_empty() { "default" } else { &setting.source };
        let value = json!({ "value": setting.value, "source": source, "unused": setting.unused });
        (setting.key.clone(), value)
    };
    settings.iter().map(entry).collect::<Map<String, Value>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_in_lines() {
        let setting = |key: &str, value: Option<&str>, unused| Setting {
            key: key.to_owned(),
            value: value.map(str::to_owned),
            source: String::new(),
            unused,
        };
        let settings = [
            setting("listenPort", Some("10911"), false),
            setting("adminToken", None, false),
            setting("brokerRole", Some("SLAVE"), true),
        ];
        let text = lines(&settings);
        let (port, role) =
            (format!("{:<50}=  10911", "listenPort"), format!("{:<50}=  SLAVE  (no effect)", "brokerRole"));
        assert_eq!(text, format!("{port}\n{role}\n"));
        let json = to_json(&settings);
        assert_eq!((&json["listenPort"]["source"], &json["adminToken"]["value"]), (&"default".into(), &Value::Null));
    }
}
