//! The only way in which rules change rows: each change goes into the checksum that replicas compare, and is forgotten
//! where it was known.

use super::names::Names;
use crate::store::queue::Queue;
use crate::store::{TopicId, key};
use raft_store::{ReadState, StateBatch, StateError, Table, Visit};
use xxhash_rust::xxh3::Xxh3;

/// The batch under way, with a digest of the changes made through it.
pub(super) struct Rows<'b, 's> {
    batch: &'b mut StateBatch<'s>,
    /// What is known of the rows.
    pub(super) names: &'b mut Names,
    digest: Xxh3,
}

impl<'b, 's> Rows<'b, 's> {
    pub(super) fn new(batch: &'b mut StateBatch<'s>, names: &'b mut Names, checksum: u64) -> Rows<'b, 's> {
        Rows { batch, names, digest: Xxh3::with_seed(checksum) }
    }

    /// Sets a row.
    pub(super) fn put(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.names.changed(table, key);
        self.set(table, key, value);
    }

    /// Sets the row of a queue, which stays known.
    pub(super) fn put_queue(&mut self, topic: TopicId, number: u16, queue: Queue) {
        self.set(key::QUEUE, &key::queue(topic, number), queue.encode().to_vec());
        self.names.set_queue(topic, number, queue);
    }

    /// Sets whose turn it is among the queues of a topic, which stays known.
    pub(super) fn put_turn(&mut self, topic: TopicId, turn: u64) {
        self.set(key::QUEUE, &key::turn(topic), turn.to_be_bytes().to_vec());
        self.names.set_turn(topic, turn);
    }

    fn set(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        self.note(table, 1, key, &value);
        self.batch.put(table, key, value);
    }

    /// Removes a row, if there is one.
    pub(super) fn delete(&mut self, table: Table, key: &[u8]) {
        self.names.changed(table, key);
        self.note(table, 0, key, &[]);
        self.batch.delete(table, key);
    }

    fn note(&mut self, table: Table, kind: u8, key: &[u8], value: &[u8]) {
        let mut head = [table.0, kind, 0, 0, 0, 0, 0, 0];
        // Lengths keep neighbours apart; beyond 16 MiB they wrap, which still differs where rows differ.
        head[2..5].copy_from_slice(&(key.len() as u32).to_be_bytes()[1..]);
        head[5..].copy_from_slice(&(value.len() as u32).to_be_bytes()[1..]);
        self.digest.update(&head);
        self.digest.update(key);
        self.digest.update(value);
    }

    /// The digest of all changes so far, and the batch for the row that holds it.
    pub(super) fn finish(self) -> (u64, &'b mut StateBatch<'s>) {
        (self.digest.digest(), self.batch)
    }
}

impl ReadState for Rows<'_, '_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.batch.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], until: &[u8], visit: Visit<'_>) -> Result<(), StateError> {
        self.batch.scan(table, from, until, visit)
    }

    fn scan_back(&self, table: Table, from: &[u8], upto: &[u8], visit: Visit<'_>) -> Result<(), StateError> {
        self.batch.scan_back(table, from, upto, visit)
    }
}
