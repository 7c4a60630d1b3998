//! Tick: what is due at the entry's time is carried out, a bounded number of rows at once.

use super::cleanup::Piece;
use super::turn::Turn;
use super::{TICK_ROWS_MAX, done};
use crate::store::trace::What;
use crate::store::work::{self, Work};
use crate::store::{deadline, key, lease};
use raft_store::StateError;
use raftmq_proto::command::{Reply, Ticked, reply};

impl Turn<'_, '_> {
    pub(super) fn tick(&mut self) -> Result<Reply, StateError> {
        // Each kind has a share of its own, and what the kinds before it left.
        let mut rows_left = TICK_ROWS_MAX / 2;
        let mut more = self.end_due_leases(&mut rows_left)?;
        rows_left += TICK_ROWS_MAX / 4;
        more |= self.fire_due_timers(&mut rows_left)?;
        rows_left += TICK_ROWS_MAX / 8;
        more |= self.look_at_halves(&mut rows_left)?;
        rows_left += TICK_ROWS_MAX / 16;
        more |= self.look_at_lite(&mut rows_left)?;
        rows_left += TICK_ROWS_MAX / 16;
        while rows_left > 0
            && let Some((work, note)) = work::first(&self.rows)?
        {
            let piece = self.work(&work, &note, rows_left)?;
            rows_left = rows_left.saturating_sub(piece.rows.max(1));
            match piece.rest {
                Some(note) => self.rows.put(key::MACHINE, &work.key(), note),
                None => self.rows.delete(key::MACHINE, &work.key()),
            }
        }
        let more = more || work::first(&self.rows)?.is_some();
        if more {
            self.effects.due(0);
        }
        Ok(done(reply::Kind::Ticked(Ticked { more })))
    }

    /// Ends the leases that are due. Returns whether some were left for another Tick.
    fn end_due_leases(&mut self, rows_left: &mut usize) -> Result<bool, StateError> {
        let due = deadline::due(&self.rows, self.now_ms, *rows_left)?;
        let mut more = due.len() == *rows_left;
        let mut last = None;
        for (at_ms, group, id) in due {
            let lease = lease::lease(&self.rows, group, id)?;
            // An ended lease has nothing open; one with another deadline was extended, and has another row.
            let ends = lease.filter(|lease| lease.deadline_ms == at_ms);
            let rows = 1 + ends.as_ref().map_or(0, lease::Lease::open);
            if rows > *rows_left {
                more = true;
                break;
            }
            *rows_left -= rows;
            let key = key::deadline(at_ms, group, id);
            self.rows.delete(key::DEADLINE, &key);
            match ends {
                Some(lease) if lease.ended => self.rows.delete(key::LEASE, &key::lease(group, id)),
                Some(lease) => {
                    self.give_back(group, id, lease, &What::RanOut)?;
                }
                None => {}
            }
            last = Some(key);
        }
        // Deadlines lie in the future when they are made, so none is added below the present any more.
        let low = match last {
            Some(last) if more => [&last[..], &[0]].concat(),
            None if more => return Ok(true),
            _ => self.now_ms.saturating_add(1).to_be_bytes().to_vec(),
        };
        self.rows.put(key::MACHINE, &key::machine(b'd'), low);
        Ok(more)
    }

    fn work(&mut self, work: &Work, note: &[u8], rows_max: usize) -> Result<Piece, StateError> {
        match work {
            Work::DropTopic(topic) => self.drop_topic_rows(*topic, note, rows_max),
            Work::DropGroup(group) => self.drop_group_rows(*group, note, rows_max),
            Work::EndLeases(client_id) => self.end_leases(client_id, note, rows_max),
            Work::DropTimers(topic) => self.drop_timers(*topic, note, rows_max),
            Work::DropMessageGroups(prefix) => self.drop_message_groups(prefix, note, rows_max),
            Work::DropLiteTopics(topic) => self.drop_lite_topics(*topic, note, rows_max),
            Work::DropTraces(topic) => self.drop_topic_traces(*topic, note, rows_max),
        }
    }
}
