//! Topics and consumer groups: change, list, show.

use super::door::Caller;
use super::{AdminService, COMMIT_TIMEOUT, Parts, in_parts, is_outdated};
use crate::namesrv::owners_of_new;
use crate::rate::{self, BYTES, MESSAGES};
use crate::store::consumer_group::{RETRY_MAX_DEFAULT, START, Start, consumer_group, consumer_groups};
use crate::store::fifo::ORDER;
use crate::store::lite::{BIND, CLIENT_QUOTA, EXPIRATION, EXPIRATION_MINUTES_MIN, MODEL, MODELS, TOPIC_QUOTA};
use crate::store::retention::{RESERVE_TIME, parse_age};
use crate::store::topic::{READABLE, WRITABLE, topic, topics};
use raftmq_proto::admin::{
    ConsumerGroup, DeleteConsumerGroupRequest, DeleteConsumerGroupResponse, DeleteTopicRequest, DeleteTopicResponse,
    GetConsumerGroupRequest, GetConsumerGroupResponse, ListConsumerGroupsRequest, ListConsumerGroupsResponse,
    ListTopicsRequest, ListTopicsResponse, Member, PutConsumerGroupRequest, PutConsumerGroupResponse, PutTopicRequest,
    PutTopicResponse, RouteOfGroup, Topic, TopicRouteRequest, TopicRouteResponse,
};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{self, DeleteConsumerGroup, DeleteTopic, PutConsumerGroup, PutTopic, reply};
use raftmq_proto::name::{ConsumerGroup as ConsumerGroupName, TopicName};
use raftmq_proto::rocketmq::MessageType;
use std::collections::BTreeMap;
use tokio::time::Instant;
use tonic::Status;

/// The attribute that says which messages a topic takes.
const MESSAGE_TYPE: &str = "message.type";
/// Attributes of RocketMQ that are kept as they are given, and the values that we can honour.
const KEPT_ATTRIBUTES: &[(&str, &[&str])] =
    &[("cleanup.policy", &["DELETE"]), ("queue.type", &["SimpleCQ", "RocksDBConsumeQueue"])];

/// What takes messages of every type but PRIORITY and LITE, whose queues have a meaning of their own.
const MIXED: &str = "MIXED";
const TYPES: [(&str, MessageType); 6] = [
    ("NORMAL", MessageType::Normal),
    ("FIFO", MessageType::Fifo),
    ("DELAY", MessageType::Delay),
    ("TRANSACTION", MessageType::Transaction),
    ("PRIORITY", MessageType::Priority),
    ("LITE", MessageType::Lite),
];

impl AdminService {
    pub(super) async fn put_topic(
        &self,
        request: PutTopicRequest,
        caller: &Caller,
    ) -> Result<PutTopicResponse, Status> {
        let name = TopicName::parse(&request.name).map_err(invalid)?;
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        loop {
            let outcome = self.try_put_topic(&name, request.clone(), caller).await;
            if !is_outdated(&outcome, deadline) {
                return outcome;
            }
        }
    }

    async fn try_put_topic(
        &self,
        name: &TopicName,
        request: PutTopicRequest,
        caller: &Caller,
    ) -> Result<PutTopicResponse, Status> {
        self.catch_up(false).await?;
        let known = {
            let name = name.clone();
            self.read(move |state| topic(state, name.as_str())).await?
        };
        let created = known.is_none();
        let default_queues = self.node.settings().grpc.default_topic_queues;
        let wanted_owners = request.fifo_owners.clone();
        let mut row = wanted_topic(request, known, default_queues).map_err(Status::invalid_argument)?;
        if created {
            let hosts = self.node.reporter.routes().ask(name.as_str()).await;
            let owners = owners_of_new(name.as_str(), &self.broker_group(), &hosts, wanted_owners);
            row.fifo_owners = owners.map_err(Status::failed_precondition)?;
            row.fifo_open = self.node.makes_open_topics();
        }
        let put = Kind::PutTopic(PutTopic { topic: Some(row.clone()), create_only: created });
        let what = if created { "topic created" } else { "topic changed" };
        let reply = self.change(what, name.as_str(), caller, put).await?;
        let Some(reply::Kind::Topic(made)) = reply.kind else { return Err(no_row()) };
        if created && settings(&made) != settings(&row) {
            return Err(Status::aborted(format!("topic {name} was created meanwhile, by somebody else")));
        }
        let row = made;
        Ok(PutTopicResponse { topic: Some(to_topic(row)), broker_group: self.broker_group(), created })
    }

