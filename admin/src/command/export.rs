//! `exportMetadata`, `exportConfigs`, `exportMetrics`: what a cluster has, as JSON files in RocketMQ's layout.

use super::{update_sub_group, update_topic};
use crate::connect;
use crate::directory::{Directory, Group, Target};
use crate::error::AdminError;
use crate::output::{Format, LongOutput, Outcome};
use crate::progress::Progress;
use clap::Args;
use raftmq_admin_client::look::{lags, leader, look};
use raftmq_proto::admin::{ConsumerGroup, GetConfigRequest, ListConsumerGroupsRequest, ListTopicsRequest, Topic};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use tokio_stream::StreamExt as _;

/// Where RocketMQ's tools put them.
const FOLDER: &str = "/tmp/rocketmq/export";

/// Write topics and consumer groups to a file that updateTopicList and updateSubGroupList read.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin exportMetadata -n localhost:9876 -c DefaultCluster -f /tmp/export")]
pub(crate) struct Metadata {
    #[command(flatten)]
    place: Place,
    /// The broker group of the node with this address.
    #[arg(short = 'b', long = "brokerAddr", value_name = "ADDRESS", conflicts_with = "cluster")]
    broker: Option<String>,
    /// Only topics, in topic.json.
    #[arg(short = 't', long = "topic", conflicts_with = "groups")]
    topics: bool,
    /// Only consumer groups, in subscriptionGroup.json.
    #[arg(short = 'g', long = "subscriptionGroup")]
    groups: bool,
    /// Also topics that consumer groups have for themselves, such as dead letters.
    #[arg(short = 's', long = "specialTopic")]
    special: bool,
    #[command(flatten)]
    pub output: LongOutput,
}

/// Write the configuration of every node, without secrets, to configs.json.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin exportConfigs -n localhost:9876 -c DefaultCluster -f /tmp/export")]
pub(crate) struct Configs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    pub output: LongOutput,
}

/// Write figures of every node to metrics.json.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin exportMetrics -n localhost:9876 -c DefaultCluster -f /tmp/export")]
pub(crate) struct Metrics {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    pub output: LongOutput,
}

/// Of which cluster, and where to.
#[derive(Debug, Args)]
struct Place {
    /// The cluster; needless where there is one.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// The folder of the file.
    #[arg(short = 'f', long = "filePath", value_name = "FOLDER", default_value = FOLDER)]
    folder: PathBuf,
}

impl Place {
    async fn groups(&self, directory: &Directory, broker: Option<&str>) -> Result<Vec<Group>, AdminError> {
        directory.groups(Target::new(broker, self.cluster.as_deref())).await
    }

    /// Writes the document, and says so; for programs it is printed too.
    fn write(&self, name: &str, document: Value, failures: Vec<String>, format: Format) -> Result<Outcome, AdminError> {
        let path = self.folder.join(name);
        let failed =
            |error: std::io::Error| AdminError::Usage(format!("{} cannot be written: {error}", path.display()));
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        // Never through a link that somebody left in a folder of everyone's.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder).map_err(failed)?;
        writeln!(file, "{document:#}").map_err(failed)?;
        file.persist(&path).map_err(|error| failed(error.error))?;
        let text = format!("export {} success\n", path.display());
        let json = if format == Format::Json { document } else { Value::Null };
        Ok(Outcome { text, json, failures })
    }
}

/// Topics of a broker group.
pub(super) async fn topics(directory: &Directory, group: &Group) -> Result<Vec<Topic>, AdminError> {
    let listed = directory.read_group(group, |mut node, stale| async move {
        let mut parts = node.list_topics(ListTopicsRequest { stale }).await?.into_inner();
        let mut topics = Vec::new();
        while let Some(part) = parts.next().await {
            topics.extend(part?.topics);
        }
        Ok(topics)
    });
    listed.await.map(|(_, topics)| topics)
}

/// Consumer groups of a broker group.
pub(super) async fn consumer_groups(directory: &Directory, group: &Group) -> Result<Vec<ConsumerGroup>, AdminError> {
    let listed = directory.read_group(group, |mut node, stale| async move {
        let mut parts = node.list_consumer_groups(ListConsumerGroupsRequest { stale }).await?.into_inner();
        let mut groups = Vec::new();
        while let Some(part) = parts.next().await {
            groups.extend(part?.consumer_groups);
        }
        Ok(groups)
    });
    listed.await.map(|(_, groups)| groups)
}

/// Keeps the row that was changed last, where broker groups differ.
fn keep<T>(table: &mut BTreeMap<String, (u64, T)>, name: &str, version: u64, row: T) {
    if table.get(name).is_none_or(|(held, _)| *held < version) {
        table.insert(name.to_owned(), (version, row));
    }
}

