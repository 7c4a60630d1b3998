//! `statsAll`: what goes into topics and out to consumer groups, and what waits.

use super::consumer_progress::{diff, queues_of};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use raftmq_proto::admin::QueueProgress;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Rates are taken over this.
const SPAN: Duration = Duration::from_secs(1);

/// Show how much of each topic waits for each consumer group, and how much goes in and out in a second.
///
/// #OutTPS counts what a group leaves behind it, also by a reset. There are no counts of 24 hours; a topic that no
/// consumer group has received from is not listed.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin statsAll -n localhost:9876 -t TestTopic")]
pub(crate) struct Arguments {
    /// Only this topic.
    #[arg(short = 't', long = "topic", default_value = "", hide_default_value = true)]
    topic: String,
    /// Only where something goes in or out.
    #[arg(short = 'a', long = "activeTopic")]
    active: bool,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Sums over the queues of a topic for a consumer group.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    stored: u64,
    passed: u64,
    waiting: u64,
}

type Look = BTreeMap<(String, String), Sums>;

/// By topic and consumer group.
fn add(look: &mut Look, queues: Vec<QueueProgress>) {
    for queue in queues {
        let waiting = diff(&queue);
        let sums = look.entry((queue.topic, queue.consumer_group)).or_default();
        sums.waiting += waiting;
        // Of lite topics others may be among them in the next look: their sums tell of no rate.
        if queue.lite_topics == 0 {
            sums.stored += queue.broker_offset;
            sums.passed += queue.progress;
        }
    }
}

/// Looks at every broker group; those that cannot be asked are left out of the next look.
async fn look(directory: &Directory, groups: &mut Vec<Group>, topic: &str, failures: &mut Vec<String>) -> Look {
    let mut look = Look::new();
    for group in std::mem::take(groups) {
        match queues_of(directory, &group, "", topic).await {
            Ok(queues) => add(&mut look, queues),
            // Another broker group may have the topic.
            Err(AdminError::Refused { code: tonic::Code::NotFound, .. }) => {}
            Err(error) => {
                failures.push(super::failure(&group.name, &error));
                continue;
            }
        }
        groups.push(group);
    }
    look
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let mut groups = directory.all().await?;
    let mut failures = Vec::new();
    let first = Instant::now();
    let mut before = look(directory, &mut groups, &arguments.topic, &mut failures).await;
    sleep(SPAN).await;
    let (second, asked) = (Instant::now(), groups.len());
    let after = look(directory, &mut groups, &arguments.topic, &mut failures).await;
    if groups.len() < asked {
        // Sums over fewer broker groups are no measure.
        before.clear();
    }
    Ok(Outcome { failures, ..describe(&before, &after, second - first, arguments.active) })
}

fn describe(before: &Look, after: &Look, apart: Duration, active: bool) -> Outcome {
    let mut table = Table::new(&["#Topic", "#Consumer Group", "#Accumulation", "#InTPS", "#OutTPS"]);
    let mut rows = Vec::new();
    for ((topic, group), now) in after {
        // What was not there a moment ago has no rate.
        let rate = |count: fn(&Sums) -> u64| {
            let was = count(before.get(&(topic.clone(), group.clone()))?);
            // Messages of a moment are far below 2^52.
            #[allow(clippy::cast_precision_loss)]
            Some(count(now).saturating_sub(was) as f64 / apart.as_secs_f64())
        };
        let (goes_in, goes_out) = (rate(|sums| sums.stored), rate(|sums| sums.passed));
        if active && [goes_in, goes_out].into_iter().flatten().all(|rate| rate == 0.0) {
            continue;
        }
        let cell = |rate: Option<f64>| rate.map(|rate| format!("{rate:.2}")).unwrap_or_default();
        table.row(vec![topic.clone(), group.clone(), now.waiting.to_string(), cell(goes_in), cell(goes_out)]);
        rows.push(json!({
            "topic": topic,
            "group": group,
            "accumulation": now.waiting,
            "inTps": goes_in,
            "outTps": goes_out,
        }));
    }
    Outcome::done(table.to_string(), rows.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_what_waits() {
        let look = |queues: &[(&str, u64, u64)]| {
            let mut look = Look::new();
            let queue = |(group, stored, passed): &(&str, u64, u64)| QueueProgress {
                topic: "T".to_owned(),
                consumer_group: (*group).to_owned(),
                broker_offset: *stored,
                progress: *passed,
                retrying: 1,
                ..QueueProgress::default()
            };
            add(&mut look, queues.iter().map(queue).collect());
            look
        };
        let before = look(&[("busy", 10, 4), ("busy", 20, 20), ("idle", 30, 30)]);
        let after = look(&[("busy", 12, 9), ("busy", 22, 22), ("idle", 30, 30), ("new", 30, 0)]);
        let text = describe(&before, &after, Duration::from_secs(2), false).text;
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["T", "busy", "5", "2.00", "3.50"]);
        assert_eq!(lines[1], ["T", "idle", "1", "0.00", "0.00"]);
        assert_eq!(lines[2], ["T", "new", "31", "-", "-"]);
        let active = describe(&before, &after, Duration::from_secs(2), true).text;
        assert_eq!(active.lines().count(), 2, "{active}");
    }
}
