//! Removes what a deleted topic or consumer group leaves behind, piece by piece. A note says where the last
//! piece stopped, so that no piece crawls over what the ones before it deleted.

use super::turn::Turn;
use crate::store::work::Work;
use crate::store::{ConsumerGroupId, LeaseId, TopicId, key, lease};
use raft_store::{ReadState, StateError, Table};
use std::ops::ControlFlow;

/// What a piece of work came to.
pub(super) struct Piece {
    /// Rows it touched.
    pub(super) rows: usize,
    /// Where the next piece goes on; `None` when all is done.
    pub(super) rest: Option<Vec<u8>>,
}

/// Tables whose rows begin with topic and consumer group.
const SHARED: [Table; 4] = [key::FLIGHT, key::RETRY, key::PROGRESS, key::SUBSCRIPTION];

impl Turn<'_, '_> {
    /// Leaves work for Tick.
    pub(super) fn add_work(&mut self, work: &Work, note: Vec<u8>) {
        self.rows.put(key::MACHINE, &work.key(), note);
        self.effects.due(0);
    }

    /// A piece of the rows of a deleted topic. Its leases go when they end.
    pub(super) fn drop_topic_rows(
        &mut self,
        topic: TopicId,
        note: &[u8],
        rows_max: usize,
    ) -> Result<Piece, StateError> {
        let queues = key::queues(topic).to_vec();
        let shared = topic.0.to_be_bytes().to_vec();
        let mut ranges = vec![(key::MESSAGE, &queues), (key::QUEUE, &queues)];
        ranges.extend(SHARED.map(|table| (table, &shared)));
        self.drop_ranges(&ranges, note, rows_max, |turn, table, row| {
            // The consumer group no longer has rows for this topic.
            if table == key::SUBSCRIPTION
                && let Some(group) = row.get(8..16)
            {
                let mut id = [0; 8];
                id.copy_from_slice(group);
                let group = ConsumerGroupId(u64::from_be_bytes(id));
                turn.rows.delete(key::CONSUMER_GROUP, &key::consumed(group, topic));
            }
            Ok(())
        })
    }

    /// A piece of the rows of a deleted consumer group.
    pub(super) fn drop_group_rows(
        &mut self,
        group: ConsumerGroupId,
        note: &[u8],
        rows_max: usize,
    ) -> Result<Piece, StateError> {
        let own = group.0.to_be_bytes().to_vec();
        let filters = key::group_filters(group).to_vec();
        let topics = crate::store::consumer_group::consumed(&self.rows, group)?;
        let prefixes: Vec<_> = topics.iter().map(|topic| key::subscription(*topic, group).to_vec()).collect();
        let consumed: Vec<_> = topics.iter().map(|topic| key::consumed(group, *topic).to_vec()).collect();
        // A table's ranges are in the order of its keys, so that the note finds its way back.
        let mut ranges = vec![(key::LEASE, &own), (key::RECEIVE, &own), (key::SESSION, &filters)];
        for table in SHARED {
            ranges.extend(prefixes.iter().map(|prefix| (table, prefix)));
        }
        ranges.extend(consumed.iter().map(|key| (key::CONSUMER_GROUP, key)));
        self.drop_ranges(&ranges, note, rows_max, |turn, table, row| {
            if table == key::LEASE {
                let mut id = [0; 8];
                id.copy_from_slice(row.get(8..16).unwrap_or(&[0; 8]));
                let id = LeaseId(u64::from_be_bytes(id));
                if let Some(lease) = lease::lease(&turn.rows, group, id)? {
                    turn.drop_deadline(group, id, &lease);
                    turn.rows.delete(key::SESSION, &key::client_lease(&lease.client_id, group, id));
                }
            }
            Ok(())
        })
    }

    /// Deletes rows by prefix, range after range, at most `rows_max` of them. The note is the table of the last
    /// deleted row and its key.
    fn drop_ranges(
        &mut self,
        ranges: &[(Table, &Vec<u8>)],
        note: &[u8],
        rows_max: usize,
        mut before: impl FnMut(&mut Self, Table, &[u8]) -> Result<(), StateError>,
    ) -> Result<Piece, StateError> {
        let mut rows = 0;
        let at = note.split_first().map(|(table, key)| (Table(*table), key));
        let mut skipping = at.is_some();
        let mut last = note.to_vec();
        for (table, prefix) in ranges {
            let mut from = prefix.to_vec();
            if skipping {
                let Some((at_table, at_key)) = at else { break };
                // Ranges before the one that the note is in are done.
                if at_table != *table || !at_key.starts_with(prefix) {
                    continue;
                }
                skipping = false;
                from = [at_key, &[0]].concat();
            }
            let mut keys = Vec::new();
            let room = rows_max - rows;
            self.rows.scan(*table, &from, &key::after(prefix), &mut |key, _| {
                keys.push(key.to_vec());
                if keys.len() <= room { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            let more = keys.len() > room;
            for key in keys.iter().take(room) {
                before(self, *table, key)?;
                self.rows.delete(*table, key);
                rows += 1;
                last = [&[table.0], &key[..]].concat();
            }
            if more {
                return Ok(Piece { rows, rest: Some(last) });
            }
        }
        Ok(Piece { rows, rest: None })
    }
}
