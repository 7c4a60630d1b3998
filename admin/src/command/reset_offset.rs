//! `resetOffsetByTime` and `skipAccumulatedMessage`: move a consumer group in a topic, also while its consumers run.

use super::{PerGroup, Where};
use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use raftmq_proto::admin::ResetOffsetRequest;
use serde_json::json;
use tonic::Code;

/// Move a consumer group to the messages of a time, or to an offset; what it has leased then is void.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: mqadmin resetOffsetByTime -n localhost:9876 -g YourConsumerGroup -t TestTopic -s 2026-11-23#18:00:00:000"
)]
pub(crate) struct ByTime {
    #[command(flatten)]
    group: Subject,
    /// `now`, ms since 1970, or yyyy-MM-dd#HH:mm:ss:SSS in UTC; -1 for the end.
    #[arg(short = 's', long = "timestamp", allow_hyphen_values = true, value_parser = point)]
    time: Point,
    /// Only this queue.
    #[arg(short = 'q', long = "queue")]
    queue: Option<u32>,
    /// To this offset instead of a time; the nearest where it does not exist.
    #[arg(short = 'o', long = "offset")]
    offset: Option<u64>,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Move a consumer group to the end of every queue: what is waiting counts as finished.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin skipAccumulatedMessage -n localhost:9876 -g YourConsumerGroup -t TestTopic")]
pub(crate) struct Skip {
    #[command(flatten)]
    group: Subject,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// What is moved.
#[derive(Debug, Args)]
struct Subject {
    #[command(flatten)]
    place: Where,
    /// The consumer group.
    #[arg(short = 'g', long = "group")]
    group: String,
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// Accepted and ignored: a reset goes forward and back.
    #[arg(short = 'f', long = "force", hide = true, action = clap::ArgAction::Set)]
    _force: Option<bool>,
    #[command(flatten)]
    consent: Consent,
}

/// A point in time of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Point {
    End,
    Time(u64),
}

fn point(text: &str) -> Result<Point, String> {
    match text.parse::<i64>() {
        Ok(ms) if ms < 0 => Ok(Point::End),
        _ => crate::time::point(text).map(Point::Time),
    }
}

pub(crate) async fn by_time(directory: &Directory, arguments: &ByTime) -> Result<Outcome, AdminError> {
    let time_ms = match arguments.time {
        Point::End => None,
        Point::Time(ms) => Some(ms),
    };
    reset(directory, &arguments.group, arguments.queue, time_ms, arguments.offset).await
}

pub(crate) async fn skip(directory: &Directory, arguments: &Skip) -> Result<Outcome, AdminError> {
    reset(directory, &arguments.group, None, None, None).await
}

async fn reset(
    directory: &Directory,
    subject: &Subject,
    queue: Option<u32>,
    time_ms: Option<u64>,
    offset: Option<u64>,
) -> Result<Outcome, AdminError> {
    let request = ResetOffsetRequest {
        consumer_group: subject.group.clone(),
        topic: subject.topic.clone(),
        queue,
        time_ms,
        offset,
    };
    subject.consent.ask(&format!(
        "Consumer group {} goes on elsewhere in topic {}: messages are skipped or come again.",
        subject.group, subject.topic
    ))?;
    let mut report = PerGroup::default();
    let mut table = Table::new(&["#brokerName", "#queueId", "#offset"]);
    for group in directory.groups(subject.place.target()).await? {
        let reset = directory.on_group(&group, |mut node| {
            let request = request.clone();
            async move { Ok(node.reset_offset(request).await?.into_inner()) }
        });
        match reset.await {
            Ok((_, answer)) => {
                for at in answer.queues {
                    table.row(vec![group.name.clone(), at.queue.to_string(), at.offset.to_string()]);
                    report.done("", json!({ "brokerName": group.name, "queueId": at.queue, "offset": at.offset }));
                }
            }
            // A consumer group is known where it has consumed.
            Err(AdminError::Refused { code: Code::NotFound, message, .. }) => {
                report.failures.push(format!("broker group {}: {message}", group.name));
            }
            Err(error) => report.failed(&group.name, &error),
        }
    }
    report.text = table.to_string();
    Ok(report.outcome())
}

#[cfg(test)]
mod tests {
    use super::{Point, point};

    #[test]
    fn points_in_time() {
        assert_eq!(point("-1"), Ok(Point::End));
        assert_eq!(point("1700000000000"), Ok(Point::Time(1_700_000_000_000)));
        assert_eq!(point("2026-11-23#18:08:07:123"), Ok(Point::Time(1_795_457_287_123)));
        assert!(matches!(point("now"), Ok(Point::Time(ms)) if ms > 1_700_000_000_000));
        for wrong in ["", "later", "2026-13-23#18:08:07:123", "2026-02-30#18:08:07:123", "2026-11-23 18:08:07"] {
            assert!(point(wrong).is_err(), "{wrong}");
        }
    }
}
