//! `listTimers`: delayed messages in the order in which they are due.

use super::{PerGroup, Where};
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use crate::time::{human, point};
use clap::Args;
use raftmq_proto::admin::{ListTimersRequest, TimerMessage};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Of one answer.
const PAGE: u32 = 500;

/// List delayed messages by the time at which they are due, and what takes each back.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin listTimers -n localhost:9876 -t TestTopic")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// Only of this topic.
    #[arg(short = 't', long = "topic", default_value = "", hide_default_value = true)]
    topic: String,
    /// Due then or later: `now`, ms since 1970, or yyyy-MM-dd#HH:mm:ss:SSS in UTC.
    #[arg(short = 's', long = "begin", value_name = "TIME", value_parser = point, default_value = "0", hide_default_value = true)]
    begin: u64,
    /// Due then or earlier.
    #[arg(short = 'e', long = "end", value_name = "TIME", value_parser = point, default_value = "0", hide_default_value = true)]
    end: u64,
    /// At most so many of each broker group.
    #[arg(short = 'm', long = "max", value_name = "MESSAGES", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let mut report = PerGroup::default();
    let mut table =
        Table::new(&["#Broker Name", "#Topic", "#Due", "#In(s)", "#MsgId", "#Keys", "#Bytes", "#Recall Handle"]);
    let mut sums = String::new();
    for group in directory.groups(arguments.place.target()).await? {
        let (mut left, mut from) = (arguments.max, String::new());
        loop {
            let page = directory.read_group(&group, |mut node, stale| {
                let request = ListTimersRequest {
                    topic: arguments.topic.clone(),
                    messages_max: left.min(PAGE),
                    from: from.clone(),
                    from_ms: arguments.begin,
                    until_ms: arguments.end,
                    stale,
                };
                async move { Ok(node.list_timers(request).await?.into_inner()) }
            });
            let page = match page.await {
                Ok((_, page)) => page,
                Err(error) => {
                    report.failed(&group.name, &error);
                    break;
                }
            };
            for timer in &page.messages {
                left = left.saturating_sub(1);
                table.row(cells(&group.name, timer, page.now_ms));
                report.done("", to_json(&group.name, timer));
            }
            if page.next.is_empty() || left == 0 {
                let more = if page.next.is_empty() { "" } else { "; there are more than --max of them" };
                let _ = writeln!(sums, "broker group {}: {} messages wait{more}", group.name, page.waiting);
                break;
            }
            from = page.next;
        }
    }
    report.text = format!("{table}{sums}");
    Ok(report.outcome())
}

fn cells(broker_group: &str, timer: &TimerMessage, now_ms: u64) -> Vec<String> {
    vec![
        broker_group.to_owned(),
        timer.topic.clone(),
        human(timer.delivery_ms),
        timer.delivery_ms.saturating_sub(now_ms).div_ceil(1_000).to_string(),
        timer.message_id.clone(),
        timer.keys.join(","),
        timer.body_bytes.to_string(),
        timer.recall_handle.clone(),
    ]
}

fn to_json(broker_group: &str, timer: &TimerMessage) -> Value {
    json!({
        "brokerName": broker_group,
        "topic": timer.topic,
        "msgId": timer.message_id,
        "deliveryMs": timer.delivery_ms,
        "bornMs": timer.born_ms,
        "keys": timer.keys,
        "tag": timer.tag,
        "bodyBytes": timer.body_bytes,
        "recallHandle": timer.recall_handle,
    })
}
