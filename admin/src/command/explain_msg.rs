//! `explainMsg`: the life of one message, event after event: what was done to it, and what is true of it now.

use super::history;
use super::message::{self, millis};
use super::search::{End, Patience, Search, search};
use super::send_message::hosts;
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::time::human;
use clap::Args;
use raftmq_proto::admin::{ExplainMessageRequest, ExplainMessageResponse, MessageFate, MessageWait};
use raftmq_proto::rocketmq::Message;
use raftmq_proto::rocketmq::list_message_request::SearchKey;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use tonic::Code;

/// Show the life of a message: when it was stored, who got it in which attempt, how each lease ended, and what is true now.
///
/// What was done to a message is kept as long as the message, by every node, with the index of the entry in the log that did
/// it. A message that no live member's filter took is FINISHED and was never LEASED. There is no index of ids: the
/// log is read as for queryMsgById, unless you name a place instead.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin explainMsg -n localhost:9876 -t TestTopic -i 0156F7E71C361B21BC0A8C49F800000000"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    patience: Patience,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Which message.
#[derive(Debug, Args)]
pub(super) struct Subject {
    /// The topic.
    #[arg(short = 't', long = "topic")]
    pub topic: String,
    /// The message id.
    #[arg(short = 'i', long = "msgId", value_name = "ID", default_value = "", required_unless_present = "queue")]
    pub id: String,
    /// The queue that it is or was in, instead of an id.
    #[arg(long = "queueId", value_name = "QUEUE", requires = "offset", conflicts_with = "id")]
    pub queue: Option<u16>,
    /// Its offset there.
    #[arg(long = "offset", requires = "queue")]
    pub offset: Option<u64>,
    /// The lite topic that it is in.
    #[arg(short = 'l', long = "liteTopic", value_name = "NAME", default_value = "")]
    pub lite_topic: String,
}

impl Subject {
    pub(super) fn of_id(topic: String, id: String) -> Subject {
        Subject { topic, id, queue: None, offset: None, lite_topic: String::new() }
    }

    /// Queue and offset, where it is named by them.
    fn place(&self) -> Option<(u32, u64)> {
        Some((u32::from(self.queue?), self.offset?))
    }

    fn name(&self) -> String {
        match self.place() {
            Some((queue, offset)) => format!("at offset {offset} of queue {queue}"),
            None => self.id.clone(),
        }
    }
}

/// A message where it was found: its broker group, itself where it was read, and what became of it.
pub(super) type Life = (String, Option<Message>, ExplainMessageResponse);

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let subject = &arguments.subject;
    let (mut text, mut rows) = (String::new(), Vec::new());
    let (lives, mut reasons) = lives(directory, subject, &arguments.patience).await?;
    for (broker_group, message, explained) in lives {
        text += &lines(subject, &broker_group, message.as_ref(), &explained);
        rows.push(to_json(subject, &broker_group, message.as_ref(), &explained));
    }
    if rows.is_empty() && reasons.is_empty() {
        reasons.push(format!("no broker group has a message {} in topic {}", subject.name(), subject.topic));
    }
    let failures = if rows.is_empty() { reasons } else { Vec::new() };
    Ok(Outcome { text, json: rows.into(), failures })
}

/// Where the message is, and why it may be somewhere else all the same.
pub(super) async fn lives(
    directory: &Directory,
    subject: &Subject,
    patience: &Patience,
) -> Result<(Vec<Life>, Vec<String>), AdminError> {
    let (mut lives, mut reasons) = (Vec::new(), Vec::new());
    for group in hosts(directory, &subject.topic, None).await? {
        let message = match subject.place() {
            // It may be gone, and its place says all.
            Some(_) => None,
            None => find(directory, &group, subject, patience).await.unwrap_or_else(|reason| {
                reasons.push(reason);
                None
            }),
        };
        let explained = match explain(directory, &group, subject, message.as_ref()).await {
            Ok(explained) => explained,
            // The lite topic may be in another broker group.
            Err(AdminError::Refused { code: Code::NotFound, .. }) => continue,
            Err(error) => {
                reasons.push(super::failure(&group.name, &error));
                continue;
            }
        };
        if message.is_some() || !explained.waits.is_empty() || explained.stored_ms > 0 {
            lives.push((group.name, message, explained));
        } else if let Some(reason) = history::trimmed(&group.name, subject.place(), &subject.id, &explained) {
            reasons.push(reason);
        } else if explained.more_waits {
            reasons.push(format!("broker group {}: too many messages wait to look through all", group.name));
        }
    }
    Ok((lives, reasons))
}

