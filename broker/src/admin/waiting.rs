//! One message that waits outside of the queues, in full: delayed, or half.

use super::AdminService;
use super::half::told;
use crate::deliver::handle::{Handles, WaitingHandle};
use crate::deliver::read::{ReadError, Reader};
use crate::store::half::{self, HalfMessage as Half};
use crate::store::timer::{self, InLog};
use crate::store::{StateError, TopicId, topic};
use raft_store::ReadState;
use raftmq_proto::admin::{GetWaitingMessageRequest, GetWaitingMessageResponse};
use raftmq_proto::command::{LeasedMessage, StoredMessage};
use tonic::Status;

/// Attempts at a body that the leader moves while it is read.
const READS_MAX: usize = 3;

/// Where its body is, and its row where it is a half message.
fn find(
    state: &impl ReadState,
    name: &str,
    handle: &WaitingHandle,
) -> Result<Option<(InLog, Option<Half>)>, StateError> {
    let Some(row) = topic::topic(state, name)? else { return Ok(None) };
    let place = InLog { log_index: handle.log_index, slot: handle.slot };
    if handle.delivery_ms == 0 {
        let half = half::half(state, TopicId(row.id), place)?;
        let half = half.filter(|half| half.state.is_open() && half.message_id_hash == handle.message_id_hash);
        return Ok(half.map(|half| (half.body(place), Some(half))));
    }
    let timer = timer::timer(state, handle.delivery_ms, TopicId(row.id), place)?;
    let timer = timer.filter(|timer| !timer.recalled && timer.message_id_hash == handle.message_id_hash);
    Ok(timer.map(|timer| (timer.moved.unwrap_or(place), None)))
}

impl AdminService {
    pub(super) async fn get_waiting_message(
        &self,
        request: GetWaitingMessageRequest,
    ) -> Result<GetWaitingMessageResponse, Status> {
        let GetWaitingMessageRequest { topic, name, stale } = request;
        let broker_group = self.broker_group();
        let gone =
            || Status::not_found(format!("no message of topic {topic} that waits in {broker_group} is called {name}"));
        let handle = Handles::of(&broker_group).parse_waiting(&name).map_err(|_| gone())?;
        self.catch_up(stale).await?;
        let mut reads = 1;
        loop {
            let of = topic.clone();
            let (body, half) = self.read(move |state| find(state, &of, &handle)).await?.ok_or_else(gone)?;
            let leased = LeasedMessage { log_index: body.log_index, slot: body.slot, ..LeasedMessage::default() };
            match Reader::new(&self.node.group).read(&leased).await {
                Ok(stored) => {
                    let half = half.map(|half| told(topic.clone(), name.clone(), &stored, half));
                    return Ok(GetWaitingMessageResponse {
                        broker_group: self.broker_group(),
                        now_ms: self.node.clock.now(),
                        log_index: handle.log_index,
                        delivery_ms: handle.delivery_ms,
                        half,
                        ..whole(stored)
                    });
                }
                Err(ReadError::Missing(_)) if reads < READS_MAX => reads += 1,
                Err(error) => return Err(Status::internal(format!("a message that waits cannot be read: {error}"))),
            }
        }
    }
}

fn whole(stored: StoredMessage) -> GetWaitingMessageResponse {
    GetWaitingMessageResponse {
        message_id: stored.message_id,
        tag: stored.tag.unwrap_or_default(),
        keys: stored.keys,
        properties: stored.properties.into_iter().map(|property| (property.key, property.value)).collect(),
        body_encoding: stored.body_encoding,
        message_type: stored.message_type,
        born_ms: u64::try_from(stored.born_ms).unwrap_or_default(),
        born_host: stored.born_host,
        store_host: stored.store_host,
        body: stored.body,
        ..GetWaitingMessageResponse::default()
    }
}
