//! What a replicated state machine must be: a pure function of the log.

use crate::state::{State, StateBatch, StateError};
use crate::types::{LogIndex, Term};
use bytes::Bytes;
use std::ops::RangeInclusive;

/// A committed entry that carries a command.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its place in the log.
    pub index: LogIndex,
    /// Term of the leader that proposed it.
    pub term: Term,
    /// What was proposed.
    pub payload: Bytes,
}

/// Versions of commands: which ones a machine can apply, and how its rows say which one is active. Rows of a version
/// that it does not know never come into use, and a node that does not know the active one becomes no member.
#[derive(Debug, Clone)]
pub struct Versions {
    /// From the oldest to the newest that can be applied.
    pub known: RangeInclusive<u32>,
    /// Reads the active version; 0 where there never was any.
    pub active: fn(&State) -> Result<u32, StateError>,
}

impl Default for Versions {
    fn default() -> Self {
        Versions { known: 0..=0, active: |_| Ok(0) }
    }
}

impl Versions {
    /// Refuses rows that only other builds can go on from.
    pub(crate) fn check(&self, state: &State) -> Result<(), StateError> {
        let active = (self.active)(state)?;
        if self.known.contains(&active) {
            return Ok(());
        }
        Err(StateError::Version { active, known: self.known.clone() })
    }
}

/// A deterministic state machine over the tables of a [`crate::State`].
///
/// `apply` reads no clock, no randomness and no configuration of the node: every replica gets the same rows
/// from the same log. What it learns beside the rows (answers, wake-ups) it keeps until [`Machine::applied`],
/// when readers can see the rows.
pub trait Machine: Send + 'static {
    /// Tables that the machine keeps, in a fixed order; a [`crate::Table`] is an index into it.
    fn tables(&self) -> &'static [&'static str];

    /// Versions of commands that it knows; one for ever where nothing is said.
    fn versions(&self) -> Versions {
        Versions::default()
    }

    /// Carries out one command. Rows change through `state` alone.
    ///
    /// # Errors
    /// Only for rows that cannot be read or make no sense; the node stops, since it can no longer tell what
    /// its peers know. A command that is refused is an answer, not an error.
    fn apply(&mut self, entry: &Committed, state: &mut StateBatch<'_>) -> Result<(), crate::StateError>;

    /// Every command up to `index` has been applied and its rows are visible to readers.
    fn applied(&mut self, index: LogIndex);

    /// The rows were replaced as a whole by a snapshot that ends at `index`.
    fn restored(&mut self, index: LogIndex);
}
