//! Sending a message by hand, through the public API as any producer does.

use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::message::{resource, timestamp};
use crate::public::{Client, check, hosts, on_group};
use crate::time::now_ms;
use raftmq_proto::rocketmq::{
    EndTransactionRequest, Message, MessageType, SendMessageRequest, SendResultEntry, TransactionResolution,
    TransactionSource,
};

/// A message that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its id.
    pub message_id: String,
    /// The broker group that has it.
    pub broker_group: String,
    /// Its offset; `None` where it got its place later than it was sent: delayed, or the end of a transaction.
    pub offset: Option<i64>,
    /// Takes a delayed message back; empty for others.
    pub recall_handle: String,
}

/// Stores a message in a broker group that hosts its topic, under a fresh id. One of type TRANSACTION is stored as a half
/// message and committed, as a producer does whose own part has succeeded.
///
/// # Errors
/// No node answers, or one refuses. Where the commit is not answered, the transaction stays open: the error names it.
pub async fn store(
    directory: &Directory,
    client: &Client,
    from: &str,
    mut message: Message,
) -> Result<Stored, AdminError> {
    let topic = message.topic.as_ref().map(|topic| topic.name.clone()).unwrap_or_default();
    let kind = message.system_properties.as_ref().map_or(MessageType::Normal, |known| known.message_type());
    if let Some(properties) = &mut message.system_properties {
        properties.message_id = client.message_id();
        properties.born_timestamp = Some(timestamp(now_ms()));
        from.clone_into(&mut properties.born_host);
    }
    let groups = hosts(directory, &topic, None).await?;
    let group = groups.first().ok_or_else(|| AdminError::Unknown(format!("no broker group hosts topic {topic}")))?;
    let (address, answer) = on_group(directory, group, |mut node| {
        let request = client.request(SendMessageRequest { messages: vec![message.clone()] });
        async move { Ok(node.send_message(request).await?.into_inner()) }
    })
    .await?;
    check(&address, answer.status.as_ref())?;
    let entry = answer.entries.into_iter().next();
    let entry = entry.ok_or_else(|| AdminError::Unknown(format!("{address}: the answer names no message")))?;
    check(&address, entry.status.as_ref())?;
    let waits = kind == MessageType::Transaction || !entry.recall_handle.is_empty();
    if kind == MessageType::Transaction {
        commit(directory, client, group, (&topic, &entry)).await.map_err(|error| {
            let id = &entry.transaction_id;
            AdminError::Unknown(format!(
                "transaction {id} of topic {topic} is open, and is to be ended by hand: {error}"
            ))
        })?;
    }
    Ok(Stored {
        message_id: entry.message_id,
        broker_group: group.name.clone(),
        offset: Some(entry.offset).filter(|_| !waits),
        recall_handle: entry.recall_handle,
    })
}

async fn commit(
    directory: &Directory,
    client: &Client,
    group: &Group,
    (topic, half): (&str, &SendResultEntry),
) -> Result<(), AdminError> {
    let (address, answer) = on_group(directory, group, |mut node| {
        let request = client.request(EndTransactionRequest {
            topic: resource(topic),
            message_id: half.message_id.clone(),
            transaction_id: half.transaction_id.clone(),
            resolution: TransactionResolution::Commit.into(),
            source: TransactionSource::SourceClient.into(),
            ..EndTransactionRequest::default()
        });
        async move { Ok(node.end_transaction(request).await?.into_inner()) }
    })
    .await?;
    check(&address, answer.status.as_ref())
}
