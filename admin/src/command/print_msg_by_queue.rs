//! `printMsgByQueue`: messages of one queue in a time, and how many there are of each tag.

use super::message;
use super::print_msg::has_tag;
use super::queue::host;
use super::search::{End, Patience, Search, search};
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{LongOutput, Outcome};
use crate::table::Table;
use crate::time::point;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Print the messages of one queue, or count them by tag.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin printMsgByQueue -n localhost:9876 -t TestTopic -i 0 -p true -f true")]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// The broker group; needless where one hosts the topic.
    #[arg(short = 'a', long = "brokerName", value_name = "NAME")]
    broker: Option<String>,
    /// The queue.
    #[arg(short = 'i', long = "queueId", value_name = "QUEUE", value_parser = clap::value_parser!(u16))]
    queue: u16,
    /// Tags, as in `a || b`.
    #[arg(short = 's', long = "subExpression", value_name = "TAGS", default_value = "*")]
    expression: String,
    /// Stored then or later: `now`, ms since 1970, or yyyy-MM-dd#HH:mm:ss:SSS in UTC.
    #[arg(short = 'b', long = "beginTimestamp", value_name = "TIME", value_parser = point)]
    begin: Option<u64>,
    /// Stored then or earlier.
    #[arg(short = 'e', long = "endTimestamp", value_name = "TIME", value_parser = point)]
    end: Option<u64>,
    /// Whether messages are printed.
    #[arg(short = 'p', long = "printMsg", value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    print: bool,
    /// Whether their bodies are.
    #[arg(short = 'd', long = "printBody", value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    body: bool,
    /// Whether messages are counted by tag.
    #[arg(short = 'f', long = "calculate", value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    count: bool,
    /// At most so many messages are printed.
    #[arg(short = 'm', long = "max", value_name = "MESSAGES", default_value_t = 1_000)]
    max: u32,
    /// Accepted and ignored: a body is shown as text where it is text, otherwise in hexadecimal.
    #[arg(short = 'c', long = "charsetName", hide = true)]
    _charset: Option<String>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub output: LongOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    // What neither prints nor counts would do nothing.
    let (print, count) = (arguments.print || !arguments.count, arguments.count);
    let group = host(directory, &arguments.topic, arguments.broker.as_deref()).await?;
    let wanted = Search {
        topic: arguments.topic.clone(),
        from_ms: arguments.begin,
        until_ms: arguments.end,
        queue: Some(arguments.queue),
        ..Search::default()
    };
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    let mut tags: BTreeMap<String, u64> = BTreeMap::new();
    let end = search(directory, &group, &wanted, arguments.patience.until(), |message| {
        if !has_tag(&arguments.expression, &message) {
            return ControlFlow::Continue(());
        }
        let tag = message.system_properties.as_ref().and_then(|properties| properties.tag.clone());
        *tags.entry(tag.unwrap_or_default()).or_default() += 1;
        if print && rows.len() < arguments.max as usize {
            let mut row = message::to_json(&group.name, &message);
            if arguments.body {
                text += &message::line(&group.name, &message);
            } else {
                text += &message::line_without_body(&group.name, &message);
                if let Some(fields) = row.as_object_mut() {
                    fields.retain(|key, _| !key.starts_with("body"));
                }
            }
            rows.push(row);
        } else if print && !count {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    match end.await? {
        End::All => {}
        End::Enough => {
            eprintln!("mqadmin: there are more than these {}; name a shorter time, or more with --max", rows.len())
        }
        End::Late => failures.push(arguments.patience.gave_up(&group.name)),
        End::NoTopic => failures.push(format!("broker group {} has no topic {}", group.name, arguments.topic)),
    }
    if count {
        let mut table = Table::new(&["#Tag", "#Count"]);
        for (tag, count) in &tags {
            table.row(vec![tag.clone(), count.to_string()]);
        }
        text += &table.to_string();
    } else if rows.is_empty() && failures.is_empty() {
        text += "no messages\n";
    }
    let tags: Value = if count { json!(tags) } else { Value::Null };
    Ok(Outcome { text, json: json!({ "messages": rows, "tags": tags }), failures })
}
