//! What this node was told, at its start and since, and who is connected to its broker group.

use super::door::Caller;
use super::{AdminService, Parts, in_parts};
use crate::client::relay;
use crate::live::Reach;
use raftmq_proto::admin::{
    Client, GetConfigResponse, ListClientsRequest, ListClientsResponse, Setting, Subscription, UpdateConfigRequest,
    UpdateConfigResponse,
};
use raftmq_proto::forward::{ClientsRequest, ConnectedClient};
use raftmq_server::settings::{ChangeError, UpdateError};
use tonic::Status;

impl AdminService {
    pub(super) fn get_config(&self) -> GetConfigResponse {
        let config = self.node.settings();
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

    pub(super) async fn update_config(
        &self,
        request: UpdateConfigRequest,
        caller: &Caller,
    ) -> Result<UpdateConfigResponse, Status> {
        let (node, key, value) = (self.node.clone(), request.key.clone(), request.value.clone());
        let updated = tokio::task::spawn_blocking(move || {
            let updated = node.live.update(&key, &value);
            if updated.is_ok() {
                node.rates.limit_clients(node.settings().grpc.client_rate);
            }
            updated
        });
        let updated = updated.await.map_err(|error| Status::internal(format!("changing a setting failed: {error}")))?;
        // What is refused may be a secret: such keys are read at start only.
        let (key, value) = (request.key.as_str(), updated.as_ref().map_or("", |_| request.value.as_str()));
        let outcome = updated.as_ref().map_or_else(ToString::to_string, |_| "done".to_owned());
        tracing::info!(target: "audit", user = caller.name, address = caller.address, key, value, outcome, "setting changed");
        let updated = updated.map_err(|error| match error {
            UpdateError::NeedsRestart { .. } | UpdateError::Change(ChangeError::SetAbove { .. }) => {
                Status::failed_precondition(error.to_string())
            }
            UpdateError::Change(ChangeError::NotKept { .. }) => Status::internal(error.to_string()),
            UpdateError::Unknown { .. } | UpdateError::Unused(_) | UpdateError::Value(_) => {
                Status::invalid_argument(error.to_string())
            }
        })?;
        Ok(UpdateConfigResponse {
            broker_group: self.broker_group(),
            label: self.node.config.label.clone(),
            before: updated.before,
            after: updated.after,
            file: updated.kept_in.display().to_string(),
            of_group: updated.reach == Reach::Group,
        })
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