    pub(super) async fn delete_topic(
        &self,
        request: DeleteTopicRequest,
        caller: &Caller,
    ) -> Result<DeleteTopicResponse, Status> {
        let delete = Kind::DeleteTopic(DeleteTopic { name: request.name.clone() });
        self.change("topic deleted", &request.name, caller, delete).await?;
        Ok(DeleteTopicResponse { broker_group: self.broker_group() })
    }

    pub(super) async fn list_topics(&self, request: ListTopicsRequest) -> Result<Parts<ListTopicsResponse>, Status> {
        self.catch_up(request.stale).await?;
        let rows = self.read(topics).await?;
        let broker_group = self.broker_group();
        Ok(in_parts(rows, move |rows| ListTopicsResponse {
            broker_group: broker_group.clone(),
            topics: rows.into_iter().map(to_topic).collect(),
        }))
    }

    pub(super) async fn topic_route(&self, request: TopicRouteRequest) -> Result<TopicRouteResponse, Status> {
        let name = request.name.clone();
        let own = self.read(move |state| topic(state, &name)).await?.map(|row| RouteOfGroup {
            cluster: self.node.config.cluster.clone(),
            broker_group: self.broker_group(),
            topic: Some(to_topic(row)),
            members: self.node.group.members().into_iter().map(super::status::to_member).collect(),
        });
        let foreign = self.node.reporter.routes().of(&request.name).await.into_iter().map(|route| RouteOfGroup {
            cluster: self.node.config.cluster.clone(),
            broker_group: route.broker_group,
            topic: Some(Topic {
                name: route.topic.name,
                read_queues: route.topic.read_queues,
                write_queues: route.topic.write_queues,
                permission: route.topic.permission,
                message_types: route.topic.message_types,
                ordered: route.topic.ordered,
                id: route.topic.id,
                version: route.topic.version,
                fifo_owners: route.topic.fifo_owners,
                ..Topic::default()
            }),
            members: route
                .members
                .into_iter()
                .map(|member| {
                    let addresses = member.addresses.unwrap_or_default();
                    Member {
                        node: member.node,
                        label: member.label,
                        grpc: addresses.grpc,
                        admin: addresses.admin,
                        peer: addresses.peer,
                        voter: member.voter,
                        ..Member::default()
                    }
                })
                .collect(),
        });
        Ok(TopicRouteResponse { broker_groups: own.into_iter().chain(foreign).collect() })
    }

    pub(super) async fn put_consumer_group(
        &self,
        request: PutConsumerGroupRequest,
        caller: &Caller,
    ) -> Result<PutConsumerGroupResponse, Status> {
        let name = ConsumerGroupName::parse(&request.name).map_err(invalid)?;
        let known = |key: &str| [START, ORDER, BIND, CLIENT_QUOTA, MODEL].contains(&key);
        if let Some(key) = request.attributes.keys().chain(&request.remove_attributes).find(|key| !known(key)) {
            let text = format!(
                "consumer groups have no attribute {key}; there are {START}, {ORDER}, {BIND}, {CLIENT_QUOTA}, {MODEL}"
            );
            return Err(Status::invalid_argument(text));
        }
        if let Some(value) = request.attributes.get(ORDER).filter(|value| !["on", "off"].contains(&value.as_str())) {
            return Err(Status::invalid_argument(format!("{ORDER}={value} must be on or off")));
        }
        if let Some(value) = request.attributes.get(BIND) {
            TopicName::parse(value).map_err(|error| invalid(format!("{BIND}={value}: {error}")))?;
        }
        if let Some(value) = request.attributes.get(CLIENT_QUOTA).filter(|value| value.parse::<u32>().is_err()) {
            return Err(Status::invalid_argument(format!("{CLIENT_QUOTA}={value} must be a number of lite topics")));
        }
        if let Some(value) = request.attributes.get(MODEL).filter(|value| !MODELS.contains(&value.as_str())) {
            return Err(Status::invalid_argument(format!("{MODEL}={value} must be {}", MODELS.join(" or "))));
        }
        if let Some(value) = request.attributes.get(START).filter(|value| Start::parse(value).is_none()) {
            let text = format!("{START}={value} must be first, last, or a time in ms since 1970");
            return Err(Status::invalid_argument(text));
        }
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        loop {
            let outcome = self.try_put_consumer_group(&name, request.clone(), caller).await;
            if !is_outdated(&outcome, deadline) {
                return outcome;
            }
        }
    }

