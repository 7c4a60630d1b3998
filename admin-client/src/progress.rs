//! How far consumer groups have come, and who is connected.

use crate::directory::{Directory, Group};
use crate::error::AdminError;
use raftmq_proto::admin::{Client, ConsumerProgressRequest, ListClientsRequest, QueueProgress};
use tokio_stream::StreamExt as _;

/// How far a consumer group has come in a topic of one broker group; all of them where the name is empty.
///
/// # Errors
/// No node answers, or there is no such consumer group.
pub async fn queues_of(
    directory: &Directory,
    group: &Group,
    consumer_group: &str,
    topic: &str,
) -> Result<Vec<QueueProgress>, AdminError> {
    let progress = directory.read_group(group, |mut node, stale| {
        let request =
            ConsumerProgressRequest { consumer_group: consumer_group.to_owned(), topic: topic.to_owned(), stale };
        async move {
            let mut parts = node.consumer_progress(request).await?.into_inner();
            let mut queues = Vec::new();
            while let Some(part) = parts.next().await {
                queues.extend(part?.queues);
            }
            Ok(queues)
        }
    });
    progress.await.map(|(_, queues)| queues)
}

/// What was not acknowledged: in the queue from `progress` on, and in the retry index.
#[must_use]
pub fn diff(queue: &QueueProgress) -> u64 {
    queue.broker_offset.saturating_sub(queue.progress) + queue.retrying
}

/// Clients that are connected to any member of a broker group: of a consumer group, or to a topic, where those are named.
///
/// # Errors
/// No node answers, or one refuses.
pub async fn clients_of(
    directory: &Directory,
    group: &Group,
    consumer_group: &str,
    topic: &str,
) -> Result<Vec<Client>, AdminError> {
    let listed = directory.on_group(group, |mut node| {
        let request = ListClientsRequest { consumer_group: consumer_group.to_owned(), topic: topic.to_owned() };
        async move {
            let mut parts = node.list_clients(request).await?.into_inner();
            let mut clients = Vec::new();
            while let Some(part) = parts.next().await {
                clients.extend(part?.clients);
            }
            Ok(clients)
        }
    });
    listed.await.map(|(_, clients)| clients)
}
