//! The commands, a file each.

mod acl;
mod add_peer;
mod benchmark;
mod broker_consume_stats;
mod broker_status;
mod clone_group_offset;
mod cluster_list;
mod completion;
mod consume_message;
mod consumer_connection;
mod consumer_progress;
mod consumer_status;
mod decode_message_id;
mod delete_expired_commit_log;
mod delete_sub_group;
mod delete_topic;
mod dump;
mod elect_master;
mod explain_msg;
mod export;
mod get_broker_config;
mod get_broker_epoch;
mod get_consumer_config;
mod get_consumer_status;
mod get_controller_meta_data;
mod get_namesrv_config;
mod get_sync_state_set;
mod ha_status;
mod half_message;
mod history;
mod list_timers;
mod lite;
mod message;
mod print_msg;
mod print_msg_by_queue;
mod probe;
mod producer;
mod producer_connection;
mod query_cq;
mod query_msg_by_id;
mod query_msg_by_key;
mod query_msg_by_offset;
mod query_msg_trace_by_id;
mod queue;
mod remove_peer;
mod replace_peer;
mod reset_offset;
mod search;
mod self_test;
mod send_message;
mod set_consume_mode;
mod snapshot;
mod stats_all;
mod topic_cluster_list;
mod topic_list;
mod topic_route;
mod topic_status;
mod update_broker_config;
mod update_list;
mod update_namesrv_config;
mod update_sub_group;
mod update_topic;
mod update_topic_perm;
mod user;
mod write_perm;

use crate::cli::Cli;
use crate::connect::Token;
use crate::credentials::credentials;
use crate::directory::{Directory, Group, Target};
use crate::error::AdminError;
use crate::output::{Format, Outcome};
use clap::{Args, Subcommand};
use raftmq_admin_client::{public, tls};

