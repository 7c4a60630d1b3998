//! A batch counts once, and in its turn. Its replies are kept until its node has settled it, and a repeat is answered
//! with them. One that comes before its turn is passed over: an earlier one got lost on its way into the log, and its
//! node sends both again. So nothing that a client sends overtakes what it sent before.

use super::turn::Turn;
use super::{Answer, refused};
use crate::store::{key, node};
use prost::Message;
use raft_store::{ReadState, StateError};
use raftmq_proto::command::{Batch, Refusal, Replies};
use std::ops::ControlFlow;

/// Batches settled at once for which rows are deleted blindly; beyond it they are looked up.
const BLIND_MAX: u64 = 1_024;

impl Turn<'_, '_> {
    /// Carries out a batch; `None` when it is not its turn yet.
    pub(super) fn batch(&mut self, batch: Batch) -> Result<Option<Answer>, StateError> {
        self.next_slot = self.next_batch_slot;
        self.slots_end = self.next_slot.saturating_add(batch.slots);
        self.next_batch_slot = self.slots_end;

        self.demand(batch.version)?;
        let (node, boot, sequence) = (batch.node, batch.boot, batch.sequence);
        let answer = |replies, repeat| Ok(Some(Answer { node, boot, sequence, replies, repeat }));
        let known = node::node(&self.rows, node)?;
        let mut row = match known {
            Some(known) if boot < known.boot => {
                let stale = refused(Refusal::StaleBoot, "a later start of this node has sent commands");
                return answer(vec![stale; batch.commands.len()], false);
            }
            Some(known) if boot == known.boot => known,
            _ => node::Node { boot, settled: 0, last: 0 },
        };
        if sequence > row.last.saturating_add(1) {
            return Ok(None);
        }
        if let Some(known) = known.filter(|known| known.boot != boot) {
            self.drop_replies(node, known.settled.saturating_add(1), u64::MAX)?;
        }
        if sequence <= row.settled {
            return answer(Vec::new(), true);
        }
        let repeat = sequence <= row.last;
        let kept = if repeat { node::replies(&self.rows, node, sequence)? } else { None };
        // A batch that settles itself, or one after it, was never answered: it settles what is before it.
        let settled = batch.settled.min(sequence - 1);
        let replies = match kept {
            Some(replies) => replies,
            None => {
                let (version, commands) = (batch.version, batch.commands.len());
                let replies = Replies { replies: self.commands(batch)? };
                self.count_trial(version, commands)?;
                self.rows.put(key::NODE, &key::replies(node, sequence), replies.encode_to_vec());
                replies.replies
            }
        };
        if settled > row.settled {
            self.settle(node, row.settled + 1, settled)?;
            row.settled = settled;
        }
        row.last = row.last.max(sequence);
        if known != Some(row) {
            self.rows.put(key::NODE, &key::node(node), row.encode());
        }
        answer(replies, repeat)
    }

    fn settle(&mut self, node: u64, first: u64, last: u64) -> Result<(), StateError> {
        if last - first >= BLIND_MAX {
            return self.drop_replies(node, first, last);
        }
        for sequence in first..=last {
            self.rows.delete(key::NODE, &key::replies(node, sequence));
        }
        Ok(())
    }

    fn drop_replies(&mut self, node: u64, first: u64, last: u64) -> Result<(), StateError> {
        let mut keys = Vec::new();
        let until = key::after(&key::replies(node, last));
        self.rows.scan(key::NODE, &key::replies(node, first), &until, &mut |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        keys.iter().for_each(|key| self.rows.delete(key::NODE, key));
        Ok(())
    }
}
