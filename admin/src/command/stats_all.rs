//! `statsAll`: what goes into topics and out to consumer groups, and what waits.

use super::consumer_progress::{diff, queues_of};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use raftmq_proto::admin::{QueueProgress, TopicFigures, TopicFiguresRequest};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;

/// Rates are taken over this.
const SPAN: Duration = Duration::from_secs(1);
/// #InMsg24Hour.
const DAY_MS: u64 = 86_400_000;

/// Show how much of each topic waits for each consumer group, how much goes in and out in a second, and how much came in
/// within 24 hours.
///
/// #OutTPS counts what a group leaves behind it, also by a reset. #InMsg24Hour counts messages by the time at which they
/// were stored, and is - where some of that time were trimmed; nobody counts #OutMsg24Hour, which is always -, or
/// NO_CONSUMER where no consumer group has received from a topic. Lite topics, which come and go, have no figures but what
/// waits.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin statsAll -n localhost:9876 -t TestTopic")]
pub(crate) struct Arguments {
    /// Only this topic.
    #[arg(short = 't', long = "topic", default_value = "", hide_default_value = true)]
    topic: String,
    /// Only where something goes in or out, or came in within 24 hours.
    #[arg(short = 'a', long = "activeTopic")]
    active: bool,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Sums over the queues of a topic for a consumer group.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Sums {
    /// `None` for lite topics: others may be among them in the next look.
    passed: Option<u64>,
    waiting: u64,
}

/// What a topic took in all broker groups together, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Took {
    ever: Option<u64>,
    lately: Option<u64>,
}

#[derive(Default)]
struct Look {
    /// By topic and consumer group.
    groups: BTreeMap<(String, String), Sums>,
    topics: BTreeMap<String, Took>,
}

impl Look {
    fn add(&mut self, queues: Vec<QueueProgress>) {
        for queue in queues {
            let waiting = diff(&queue);
            let passed = (queue.lite_topics == 0).then_some(queue.progress);
            let place = (queue.topic, queue.consumer_group);
            let sums = self.groups.entry(place).or_insert(Sums { passed: Some(0), waiting: 0 });
            sums.waiting += waiting;
            sums.passed = sums.passed.zip(passed).map(|(sum, passed)| sum + passed);
        }
    }

    fn add_topics(&mut self, topics: Vec<TopicFigures>) {
        for topic in topics {
            let took = self.topics.entry(topic.topic).or_insert(Took { ever: Some(0), lately: Some(0) });
            took.ever = took.ever.zip(topic.stored).map(|(sum, more)| sum + more);
            took.lately = took.lately.zip(topic.stored_within).map(|(sum, more)| sum + more);
        }
    }
}

/// Looks at every broker group; those that cannot be asked are left out of the next look.
async fn look(directory: &Directory, groups: &mut Vec<Group>, topic: &str, failures: &mut Vec<String>) -> Look {
    let mut look = Look::default();
    for group in std::mem::take(groups) {
        let asked = async {
            match queues_of(directory, &group, "", topic).await {
                Ok(queues) => look.add(queues),
                // Another broker group may have the topic.
                Err(AdminError::Refused { code: tonic::Code::NotFound, .. }) => {}
                Err(error) => return Err(error),
            }
            look.add_topics(topics_of(directory, &group, topic).await?);
            Ok(())
        };
        match asked.await {
            Ok(()) => groups.push(group),
            Err(error) => failures.push(super::failure(&group.name, &error)),
        }
    }
    look
}

async fn topics_of(directory: &Directory, group: &Group, topic: &str) -> Result<Vec<TopicFigures>, AdminError> {
    let figures = directory.read_group(group, |mut node, stale| {
        let request = TopicFiguresRequest { topic: topic.to_owned(), within_ms: Some(DAY_MS), stale };
        async move {
            let mut parts = node.topic_figures(request).await?.into_inner();
            let mut topics = Vec::new();
            while let Some(part) = parts.next().await {
                topics.extend(part?.topics);
            }
            Ok(topics)
        }
    });
    figures.await.map(|(_, topics)| topics)
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
        before = Look::default();
    }
    Ok(Outcome { failures, ..describe(&before, &after, second - first, arguments.active) })
}

