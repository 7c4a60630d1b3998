//! The rules: what each command does to the rows, what it answers and what follows from it.
//!
//! [`Rules::apply`] is a pure function of the rows and the entry; what [`Rules`] holds is made of rows, for lookups. It reads no clock (time comes with the entry),
//! no randomness (it comes with the command) and no configuration of the node (settings are rows), and no hash
//! map is iterated into rows, replies or effects. A command that makes no sense is refused, never an error: an
//! error means that the rows cannot be trusted, and the node stops.
//!
//! One verb per file; `turn` holds what they share.

mod access;
mod ack;
mod append;
mod cleanup;
mod confirm;
mod consumer_group;
mod dead_letter;
mod effect;
mod fifo;
mod give_back;
mod half;
mod invisible;
mod keeper;
mod lease;
mod lite;
mod lite_lease;
mod lite_subscription;
mod names;
mod offset;
mod repeat;
mod reset;
mod retry;
mod rows;
mod session;
mod setting;
mod share;
mod tick;
mod timer;
mod topic;
mod trace;
mod trim;
mod turn;
mod version;
mod window;

#[cfg(test)]
mod tests;

pub use effect::Effect;
pub(crate) use lease::goes_by_priority;
pub(crate) use lite_subscription::NAMES_MAX as LITE_NAMES_MAX;
pub use session::EXPRESSION_BYTES_MAX;
pub use version::{KNOWN, TRIAL, TRIAL_COMMANDS, VERSION, VERSION_OLDEST};
pub(crate) use version::{OPEN_TOPICS, version_of};
pub use window::{MESSAGES_MAX, MESSAGES_MAX_DEFAULT, WINDOW_MS, WINDOW_MS_DEFAULT};

use crate::command::Payload;
use bytes::Bytes;
use raft_store::{LogIndex, StateBatch, StateError, Term};
use raftmq_proto::command::{Batch, Command, Entry, Refusal, Reply, command, reply};
use std::ops::RangeInclusive;
use turn::Turn;

/// Rows that one command may touch beyond those of its own messages: what is due is done in pieces of this size.
pub const TICK_ROWS_MAX: usize = 1_000;

/// Replies of one batch, for the node that sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Raft id of the node.
    pub node: u64,
    /// Boot of that node.
    pub boot: u64,
    /// The batch among those of the boot.
    pub sequence: u64,
    /// One per command, in order. Empty when the batch was settled before, so that nobody waits.
    pub replies: Vec<Reply>,
    /// The batch had been applied before: these are its first replies.
    pub repeat: bool,
}

/// What an entry led to beside its rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// One per batch whose turn it was, in order.
    pub answers: Vec<Answer>,
    /// What happens after the rows are visible, each once.
    pub effects: Vec<Effect>,
}

/// Where an entry stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryAt {
    /// Its index.
    pub index: LogIndex,
    /// The term of the leader that proposed it.
    pub term: Term,
}

/// The deterministic state machine of a broker group.
#[derive(Debug)]
pub struct Rules {
    window: window::Window,
    names: names::Names,
    /// Versions that this build can apply.
    known: RangeInclusive<u32>,
    /// The active one, once it was needed.
    version: Option<u32>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules::new(KNOWN)
    }
}

impl Rules {
    /// Rules of a build that knows these versions.
    #[must_use]
    pub fn new(known: RangeInclusive<u32>) -> Rules {
        Rules { window: window::Window::default(), names: names::Names::default(), known, version: None }
    }

    /// The version that is active behind the last entry; `None` before the first one.
    #[must_use]
    pub fn version(&self) -> Option<u32> {
        self.version
    }

    /// Carries out one entry as the log holds it.
    ///
    /// # Errors
    /// When rows cannot be read or make no sense, the entry is not legible to this build, or it activates or uses a
    /// version that this build does not know: the node must stop, and what it was given must not be written.
    pub fn apply_payload(
        &mut self,
        at: EntryAt,
        payload: Bytes,
        state: &mut StateBatch<'_>,
    ) -> Result<Outcome, StateError> {
        let entry = Payload::parse(payload).and_then(|payload| payload.entry());
        self.apply(at, entry.map_err(|error| StateError::Unreadable(error.to_string()))?, state)
    }

