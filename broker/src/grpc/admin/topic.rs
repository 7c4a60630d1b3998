//! What a topic is, and the figures of this node.

use super::super::caller::Caller;
use super::super::status::{self, ApiError};
use super::super::{Front, convert, route};
use super::fresh;
use crate::client::relay;
use raftmq_proto::command::Topic;
use raftmq_proto::forward::ClientsRequest;
use raftmq_proto::rocketmq as v2;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// The attribute in which a topic is described in words.
const DESCRIPTION: &str = "description";
/// The attribute that names the types of a topic's messages.
const MESSAGE_TYPE: &str = "message.type";

pub(super) async fn describe(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::DescribeTopicStatusRequest,
) -> Result<v2::DescribeTopicStatusResponse, ApiError> {
    let name = convert::topic(request.topic)?;
    fresh(front, caller).await?;
    let row = front.topic(&name).await?.ok_or_else(|| ApiError::TopicNotFound(name.to_string()))?;
    Ok(status_of(row))
}

fn status_of(row: Topic) -> v2::DescribeTopicStatusResponse {
    // A topic of several types has none that this answer could name; the tag names all of them.
    let message_type = match row.message_types.as_slice() {
        [only] => *only,
        _ => v2::MessageType::Unspecified.into(),
    };
    let description = row.attributes.get(DESCRIPTION).cloned();
    let names = row.message_types.iter().filter_map(|value| v2::MessageType::try_from(*value).ok());
    let names: Vec<&str> = names.map(status::type_name).collect();
    let mut tags: HashMap<String, String> = row.attributes.into_iter().collect();
    tags.entry(MESSAGE_TYPE.to_owned()).or_insert_with(|| names.join(","));
    tags.insert("read.queues".to_owned(), row.read_queues.to_string());
    tags.insert("write.queues".to_owned(), row.write_queues.to_string());
    tags.insert("permission".to_owned(), row.permission.to_string());
    v2::DescribeTopicStatusResponse {
        status: Some(status::ok()),
        topic_message_type: message_type,
        description,
        create_timestamp: Some(convert::timestamp(i64::try_from(row.created_ms).unwrap_or(i64::MAX))),
        tags,
    }
}

/// A topic's route as the document that RocketMQ's remoting protocol has for it: JSON, with the members' addresses of the
/// public API, the only ones that clients have here.
pub(super) async fn route(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::GetTopicRouteRequest,
) -> Result<v2::GetTopicRouteResponse, ApiError> {
    let name = convert::topic(request.topic)?;
    fresh(front, caller).await?;
    let hosts = route::hosts(front, &name).await?;
    if hosts.is_empty() {
        return Err(ApiError::TopicNotFound(name.into_string()));
    }
    let topic_route_data = route::document(&hosts, &front.node.config.cluster);
    Ok(v2::GetTopicRouteResponse { status: Some(status::ok()), topic_route_data })
}

pub(super) async fn figures(
    front: &Arc<Front>,
    _caller: &Caller,
    _request: v2::GetProxyRuntimeStatsRequest,
) -> Result<v2::GetProxyRuntimeStatsResponse, ApiError> {
    let node = &front.node;
    let (in_tps, out_tps) = node.outlets.traffic.look(Instant::now()).rates;
    let clients = relay::connected_here(node, &ClientsRequest::default()).clients;
    let (producers, consumers): (Vec<_>, Vec<_>) = clients.iter().partition(|client| client.consumer_group.is_empty());
    let count = |clients: usize| i64::try_from(clients).unwrap_or(i64::MAX);
    Ok(v2::GetProxyRuntimeStatsResponse {
        status: Some(status::ok()),
        proxy_name: node.config.label.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        in_tps,
        out_tps,
        connections: count(clients.len()),
        producers: count(producers.len()),
        consumers: count(consumers.len()),
    })
}

#[cfg(test)]
mod tests {
    use super::{Topic, status_of, v2};

    #[test]
    fn a_topic_says_what_it_takes() {
        let row = |message_types: &[v2::MessageType]| Topic {
            message_types: message_types.iter().map(|kind| i32::from(*kind)).collect(),
            created_ms: 1_700_000_000_123,
            ..Topic::default()
        };
        let one = status_of(row(&[v2::MessageType::Fifo]));
        assert_eq!(one.topic_message_type(), v2::MessageType::Fifo);
        assert_eq!(one.create_timestamp.map(|time| (time.seconds, time.nanos)), Some((1_700_000_000, 123_000_000)));
        let two = status_of(row(&[v2::MessageType::Normal, v2::MessageType::Delay]));
        assert_eq!(two.topic_message_type(), v2::MessageType::Unspecified);
        assert_eq!(two.tags.get("message.type").map(String::as_str), Some("NORMAL,DELAY"));
    }
}