fn describe(before: &Look, after: &Look, apart: Duration, active: bool) -> Outcome {
    let mut table = Table::new(&[
        "#Topic",
        "#Consumer Group",
        "#Accumulation",
        "#InTPS",
        "#OutTPS",
        "#InMsg24Hour",
        "#OutMsg24Hour",
    ]);
    // What was not there a moment ago has no rate.
    let rate = |was: Option<u64>, now: Option<u64>| {
        let messages = now?.saturating_sub(was?);
        // Messages of a moment are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        Some(messages as f64 / apart.as_secs_f64())
    };
    let consumed: BTreeSet<&str> = after.groups.keys().map(|(topic, _)| topic.as_str()).collect();
    // A topic that a consumer group has for itself, such as dead letters, is no news before somebody receives from it.
    let lonely = after.topics.keys().filter(|topic| !consumed.contains(topic.as_str()) && !topic.starts_with('%'));
    let mut places: Vec<(&str, Option<&str>)> =
        after.groups.keys().map(|(topic, group)| (topic.as_str(), Some(group.as_str()))).collect();
    places.extend(lonely.map(|topic| (topic.as_str(), None)));
    places.sort_unstable();
    let mut rows = Vec::new();
    for (topic, group) in places {
        let sums =
            |look: &Look| group.and_then(|group| look.groups.get(&(topic.to_owned(), group.to_owned())).copied());
        let took = |look: &Look| look.topics.get(topic).copied();
        let now = sums(after);
        let goes_in = rate(took(before).and_then(|took| took.ever), took(after).and_then(|took| took.ever));
        let goes_out = rate(sums(before).and_then(|sums| sums.passed), now.and_then(|sums| sums.passed));
        let lately = took(after).and_then(|took| took.lately);
        let idle = [goes_in, goes_out].into_iter().flatten().all(|rate| rate == 0.0);
        if active && idle && lately.is_none_or(|messages| messages == 0) {
            continue;
        }
        let cell = |rate: Option<f64>| rate.map(|rate| format!("{rate:.2}")).unwrap_or_default();
        table.row(vec![
            topic.to_owned(),
            group.unwrap_or_default().to_owned(),
            now.map_or(0, |sums| sums.waiting).to_string(),
            cell(goes_in),
            cell(goes_out),
            lately.map(|messages| messages.to_string()).unwrap_or_default(),
            if group.is_none() { "NO_CONSUMER".to_owned() } else { String::new() },
        ]);
        rows.push(json!({
            "topic": topic,
            "group": group,
            "accumulation": now.map_or(0, |sums| sums.waiting),
            "inTps": goes_in,
            "outTps": goes_out,
            "inMsg24Hour": lately,
            "outMsg24Hour": null,
        }));
    }
    Outcome::done(table.to_string(), rows.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_what_waits() {
        let look = |queues: &[(&str, u64, u64)], took: u64| {
            let mut look = Look::default();
            let queue = |(group, stored, passed): &(&str, u64, u64)| QueueProgress {
                topic: "T".to_owned(),
                consumer_group: (*group).to_owned(),
                broker_offset: *stored,
                progress: *passed,
                retrying: 1,
                ..QueueProgress::default()
            };
            look.add(queues.iter().map(queue).collect());
            let lite = QueueProgress {
                topic: "L".to_owned(),
                consumer_group: "chat".to_owned(),
                broker_offset: 9,
                progress: 2,
                lite_topics: 3,
                ..QueueProgress::default()
            };
            look.add(vec![lite]);
            let figures =
                |topic: &str, stored, stored_within| TopicFigures { topic: topic.to_owned(), stored, stored_within };
            look.add_topics(vec![
                figures("L", None, None),
                figures("T", Some(took), Some(7)),
                figures("quiet", Some(5), Some(0)),
                figures("alone", Some(5), Some(1)),
                figures("%DLQ%busy", Some(5), Some(1)),
            ]);
            // Another broker group has trimmed what is younger.
            look.add_topics(vec![figures("alone", Some(1), None)]);
            look
        };
        let before = look(&[("busy", 10, 4), ("busy", 20, 20), ("idle", 30, 30)], 30);
        let after = look(&[("busy", 12, 9), ("busy", 22, 22), ("idle", 30, 30), ("new", 30, 0)], 34);
        let text = describe(&before, &after, Duration::from_secs(2), false).text;
        let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["L", "chat", "7", "-", "-", "-", "-"], "nothing is known but what waits");
        assert_eq!(lines[1], ["T", "busy", "5", "2.00", "3.50", "7", "-"]);
        assert_eq!(lines[2], ["T", "idle", "1", "2.00", "0.00", "7", "-"]);
        assert_eq!(lines[3], ["T", "new", "31", "2.00", "-", "7", "-"]);
        assert_eq!(lines[4], ["alone", "-", "0", "0.00", "-", "-", "NO_CONSUMER"]);
        assert_eq!(lines[5], ["quiet", "-", "0", "0.00", "-", "0", "NO_CONSUMER"]);
        assert_eq!(lines.len(), 6);
        let active = describe(&before, &after, Duration::from_secs(2), true);
        let topics: BTreeSet<&str> = active.text.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(topics, ["T"].into(), "{}", active.text);
    }
}
