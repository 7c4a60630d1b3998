//! `queryMsgTraceById`: who sent a message and who consumed it, in RocketMQ's columns.

use super::explain_msg::{Life, Subject, lives};
use super::history;
use super::message::millis;
use super::search::Patience;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use crate::time::human;
use clap::Args;
use serde_json::{Value, json};

/// RocketMQ's topic of traces, which its gRPC clients write nothing to.
const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";

/// Show who sent a message and who consumed it, out of the brokers' own rows.
///
/// RocketMQ reads what clients wrote to a topic of traces; its gRPC clients write none. Brokers keep what was done to a
/// message instead, as long as the message: each delivery with its client, and how it ended. explainMsg says more.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin queryMsgTraceById -n localhost:9876 -t TestTopic -i 0156F7E71C361B21BC0A8C49F800000000"
)]
pub(crate) struct Arguments {
    /// The message id.
    #[arg(short = 'i', long = "msgId", value_name = "ID")]
    id: String,
    /// The topic of the message; without it every topic is looked through.
    #[arg(short = 't', long = "topic", visible_alias = "traceTopic")]
    topic: Option<String>,
    /// Accepted and ignored: an id tells when it was made.
    #[arg(short = 'b', long = "beginTimestamp", hide = true)]
    _begin: Option<String>,
    /// Accepted and ignored: an id tells when it was made.
    #[arg(short = 'e', long = "endTimestamp", hide = true)]
    _end: Option<String>,
    /// Accepted and ignored: an id names one message.
    #[arg(short = 'c', long = "maxNum", hide = true)]
    _max: Option<u32>,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let topics: Vec<String> = match arguments.topic.as_deref().filter(|topic| *topic != TRACE_TOPIC) {
        Some(topic) => vec![topic.to_owned()],
        None => directory.topics().await?.into_values().flatten().filter(|topic| !topic.starts_with('%')).collect(),
    };
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for topic in topics {
        let subject = Subject::of_id(topic, arguments.id.clone());
        let (lives, reasons) = lives(directory, &subject, &arguments.patience).await?;
        failures.extend(reasons);
        found.extend(lives.into_iter().map(|life| (subject.topic.clone(), life)));
        // An id names one message.
        if !found.is_empty() {
            failures.clear();
            break;
        }
    }
    if found.is_empty() && failures.is_empty() {
        failures.push(format!("no broker group has a message {}", arguments.id));
    }
    let (mut text, mut rows) = (String::new(), Vec::new());
    for (topic, life) in &found {
        text += &tables(topic, life);
        rows.push(to_json(topic, &arguments.id, life));
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

/// Client, time of making, and ms until it was stored; what is not known is empty.
fn sent((_, message, explained): &Life) -> (String, u64, String) {
    let system = message.as_ref().and_then(|message| message.system_properties.clone()).unwrap_or_default();
    let born = millis(system.born_timestamp.as_ref());
    let took = explained.stored_ms.checked_sub(born).filter(|_| born > 0 && explained.stored_ms > 0);
    (system.born_host, born, took.map(|ms| format!("{ms}ms")).unwrap_or_default())
}

fn tables(topic: &str, life: &Life) -> String {
    let (host, born, took) = sent(life);
    let (broker_group, message, explained) = life;
    let mut produced =
        Table::new(&["#Type", "#Topic", "#Broker Name", "#ClientHost", "#SendTime", "#CostTimes", "#Status"]);
    let status = match explained.waits.first() {
        Some(wait) if message.is_none() => wait.state.clone(),
        _ => "success".to_owned(),
    };
    let time = |ms: u64| human(ms).replace(' ', "#");
    produced.row(vec!["Pub".to_owned(), topic.to_owned(), broker_group.clone(), host, time(born), took, status]);
    let mut text = format!("{produced}\n");
    if !explained.events.is_empty() {
        let mut done = Table::new(&["#Time", "#LogIndex", "#Event", "#ConsumerGroup", "#ClientHost", "#Attempt"]);
        for event in &explained.events {
            let attempt = if event.attempt == 0 { String::new() } else { event.attempt.to_string() };
            done.row(vec![
                time(event.at_ms),
                if event.log_index == 0 { String::new() } else { event.log_index.to_string() },
                event.event.clone(),
                event.consumer_group.clone(),
                event.client_id.clone(),
                attempt,
            ]);
        }
        text += &format!("{done}\n");
        if explained.more_events {
            text += "There is more than one answer tells.\n";
        }
    }
    if !explained.fates.is_empty() {
        let mut consumed =
            Table::new(&["#Type", "#ConsumerGroup", "#ClientHost", "#ConsumerTime", "#Attempt", "#Status"]);
        for fate in &explained.fates {
            let attempt = if fate.attempt == 0 { String::new() } else { fate.attempt.to_string() };
            consumed.row(vec![
                "Sub".to_owned(),
                fate.consumer_group.clone(),
                fate.client_id.clone(),
                time(fate.since_ms),
                attempt,
                fate.state.clone(),
            ]);
        }
        text += &format!("{consumed}\n");
    }
    text
}

fn to_json(topic: &str, id: &str, life: &Life) -> Value {
    let (host, born, _) = sent(life);
    let (broker_group, _, explained) = life;
    let fates: Vec<Value> = explained
        .fates
        .iter()
        .map(|fate| {
            json!({
                "consumerGroup": fate.consumer_group, "status": fate.state, "attempt": fate.attempt,
                "clientId": fate.client_id, "sinceMs": fate.since_ms,
            })
        })
        .collect();
    json!({
        "msgId": id, "topic": topic, "brokerName": broker_group, "clientHost": host, "bornMs": born,
        "storedMs": explained.stored_ms, "waits": explained.waits.iter().map(|wait| &wait.state).collect::<Vec<_>>(),
        "consumers": fates, "events": explained.events.iter().map(history::to_json).collect::<Vec<_>>(),
        "moreEvents": explained.more_events,
    })
}
