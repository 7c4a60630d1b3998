//! Nodes that sent batches, and the replies kept until a node has settled them.

use super::codec::Reader;
use super::{StateError, key};
use prost::Message;
use raft_store::ReadState;
use raftmq_proto::command::{Replies, Reply};

const TABLE: &str = key::TABLES[key::NODE.0 as usize];

/// What the machine knows of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Node {
    /// The newest boot that sent a batch.
    pub boot: u64,
    /// Every sequence of that boot up to this one has been answered, and its replies are gone.
    pub settled: u64,
    /// The last sequence of that boot that was carried out.
    pub last: u64,
}

impl Node {
    pub(crate) fn encode(self) -> Vec<u8> {
        [self.boot, self.settled, self.last].iter().flat_map(|number| number.to_be_bytes()).collect()
    }
}

/// What the machine knows of a node.
///
/// # Errors
/// When the row cannot be read.
pub fn node(state: &impl ReadState, node: u64) -> Result<Option<Node>, StateError> {
    let Some(value) = state.get(key::NODE, &key::node(node))? else { return Ok(None) };
    let mut reader = Reader::new(TABLE, &value);
    let row = Node { boot: reader.u64()?, settled: reader.u64()?, last: reader.u64()? };
    reader.end()?;
    Ok(Some(row))
}

/// The replies kept for a batch.
///
/// # Errors
/// When the row cannot be read.
pub fn replies(state: &impl ReadState, node: u64, sequence: u64) -> Result<Option<Vec<Reply>>, StateError> {
    let Some(value) = state.get(key::NODE, &key::replies(node, sequence))? else { return Ok(None) };
    let replies = Replies::decode(value.as_slice())
        .map_err(|error| StateError::Corrupt { table: TABLE, what: error.to_string() })?;
    Ok(Some(replies.replies))
}