    async fn try_put_consumer_group(
        &self,
        name: &ConsumerGroupName,
        request: PutConsumerGroupRequest,
        caller: &Caller,
    ) -> Result<PutConsumerGroupResponse, Status> {
        self.catch_up(false).await?;
        let known = {
            let name = name.clone();
            self.read(move |state| consumer_group(state, name.as_str())).await?
        };
        let created = known.is_none();
        let known = known.unwrap_or_else(|| command::ConsumerGroup {
            name: name.to_string(),
            consume_enable: true,
            retry_max: RETRY_MAX_DEFAULT,
            ..command::ConsumerGroup::default()
        });
        let mut attributes = known.attributes.clone();
        attributes.retain(|key, _| !request.remove_attributes.contains(key));
        attributes.extend(request.attributes);
        let row = command::ConsumerGroup {
            attributes,
            consume_enable: request.consume_enable.unwrap_or(known.consume_enable),
            ordered: request.ordered.unwrap_or(known.ordered),
            retry_max: request.retry_max.unwrap_or(known.retry_max),
            ..known
        };
        let put = PutConsumerGroup { consumer_group: Some(row.clone()), create_only: created };
        let what = if created { "consumer group created" } else { "consumer group changed" };
        let reply = self.change(what, name.as_str(), caller, Kind::PutConsumerGroup(put)).await?;
        let Some(reply::Kind::ConsumerGroup(made)) = reply.kind else { return Err(no_row()) };
        let settings =
            |row: &command::ConsumerGroup| (row.consume_enable, row.ordered, row.retry_max, row.attributes.clone());
        if created && settings(&made) != settings(&row) {
            return Err(Status::aborted(format!("consumer group {name} was created meanwhile, by somebody else")));
        }
        let row = made;
        Ok(PutConsumerGroupResponse {
            consumer_group: Some(to_consumer_group(row)),
            broker_group: self.broker_group(),
            created,
        })
    }

    pub(super) async fn delete_consumer_group(
        &self,
        request: DeleteConsumerGroupRequest,
        caller: &Caller,
    ) -> Result<DeleteConsumerGroupResponse, Status> {
        let delete = Kind::DeleteConsumerGroup(DeleteConsumerGroup { name: request.name.clone() });
        self.change("consumer group deleted", &request.name, caller, delete).await?;
        Ok(DeleteConsumerGroupResponse { broker_group: self.broker_group() })
    }

    pub(super) async fn list_consumer_groups(
        &self,
        request: ListConsumerGroupsRequest,
    ) -> Result<Parts<ListConsumerGroupsResponse>, Status> {
        self.catch_up(request.stale).await?;
        let rows = self.read(consumer_groups).await?;
        let broker_group = self.broker_group();
        Ok(in_parts(rows, move |rows| ListConsumerGroupsResponse {
            broker_group: broker_group.clone(),
            consumer_groups: rows.into_iter().map(to_consumer_group).collect(),
        }))
    }

    pub(super) async fn get_consumer_group(
        &self,
        request: GetConsumerGroupRequest,
    ) -> Result<GetConsumerGroupResponse, Status> {
        self.catch_up(request.stale).await?;
        let name = request.name.clone();
        let row = self.read(move |state| consumer_group(state, &name)).await?;
        let row = row.ok_or_else(|| Status::not_found(format!("consumer group {} does not exist", request.name)))?;
        Ok(GetConsumerGroupResponse { broker_group: self.broker_group(), consumer_group: Some(to_consumer_group(row)) })
    }
}