/// A line for each command: its name, its arguments, and what carries it out.
macro_rules! commands {
    ($($(#[$meta:meta])* $name:ident($arguments:path) => $run:path;)*) => {
        /// What `mqadmin` can do.
        #[derive(Debug, Subcommand)]
        #[command(rename_all = "camelCase")]
        pub(crate) enum Command {
            $($(#[$meta])* $name($arguments),)*
            Completion(completion::Arguments),
        }

        async fn outcome(directory: &Directory, command: &Command) -> Result<(Outcome, Format), AdminError> {
            Ok(match command {
                $(Command::$name(arguments) => ($run(directory, arguments).await?, arguments.output.output),)*
                Command::Completion(arguments) => (completion::run(arguments), Format::Text),
            })
        }
    };
}

commands! {
    UpdateTopic(update_topic::Arguments) => update_topic::run;
    UpdateTopicList(update_list::Topics) => update_list::topics;
    UpdateTopicPerm(update_topic_perm::Arguments) => update_topic_perm::run;
    DeleteTopic(delete_topic::Arguments) => delete_topic::run;
    TopicList(topic_list::Arguments) => topic_list::run;
    TopicRoute(topic_route::Arguments) => topic_route::run;
    TopicStatus(topic_status::Arguments) => topic_status::run;
    TopicClusterList(topic_cluster_list::Arguments) => topic_cluster_list::run;
    UpdateSubGroup(update_sub_group::Arguments) => update_sub_group::run;
    UpdateSubGroupList(update_list::Groups) => update_list::groups;
    DeleteSubGroup(delete_sub_group::Arguments) => delete_sub_group::run;
    GetConsumerConfig(get_consumer_config::Arguments) => get_consumer_config::run;
    ConsumerProgress(consumer_progress::Arguments) => consumer_progress::run;
    GetConsumerStatus(get_consumer_status::Arguments) => get_consumer_status::run;
    SetConsumeMode(set_consume_mode::Arguments) => set_consume_mode::run;
    ConsumerConnection(consumer_connection::Arguments) => consumer_connection::run;
    ConsumerStatus(consumer_status::Arguments) => consumer_status::run;
    ProducerConnection(producer_connection::Arguments) => producer_connection::run;
    Producer(producer::Arguments) => producer::run;
    ResetOffsetByTime(reset_offset::ByTime) => reset_offset::by_time;
    SkipAccumulatedMessage(reset_offset::Skip) => reset_offset::skip;
    CloneGroupOffset(clone_group_offset::Arguments) => clone_group_offset::run;
    StatsAll(stats_all::Arguments) => stats_all::run;
    BrokerConsumeStats(broker_consume_stats::Arguments) => broker_consume_stats::run;
    ListHalfMessages(half_message::List) => half_message::list;
    EndTransaction(half_message::End) => half_message::end;
    GetBrokerLiteInfo(lite::OfBroker) => lite::of_broker;
    GetParentTopicInfo(lite::OfParent) => lite::of_parent;
    GetLiteTopicInfo(lite::OfTopic) => lite::of_topic;
    GetLiteClientInfo(lite::OfClient) => lite::of_client;
    GetLiteGroupInfo(lite::OfGroup) => lite::of_group;
    ListTimers(list_timers::Arguments) => list_timers::run;
    ClusterList(cluster_list::Arguments) => cluster_list::run;
    BrokerStatus(broker_status::Arguments) => broker_status::run;
    GetBrokerConfig(get_broker_config::Arguments) => get_broker_config::run;
    UpdateBrokerConfig(update_broker_config::Arguments) => update_broker_config::run;
    GetBrokerEpoch(get_broker_epoch::Arguments) => get_broker_epoch::run;
    GetNamesrvConfig(get_namesrv_config::Arguments) => get_namesrv_config::run;
    UpdateNamesrvConfig(update_namesrv_config::Arguments) => update_namesrv_config::run;
    WipeWritePerm(write_perm::Wipe) => write_perm::wipe;
    AddWritePerm(write_perm::Add) => write_perm::add;
    DeleteExpiredCommitLog(delete_expired_commit_log::Arguments) => delete_expired_commit_log::run;
    Snapshot(snapshot::Arguments) => snapshot::run;
    GetControllerMetaData(get_controller_meta_data::Arguments) => get_controller_meta_data::run;
    HaStatus(ha_status::Arguments) => ha_status::run;
    GetSyncStateSet(get_sync_state_set::Arguments) => get_sync_state_set::run;
    ElectMaster(elect_master::Arguments) => elect_master::run;
    AddPeer(add_peer::Arguments) => add_peer::run;
    ReplacePeer(replace_peer::Arguments) => replace_peer::run;
    RemovePeer(remove_peer::Arguments) => remove_peer::run;
    SendMessage(send_message::Arguments) => send_message::run;
    #[command(name = "clusterRT")]
    ClusterRt(probe::ClusterRt) => probe::cluster_rt;
    #[command(name = "checkMsgSendRT")]
    CheckMsgSendRt(probe::CheckMsgSendRt) => probe::check_msg_send_rt;
    SendMsgStatus(probe::SendMsgStatus) => probe::send_msg_status;
    ConsumeMessage(consume_message::Arguments) => consume_message::run;
    Benchmark(benchmark::Arguments) => benchmark::run;
    QueryMsgById(query_msg_by_id::ById) => query_msg_by_id::by_id;
    QueryMsgByUniqueKey(query_msg_by_id::ByUniqueKey) => query_msg_by_id::by_unique_key;
    QueryMsgByKey(query_msg_by_key::Arguments) => query_msg_by_key::run;
    QueryMsgByOffset(query_msg_by_offset::Arguments) => query_msg_by_offset::run;
    QueryCq(query_cq::Arguments) => query_cq::run;
    PrintMsg(print_msg::Arguments) => print_msg::run;
    PrintMsgByQueue(print_msg_by_queue::Arguments) => print_msg_by_queue::run;
    ExplainMsg(explain_msg::Arguments) => explain_msg::run;
    QueryMsgTraceById(query_msg_trace_by_id::Arguments) => query_msg_trace_by_id::run;
    DecodeMessageId(decode_message_id::Arguments) => decode_message_id::run;
    Dump(dump::Arguments) => dump::run;
    ExportMetadata(export::Metadata) => export::metadata;
    ExportConfigs(export::Configs) => export::configs;
    ExportMetrics(export::Metrics) => export::metrics;
    SelfTest(self_test::Arguments) => self_test::run;
    CreateUser(user::Create) => user::create;
    UpdateUser(user::Update) => user::update;
    DeleteUser(user::Delete) => user::delete;
    GetUser(user::Get) => user::get;
    ListUser(user::List) => user::list;
    CreateAcl(acl::Create) => acl::create;
    UpdateAcl(acl::Update) => acl::update;
    DeleteAcl(acl::Delete) => acl::delete;
    GetAcl(acl::Get) => acl::get;
    ListAcl(acl::List) => acl::list;
}

/// Which broker groups a command goes to.
#[derive(Debug, Args)]
pub(crate) struct Where {
    /// The broker group of the node with this address (brokerIP1:listenPort, #Addr of clusterList).
    #[arg(short = 'b', long = "brokerAddr", value_name = "ADDRESS")]
    broker: Option<String>,
    /// All broker groups of this cluster; needless where there is one cluster.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER", conflicts_with = "broker")]
    cluster: Option<String>,
}

impl Where {
    fn target(&self) -> Target<'_> {
        Target::new(self.broker.as_deref(), self.cluster.as_deref())
    }

    fn names_a_node(&self) -> bool {
        self.broker.is_some()
    }

    /// Admin addresses of nodes: of the one that -b names, or of all.
    async fn nodes(&self, directory: &Directory) -> Result<Vec<String>, AdminError> {
        if let Some(address) = &self.broker {
            return Ok(vec![address.clone()]);
        }
        let groups = directory.groups(self.target()).await?;
        let nodes = groups.into_iter().flat_map(|group| group.nodes).map(|node| node.admin);
        Ok(nodes.filter(|address| !address.is_empty()).collect())
    }
}

/// The broker groups of a cluster, or of all; where one is named, that one alone.
async fn groups_named(
    directory: &Directory,
    cluster: Option<&str>,
    broker_group: Option<&str>,
) -> Result<Vec<Group>, AdminError> {
    let mut groups = directory.groups(Target::new(None, cluster)).await?;
    if let Some(wanted) = broker_group {
        let known: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
        groups.retain(|group| group.name == wanted);
        if groups.is_empty() {
            let known = known.join(", ");
            return Err(AdminError::Unknown(format!("no broker group is called {wanted}; there are {known}")));
        }
    }
    Ok(groups)
}

/// Carries a command out and prints what came of it; false when part of it failed.
pub(crate) async fn run(cli: Cli) -> Result<bool, AdminError> {
    let name_servers = cli.namesrv_addr.split([';', ',']).map(str::trim).filter(|address| !address.is_empty());
    let directory = Directory {
        name_servers: name_servers.map(str::to_owned).collect(),
        token: Token::new(
            cli.admin_token.as_deref(),
            credentials(|name| std::env::var(name).ok())?,
            &std::env::var("USER").unwrap_or_else(|_| "mqadmin".to_owned()),
            tls::from_files([cli.tls_cert, cli.tls_key, cli.tls_trust_cert])?,
        )?,
        notice: |text| eprintln!("mqadmin: {text}"),
    };
    let (outcome, format) = outcome(&directory, &cli.command).await?;
    Ok(outcome.print(format))
}

/// `+key=value` sets an attribute, `-key` takes one away, several are separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attribute {
    Set(String, String),
    Remove(String),
}

fn parse_attribute(text: &str) -> Result<Attribute, String> {
    let refused = || format!("{text:?} must be +key=value to set an attribute, or -key to take one away");
    if let Some(rest) = text.strip_prefix('+') {
        let (key, value) = rest.split_once('=').ok_or_else(refused)?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || value.is_empty() {
            return Err(refused());
        }
        return Ok(Attribute::Set(key.to_owned(), value.to_owned()));
    }
    match text.strip_prefix('-').map(str::trim) {
        Some(key) if !key.is_empty() && !key.contains('=') => Ok(Attribute::Remove(key.to_owned())),
        _ => Err(refused()),
    }
}

type Attributes = (std::collections::BTreeMap<String, String>, Vec<String>);

fn split(attributes: &[Attribute]) -> Attributes {
    let (mut set, mut remove) = Attributes::default();
    for attribute in attributes {
        match attribute {
            Attribute::Set(key, value) => {
                set.insert(key.clone(), value.clone());
            }
            Attribute::Remove(key) => remove.push(key.clone()),
        }
    }
    (set, remove)
}

/// `R`, `W`, `RW` and so on of RocketMQ's permission number.
fn permission_text(permission: u32) -> String {
    let sign = |bit: u32, sign: char| if permission & bit == bit { sign } else { '-' };
    format!("{}{}-", sign(4, 'R'), sign(2, 'W'))
}

/// The name of a value of `apache.rocketmq.v2.MessageType`.
fn message_type_name(value: i32) -> String {
    raftmq_proto::rocketmq::MessageType::try_from(value)
        .map_or_else(|_| value.to_string(), |known| known.as_str_name().to_owned())
}

/// What did not work in a broker group, with its name.
fn failure(broker_group: &str, error: &AdminError) -> String {
    match error {
        // It names the broker group itself.
        AdminError::NoNode { .. } => error.to_string(),
        _ => format!("broker group {broker_group}: {error}"),
    }
}

/// Text and JSON of what several broker groups were told to do.
#[derive(Default)]
struct PerGroup {
    text: String,
    json: Vec<serde_json::Value>,
    failures: Vec<String>,
}

impl PerGroup {
    fn done(&mut self, text: &str, json: serde_json::Value) {
        self.text.push_str(text);
        self.json.push(json);
    }

    /// What came of a change: the admin address of the node that made it, or why it was not made.
    fn did(&mut self, group: &Group, verb: &str, what: &str, name: &str, outcome: Result<String, AdminError>) {
        match outcome {
            Ok(address) => self.done(
                &format!("{verb} {what} to {address} success.\n"),
                serde_json::json!({ "brokerName": group.name, "addr": address, "did": verb, what: name }),
            ),
            Err(error) => self.failed(&group.name, &error),
        }
    }

    fn failed(&mut self, broker_group: &str, error: &AdminError) {
        let text = error.to_string();
        self.json.push(serde_json::json!({ "brokerName": broker_group, "error": text }));
        self.failures.push(failure(broker_group, error));
    }

    fn outcome(self) -> Outcome {
        Outcome { text: self.text, json: self.json.into(), failures: self.failures }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes() {
        assert_eq!(
            parse_attribute("+message.type=FIFO"),
            Ok(Attribute::Set("message.type".to_owned(), "FIFO".to_owned()))
        );
        assert_eq!(parse_attribute("-cleanup.policy"), Ok(Attribute::Remove("cleanup.policy".to_owned())));
        for wrong in ["message.type=FIFO", "+x", "+=y", "-", "-a=b", ""] {
            assert!(parse_attribute(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn permissions() {
        assert_eq!([2, 4, 6].map(permission_text), ["-W-", "R--", "RW-"]);
    }
}
