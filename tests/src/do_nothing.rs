//! A tonic server that answers every send OK and does nothing: the ceiling that gRPC sets on this machine.

use std::net::SocketAddr;

use anyhow::Result;
use raftmq_proto::rocketmq::{self as pb, messaging_service_server as server};
use tokio_stream::Empty;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::load::endpoints;

struct DoNothing {
    address: SocketAddr,
}

/// Serves on `address` until the process ends.
///
/// # Errors
///
/// The address cannot be listened on.
pub async fn serve(address: SocketAddr) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let service = server::MessagingServiceServer::new(DoNothing { address: listener.local_addr()? })
        .max_decoding_message_size(16 << 20);
    tonic::transport::Server::builder()
        .initial_connection_window_size(16 << 20)
        .initial_stream_window_size(4 << 20)
        .add_service(service)
        // As the broker's: otherwise some answers wait 40 ms for an acknowledgement, and the ceiling is too low.
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

fn ok() -> Option<pb::Status> {
    Some(pb::Status { code: pb::Code::Ok as i32, message: "OK".into() })
}

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this server only takes sends"))
}

#[tonic::async_trait]
impl server::MessagingService for DoNothing {
    async fn query_route(
        &self,
        request: Request<pb::QueryRouteRequest>,
    ) -> Result<Response<pb::QueryRouteResponse>, Status> {
        let topic = request.into_inner().topic;
        let message_queues = (0..8)
            .map(|id| pb::MessageQueue {
                topic: topic.clone(),
                id,
                permission: pb::Permission::ReadWrite as i32,
                broker: Some(pb::Broker { name: "none".into(), id: 0, endpoints: Some(endpoints(self.address)) }),
                accept_message_types: vec![pb::MessageType::Normal as i32],
            })
            .collect();
        Ok(Response::new(pb::QueryRouteResponse { status: ok(), message_queues }))
    }

    async fn send_message(
        &self,
        request: Request<pb::SendMessageRequest>,
    ) -> Result<Response<pb::SendMessageResponse>, Status> {
        let entries = request
            .into_inner()
            .messages
            .into_iter()
            .map(|message| {
                let message_id = message.system_properties.unwrap_or_default().message_id;
                let transaction_id = message_id.clone();
                pb::SendResultEntry {
                    status: ok(),
                    message_id,
                    transaction_id,
                    offset: 0,
                    recall_handle: String::new(),
                }
            })
            .collect();
        Ok(Response::new(pb::SendMessageResponse { status: ok(), entries }))
    }

    async fn heartbeat(&self, _: Request<pb::HeartbeatRequest>) -> Result<Response<pb::HeartbeatResponse>, Status> {
        Ok(Response::new(pb::HeartbeatResponse { status: ok() }))
    }

    async fn query_assignment(
        &self,
        _: Request<pb::QueryAssignmentRequest>,
    ) -> Result<Response<pb::QueryAssignmentResponse>, Status> {
        unimplemented()
    }

    type ReceiveMessageStream = Empty<Result<pb::ReceiveMessageResponse, Status>>;

    async fn receive_message(
        &self,
        _: Request<pb::ReceiveMessageRequest>,
    ) -> Result<Response<Self::ReceiveMessageStream>, Status> {
        unimplemented()
    }

    async fn ack_message(&self, _: Request<pb::AckMessageRequest>) -> Result<Response<pb::AckMessageResponse>, Status> {
        unimplemented()
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        _: Request<pb::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<Response<pb::ForwardMessageToDeadLetterQueueResponse>, Status> {
        unimplemented()
    }

    type PullMessageStream = Empty<Result<pb::PullMessageResponse, Status>>;

    async fn pull_message(
        &self,
        _: Request<pb::PullMessageRequest>,
    ) -> Result<Response<Self::PullMessageStream>, Status> {
        unimplemented()
    }

    async fn update_offset(
        &self,
        _: Request<pb::UpdateOffsetRequest>,
    ) -> Result<Response<pb::UpdateOffsetResponse>, Status> {
        unimplemented()
    }

    async fn get_offset(&self, _: Request<pb::GetOffsetRequest>) -> Result<Response<pb::GetOffsetResponse>, Status> {
        unimplemented()
    }

    async fn query_offset(
        &self,
        _: Request<pb::QueryOffsetRequest>,
    ) -> Result<Response<pb::QueryOffsetResponse>, Status> {
        unimplemented()
    }

    async fn end_transaction(
        &self,
        _: Request<pb::EndTransactionRequest>,
    ) -> Result<Response<pb::EndTransactionResponse>, Status> {
        unimplemented()
    }

    type TelemetryStream = Empty<Result<pb::TelemetryCommand, Status>>;

    async fn telemetry(
        &self,
        _: Request<tonic::Streaming<pb::TelemetryCommand>>,
    ) -> Result<Response<Self::TelemetryStream>, Status> {
        unimplemented()
    }

    async fn notify_client_termination(
        &self,
        _: Request<pb::NotifyClientTerminationRequest>,
    ) -> Result<Response<pb::NotifyClientTerminationResponse>, Status> {
        unimplemented()
    }

    async fn change_invisible_duration(
        &self,
        _: Request<pb::ChangeInvisibleDurationRequest>,
    ) -> Result<Response<pb::ChangeInvisibleDurationResponse>, Status> {
        unimplemented()
    }

    async fn recall_message(
        &self,
        _: Request<pb::RecallMessageRequest>,
    ) -> Result<Response<pb::RecallMessageResponse>, Status> {
        unimplemented()
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<pb::SyncLiteSubscriptionRequest>,
    ) -> Result<Response<pb::SyncLiteSubscriptionResponse>, Status> {
        unimplemented()
    }
}
