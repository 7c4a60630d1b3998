//! `consumerProgress`: how far consumer groups have come.

use crate::directory::{Directory, Target};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use crate::time::human;
use clap::Args;
use raftmq_proto::admin::QueueProgress;
use serde_json::json;
use std::collections::BTreeMap;

pub(super) use raftmq_admin_client::progress::{diff, queues_of};

/// Show how far a consumer group has come in each queue, or a line for each consumer group without -g.
///
/// #Diff counts what was not acknowledged yet: messages never handed out, those in flight, and those that wait for
/// another attempt (#Retrying, shown once for a topic). Lite topics are summed up in one line for the topic that they
/// belong to. Members of the group that filter a topic differently are named below the table.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin consumerProgress -n localhost:9876 -g YourConsumerGroup")]
pub(crate) struct Arguments {
    /// The consumer group; all of them when left out.
    #[arg(short = 'g', long = "groupName", default_value = "", hide_default_value = true)]
    group: String,
    /// Only this topic.
    #[arg(short = 't', long = "topicName", default_value = "", hide_default_value = true)]
    topic: String,
    /// Only in this cluster.
    #[arg(short = 'c', long = "cluster", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Accepted; a queue has no client of its own here, so #Client IP is always `-`.
    #[arg(short = 's', long = "showClientIP", hide = true, num_args = 0..=1, action = clap::ArgAction::Set)]
    _client_ip: Option<Option<bool>>,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let groups = match &arguments.cluster {
        Some(cluster) => directory.groups(Target::Cluster(cluster)).await?,
        None => directory.all().await?,
    };
    let (mut queues, mut failures) = (Vec::new(), Vec::new());
    for group in groups {
        let progress = queues_of(directory, &group, &arguments.group, &arguments.topic);
        match progress.await {
            Ok(found) => queues.extend(found.into_iter().map(|queue| (group.name.clone(), queue))),
            Err(AdminError::Refused { code: tonic::Code::NotFound, .. }) => {}
            Err(error) => failures.push(super::failure(&group.name, &error)),
        }
    }
    if arguments.group.is_empty() {
        return Ok(Outcome { failures, ..summary(&queues) });
    }
    if queues.is_empty() && failures.is_empty() {
        failures.push(format!(
            "consumer group {} has received nothing{}",
            arguments.group,
            if arguments.topic.is_empty() { String::new() } else { format!(" from topic {}", arguments.topic) }
        ));
    }
    Ok(Outcome { failures, ..details(queues) })
}

fn details(mut queues: Vec<(String, QueueProgress)>) -> Outcome {
    queues.sort_by(|(a_group, a), (b_group, b)| (&a.topic, a_group, a.queue).cmp(&(&b.topic, b_group, b.queue)));
    let mut table = Table::new(&[
        "#Topic",
        "#Broker Name",
        "#QID",
        "#Broker Offset",
        "#Consumer Offset",
        "#Client IP",
        "#Diff",
        "#Inflight",
        "#LastTime",
        "#Retrying",
    ]);
    let (mut diff_total, mut flight_total, mut rows) = (0, 0, Vec::new());
    for (broker_group, queue) in &queues {
        diff_total += diff(queue);
        flight_total += queue.in_flight;
        table.row(vec![
            queue.topic.clone(),
            broker_group.clone(),
            queue.queue.to_string(),
            queue.broker_offset.to_string(),
            queue.progress.to_string(),
            String::new(),
            diff(queue).to_string(),
            queue.in_flight.to_string(),
            human(queue.last_ms),
            queue.retrying.to_string(),
        ]);
        rows.push(json!({
            "topic": queue.topic,
            "brokerName": broker_group,
            "queueId": queue.queue,
            "brokerOffset": queue.broker_offset,
            "consumerOffset": queue.progress,
            "diff": diff(queue),
            "inflight": queue.in_flight,
            "retrying": queue.retrying,
            "lastTimeMs": queue.last_ms,
            "filters": queue.filters,
            "liteTopics": queue.lite_topics,
            "liteMore": queue.lite_more,
        }));
    }
    let mut text = format!("{table}\nConsume Diff Total: {diff_total}\nConsume Inflight Total: {flight_total}\n");
    for (broker_group, queue) in queues.iter().filter(|(_, queue)| queue.filters > 1) {
        let QueueProgress { topic, filters, .. } = queue;
        text +=
            &format!("Members filter topic {topic} in {filters} ways ({broker_group}); they should have one filter\n");
    }
    for (broker_group, queue) in queues.iter().filter(|(_, queue)| queue.lite_topics > 0) {
        let QueueProgress { topic, lite_topics, lite_more, .. } = queue;
        let more = if *lite_more { ", of more than one look takes" } else { "" };
        text += &format!("Topic {topic} in {broker_group}: the sum over {lite_topics} lite topics{more}\n");
    }
    Outcome::done(text, json!({ "queues": rows, "diffTotal": diff_total, "inflightTotal": flight_total }))
}

fn summary(queues: &[(String, QueueProgress)]) -> Outcome {
    let mut totals: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (_, queue) in queues {
        let total = totals.entry(&queue.consumer_group).or_default();
        total.0 += diff(queue);
        total.1 += queue.in_flight;
    }
    let mut table = Table::new(&["#Group", "#Diff Total", "#Inflight Total"]);
    let mut rows = Vec::new();
    for (group, (diff, flight)) in totals {
        table.row(vec![group.to_owned(), diff.to_string(), flight.to_string()]);
        rows.push(json!({ "group": group, "diffTotal": diff, "inflightTotal": flight }));
    }
    Outcome::done(table.to_string(), rows.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diff_counts_queue_and_retries() {
        let queue = |queue, broker_offset, progress, in_flight, retrying| QueueProgress {
            consumer_group: "G".to_owned(),
            topic: "T".to_owned(),
            queue,
            broker_offset,
            progress,
            in_flight,
            retrying,
            last_ms: 1,
            filters: u32::from(queue == 0) * 2,
            ..QueueProgress::default()
        };
        let queues = vec![("B".to_owned(), queue(1, 10, 7, 2, 0)), ("B".to_owned(), queue(0, 5, 5, 0, 4))];
        let outcome = summary(&queues);
        assert_eq!(outcome.text, "#Group  #Diff Total  #Inflight Total\nG       7            2\n");
        let outcome = details(queues);
        let lines: Vec<&str> = outcome.text.lines().collect();
        let cells: Vec<&str> = lines[1].split_whitespace().collect();
        assert_eq!(cells, ["T", "B", "0", "5", "5", "-", "4", "0", "1970-01-01", "00:00:00,001", "4"]);
        let end = "\nConsume Diff Total: 7\nConsume Inflight Total: 2\n\
                   Members filter topic T in 2 ways (B); they should have one filter\n";
        assert!(outcome.text.ends_with(end), "{}", outcome.text);
        let lite = QueueProgress { lite_topics: 3, lite_more: true, filters: 0, ..queue(0, 9, 4, 1, 2) };
        let outcome = details(vec![("B".to_owned(), lite)]);
        assert!(
            outcome.text.ends_with("Topic T in B: the sum over 3 lite topics, of more than one look takes\n"),
            "{}",
            outcome.text
        );
        assert_eq!(outcome.json["queues"][0]["diff"], 7);
    }
}
