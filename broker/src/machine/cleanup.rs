//! Removes what a deleted topic or consumer group leaves behind, piece by piece. A note says where the last
//! piece stopped, so that no piece crawls over what the ones before it deleted.

use super::turn::Turn;
use crate::store::work::Work;
use crate::store::{ConsumerGroupId, LeaseId, TopicId, consumer_group, half, key, lease};
use raft_store::{ReadState, StateError, Table};
use std::ops::ControlFlow;

/// What a piece of work came to.
pub(super) struct Piece {
    /// Rows it touched.
    pub(super) rows: usize,
    /// Where the next piece goes on; `None` when all is done.
    pub(super) rest: Option<Vec<u8>>,
}

/// Topics of a consumer group that one piece begins with.
const TOPICS_MAX: usize = 64;

/// Tables whose rows begin with topic and consumer group.
pub(super) const SHARED: [Table; 5] = [key::FLIGHT, key::RETRY, key::FIFO, key::PROGRESS, key::SUBSCRIPTION];

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
        let halves = key::waiting(b'h', topic, 0, 0)[..9].to_vec();
        let wanted = key::waiting(b'w', topic, 0, 0)[..9].to_vec();
        let count = key::waiting_count(topic).to_vec();
        let mut ranges = vec![(key::MESSAGE, &queues), (key::QUEUE, &queues)];
        ranges.extend(SHARED.map(|table| (table, &shared)));
        // Those that are to be checked after the half messages themselves: then none is added any more.
        ranges.extend([(key::HALF, &halves), (key::HALF, &wanted), (key::HALF, &count)]);
        self.drop_ranges(&ranges, note, rows_max, |turn, table, row| {
            // What stands at times goes when Tick comes upon it.
            if table == key::HALF
                && row.first() == Some(&b'h')
                && let Some(value) = turn.rows.get(key::HALF, row)?
            {
                let body = half::body_of(row, &value)?;
                turn.rows.delete(key::HALF, &key::in_log(body.log_index, body.slot));
            }
            // The consumer group no longer has rows for this topic.
            if table == key::SUBSCRIPTION {
                let group = ConsumerGroupId(number_at(row, 8));
                turn.rows.delete(key::CONSUMER_GROUP, &key::consumed(group, topic));
                turn.rows.delete(key::CONSUMER_GROUP, &key::consumed_lite(group, topic));
            }
            Ok(())
        })
    }

    /// A piece of the rows of a deleted consumer group: first what it owns, then its share of topic after topic.
    pub(super) fn drop_group_rows(
        &mut self,
        group: ConsumerGroupId,
        note: &[u8],
        rows_max: usize,
    ) -> Result<Piece, StateError> {
        let own = group.0.to_be_bytes().to_vec();
        let filters = key::group_filters(group).to_vec();
        let ready = key::lite_ready_of_group(group).to_vec();
        let mut rows = 0;
        if note.first().is_none_or(|table| [key::LEASE.0, key::RECEIVE.0, key::SESSION.0].contains(table)) {
            let ranges = [(key::LEASE, &own), (key::RECEIVE, &own), (key::SESSION, &filters), (key::SESSION, &ready)];
            let piece = self.drop_ranges(&ranges, note, rows_max, |turn, table, row| {
                if table == key::LEASE {
                    turn.drop_lease_finders(group, LeaseId(number_at(row, 8)))?;
                }
                Ok(())
            })?;
            if piece.rest.is_some() {
                return Ok(piece);
            }
            rows = piece.rows;
        }
        let topics = consumer_group::shares(&self.rows, group, TOPICS_MAX)?;
        let shares: Vec<_> = topics.iter().map(|(topic, _)| key::subscription(*topic, group).to_vec()).collect();
        let mut ranges = Vec::new();
        for (share, (_, consumed)) in shares.iter().zip(&topics) {
            ranges.extend(SHARED.map(|table| (table, share)));
            ranges.push((key::CONSUMER_GROUP, consumed));
        }
        // A topic whose last row went is not among them any more: the next one begins afresh.
        let note = note.first().filter(|table| SHARED.contains(&Table(**table))).map_or(&[][..], |_| note);
        let mut piece = self.drop_ranges(&ranges, note, rows_max.saturating_sub(rows), |_, _, _| Ok(()))?;
        if piece.rest.is_none() && topics.len() == TOPICS_MAX {
            piece.rest = Some(vec![key::CONSUMER_GROUP.0]);
        }
        Ok(Piece { rows: rows + piece.rows, ..piece })
    }

    /// Rows of these ranges, counted up to one more than `rows_max`.
    pub(super) fn count_rows(&self, ranges: &[(Table, &Vec<u8>)], rows_max: usize) -> Result<usize, StateError> {
        let mut rows = 0;
        for (table, prefix) in ranges {
            self.rows.scan(*table, prefix, &key::after(prefix), &mut |_, _| {
                rows += 1;
                if rows <= rows_max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if rows > rows_max {
                break;
            }
        }
        Ok(rows)
    }

    /// Removes the rows by which a lease is found.
    fn drop_lease_finders(&mut self, group: ConsumerGroupId, id: LeaseId) -> Result<(), StateError> {
        if let Some(lease) = lease::lease(&self.rows, group, id)? {
            self.drop_deadline(group, id, &lease);
            self.rows.delete(key::SESSION, &key::client_lease(&lease.client_id, group, id));
        }
        Ok(())
    }

    /// Deletes rows by prefix, range after range, at most `rows_max` of them. The note is the table of the last
    /// deleted row and its key.
    pub(super) fn drop_ranges(
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
            let room = rows_max.saturating_sub(rows).min(usize::MAX - 1);
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

/// The number that a key of this machine holds at `at`.
fn number_at(key: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(key.get(at..at + 8).unwrap_or(&[0; 8]));
    u64::from_be_bytes(number)
}
