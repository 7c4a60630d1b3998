//! Clients that are connected to the broker group, and what one of them can be asked.

use super::super::caller::Caller;
use super::super::status::{self, ApiError};
use super::super::{Front, convert};
use super::{answer_by, progress};
use crate::client::relay;
use crate::client::streams::{Told, Whom};
use raftmq_proto::forward::{ClientAnswer, ClientSubscription, ClientsRequest, ConnectedClient};
use raftmq_proto::name::TopicName;
use raftmq_proto::rocketmq as v2;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A client answers within this, or counts as silent.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Tells a client something and waits for what it says.
pub(super) async fn tell(
    front: &Front,
    caller: &Caller,
    client_id: String,
    told: Told,
) -> Result<ClientAnswer, ApiError> {
    let by = answer_by(caller).min(Instant::now() + ANSWER_WITHIN);
    match relay::tell(&front.node, &Whom::Client(client_id.clone()), &told, by).await {
        None => Err(ApiError::NoClient(client_id)),
        Some(heard) => heard.answer.ok_or(ApiError::ClientSilent(client_id)),
    }
}

pub(super) async fn threads(
    front: &Arc<Front>,
    caller: &Caller,
    request: v2::PrintThreadStackTraceRequest,
) -> Result<v2::PrintThreadStackTraceResponse, ApiError> {
    let answer = tell(front, caller, request.client_id, Told::PrintThreads).await?;
    Ok(v2::PrintThreadStackTraceResponse {
        status: Some(v2::Status { code: answer.code, message: answer.message }),
        thread_stack_trace: Some(answer.thread_stack_trace),
    })
}

/// Clients of a consumer group, of a topic, or all, by id. Those of a member that does not answer are missing.
async fn connected(front: &Front, group: String, topic: String) -> Vec<ConnectedClient> {
    relay::connected(&front.node, ClientsRequest { consumer_group: group, topic, ..ClientsRequest::default() }).await
}

fn info(client: &ConnectedClient) -> v2::ClientInfo {
    v2::ClientInfo {
        client_id: client.client_id.clone(),
        version: client.version.clone(),
        language: client.language.clone(),
        hostname: client.hostname.clone(),
        egress_ip: client.address.clone(),
        message_model: v2::MessageModel::Clustering.into(),
    }
}

fn name(resource: Option<v2::Resource>) -> Result<String, ApiError> {
    match resource {
        Some(resource) if !resource.name.is_empty() => Ok(convert::topic(Some(resource))?.into_string()),
        _ => Ok(String::new()),
    }
}

fn group_name(resource: Option<v2::Resource>) -> Result<String, ApiError> {
    match resource {
        Some(resource) if !resource.name.is_empty() => Ok(convert::consumer_group(Some(resource))?.to_string()),
        _ => Ok(String::new()),
    }
}

pub(super) async fn connections(
    front: &Arc<Front>,
    _caller: &Caller,
    request: v2::ListConsumerConnectionRequest,
) -> Result<v2::ListConsumerConnectionResponse, ApiError> {
    let group = convert::consumer_group(request.group)?.to_string();
    let clients = connected(front, group, name(request.topic)?).await;
    Ok(v2::ListConsumerConnectionResponse {
        status: Some(status::ok()),
        client_info: clients.iter().map(info).collect(),
    })
}

/// One subscription of one client.
struct Subscribed<'c> {
    client: &'c ConnectedClient,
    known: &'c ClientSubscription,
}

fn subscribed<'c>(clients: &'c [ConnectedClient], topic: &'c str) -> impl Iterator<Item = Subscribed<'c>> {
    let of_client = move |client: &'c ConnectedClient| {
        let subscriptions = client.subscriptions.iter().filter(move |known| topic.is_empty() || known.topic == topic);
        subscriptions.map(move |known| Subscribed { client, known })
    };
    clients.iter().filter(|client| !client.consumer_group.is_empty()).flat_map(of_client)
}

fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn shown(subscribed: &Subscribed<'_>, consistent: bool) -> v2::SubscriptionInfo {
    v2::SubscriptionInfo {
        group: resource(&subscribed.client.consumer_group),
        topic: resource(&subscribed.known.topic),
        expression: Some(v2::FilterExpression {
            r#type: if subscribed.known.is_sql { v2::FilterType::Sql } else { v2::FilterType::Tag }.into(),
            expression: subscribed.known.expression.clone(),
        }),
        online: true,
        last_update_timestamp: None,
        message_model: v2::MessageModel::Clustering.into(),
        subscription_consistency: consistent,
    }
}

/// Members of a consumer group that subscribe to a topic, by group and topic.
type Shares<'c> = BTreeMap<(&'c str, &'c str), Vec<Subscribed<'c>>>;

fn shares<'c>(clients: &'c [ConnectedClient], topic: &'c str) -> Shares<'c> {
    let mut shares = Shares::new();
    for subscribed in subscribed(clients, topic) {
        shares.entry((&subscribed.client.consumer_group, &subscribed.known.topic)).or_default().push(subscribed);
    }
    shares
}