    /// Carries out the decoded head of an entry.
    ///
    /// # Errors
    /// As [`Rules::apply_payload`].
    pub fn apply(&mut self, at: EntryAt, entry: Entry, state: &mut StateBatch<'_>) -> Result<Outcome, StateError> {
        let active = match self.version {
            Some(active) => active,
            None => version::active(&*state, &self.known)?,
        };
        let mut turn =
            Turn::begin(at, entry.time_ms, (active, &self.known), state, (&mut self.window, &mut self.names))?;
        let mut answers = Vec::with_capacity(entry.batches.len());
        for batch in entry.batches {
            answers.extend(turn.batch(batch)?);
        }
        self.version = Some(turn.version);
        let effects = turn.end()?;
        Ok(Outcome { answers, effects })
    }
}

impl Turn<'_, '_> {
    /// Commands of a batch that is neither a repeat nor stale.
    fn commands(&mut self, batch: Batch) -> Result<Vec<Reply>, StateError> {
        batch.commands.into_iter().map(|command| self.command(command)).collect()
    }

    fn command(&mut self, command: Command) -> Result<Reply, StateError> {
        self.ordinal += 1;
        let Some(kind) = command.kind else {
            return Ok(refused(Refusal::InvalidArgument, "the command is empty"));
        };
        // Slots are counted whether or not their command is carried out.
        let slots = match slots_of(&kind) {
            0 => None,
            slots => self.take_slots(slots),
        };
        if command.deadline_ms != 0 && self.now_ms > command.deadline_ms {
            return Ok(refused(Refusal::DeadlinePassed, "the request's deadline passed before it was carried out"));
        }
        match kind {
            command::Kind::Append(append) => self.append(append, slots),
            command::Kind::Lease(lease) => self.lease(lease),
            command::Kind::Ack(ack) => self.ack(ack),
            command::Kind::ChangeInvisible(change) => self.change_invisible(change),
            command::Kind::PutTopic(put) => self.put_topic(put),
            command::Kind::DeleteTopic(delete) => self.delete_topic(&delete.name),
            command::Kind::PutConsumerGroup(put) => self.put_consumer_group(put),
            command::Kind::DeleteConsumerGroup(delete) => self.delete_consumer_group(&delete.name),
            command::Kind::PutSession(put) => self.put_session(put),
            command::Kind::EndSession(end) => self.end_session(end),
            command::Kind::Tick(_) => self.tick(),
            command::Kind::Activate(activate) => self.activate(activate.version),
            command::Kind::PutSetting(put) => self.put_setting(&put.key, &put.value),
            command::Kind::PutOffset(put) => self.put_offset(put),
            command::Kind::Reset(reset) => self.reset(reset),
            command::Kind::DeadLetter(dead) => self.forward_to_dead_letters(dead),
            command::Kind::PutUser(put) => self.put_user(put),
            command::Kind::DeleteUser(delete) => self.delete_user(&delete.name),
            command::Kind::PutAcl(put) => self.put_acl(put),
            command::Kind::DeleteAcl(delete) => self.delete_acl(&delete),
            command::Kind::ConfirmLeases(confirm) => self.confirm_leases(confirm),
            command::Kind::Recall(recall) => self.recall(recall),
            command::Kind::EndTransaction(end) => self.end_transaction(end),
            command::Kind::Checked(checked) => self.checked(checked),
            command::Kind::Trim(trim) => self.trim(trim),
            command::Kind::Expire(expire) => self.expire(&expire),
            command::Kind::Reappend(again) => self.reappend(again, slots),
            command::Kind::DropShare(drop) => self.drop_share(drop),
            command::Kind::FixOwners(fix) => self.fix_owners(fix),
            command::Kind::PutLiteSubscription(put) => self.put_lite_subscription(put),
            command::Kind::Refuse(refuse) => Ok(refused(refuse.refusal(), refuse.detail)),
        }
    }
}

/// Slots with bodies that a command takes.
pub(crate) fn slots_of(kind: &command::Kind) -> usize {
    match kind {
        command::Kind::Append(append) => append.messages.len(),
        command::Kind::Reappend(again) => {
            again.moved.iter().fold(0, |slots, moved| slots.saturating_add(moved.count as usize))
        }
        _ => 0,
    }
}

fn refused(refusal: Refusal, detail: impl Into<String>) -> Reply {
    Reply { refusal: refusal.into(), detail: detail.into(), kind: None }
}

fn done(kind: reply::Kind) -> Reply {
    Reply { refusal: Refusal::Unspecified.into(), detail: String::new(), kind: Some(kind) }
}
