//! `getBrokerLiteInfo`, `getParentTopicInfo`, `getLiteTopicInfo`, `getLiteClientInfo`, `getLiteGroupInfo`: what there is of
//! lite topics.

use super::{PerGroup, Where, public};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use crate::time::{human, now_ms};
use clap::Args;
use raftmq_proto::admin::{DescribeLiteRequest, DescribeLiteResponse, LiteInGroup, LiteParent};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Show how many lite topics each broker group has, and how many subscriptions to them.
///
/// RocketMQ's figures of its own tables (#Max LMQ and so on, where there are none here) are shown as -.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getBrokerLiteInfo -n localhost:9876 -c DefaultCluster -d")]
pub(crate) struct OfBroker {
    #[command(flatten)]
    place: Where,
    /// Also show the topics that have lite topics, and the consumer groups that are bound to them.
    #[arg(short = 'd', long = "showDetail")]
    detail: bool,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Show the lite topics of a topic: how many, how long an unused one stays, and who receives them.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getParentTopicInfo -n localhost:9876 -p ChatTopic")]
pub(crate) struct OfParent {
    /// The topic that they belong to.
    #[arg(short = 'p', long = "parentTopic", value_name = "TOPIC")]
    topic: String,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Show one lite topic: its offsets, and the clients that receive it.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getLiteTopicInfo -n localhost:9876 -p ChatTopic -l session-7 -s")]
pub(crate) struct OfTopic {
    /// The topic that it belongs to.
    #[arg(short = 'p', long = "parentTopic", value_name = "TOPIC")]
    topic: String,
    /// Its name.
    #[arg(short = 'l', long = "liteTopic", value_name = "NAME")]
    lite_topic: String,
    /// Also name the clients.
    #[arg(short = 's', long = "showClientId")]
    clients: bool,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Show which lite topics a client receives.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getLiteClientInfo -n localhost:9876 -p ChatTopic -g Chat -c client@1 -s")]
pub(crate) struct OfClient {
    /// The topic that they belong to.
    #[arg(short = 'p', long = "parentTopic", value_name = "TOPIC")]
    topic: String,
    /// Its consumer group.
    #[arg(short = 'g', long = "group")]
    group: String,
    /// The client, as consumerConnection names it.
    #[arg(short = 'c', long = "clientId", value_name = "CLIENT")]
    client: String,
    /// Also name the lite topics.
    #[arg(short = 's', long = "showDetail")]
    detail: bool,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Show what a consumer group has to do in lite topics: in one, or in those where most waits.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin getLiteGroupInfo -n localhost:9876 -p ChatTopic -g Chat -k 10")]
pub(crate) struct OfGroup {
    /// The topic that they belong to.
    #[arg(short = 'p', long = "parentTopic", value_name = "TOPIC")]
    topic: String,
    /// The consumer group.
    #[arg(short = 'g', long = "group")]
    group: String,
    /// Only this lite topic.
    #[arg(short = 'l', long = "liteTopic", value_name = "NAME")]
    lite_topic: Option<String>,
    /// So many of those where most waits, and where it has waited longest, in each broker group.
    #[arg(short = 'k', long = "topK", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    most: u16,
    #[command(flatten)]
    pub output: ShortOutput,
}

async fn describe(
    directory: &Directory,
    group: &Group,
    request: &DescribeLiteRequest,
) -> Result<(String, DescribeLiteResponse), AdminError> {
    let described = directory.read_group(group, |mut node, stale| {
        let request = DescribeLiteRequest { stale, ..request.clone() };
        async move { Ok(node.describe_lite(request).await?.into_inner()) }
    });
    described.await
}

/// Asks the broker groups that host a topic; a group that has no such lite topic is not among the answers, unless none has.
async fn everywhere(
    directory: &Directory,
    request: DescribeLiteRequest,
) -> Result<(Vec<(Group, DescribeLiteResponse)>, Vec<String>), AdminError> {
    let (mut answers, mut failures, mut absent) = (Vec::new(), Vec::new(), None);
    for group in public::hosts(directory, &request.topic, None).await? {
        match describe(directory, &group, &request).await {
            Ok((_, answer)) => answers.push((group, answer)),
            Err(error @ AdminError::Refused { code: tonic::Code::NotFound, .. }) => {
                absent.get_or_insert((group.name, error));
            }
            Err(error) => failures.push(super::failure(&group.name, &error)),
        }
    }
    if let Some((name, error)) = absent.filter(|_| answers.is_empty()) {
        failures.push(super::failure(&name, &error));
    }
    Ok((answers, failures))
}

pub(crate) async fn of_broker(directory: &Directory, arguments: &OfBroker) -> Result<Outcome, AdminError> {
    let header = [
        "#Broker",
        "#Store Type",
        "#Max LMQ",
        "#Current LMQ",
        "#SubscriptionCount",
        "#OrderInfoCount",
        "#CQTableSize",
        "#OffsetTableSize",
        "#eventMapSize",
    ];
    let (mut table, mut detail, mut report) = (Table::new(&header), String::new(), PerGroup::default());
    for group in directory.groups(arguments.place.target()).await? {
        match describe(directory, &group, &DescribeLiteRequest::default()).await {
            Ok((address, answer)) => {
                let current: u64 = answer.parents.iter().map(|parent| parent.lite_topics).sum();
                let mut cells = vec![address.clone(), "RocksDB".to_owned(), String::new(), current.to_string()];
                cells.push(answer.subscriptions.to_string());
                cells.resize(header.len(), String::new());
                table.row(cells);
                let parents: Vec<Value> = answer.parents.iter().map(parent_json).collect();
                if arguments.detail {
                    let _ = writeln!(detail, "{address}: {}", Value::from(parents.clone()));
                }
                report.json.push(json!({
                    "brokerName": group.name,
                    "addr": address,
                    "liteTopics": current,
                    "subscriptions": answer.subscriptions,
                    "subscriptionsMax": answer.subscriptions_max,
                    "topics": parents,
                }));
            }
            Err(error) => report.failed(&group.name, &error),
        }
    }
    report.text = format!("{table}{detail}");
    Ok(report.outcome())
}

fn parent_json(parent: &LiteParent) -> Value {
    json!({
        "topic": parent.topic,
        "liteTopics": parent.lite_topics,
        "liteTopicsMax": parent.lite_topics_max,
        "expirationMs": parent.expiration_ms,
        "consumerGroups": parent.consumer_groups,
    })
}

pub(crate) async fn of_parent(directory: &Directory, arguments: &OfParent) -> Result<Outcome, AdminError> {
    let request = DescribeLiteRequest { topic: arguments.topic.clone(), ..DescribeLiteRequest::default() };
    let (answers, failures) = everywhere(directory, request).await?;
    let mut table = Table::new(&["#Broker Name", "#TTL", "#Lite Count", "#LMQ NUM", "#GROUPS"]);
    let mut rows = Vec::new();
    for (group, answer) in answers {
        for parent in answer.parents {
            table.row(vec![
                group.name.clone(),
                // In minutes, as the topic's attribute has it.
                parent.expiration_ms.map_or_else(|| "-1".to_owned(), |ms| (ms / 60_000).to_string()),
                parent.lite_topics.to_string(),
                parent.lite_topics.to_string(),
                format!("[{}]", parent.consumer_groups.join(",")),
            ]);
            let mut row = parent_json(&parent);
            row["brokerName"] = group.name.clone().into();
            rows.push(row);
        }
    }
    Ok(Outcome { text: format!("Parent Topic Info: [{}]\n{table}", arguments.topic), json: rows.into(), failures })
}

pub(crate) async fn of_topic(directory: &Directory, arguments: &OfTopic) -> Result<Outcome, AdminError> {
    let OfTopic { topic, lite_topic, .. } = arguments;
    let request =
        DescribeLiteRequest { topic: topic.clone(), lite_topic: lite_topic.clone(), ..DescribeLiteRequest::default() };
    let (answers, failures) = everywhere(directory, request).await?;
    let mut table =
        Table::new(&["#Broker Name", "#MinOffset", "#MaxOffset", "#LastUpdate", "#Sharding", "#SubClientCount"]);
    let (mut names, mut rows) = (String::new(), Vec::new());
    for (group, answer) in answers {
        let Some(lite) = answer.lite else { continue };
        let more = if lite.more_clients { "+" } else { "" };
        table.row(vec![
            group.name.clone(),
            lite.min_offset.to_string(),
            lite.max_offset.to_string(),
            human(lite.last_store_ms),
            "true".to_owned(),
            format!("{}{more}", lite.clients.len()),
        ]);
        let clients: Vec<String> =
            lite.clients.iter().map(|client| format!("{}@{}", client.client_id, client.consumer_group)).collect();
        if arguments.clients {
            let _ = writeln!(names, "[{}]", clients.join(", "));
        }
        let clients = lite
            .clients
            .iter()
            .map(|client| json!({ "clientId": client.client_id, "consumerGroup": client.consumer_group }));
        rows.push(json!({
            "brokerName": group.name,
            "minOffset": lite.min_offset,
            "maxOffset": lite.max_offset,
            "lastStoreMs": Some(lite.last_store_ms).filter(|ms| *ms > 0),
            "clients": clients.collect::<Vec<_>>(),
            "moreClients": lite.more_clients,
        }));
    }
    Ok(Outcome {
        text: format!("Lite Topic Info: [{topic}] [{lite_topic}]\n{table}{names}"),
        json: rows.into(),
        failures,
    })
}

pub(crate) async fn of_client(directory: &Directory, arguments: &OfClient) -> Result<Outcome, AdminError> {
    let OfClient { topic, group: consumer_group, client, .. } = arguments;
    let request = DescribeLiteRequest {
        topic: topic.clone(),
        consumer_group: consumer_group.clone(),
        client_id: client.clone(),
        ..DescribeLiteRequest::default()
    };
    let (answers, failures) = everywhere(directory, request).await?;
    let mut table = Table::new(&["#Broker", "#LiteTopicCount", "#LastAccessTime", "#LastConsumeTime"]);
    let (mut names, mut rows) = (String::new(), Vec::new());
    for (group, answer) in answers {
        let found = answer.client.unwrap_or_default();
        let known = found.refreshed_ms > 0;
        let count = if known { found.subscriptions.to_string() } else { "N/A".to_owned() };
        let access = if known { human(found.refreshed_ms) } else { "N/A".to_owned() };
        table.row(vec![group.name.clone(), count, access, "N/A".to_owned()]);
        if arguments.detail {
            let more = if found.more_lite_topics { ", and more" } else { "" };
            let _ = writeln!(names, "Lite Topics: [{}{more}]", found.lite_topics.join(", "));
        }
        rows.push(json!({
            "brokerName": group.name,
            "liteTopicCount": known.then_some(found.subscriptions),
            "lastAccessMs": known.then_some(found.refreshed_ms),
            "liteTopics": found.lite_topics,
            "moreLiteTopics": found.more_lite_topics,
        }));
    }
    let text = format!("Lite Client Info: [{topic}] [{consumer_group}] [{client}]\n{table}{names}");
    Ok(Outcome { text, json: rows.into(), failures })
}

pub(crate) async fn of_group(directory: &Directory, arguments: &OfGroup) -> Result<Outcome, AdminError> {
    let request = DescribeLiteRequest {
        topic: arguments.topic.clone(),
        consumer_group: arguments.group.clone(),
        lite_topic: arguments.lite_topic.clone().unwrap_or_default(),
        ..DescribeLiteRequest::default()
    };
    let (answers, failures) = everywhere(directory, request).await?;
    let (mut found, mut waiting, mut looked, mut more) = (Vec::new(), 0, 0, false);
    for (group, answer) in answers {
        let of_group = answer.group.unwrap_or_default();
        waiting += of_group.waiting;
        looked += of_group.looked;
        more |= of_group.more;
        found.extend(of_group.lite_topics.into_iter().map(|lite| (group.name.clone(), lite)));
    }
    let head = format!("Lite Group Info: [{}] [{}]\n", arguments.group, arguments.topic);
    let text = match &arguments.lite_topic {
        Some(_) => head + &one_topic(&found, waiting),
        None => head + &most(&mut found.clone(), arguments.most.into(), waiting),
    };
    let more_text = if more { format!("{looked} lite topics were looked at; there are more\n") } else { String::new() };
    let rows = found.iter().map(|(broker_group, lite)| {
        json!({
            "brokerName": broker_group,
            "liteTopic": lite.lite_topic,
            "brokerOffset": lite.broker_offset,
            "consumerOffset": lite.progress,
            "waiting": lite.waiting,
            "inflight": lite.in_flight,
            "oldestMs": Some(lite.oldest_ms).filter(|ms| *ms > 0),
            "lastStoreMs": Some(lite.last_store_ms).filter(|ms| *ms > 0),
        })
    });
    let json = json!({
        "liteTopics": rows.collect::<Vec<_>>(),
        "waitingTotal": waiting,
        "looked": looked,
        "more": more,
    });
    Ok(Outcome { text: text + &more_text, json, failures })
}

fn one_topic(found: &[(String, LiteInGroup)], waiting: u64) -> String {
    let mut table = Table::new(&["#Broker Name", "#BrokerOffset", "#ConsumeOffset", "#LagCount", "#LastUpdate"]);
    for (broker_group, lite) in found {
        table.row(vec![
            broker_group.clone(),
            lite.broker_offset.to_string(),
            lite.progress.to_string(),
            lite.waiting.to_string(),
            human(lite.last_store_ms),
        ]);
    }
    format!("{table}Total Lag Count: {waiting}\n")
}

/// Where most waits, and where it has waited longest.
fn most(found: &mut [(String, LiteInGroup)], max: usize, waiting: u64) -> String {
    let list = |found: &[(String, LiteInGroup)]| {
        let mut table = Table::new(&["NO", "Lite Topic", "Lag Count", "UnconsumedTimestamp"]);
        for (number, (_, lite)) in found.iter().take(max).enumerate() {
            let name = lite.lite_topic.clone();
            table.row(vec![(number + 1).to_string(), name, lite.waiting.to_string(), human(lite.oldest_ms)]);
        }
        table.to_string()
    };
    found.sort_by_key(|(_, lite)| std::cmp::Reverse(lite.waiting));
    let by_count = list(found);
    // What is not known comes last.
    found.sort_by_key(|(_, lite)| if lite.oldest_ms == 0 { u64::MAX } else { lite.oldest_ms });
    let oldest = found.first().map(|(_, lite)| lite.oldest_ms).filter(|ms| *ms > 0);
    let oldest =
        oldest.map_or_else(|| "-1".to_owned(), |ms| format!("{ms} ({} s ago)", now_ms().saturating_sub(ms) / 1_000));
    format!(
        "------TopK by lag count-----\nTotal Lag Count: {waiting}\n{by_count}\n------TopK by lag time------\nMin Unconsumed \
         Timestamp: {oldest}\n{}",
        list(found)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_and_longest() {
        let lite = |name: &str, waiting, oldest_ms| {
            let lite_topic = name.to_owned();
            ("G".to_owned(), LiteInGroup { lite_topic, waiting, oldest_ms, ..LiteInGroup::default() })
        };
        let text = most(&mut [lite("few", 1, 1_000), lite("many", 9, 2_000), lite("unknown", 5, 0)], 2, 15);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let firsts: Vec<&str> =
            lines.iter().filter(|line| ["1", "2"].contains(line.first().unwrap_or(&""))).map(|line| line[1]).collect();
        assert_eq!(firsts, ["many", "unknown", "few", "many"], "{text}");
        assert!(text.contains("Total Lag Count: 15") && text.contains("Timestamp: 1000 ("), "{text}");
    }
}