pub(crate) async fn metadata(directory: &Directory, arguments: &Metadata) -> Result<Outcome, AdminError> {
    let (mut all_topics, mut all_groups, mut failures) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    let groups = arguments.place.groups(directory, arguments.broker.as_deref()).await?;
    let mut progress = Progress::patient();
    for (number, group) in groups.iter().enumerate() {
        progress.step(number, groups.len(), &format!("broker groups, {} topics", all_topics.len()));
        let found = async { Ok((topics(directory, group).await?, consumer_groups(directory, group).await?)) };
        match found.await {
            Ok((topics, groups)) => {
                for topic in topics.iter().filter(|topic| arguments.special || !topic.name.starts_with('%')) {
                    keep(&mut all_topics, &topic.name, topic.version, update_topic::to_json(topic));
                }
                for group in &groups {
                    keep(&mut all_groups, &group.name, group.version, update_sub_group::to_json(group));
                }
            }
            Err(error) => failures.push(super::failure(&group.name, &error)),
        }
    }
    let table = |rows: BTreeMap<String, (u64, Value)>| -> Map<String, Value> {
        rows.into_iter().map(|(name, (_, row))| (name, row)).collect()
    };
    let (topics, groups) = (table(all_topics), table(all_groups));
    let format = arguments.output.output;
    let (name, document) = match (arguments.topics, arguments.groups) {
        (true, _) => ("topic.json", json!({ "topicConfigTable": topics })),
        (false, true) => ("subscriptionGroup.json", json!({ "subscriptionGroupTable": groups })),
        (false, false) => ("metadata.json", json!({ "topicConfigTable": topics, "subscriptionGroupTable": groups })),
    };
    arguments.place.write(name, document, failures, format)
}

pub(crate) async fn configs(directory: &Directory, arguments: &Configs) -> Result<Outcome, AdminError> {
    let (mut configs, mut failures, mut nodes, mut leaders) = (Map::new(), Vec::new(), 0, 0);
    let groups = arguments.place.groups(directory, None).await?;
    let (mut progress, all) = (Progress::patient(), groups.iter().map(|group| group.nodes.len()).sum());
    for group in &groups {
        leaders += usize::from(group.leader != 0);
        for node in group.nodes.iter().filter(|node| !node.admin.is_empty()) {
            progress.step(nodes, all, "nodes");
            match connect::admin(&node.admin, &directory.token)?.get_config(GetConfigRequest {}).await {
                Ok(answer) => {
                    nodes += 1;
                    let settings = answer.into_inner().settings;
                    let set = settings.into_iter().filter_map(|setting| Some((setting.key, setting.value?.into())));
                    let name = format!("{}:{}", group.name, node.label);
                    configs.insert(name, set.collect::<Map<String, Value>>().into());
                }
                Err(status) => failures.push(connect::at(&node.admin, &status)),
            }
        }
    }
    let document = json!({
        "brokerConfigs": configs,
        "clusterScale": {
            "namesrvSize": directory.name_servers.len(),
            "masterBrokerSize": leaders,
            "slaveBrokerSize": nodes - leaders.min(nodes),
        },
    });
    arguments.place.write("configs.json", document, failures, arguments.output.output)
}

pub(crate) async fn metrics(directory: &Directory, arguments: &Metrics) -> Result<Outcome, AdminError> {
    let (mut report, mut failures) = (Map::new(), Vec::new());
    let (mut in_rate, mut out_rate, mut messages_in, mut messages_out) = (0.0, 0.0, 0, 0);
    let groups = arguments.place.groups(directory, None).await?;
    let mut progress = Progress::patient();
    for (number, group) in groups.iter().enumerate() {
        progress.step(number, groups.len(), "broker groups");
        let (seen, silent) = look(directory, group).await?;
        failures.extend(silent);
        let (leader, _) = leader(group, &seen);
        let lags = lags(leader, &seen);
        for node in &seen {
            let Some(live) = &node.live else { continue };
            if node.node.node == leader {
                in_rate += live.in_rate;
                out_rate += live.out_rate;
                messages_in += live.messages_in;
                messages_out += live.messages_out;
            }
            let latencies = live.latencies.iter().map(|call| {
                let took = json!({ "calls": call.calls, "p50Micros": call.p50_us, "p99Micros": call.p99_us });
                (call.call.clone(), took)
            });
            let row = json!({
                "role": live.role,
                "term": live.term,
                "lag": lags.get(&node.node.node),
                "runtimeQuota": {
                    "diskRatio": live.disk_used_ratio,
                    "logBytes": live.log_bytes,
                    "inTps": live.in_rate,
                    "outTps": live.out_rate,
                    "topicSize": live.topics,
                    "groupSize": live.consumer_groups,
                    "fsyncP99Micros": live.fsync_p99_us,
                    "latencies": latencies.collect::<Map<String, Value>>(),
                },
                "runtimeVersion": { "rocketmqVersion": live.version },
                "uptimeMs": live.uptime_ms,
            });
            report.insert(format!("{}:{}", group.name, node.node.label), row);
        }
    }
    let document = json!({
        "evaluateReport": report,
        "totalData": {
            "totalTps": { "totalNormalInTps": in_rate, "totalNormalOutTps": out_rate },
            "totalMessagesIn": messages_in,
            "totalMessagesOut": messages_out,
        },
    });
    arguments.place.write("metrics.json", document, failures, arguments.output.output)
}

/// The rows of a file: a list, or a table of an export.
pub(super) fn rows(path: &Path, table: &str) -> Result<Vec<Value>, AdminError> {
    let wrong = |why: String| AdminError::Usage(format!("{}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let document: Value = serde_json::from_slice(&text).map_err(|error| wrong(format!("is no JSON: {error}")))?;
    match document {
        Value::Array(rows) => Ok(rows),
        Value::Object(mut fields) => match fields.remove(table) {
            Some(Value::Object(rows)) => Ok(rows.into_iter().map(|(_, row)| row).collect()),
            _ => Err(wrong(format!("has neither a list nor a {table}"))),
        },
        _ => Err(wrong(format!("has neither a list nor a {table}"))),
    }
}
