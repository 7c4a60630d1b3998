//! Bodies, read from the log by (log index, slot).

use crate::command::{Payload, PayloadError, decode_message};
use crate::store::message::Place;
use bytes::Bytes;
use raft_store::{LogIndex, RaftGroup};
use raftmq_proto::command::{LeasedMessage, StoredMessage};

/// A smaller message is copied out of its entry, so that it does not keep the whole entry in memory while its
/// client takes its time.
const COPIED_BYTES_MAX: usize = 64 << 10;

/// Why a message that a lease names cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log could not be read.
    #[error("log entry {0} cannot be read: {1}")]
    Log(LogIndex, String),
    /// The log has no such entry, though a row names it.
    #[error("log entry {0} is missing")]
    Missing(LogIndex),
    /// The entry is not what a row says it is.
    #[error("log entry {0}: {1}")]
    Payload(LogIndex, PayloadError),
}

/// Reads the messages of one lease. Neighbours in a queue mostly share their entry, which is then read once.
pub struct Reader<'g> {
    group: &'g RaftGroup,
    last: Option<(u64, Payload)>,
}

impl<'g> Reader<'g> {
    /// A reader of this node's log.
    #[must_use]
    pub fn new(group: &'g RaftGroup) -> Reader<'g> {
        Reader { group, last: None }
    }

    /// The message that a lease names.
    ///
    /// # Errors
    /// [`ReadError`] when the log does not hold it.
    pub async fn read(&mut self, leased: &LeasedMessage) -> Result<StoredMessage, ReadError> {
        let mut blob = self.blob(leased.log_index, leased.slot).await?;
        if blob.len() <= COPIED_BYTES_MAX {
            blob = Bytes::copy_from_slice(&blob);
        }
        decode_message(blob).map_err(|error| ReadError::Payload(LogIndex(leased.log_index), error))
    }

    /// A message by its place, to be looked at and let go: its body shares the memory of the whole entry.
    ///
    /// # Errors
    /// [`ReadError`] when the log does not hold it.
    pub async fn look(&mut self, place: &Place) -> Result<StoredMessage, ReadError> {
        let blob = self.blob(place.log_index, place.slot).await?;
        decode_message(blob).map_err(|error| ReadError::Payload(LogIndex(place.log_index), error))
    }

    async fn blob(&mut self, log_index: u64, slot: u32) -> Result<Bytes, ReadError> {
        let index = LogIndex(log_index);
        let broken = |error| ReadError::Payload(index, error);
        if self.last.as_ref().is_none_or(|(last, _)| *last != log_index) {
            let payload = self.group.payload(index).await.map_err(|error| ReadError::Log(index, error.to_string()))?;
            let payload = Payload::parse(payload.ok_or(ReadError::Missing(index))?).map_err(broken)?;
            self.last = Some((log_index, payload));
        }
        let (_, payload) = self.last.as_ref().expect("read above unless it was there");
        payload.slot(slot).map_err(broken)
    }
}