/// Whether all members of a share have the same expression.
fn agree(share: &[Subscribed<'_>]) -> bool {
    share.windows(2).all(|pair| {
        (&pair[0].known.expression, pair[0].known.is_sql) == (&pair[1].known.expression, pair[1].known.is_sql)
    })
}

pub(super) async fn subscriptions(
    front: &Arc<Front>,
    _caller: &Caller,
    request: v2::ListSubscriptionRequest,
) -> Result<v2::ListSubscriptionResponse, ApiError> {
    let (group, topic) = (group_name(request.group)?, name(request.topic)?);
    let clients = connected(front, group, topic.clone()).await;
    let shares = shares(&clients, &topic);
    let one = |share: &Vec<Subscribed<'_>>| share.first().map(|first| shown(first, agree(share)));
    Ok(v2::ListSubscriptionResponse {
        status: Some(status::ok()),
        subscription_info: shares.values().filter_map(one).collect(),
    })
}

pub(super) async fn members(
    front: &Arc<Front>,
    _caller: &Caller,
    request: v2::DescribeSubscriptionRequest,
) -> Result<v2::DescribeSubscriptionResponse, ApiError> {
    let (group, topic) = (group_name(request.group)?, name(request.topic)?);
    let clients = connected(front, group, topic.clone()).await;
    let mut found = Vec::new();
    for share in shares(&clients, &topic).values() {
        let consistent = agree(share);
        found.extend(share.iter().map(|subscribed| v2::describe_subscription_response::ClientSubscriptionInfo {
            client_info: Some(info(subscribed.client)),
            subscription_info: Some(shown(subscribed, consistent)),
        }));
    }
    Ok(v2::DescribeSubscriptionResponse { status: Some(status::ok()), client_subscription_info: found })
}

/// What the broker group knows of a consumer. What it holds in its memory nobody can ask it for: no command of its stream
/// does, so that figures of that kind are 0, and `consume_status_table` is empty.
pub(super) async fn running(
    front: &Arc<Front>,
    _caller: &Caller,
    request: v2::GetConsumerRunningInfoRequest,
) -> Result<v2::GetConsumerRunningInfoResponse, ApiError> {
    let group = convert::consumer_group(request.group)?.to_string();
    let wanted = ClientsRequest {
        client_id: request.client_id.clone(),
        consumer_group: group.clone(),
        ..ClientsRequest::default()
    };
    let client = relay::connected(&front.node, wanted).await.into_iter().next();
    let client = client.ok_or(ApiError::NoClient(request.client_id))?;
    let expression = |known: &ClientSubscription| v2::FilterExpression {
        r#type: if known.is_sql { v2::FilterType::Sql } else { v2::FilterType::Tag }.into(),
        expression: known.expression.clone(),
    };
    let topics: Vec<TopicName> =
        client.subscriptions.iter().filter_map(|known| TopicName::parse(known.topic.as_str()).ok()).collect();
    let properties = [
        ("PROP_CLIENT_ID", &client.client_id),
        ("PROP_CLIENT_VERSION", &client.version),
        ("PROP_LANGUAGE", &client.language),
        ("PROP_HOSTNAME", &client.hostname),
        ("PROP_ADDRESS", &client.address),
        ("PROP_CONSUMER_GROUP", &client.consumer_group),
    ];
    let info = v2::ConsumerRunningInfo {
        properties: properties.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect(),
        subscriptions: client.subscriptions.iter().map(|known| (known.topic.clone(), expression(known))).collect(),
        message_queue_table: progress::of_client(front, group, topics).await?,
        consume_status_table: HashMap::new(),
    };
    Ok(v2::GetConsumerRunningInfoResponse { status: Some(status::ok()), consumer_running_info: Some(info) })
}

#[cfg(test)]
mod tests {
    use super::{ClientSubscription, ConnectedClient, agree, shares};

    #[test]
    fn members_that_disagree_are_told_apart() {
        let client = |id: &str, group: &str, subscriptions: &[(&str, &str)]| ConnectedClient {
            client_id: id.to_owned(),
            consumer_group: group.to_owned(),
            subscriptions: subscriptions
                .iter()
                .map(|(topic, expression)| ClientSubscription {
                    topic: (*topic).to_owned(),
                    expression: (*expression).to_owned(),
                    is_sql: false,
                })
                .collect(),
            ..ConnectedClient::default()
        };
        let clients = [
            client("a", "g", &[("t", "x"), ("u", "*")]),
            client("b", "g", &[("t", "y"), ("u", "*")]),
            client("c", "h", &[("t", "x")]),
            client("p", "", &[]),
        ];
        let found: Vec<_> =
            shares(&clients, "").into_iter().map(|(of, share)| (of, share.len(), agree(&share))).collect();
        assert_eq!(found, [(("g", "t"), 2, false), (("g", "u"), 2, true), (("h", "t"), 1, true)]);
        assert_eq!(shares(&clients, "u").len(), 1);
    }
}
