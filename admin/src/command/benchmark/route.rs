//! Queues of a topic and their endpoints, as a client learns them.

use super::super::message::resource;
use super::super::public::{Client, check, hosts};
use crate::connect::{at, messaging, try_another};
use crate::directory::Directory;
use crate::error::AdminError;
use raftmq_proto::rocketmq::messaging_service_client::MessagingServiceClient;
use raftmq_proto::rocketmq::{Address, AddressScheme, Endpoints, MessageQueue, Permission, QueryRouteRequest};
use std::collections::BTreeMap;
use tonic::transport::Channel;

/// A queue and the ways to it, the best first.
pub(super) struct Way {
    pub queue: MessageQueue,
    pub nodes: Vec<MessagingServiceClient<Channel>>,
}

/// The queues of a topic that may be written, or read.
pub(super) async fn ways(
    directory: &Directory,
    client: &Client,
    topic: &str,
    wanted: Permission,
) -> Result<Vec<Way>, AdminError> {
    let mut reasons = Vec::new();
    for group in hosts(directory, topic, None).await? {
        for node in group.by_promise().into_iter().filter(|node| !node.grpc.is_empty()) {
            let request = QueryRouteRequest { topic: resource(topic), endpoints: endpoints(&node.grpc) };
            match messaging(&node.grpc, &directory.token)?.query_route(client.request(request)).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    check(&node.grpc, answer.status.as_ref())?;
                    return open(directory, answer.message_queues, topic, wanted);
                }
                Err(status) if try_another(&status) => reasons.push(at(&node.grpc, &status)),
                Err(status) => return Err(AdminError::refused(&node.grpc, &status)),
            }
        }
    }
    Err(AdminError::Unknown(format!("no node says where topic {topic} is: {}", reasons.join(", "))))
}

/// What this client dialled.
fn endpoints(address: &str) -> Option<Endpoints> {
    let (host, port) = address.rsplit_once(':')?;
    let scheme = match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => AddressScheme::IPv4,
        Ok(std::net::IpAddr::V6(_)) => AddressScheme::IPv6,
        Err(_) => AddressScheme::DomainName,
    };
    let address = Address { host: host.to_owned(), port: port.parse().ok()? };
    Some(Endpoints { scheme: scheme.into(), addresses: vec![address] })
}

/// One connection for each address.
fn open(
    directory: &Directory,
    queues: Vec<MessageQueue>,
    topic: &str,
    wanted: Permission,
) -> Result<Vec<Way>, AdminError> {
    let mut channels: BTreeMap<String, MessagingServiceClient<Channel>> = BTreeMap::new();
    let mut ways = Vec::new();
    for queue in queues {
        if queue.permission() != wanted && queue.permission() != Permission::ReadWrite {
            continue;
        }
        let endpoints = queue.broker.as_ref().and_then(|broker| broker.endpoints.clone()).unwrap_or_default();
        let mut nodes = Vec::new();
        for Address { host, port } in endpoints.addresses {
            let address = format!("{host}:{port}");
            let node = match channels.get(&address) {
                Some(node) => node.clone(),
                None => {
                    let node = messaging(&address, &directory.token)?;
                    channels.insert(address, node.clone());
                    node
                }
            };
            nodes.push(node);
        }
        if !nodes.is_empty() {
            ways.push(Way { queue, nodes });
        }
    }
    if ways.is_empty() {
        return Err(AdminError::Unknown(format!(
            "topic {topic} has no queue that may be {}",
            if wanted == Permission::Write { "written" } else { "read" }
        )));
    }
    Ok(ways)
}
