//! `printMsg`: the messages of a topic in a time, in the order of their queues.

use super::message;
use super::search::{End, Patience, Search, search};
use super::send_message::hosts;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::time::point;
use clap::Args;
use raftmq_proto::rocketmq::Message;
use std::ops::ControlFlow;

/// What is printed is kept in memory until the end.
const BYTES_MAX: usize = 256 << 20;

/// Print the messages of a topic in a time, queue after queue, without moving any consumer group.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin printMsg -n localhost:9876 -t TestTopic -b 2026-11-23#18:00:00:000 -e 2026-11-23#18:05:00:000"
)]
pub(crate) struct Arguments {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// Only messages with these tags, as in `a || b`.
    #[arg(short = 's', long = "subExpression", value_name = "TAGS", default_value = "*")]
    expression: String,
    /// Stored then or later: `now`, ms since 1970, or yyyy-MM-dd#HH:mm:ss:SSS in UTC.
    #[arg(short = 'b', long = "beginTimestamp", value_name = "TIME", value_parser = point)]
    begin: Option<u64>,
    /// Stored then or earlier.
    #[arg(short = 'e', long = "endTimestamp", value_name = "TIME", value_parser = point)]
    end: Option<u64>,
    /// Whether bodies are printed.
    #[arg(short = 'd', long = "printBody", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    body: bool,
    /// At most so many messages.
    #[arg(short = 'm', long = "max", value_name = "MESSAGES", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    /// Accepted and ignored: a body is shown as text where it is text, otherwise in hexadecimal.
    #[arg(short = 'c', long = "charsetName", hide = true)]
    _charset: Option<String>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let wanted = Search {
        topic: arguments.topic.clone(),
        key: None,
        from_ms: arguments.begin,
        until_ms: arguments.end,
        ..Search::default()
    };
    let groups = hosts(directory, &arguments.topic, None).await?;
    let until = arguments.patience.until();
    let (mut text, mut rows, mut failures, mut bytes) = (String::new(), Vec::new(), Vec::new(), 0);
    let mut topics = 0;
    for group in &groups {
        let end = search(directory, group, &wanted, until, |message| {
            if !has_tag(&arguments.expression, &message) {
                return ControlFlow::Continue(());
            }
            if rows.len() >= arguments.max as usize || bytes >= BYTES_MAX {
                return ControlFlow::Break(());
            }
            let mut row = message::to_json(&group.name, &message);
            if arguments.body {
                // As text and as JSON.
                bytes += 2 * message.body.len();
                text += &message::line(&group.name, &message);
            } else {
                text += &message::line_without_body(&group.name, &message);
                if let Some(fields) = row.as_object_mut() {
                    fields.retain(|key, _| !key.starts_with("body"));
                }
            }
            rows.push(row);
            ControlFlow::Continue(())
        });
        match end.await {
            Ok(End::NoTopic) => continue,
            Ok(End::All) => {}
            Ok(End::Late) => failures.push(arguments.patience.gave_up(&group.name)),
            Ok(End::Enough) => {
                eprintln!(
                    "mqadmin: there are more than these {}; name a shorter time with -b and -e, or more of them with --max",
                    rows.len()
                );
                topics += 1;
                break;
            }
            Err(error) => failures.push(super::failure(&group.name, &error)),
        }
        topics += 1;
    }
    if topics == 0 {
        failures.push(format!("no broker group has a topic {}; topicList shows those there are", arguments.topic));
    } else if rows.is_empty() && failures.is_empty() {
        text.push_str("no messages\n");
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

/// Whether a message has one of the tags of `a || b`; `*` and nothing mean any, also none.
pub(super) fn has_tag(expression: &str, message: &Message) -> bool {
    let tag = message.system_properties.as_ref().and_then(|properties| properties.tag.as_deref());
    let mut tags = expression.split("||").map(str::trim);
    matches!(expression.trim(), "" | "*") || tags.any(|wanted| Some(wanted) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_proto::rocketmq::SystemProperties;

    #[test]
    fn tags() {
        let tagged = |tag: Option<&str>| Message {
            system_properties: Some(SystemProperties { tag: tag.map(str::to_owned), ..SystemProperties::default() }),
            ..Message::default()
        };
        for (expression, tag, has) in [
            ("*", None, true),
            (" ", Some("a"), true),
            ("a || b", Some("b"), true),
            ("a||b", Some("a"), true),
            ("a", Some("ab"), false),
            ("a", None, false),
        ] {
            assert_eq!(has_tag(expression, &tagged(tag)), has, "{expression:?} {tag:?}");
        }
    }
}