fn invalid(error: impl ToString) -> Status {
    Status::invalid_argument(error.to_string())
}

/// What a change of a topic can say.
fn settings(row: &command::Topic) -> (u32, u32, u32, &[i32], bool, &BTreeMap<String, String>) {
    (row.read_queues, row.write_queues, row.permission, &row.message_types, row.ordered, &row.attributes)
}

fn no_row() -> Status {
    Status::internal("a change was carried out without an answer")
}

/// The row that a request asks for, given the one that is there.
fn wanted_topic(
    request: PutTopicRequest,
    known: Option<command::Topic>,
    default_queues: u32,
) -> Result<command::Topic, String> {
    let mut attributes = known.as_ref().map(|known| known.attributes.clone()).unwrap_or_default();
    for key in &request.remove_attributes {
        if key == MESSAGE_TYPE {
            return Err(format!("{MESSAGE_TYPE} cannot be taken away: a topic takes messages of some type"));
        }
        check_attribute_key(key)?;
        attributes.remove(key);
    }
    let mut message_types = known.as_ref().map(|known| known.message_types.clone());
    for (key, value) in request.attributes {
        if key == MESSAGE_TYPE {
            let wanted = message_types_of(&value)?;
            if message_types.as_ref().is_some_and(|known| *known != wanted) {
                return Err(format!(
                    "{MESSAGE_TYPE} of topic {} cannot be changed to {value}: delete the topic and create it again, or \
                     use another one",
                    request.name
                ));
            }
            message_types = Some(wanted);
        } else {
            check_attribute(&key, &value)?;
        }
        attributes.insert(key, value);
    }
    let message_types = message_types.unwrap_or_else(|| vec![MessageType::Normal.into()]);
    let known = known.unwrap_or_else(|| command::Topic {
        name: request.name.clone(),
        read_queues: default_queues,
        write_queues: default_queues,
        permission: READABLE | WRITABLE,
        ..command::Topic::default()
    });
    Ok(command::Topic {
        read_queues: request.read_queues.unwrap_or(known.read_queues),
        write_queues: request.write_queues.unwrap_or(known.write_queues),
        permission: request.permission.unwrap_or(known.permission),
        ordered: request.ordered.unwrap_or(known.ordered),
        message_types,
        attributes,
        ..known
    })
}

fn message_types_of(value: &str) -> Result<Vec<i32>, String> {
    if value == MIXED {
        let mixed = TYPES.iter().filter(|(_, kind)| ![MessageType::Priority, MessageType::Lite].contains(kind));
        return Ok(mixed.map(|(_, kind)| i32::from(*kind)).collect());
    }
    let found = TYPES.iter().find(|(name, _)| *name == value);
    found.map(|(_, kind)| vec![i32::from(*kind)]).ok_or_else(|| {
        let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        format!("{MESSAGE_TYPE} = {value}: must be one of {}, {MIXED}", names.join(", "))
    })
}

fn check_attribute_key(key: &str) -> Result<&'static [&'static str], String> {
    if [RESERVE_TIME, MESSAGES, BYTES, EXPIRATION, TOPIC_QUOTA].contains(&key) {
        return Ok(&[]);
    }
    let known = KEPT_ATTRIBUTES.iter().find(|(name, _)| *name == key);
    known.map(|(_, values)| *values).ok_or_else(|| {
        let names: Vec<&str> = KEPT_ATTRIBUTES.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        format!(
            "topics have no attribute {key}; there are {MESSAGE_TYPE}, {RESERVE_TIME}, {MESSAGES}, {BYTES}, {EXPIRATION}, \
             {TOPIC_QUOTA}, {names}"
        )
    })
}

