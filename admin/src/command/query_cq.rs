//! `queryCq`: the units of a queue from an offset on.

use super::message;
use super::queue::{host, offset, pull};
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use crate::table::Table;
use crate::time::human;
use clap::Args;
use raftmq_admin_client::message::millis;
use serde_json::json;

/// Units of one call.
const BATCH: u32 = 32;

/// Show what a queue holds from an offset on: offset, id, tag, size and times of each message, without bodies.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin queryCq -n localhost:9876 -t TestTopic -q 0 -i 0 -c 10")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// The queue.
    #[arg(short = 'q', long = "queue", value_name = "QUEUE", value_parser = clap::value_parser!(u16))]
    queue: u16,
    /// The first offset.
    #[arg(short = 'i', long = "index", value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(0..))]
    index: i64,
    /// At most so many.
    #[arg(short = 'c', long = "count", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// The broker group; needless where one hosts the topic.
    #[arg(short = 'b', long = "broker", value_name = "NAME")]
    broker: Option<String>,
    /// Accepted and ignored: filters are evaluated where messages are handed out.
    #[arg(short = 'g', long = "consumerGroup", hide = true)]
    _group: Option<String>,
    #[command(flatten)]
    pub output: LongOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let group = host(directory, &arguments.topic, arguments.broker.as_deref()).await?;
    let mut table = Table::new(&["#Offset", "#MsgId", "#Tag", "#Bytes", "#Born", "#Stored"]);
    let (mut rows, mut from) = (Vec::new(), arguments.index);
    while rows.len() < arguments.count as usize {
        let wanted = (arguments.count as usize - rows.len()).min(BATCH as usize);
        let wanted = i32::try_from(wanted).unwrap_or(i32::MAX);
        let found = pull(directory, &group, &arguments.topic, arguments.queue, from, wanted).await?;
        let Some(last) = found.last().and_then(offset) else { break };
        from = last + 1;
        for message in &found {
            let properties = message.system_properties.clone().unwrap_or_default();
            let (born, stored) =
                (millis(properties.born_timestamp.as_ref()), millis(properties.store_timestamp.as_ref()));
            let at = offset(message).unwrap_or_default();
            table.row(vec![
                at.to_string(),
                properties.message_id.clone(),
                properties.tag.clone().unwrap_or_default(),
                message.body.len().to_string(),
                human(born).replace(' ', "#"),
                human(stored).replace(' ', "#"),
            ]);
            let mut row = message::to_json(&group.name, message);
            if let Some(fields) = row.as_object_mut() {
                fields.retain(|key, _| !key.starts_with("body"));
                fields.insert("bodyBytes".to_owned(), json!(message.body.len()));
            }
            rows.push(row);
        }
    }
    Ok(Outcome::done(table.to_string(), rows.into()))
}
