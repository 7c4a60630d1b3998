//! `queryMsgByKey`: the messages of a topic that have a key.

use super::message::{self, millis};
use super::search::{End, Patience, Search, search};
use super::send_message::hosts;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use crate::time::{human, point};
use clap::Args;
use raftmq_proto::rocketmq::list_message_request::SearchKey;
use std::ops::ControlFlow;

/// List the messages of a topic that have a key.
///
/// There is no index of keys: the log of the time that -b and -e name is read, all that is kept without them.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin queryMsgByKey -n localhost:9876 -t TestTopic -k order-17 -b 1795457287123")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// The key.
    #[arg(short = 'k', long = "msgKey", value_name = "KEY")]
    key: String,
    /// Stored then or later: ms since 1970, or yyyy-MM-dd#HH:mm:ss:SSS in UTC.
    #[arg(short = 'b', long = "beginTimestamp", value_name = "TIME", value_parser = point)]
    begin: Option<u64>,
    /// Stored then or earlier.
    #[arg(short = 'e', long = "endTimestamp", value_name = "TIME", value_parser = point)]
    end: Option<u64>,
    /// At most so many of each broker group.
    #[arg(short = 'm', long = "maxNum", value_name = "MESSAGES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    /// Accepted and ignored: the topic says where to look.
    #[arg(short = 'c', long = "cluster", hide = true)]
    _cluster: Option<String>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let wanted = Search {
        topic: arguments.topic.clone(),
        key: Some(SearchKey::MessageKey(arguments.key.clone())),
        from_ms: arguments.begin,
        until_ms: arguments.end,
        ..Search::default()
    };
    let mut table = Table::new(&["#Message ID", "#Broker Name", "#QID", "#Offset", "#Store Time"]);
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for group in hosts(directory, &arguments.topic, None).await? {
        let mut left = arguments.max;
        let end = search(directory, &group, &wanted, arguments.patience.until(), |message| {
            let Some(rest) = left.checked_sub(1) else { return ControlFlow::Break(()) };
            left = rest;
            let properties = message.system_properties.clone().unwrap_or_default();
            table.row(vec![
                properties.message_id,
                group.name.clone(),
                properties.queue_id.to_string(),
                properties.queue_offset.map(|offset| offset.to_string()).unwrap_or_default(),
                human(millis(properties.store_timestamp.as_ref())),
            ]);
            rows.push(message::to_json(&group.name, &message));
            ControlFlow::Continue(())
        });
        match end.await {
            Ok(End::Late) => failures.push(arguments.patience.gave_up(&group.name)),
            Ok(End::Enough) => {
                eprintln!("mqadmin: broker group {} has more than --maxNum {} of them", group.name, arguments.max);
            }
            Ok(End::All | End::NoTopic) => {}
            Err(error) => failures.push(super::failure(&group.name, &error)),
        }
    }
    if rows.is_empty() && failures.is_empty() {
        failures.push(format!("topic {} has no message with key {}", arguments.topic, arguments.key));
    }
    Ok(Outcome { text: table.to_string(), json: rows.into(), failures })
}
