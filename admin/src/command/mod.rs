//! The commands, a file each.

mod acl;
mod add_peer;
mod broker_status;
mod cluster_list;
mod consume_message;
mod consumer_connection;
mod consumer_progress;
mod delete_sub_group;
mod delete_topic;
mod dump;
mod elect_master;
mod explain_msg;
mod get_broker_config;
mod get_consumer_config;
mod get_sync_state_set;
mod ha_status;
mod half_message;
mod message;
mod print_msg;
mod producer_connection;
mod query_msg_by_id;
mod query_msg_by_key;
mod query_msg_by_offset;
mod remove_peer;
mod replace_peer;
mod reset_offset;
mod search;
mod send_message;
mod stats_all;
mod topic_cluster_list;
mod topic_list;
mod topic_route;
mod topic_status;
mod update_sub_group;
mod update_topic;
mod update_topic_perm;
mod user;

use crate::cli::Cli;
use crate::connect::Token;
use crate::credentials::credentials;
use crate::directory::{Directory, Group, Target};
use crate::error::AdminError;
use crate::output::Outcome;
use clap::{Args, Subcommand};
use raftmq_admin_client::{public, tls};

/// What `mqadmin` can do.
#[derive(Debug, Subcommand)]
#[command(rename_all = "camelCase")]
pub(crate) enum Command {
    UpdateTopic(update_topic::Arguments),
    UpdateTopicPerm(update_topic_perm::Arguments),
    DeleteTopic(delete_topic::Arguments),
    TopicList(topic_list::Arguments),
    TopicRoute(topic_route::Arguments),
    TopicStatus(topic_status::Arguments),
    TopicClusterList(topic_cluster_list::Arguments),
    UpdateSubGroup(update_sub_group::Arguments),
    DeleteSubGroup(delete_sub_group::Arguments),
    GetConsumerConfig(get_consumer_config::Arguments),
    ConsumerProgress(consumer_progress::Arguments),
    ConsumerConnection(consumer_connection::Arguments),
    ProducerConnection(producer_connection::Arguments),
    ResetOffsetByTime(reset_offset::ByTime),
    SkipAccumulatedMessage(reset_offset::Skip),
    StatsAll(stats_all::Arguments),
    ListHalfMessages(half_message::List),
    EndTransaction(half_message::End),
    ClusterList(cluster_list::Arguments),
    BrokerStatus(broker_status::Arguments),
    GetBrokerConfig(get_broker_config::Arguments),
    HaStatus(ha_status::Arguments),
    GetSyncStateSet(get_sync_state_set::Arguments),
    ElectMaster(elect_master::Arguments),
    AddPeer(add_peer::Arguments),
    ReplacePeer(replace_peer::Arguments),
    RemovePeer(remove_peer::Arguments),
    SendMessage(send_message::Arguments),
    ConsumeMessage(consume_message::Arguments),
    QueryMsgById(query_msg_by_id::ById),
    QueryMsgByUniqueKey(query_msg_by_id::ByUniqueKey),
    QueryMsgByKey(query_msg_by_key::Arguments),
    QueryMsgByOffset(query_msg_by_offset::Arguments),
    PrintMsg(print_msg::Arguments),
    ExplainMsg(explain_msg::Arguments),
    Dump(dump::Arguments),
    CreateUser(user::Create),
    UpdateUser(user::Update),
    DeleteUser(user::Delete),
    GetUser(user::Get),
    ListUser(user::List),
    CreateAcl(acl::Create),
    UpdateAcl(acl::Update),
    DeleteAcl(acl::Delete),
    GetAcl(acl::Get),
    ListAcl(acl::List),
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
    let directory = &directory;
    let (outcome, format) = match &cli.command {
        Command::UpdateTopic(arguments) => (update_topic::run(directory, arguments).await?, arguments.output.output),
        Command::UpdateTopicPerm(arguments) => {
            (update_topic_perm::run(directory, arguments).await?, arguments.output.output)
        }
        Command::DeleteTopic(arguments) => (delete_topic::run(directory, arguments).await?, arguments.output.output),
        Command::TopicList(arguments) => (topic_list::run(directory, arguments).await?, arguments.output.output),
        Command::TopicRoute(arguments) => (topic_route::run(directory, arguments).await?, arguments.output.output),
        Command::TopicStatus(arguments) => (topic_status::run(directory, arguments).await?, arguments.output.output),
        Command::TopicClusterList(arguments) => {
            (topic_cluster_list::run(directory, arguments).await?, arguments.output.output)
        }
        Command::UpdateSubGroup(arguments) => {
            (update_sub_group::run(directory, arguments).await?, arguments.output.output)
        }
        Command::DeleteSubGroup(arguments) => {
            (delete_sub_group::run(directory, arguments).await?, arguments.output.output)
        }
        Command::GetConsumerConfig(arguments) => {
            (get_consumer_config::run(directory, arguments).await?, arguments.output.output)
        }
        Command::ConsumerProgress(arguments) => {
            (consumer_progress::run(directory, arguments).await?, arguments.output.output)
        }
        Command::ConsumerConnection(arguments) => {
            (consumer_connection::run(directory, arguments).await?, arguments.output.output)
        }
        Command::ProducerConnection(arguments) => {
            (producer_connection::run(directory, arguments).await?, arguments.output.output)
        }
        Command::ResetOffsetByTime(arguments) => {
            (reset_offset::by_time(directory, arguments).await?, arguments.output.output)
        }
        Command::SkipAccumulatedMessage(arguments) => {
            (reset_offset::skip(directory, arguments).await?, arguments.output.output)
        }
        Command::StatsAll(arguments) => (stats_all::run(directory, arguments).await?, arguments.output.output),
        Command::ListHalfMessages(arguments) => {
            (half_message::list(directory, arguments).await?, arguments.output.output)
        }
        Command::EndTransaction(arguments) => (half_message::end(directory, arguments).await?, arguments.output.output),
        Command::ClusterList(arguments) => (cluster_list::run(directory, arguments).await?, arguments.output.output),
        Command::BrokerStatus(arguments) => (broker_status::run(directory, arguments).await?, arguments.output.output),
        Command::GetBrokerConfig(arguments) => {
            (get_broker_config::run(directory, arguments).await?, arguments.output.output)
        }
        Command::HaStatus(arguments) => (ha_status::run(directory, arguments).await?, arguments.output.output),
        Command::GetSyncStateSet(arguments) => {
            (get_sync_state_set::run(directory, arguments).await?, arguments.output.output)
        }
        Command::ElectMaster(arguments) => (elect_master::run(directory, arguments).await?, arguments.output.output),
        Command::AddPeer(arguments) => (add_peer::run(directory, arguments).await?, arguments.output.output),
        Command::ReplacePeer(arguments) => (replace_peer::run(directory, arguments).await?, arguments.output.output),
        Command::RemovePeer(arguments) => (remove_peer::run(directory, arguments).await?, arguments.output.output),
        Command::SendMessage(arguments) => (send_message::run(directory, arguments).await?, arguments.output.output),
        Command::ConsumeMessage(arguments) => {
            (consume_message::run(directory, arguments).await?, arguments.output.output)
        }
        Command::QueryMsgById(arguments) => {
            (query_msg_by_id::by_id(directory, arguments).await?, arguments.output.output)
        }
        Command::QueryMsgByUniqueKey(arguments) => {
            (query_msg_by_id::by_unique_key(directory, arguments).await?, arguments.output.output)
        }
        Command::QueryMsgByKey(arguments) => {
            (query_msg_by_key::run(directory, arguments).await?, arguments.output.output)
        }
        Command::QueryMsgByOffset(arguments) => {
            (query_msg_by_offset::run(directory, arguments).await?, arguments.output.output)
        }
        Command::ExplainMsg(arguments) => (explain_msg::run(directory, arguments).await?, arguments.output.output),
        Command::PrintMsg(arguments) => (print_msg::run(directory, arguments).await?, arguments.output.output),
        Command::Dump(arguments) => (dump::run(directory, arguments).await?, arguments.output.output),
        Command::CreateUser(arguments) => (user::create(directory, arguments).await?, arguments.output.output),
        Command::UpdateUser(arguments) => (user::update(directory, arguments).await?, arguments.output.output),
        Command::DeleteUser(arguments) => (user::delete(directory, arguments).await?, arguments.output.output),
        Command::GetUser(arguments) => (user::get(directory, arguments).await?, arguments.output.output),
        Command::ListUser(arguments) => (user::list(directory, arguments).await?, arguments.output.output),
        Command::CreateAcl(arguments) => (acl::create(directory, arguments).await?, arguments.output.output),
        Command::UpdateAcl(arguments) => (acl::update(directory, arguments).await?, arguments.output.output),
        Command::DeleteAcl(arguments) => (acl::delete(directory, arguments).await?, arguments.output.output),
        Command::GetAcl(arguments) => (acl::get(directory, arguments).await?, arguments.output.output),
        Command::ListAcl(arguments) => (acl::list(directory, arguments).await?, arguments.output.output),
    };
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