fn check_attribute(key: &str, value: &str) -> Result<(), String> {
    if key == RESERVE_TIME {
        // The group says whether its log keeps messages for as long.
        let wrong = || format!("{key} = {value}: must be an age such as 12h, 30m or 2d");
        return parse_age(value).map(|_| ()).ok_or_else(wrong);
    }
    if [EXPIRATION, TOPIC_QUOTA].contains(&key) {
        let min = if key == EXPIRATION { EXPIRATION_MINUTES_MIN } else { 1 };
        let what = if key == EXPIRATION { "minutes" } else { "lite topics" };
        let wrong = || format!("{key} = {value}: must be a number of {what}, from {min} on");
        return value.parse().ok().filter(|number: &u64| *number >= min).map(|_| ()).ok_or_else(wrong);
    }
    if [MESSAGES, BYTES].contains(&key) {
        let wrong =
            || format!("{key} = {value}: must be a whole number a second, from 1 on; take it away for no limit");
        return rate::parse(value).map(|_| ()).ok_or_else(wrong);
    }
    let values = check_attribute_key(key)?;
    if values.contains(&value) { Ok(()) } else { Err(format!("{key} = {value}: must be one of {}", values.join(", "))) }
}

fn to_topic(row: command::Topic) -> Topic {
    Topic {
        name: row.name,
        read_queues: row.read_queues,
        write_queues: row.write_queues,
        permission: row.permission,
        message_types: row.message_types,
        ordered: row.ordered,
        attributes: row.attributes,
        id: row.id,
        version: row.version,
        created_ms: row.created_ms,
        updated_ms: row.updated_ms,
        fifo_owners: row.fifo_owners,
    }
}

fn to_consumer_group(row: command::ConsumerGroup) -> ConsumerGroup {
    ConsumerGroup {
        name: row.name,
        consume_enable: row.consume_enable,
        ordered: row.ordered,
        retry_max: row.retry_max,
        attributes: row.attributes,
        id: row.id,
        version: row.version,
        created_ms: row.created_ms,
        updated_ms: row.updated_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn request(pairs: &[(&str, &str)]) -> PutTopicRequest {
        PutTopicRequest { name: "T".to_owned(), attributes: attributes(pairs), ..PutTopicRequest::default() }
    }

    #[test]
    fn a_new_topic_gets_defaults_and_a_known_one_keeps_what_is_not_given() {
        let row = wanted_topic(request(&[]), None, 8).expect("valid");
        assert_eq!((row.read_queues, row.write_queues, row.permission, row.ordered), (8, 8, 6, false));
        assert_eq!(row.message_types, [i32::from(MessageType::Normal)]);
        let mut change = request(&[("message.type", "NORMAL")]);
        change.write_queues = Some(16);
        change.permission = Some(4);
        let row = wanted_topic(change, Some(row), 8).expect("valid");
        assert_eq!((row.read_queues, row.write_queues, row.permission), (8, 16, 4));
        assert_eq!(row.attributes, attributes(&[("message.type", "NORMAL")]));
    }

    #[test]
    fn attributes_are_known_or_refused() {
        let fifo = wanted_topic(request(&[("message.type", "FIFO")]), None, 8).expect("valid");
        for (pairs, part) in [
            (&[("message.type", "NORMAL")], "cannot be changed to NORMAL"),
            (&[("message.type", "QUEER")], "NORMAL, FIFO, DELAY, TRANSACTION, PRIORITY, LITE, MIXED"),
            (&[("lite.topic.expiration", "14")], "must be a number of minutes, from 15 on"),
            (&[("lite.topic.quota", "0")], "must be a number of lite topics, from 1 on"),
            (&[("mesage.type", "NORMAL")], "topics have no attribute mesage.type"),
            (&[("cleanup.policy", "COMPACTION")], "must be one of DELETE"),
            (&[("reserve.time", "soon")], "must be an age such as 12h"),
            (&[("rate.messages", "0")], "must be a whole number a second"),
            (&[("rate.bytes", "1k")], "must be a whole number a second"),
        ] {
            let refused = wanted_topic(request(pairs), Some(fifo.clone()), 8).expect_err(part);
            assert!(refused.contains(part), "{refused}");
        }
        let mut change = request(&[]);
        change.remove_attributes = vec!["message.type".to_owned()];
        assert!(wanted_topic(change, Some(fifo), 8).is_err());
        let mixed = wanted_topic(request(&[("message.type", "MIXED")]), None, 8).expect("valid");
        assert_eq!(mixed.message_types.len(), 4);
    }
}