/// The message in a queue, if it is in one.
async fn find(
    directory: &Directory,
    group: &Group,
    subject: &Subject,
    patience: &Patience,
) -> Result<Option<Message>, String> {
    let lite = &subject.lite_topic;
    let key = match lite.is_empty() {
        true => SearchKey::MessageId(subject.id.clone()),
        false => SearchKey::LiteTopic(lite.clone()),
    };
    let wanted =
        Search { topic: subject.topic.clone(), key: Some(key), from_ms: None, until_ms: None, ..Search::default() };
    let mut found = None;
    let end = search(directory, group, &wanted, patience.until(), |message| {
        let id = message.system_properties.as_ref().map(|system| system.message_id.as_str());
        if id == Some(subject.id.as_str()) {
            found = Some(message);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    match end.await {
        Ok(End::Late) if found.is_none() => Err(patience.gave_up(&group.name)),
        Ok(_) => Ok(found),
        Err(error) => Err(super::failure(&group.name, &error)),
    }
}

async fn explain(
    directory: &Directory,
    group: &Group,
    subject: &Subject,
    message: Option<&Message>,
) -> Result<ExplainMessageResponse, AdminError> {
    let system = message.and_then(|message| message.system_properties.clone());
    let found = system.and_then(|system| {
        let queue = u32::try_from(system.queue_id).ok()?;
        Some((queue, u64::try_from(system.queue_offset?).ok()?))
    });
    let place = found.or(subject.place());
    let answer = directory.read_group(group, |mut node, stale| {
        let request = ExplainMessageRequest {
            topic: subject.topic.clone(),
            lite_topic: subject.lite_topic.clone(),
            message_id: subject.id.clone(),
            queue: place.map(|(queue, _)| queue),
            offset: place.map_or(0, |(_, offset)| offset),
            stale,
        };
        async move { Ok(node.explain_message(request).await?.into_inner()) }
    });
    Ok(answer.await?.1)
}

/// One event: a time, or nothing where it has none, the entry that did it, and what happened.
fn event(at_ms: u64, log_index: u64, what: &str) -> String {
    let at = if at_ms == 0 { String::new() } else { human(at_ms) };
    let index = if log_index == 0 { String::new() } else { log_index.to_string() };
    format!("  {at:<23}  {index:>12}  {what}\n")
}

fn lines(
    subject: &Subject,
    broker_group: &str,
    message: Option<&Message>,
    explained: &ExplainMessageResponse,
) -> String {
    let mut text = format!("Message {} of topic {} in broker group {broker_group}\n", subject.name(), subject.topic);
    let system = message.and_then(|message| message.system_properties.clone()).unwrap_or_default();
    if message.is_some() {
        text += &event(millis(system.born_timestamp.as_ref()), 0, &format!("made by {}", system.born_host));
    }
    for wait in &explained.waits {
        text += &event(wait.stored_ms, 0, &wait_text(wait));
    }
    if explained.stored_ms > 0 {
        let offset = system.queue_offset.and_then(|offset| u64::try_from(offset).ok()).unwrap_or_default();
        let (queue, offset) = subject.place().unwrap_or((u32::try_from(system.queue_id).unwrap_or_default(), offset));
        let place = format!("in queue {queue}, offset {offset}");
        // A broker of a build that tells no history.
        if explained.events.is_empty() {
            text += &event(explained.stored_ms, 0, &format!("STORED {place}"));
        }
        for told in &explained.events {
            text += &event(told.at_ms, told.log_index, &history::in_words(told, &place));
        }
        if explained.more_events {
            text += &event(0, 0, "there is more than one answer tells");
        }
        if explained.fates.is_empty() {
            text += &event(0, 0, "no consumer group has received from the topic");
        }
    }
    text += &event(explained.now_ms, 0, "now, by the clock of the broker group");
    for fate in &explained.fates {
        text += &event(fate.since_ms, 0, &format!("{}: {}", fate.consumer_group, fate_text(fate)));
    }
    text
}

fn wait_text(wait: &MessageWait) -> String {
    let asked = format!("asked about {} times", wait.checks);
    match wait.state.as_str() {
        "DELAYED" => format!("DELAYED until {}", human(wait.delivery_ms)),
        "RECALLED" => format!("RECALLED before its delivery time, {}", human(wait.delivery_ms)),
        state => format!("transactional: {state}, {asked}"),
    }
}

fn fate_text(fate: &MessageFate) -> String {
    let attempt = format!("attempt {} of {}", fate.attempt, fate.attempts_max);
    match fate.state.as_str() {
        "READY" => "READY, never handed out".to_owned(),
        "BEHIND" => "BEHIND an unfinished message of its message group".to_owned(),
        "WAITING" => format!("WAITING for {attempt}"),
        "LEASED" if fate.renewed => {
            format!(
                "LEASED to {}, {attempt}, while its session lasts, at most until {}",
                fate.client_id,
                human(fate.until_ms)
            )
        }
        "LEASED" => format!("LEASED to {}, {attempt}, until {}", fate.client_id, human(fate.until_ms)),
        "DEAD_LETTERED" => format!("DEAD_LETTERED, offset {} of %DLQ%{}", fate.offset, fate.consumer_group),
        "FINISHED" => "FINISHED: acknowledged, or wanted by no filter".to_owned(),
        _ => "UNKNOWN: too many leases or retries to look through".to_owned(),
    }
}

fn to_json(
    subject: &Subject,
    broker_group: &str,
    message: Option<&Message>,
    explained: &ExplainMessageResponse,
) -> Value {
    let fate = |fate: &MessageFate| {
        json!({
            "consumerGroup": fate.consumer_group, "state": fate.state, "attempt": fate.attempt,
            "attemptsMax": fate.attempts_max, "clientId": fate.client_id, "sinceMs": fate.since_ms,
            "untilMs": fate.until_ms, "renewed": fate.renewed, "deadLetterOffset": fate.offset,
        })
    };
    let wait = |wait: &MessageWait| {
        json!({
            "state": wait.state, "deliveryMs": wait.delivery_ms, "storedMs": wait.stored_ms, "checks": wait.checks,
        })
    };
    json!({
        "brokerName": broker_group,
        "topic": subject.topic,
        "msgId": subject.id,
        "nowMs": explained.now_ms,
        "storedMs": explained.stored_ms,
        "message": message.map(|message| message::to_json(broker_group, message)),
        "consumerGroups": explained.fates.iter().map(fate).collect::<Vec<_>>(),
        "waits": explained.waits.iter().map(wait).collect::<Vec<_>>(),
        "events": explained.events.iter().map(history::to_json).collect::<Vec<_>>(),
        "moreEvents": explained.more_events,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_in_lines() {
        let fate = |state: &str| MessageFate {
            consumer_group: "G".to_owned(),
            state: state.to_owned(),
            attempt: 2,
            attempts_max: 17,
            client_id: "c@1".to_owned(),
            until_ms: 1_700_000_000_000,
            ..MessageFate::default()
        };
        assert_eq!(
            fate_text(&fate("LEASED")),
            format!("LEASED to c@1, attempt 2 of 17, until {}", human(1_700_000_000_000))
        );
        assert_eq!(fate_text(&fate("WAITING")), "WAITING for attempt 2 of 17");
        assert_eq!(fate_text(&fate("DEAD_LETTERED")), "DEAD_LETTERED, offset 0 of %DLQ%G");
        let wait =
            MessageWait { state: "DELAYED".to_owned(), delivery_ms: 1_700_000_000_000, ..MessageWait::default() };
        assert_eq!(wait_text(&wait), format!("DELAYED until {}", human(1_700_000_000_000)));
        assert!(event(0, 7, "x").ends_with("  7  x\n"));
    }
}
