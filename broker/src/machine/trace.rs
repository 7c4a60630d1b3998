//! Traces: what an entry did to messages is kept as long as they are, for whoever asks later.
//!
//! Verbs note what they do; at the end of the entry, neighbours to which the same was done make one row. Rows go with
//! their messages, by the same trim.

use super::cleanup::Piece;
use super::turn::Turn;
use super::version::{NEIGHBOURS_STAY, TRACES};
use crate::store::lease::{Item, Lease, Part};
use crate::store::message::Run;
use crate::store::trace::{Happened, QueueTrim, RUN_MAX, What, reach_of};
use crate::store::work::Work;
use crate::store::{ConsumerGroupId, TopicId, key};
use raft_store::{ReadState, StateError};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Rows that trims of one entry remove: several for each message that goes with it, so that removing them keeps up with
/// storing them; and some 6 ms.
pub(super) const TRACE_ROWS_MAX: usize = 4_000;

impl Turn<'_, '_> {
    /// Whether what is done to messages is kept.
    pub(super) fn has_traces(&self) -> bool {
        self.version >= TRACES
    }

    /// Something is done to the messages of a part.
    pub(super) fn note_trace(&mut self, topic: TopicId, group: ConsumerGroupId, part: &Part, what: What) {
        if self.has_traces() {
            let (place, about) = ((topic, part.queue), (part.first.offset, part.count));
            self.note_some(place, about, (group, part.attempt), what);
        }
    }

    /// Something is done to the messages of a lease that its client has still.
    pub(super) fn note_open(&mut self, group: ConsumerGroupId, lease: &Lease, what: &What) {
        if !self.has_traces() {
            return;
        }
        for (base, part) in lease.numbered() {
            let mut first = part.first.offset;
            // Neighbours that are open are told of together.
            for stretch in lease.items[base..base + part.count as usize].chunk_by(PartialEq::eq) {
                let count = stretch.len() as u32;
                if stretch[0] == Item::Open {
                    let who = (group, part.attempt);
                    self.note_some((lease.topic, part.queue), (first, count), who, what.clone());
                }
                first += u64::from(count);
            }
        }
    }

    /// Something is done to messages of a queue, from the first one's offset on, for a consumer group in an attempt.
    fn note_some(
        &mut self,
        (topic, queue): (TopicId, u16),
        (first, count): (u64, u32),
        (group, attempt): (ConsumerGroupId, u32),
        what: What,
    ) {
        let phase = self.trace_phase;
        self.traces.push(Happened { topic, queue, group, phase, attempt, what, first, count });
    }

    /// A client gets the messages of a lease.
    pub(super) fn note_lease(&mut self, group: ConsumerGroupId, lease: &Lease) {
        if self.has_traces() {
            self.trace_phase += u32::from(std::mem::take(&mut self.returned));
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
            // No consumer group's doing.
            self.note_some((topic, queue), (run.first, run.count), (ConsumerGroupId(0), 0), What::Visible);
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
                            self.put_trace(&over);
                        }
                    }
                }
            }
        }
        run.iter().for_each(|over| self.put_trace(over));
        Ok(())
    }

    fn put_trace(&mut self, run: &Happened) {
        self.rows.put(key::RETENTION, &run.key(self.index.0), run.encode(self.now_ms));
    }

    /// Removes the rows that tell of no message behind these runs, with which a queue began at `before`, as far as the
    /// entry's share reaches. Returns where one of the runs ends: the first offset that the queue may have then.
    pub(super) fn drop_traces(
        &mut self,
        topic: TopicId,
        number: u16,
        before: u64,
        runs: &[Run],
    ) -> Result<u64, StateError> {
        let min = runs.last().map_or(before, Run::end);
        let from = key::traces(topic, number, before.saturating_sub(u64::from(RUN_MAX) - 1));
        let (mut rows, mut stays, mut failed) = (Vec::new(), None, None);
        self.rows.scan(key::RETENTION, &from, &key::traces(topic, number, min), &mut |key, value| {
            match reach_of(key, value) {
                // Others of its messages stay, and the next trim finds it.
                Ok((_, end)) if end > min => {}
                Ok((first, _)) if rows.len() == self.trace_rows_left => stays = Some(first),
                Ok((_, end)) => rows.push((key.to_vec(), end)),
                Err(error) => failed = Some(error),
            }
            if stays.is_some() || failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        self.trace_rows_left -= rows.len();
        // Runs go as a whole.
        let reach = stays.map(|at| runs.iter().map(Run::end).take_while(|end| *end <= at).last().unwrap_or(before));
        if let Some(reach) = reach.filter(|_| self.version >= NEIGHBOURS_STAY) {
            // What tells of messages that stay does so until the next piece. Where that would leave most of the rows, they
            // go all the same: a piece must get on.
            let tells_on = |(_, end): &(Vec<u8>, u64)| *end > reach;
            if rows.iter().filter(|row| tells_on(row)).count() * 2 <= rows.len() {
                rows.retain(|row| !tells_on(row));
            }
        }
        rows.iter().for_each(|(key, _)| self.rows.delete(key::RETENTION, key));
        Ok(reach.unwrap_or(min))
    }

    /// Leaves the rows of a topic that is gone for Tick: after all other work, since there may be many.
    pub(super) fn drop_all_traces(&mut self, topic: TopicId) -> Result<(), StateError> {
        self.store_traces()?;
        if self.count_rows(&[(key::RETENTION, &key::topic_traces(topic).to_vec())], 0)? > 0 {
            self.add_work(&Work::DropTraces(topic), Vec::new());
        }
        Ok(())
    }

    /// A piece of the rows of a topic that is gone.
    pub(super) fn drop_topic_traces(
        &mut self,
        topic: TopicId,
        note: &[u8],
        rows_max: usize,
    ) -> Result<Piece, StateError> {
        let prefix = key::topic_traces(topic).to_vec();
        self.drop_ranges(&[(key::RETENTION, &prefix)], note, rows_max, |_, _, _| Ok(()))
    }

    /// The first offset of a queue moved.
    pub(super) fn note_queue_trim(&mut self, topic: TopicId, number: u16, horizon_ms: u64) {
        if self.has_traces() {
            let trim = QueueTrim { at_ms: self.now_ms, log_index: self.index.0, horizon_ms };
            self.rows.put(key::RETENTION, &key::queue_trim(topic, number), trim.encode());
        }
    }
}
