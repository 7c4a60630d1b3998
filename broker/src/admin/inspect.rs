//! What this node was told at its start, and who is connected to its broker group.

use super::{AdminService, Parts, in_parts};
use crate::client::relay;
use raftmq_proto::admin::{Client, GetConfigResponse, ListClientsRequest, ListClientsResponse, Setting, Subscription};
use raftmq_proto::forward::{ClientsRequest, ConnectedClient};

impl AdminService {
    pub(super) fn get_config(&self) -> GetConfigResponse {
        let config = &self.node.config;
        let settings = config.entries.iter().cloned().map(|entry| Setting {
            key: entry.key,
            value: entry.value,
            source: entry.source.unwrap_or_default(),
            unused: entry.unused,
        });
        GetConfigResponse {
            broker_group: self.broker_group(),
            label: config.label.clone(),
            settings: settings.collect(),
        }
    }

    pub(super) async fn list_clients(&self, request: ListClientsRequest) -> Parts<ListClientsResponse> {
        let ListClientsRequest { consumer_group, topic } = request;
        let wanted = ClientsRequest { consumer_group, topic, ..ClientsRequest::default() };
        let clients = relay::connected(&self.node, wanted).await.into_iter().map(to_client).collect();
        let broker_group = self.broker_group();
        in_parts(clients, move |clients| ListClientsResponse { broker_group: broker_group.clone(), clients })
    }
}

fn to_client(client: ConnectedClient) -> Client {
    let subscriptions = client.subscriptions.into_iter().map(|known| Subscription {
        topic: known.topic,
        expression: known.expression,
        is_sql: known.is_sql,
    });
    Client {
        client_id: client.client_id,
        language: client.language,
        version: client.version,
        hostname: client.hostname,
        address: client.address,
        consumer_group: client.consumer_group,
        subscriptions: subscriptions.collect(),
        publishes: client.publishes,
    }
}
