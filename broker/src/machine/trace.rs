//! Traces: what an entry did to messages is kept as long as they are, for whoever asks later.
//!
//! Verbs note what they do; at the end of the entry, neighbours to which the same was done make one row. Rows go with
//! their messages, by the same trim: what they are counts for its bound.

use super::turn::Turn;
use super::version::TRACES;
use crate::store::lease::{Lease, Part};
use crate::store::message::Run;
use crate::store::trace::{self, Happened, QueueTrim, RUN_MAX, What};
use crate::store::{ConsumerGroupId, TopicId, key};
use raft_store::{ReadState, StateError};
use std::ops::ControlFlow;
use std::sync::Arc;

impl Turn<'_, '_> {
    /// Whether what is done to messages is kept.
    pub(super) fn has_traces(&self) -> bool {
        self.version >= TRACES
    }

    /// Something is done to the messages of a part.
    pub(super) fn note_trace(&mut self, topic: TopicId, group: ConsumerGroupId, part: &Part, what: What) {
        if self.has_traces() {
            let (queue, attempt) = (part.queue, part.attempt);
            let (first, count) = (part.first.offset, part.count);
            self.traces.push(Happened { topic, queue, group, attempt, what, first, count });
        }
    }

    /// A client gets the messages of a lease.
    pub(super) fn note_lease(&mut self, group: ConsumerGroupId, lease: &Lease) {
        if self.has_traces() {
            let client_id: Arc<str> = lease.client_id.as_str().into();
            let (renewed, until_ms) = (lease.renewed, lease.deadline_ms);
            for part in &lease.parts {
                let what = What::Leased { client_id: client_id.clone(), renewed, until_ms };
                self.note_trace(lease.topic, group, part, what);
            }
        }
    }

    /// Messages that waited in the log get their places in a queue.
    pub(super) fn note_visible(&mut self, topic: TopicId, queue: u16, run: &Run) {
        if self.has_traces() {
            let (group, attempt, what) = (ConsumerGroupId(0), 0, What::Visible);
            let (first, count) = (run.first, run.count);
            self.traces.push(Happened { topic, queue, group, attempt, what, first, count });
        }
    }

    /// Writes what was noted so far, before whoever removes such rows looks for them.
    pub(super) fn store_traces(&mut self) -> Result<(), StateError> {
        if self.traces.is_empty() {
            return Ok(());
        }
        let mut noted = std::mem::take(&mut self.traces);
        noted.sort_unstable();
        let mut run: Option<Happened> = None;
        for mut next in noted {
            // What was trimmed meanwhile has no rows any more.
            let min = self.queue(next.topic, next.queue)?.min;
            let gone = min.saturating_sub(next.first).min(u64::from(next.count)) as u32;
            next.first += u64::from(gone);
            next.count -= gone;
            while next.count > 0 {
                let rest = next.count.saturating_sub(RUN_MAX);
                let piece = Happened { count: next.count - rest, ..next.clone() };
                next.first += u64::from(piece.count);
                next.count = rest;
                match &mut run {
                    Some(run) if run.goes_on_with(&piece) => run.count += piece.count,
                    _ => {
                        if let Some(over) = run.replace(piece) {
                            self.put_trace(over)?;
                        }
                    }
                }
            }
        }
        run.map_or(Ok(()), |over| self.put_trace(over))
    }

    fn put_trace(&mut self, mut run: Happened) -> Result<(), StateError> {
        let row = run.key(self.index.0);
        if let What::Extended { times, first, .. } = &mut run.what
            && let Some(value) = self.rows.get(key::RETENTION, &row)?
            && let What::Extended { times: before, first: begun, .. } = trace::parse(&row, &value)?.0.what
        {
            (*times, *first) = (before.saturating_add(1), begun);
        }
        self.rows.put(key::RETENTION, &row, run.encode(self.now_ms));
        Ok(())
    }

    /// Removes the rows that tell of no message at `min` or behind it, of a queue that began at `before`, as far as the
    /// rows reach. Returns the first offset that the queue may have then.
    pub(super) fn drop_traces(
        &mut self,
        topic: TopicId,
        number: u16,
        (before, min): (u64, u64),
        rows_left: &mut usize,
    ) -> Result<u64, StateError> {
        let reach = u64::from(RUN_MAX) - 1;
        let (from, until) = [before, min].map(|offset| key::traces(topic, number, offset.saturating_sub(reach))).into();
        let (mut keys, room) = (Vec::new(), *rows_left);
        self.rows.scan(key::RETENTION, &from, &until, &mut |key, _| {
            keys.push(key.to_vec());
            if keys.len() <= room { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        // The first one that stays for now tells of messages up to its reach.
        let stays = keys.get(room).map(|key| trace::first_of(key)).transpose()?;
        keys.truncate(room);
        *rows_left -= keys.len();
        keys.iter().for_each(|key| self.rows.delete(key::RETENTION, key));
        Ok(stays.map_or(min, |first| first.saturating_add(reach).min(min)))
    }

    /// The first offset of a queue moved.
    pub(super) fn note_queue_trim(&mut self, topic: TopicId, number: u16, horizon_ms: u64) {
        if self.has_traces() {
            let trim = QueueTrim { at_ms: self.now_ms, log_index: self.index.0, horizon_ms };
            self.rows.put(key::RETENTION, &key::queue_trim(topic, number), trim.encode());
        }
    }
}
