//! Versions of what is replicated: the commands, their stored form, and what apply makes of them.
//!
//! While a broker group is upgraded node by node its members run different builds, and all of them must make the same
//! rows of the same log. So whatever is new waits until each member has said that it knows it. Then the leader proposes
//! [`Activate`](raftmq_proto::command::Activate) (`task/activate.rs`), and from that entry on the new version holds, on
//! every member and at every replay. It never goes back. A member that meets a version which it does not know stops
//! before it writes anything.
//!
//! | version | since then |
//! | --- | --- |
//! | 0 | all that there was before the first activation |
//! | 1 | lite topics; a consumer group that is made to forget a topic |
//! | 2 | a topic or consumer group is not changed by a row that was made of an older one |
//! | 2 | topics whose owners of message groups are agreed on after they were made |
//! | 3 | what was done to a message is kept as long as it is (`trace.rs`) |
//! | 4 | the end of a transaction is answered with whether it was the first one |
//! | 4 | a piece of a trim keeps what was done to neighbours of which some stay until the next one |
//! | 5 | messages of one id with several contents are each stored once (`window.rs`) |
//! | 5 | while retries and fresh messages wait, the fifth of five receives of one message begins with fresh ones |
//!
//! To add the next one:
//!
//! 1. Raise [`VERSION`] and give it a row in this table.
//! 2. What is proposed: a command that uses a new field or kind of `command.proto` (which only grows) needs the version,
//!    as [`version_of`] says; nobody gets it into a batch before. Batches that were encoded before an activation are carried
//!    out after it too.
//! 3. What apply does: whatever is new goes behind `self.version` of [`Turn`], which is the version that is active at
//!    the command under way. Nothing else may decide it.
//! 4. A test as `tests/tests/upgrade.rs`, which does all this with [`TRIAL`].
//! 5. A pin of what it makes of the commands in `machine/tests/checksum.rs`, which holds that of each version.
//!
//! [`VERSION_OLDEST`] is raised, and old behaviour deleted, once no log can hold it any more.

use super::turn::Turn;
use crate::store::lite::{LITE, has_lite_topics};
use crate::store::{key, machine};
use raft_store::{ReadState, StateError};
use raftmq_proto::command::Reply;
use raftmq_proto::command::command::Kind;
use std::ops::RangeInclusive;

/// The newest version that this build knows.
pub const VERSION: u32 = 5;

/// Since this version topics are open when they are made (`namesrv/owners.rs`).
pub const OPEN_TOPICS: u32 = 2;

/// The oldest version that this build can still apply.
pub const VERSION_OLDEST: u32 = 0;

/// Since then a put names the row that it was made of.
const PUTS_BY_VERSION: u32 = 2;

/// Since then what was done to messages has rows.
pub(super) const TRACES: u32 = 3;

/// Since then it is told which word on a transaction was the first.
pub(super) const FIRST_WORDS: u32 = 4;

/// Since then a row is kept while it tells of messages that the next piece of a trim removes.
pub(super) const NEIGHBOURS_STAY: u32 = 4;

/// Since then the window remembers of one id what came with other contents before.
pub(super) const EVERY_CONTENT: u32 = 5;

/// Since then it is counted how many receives of one message got a retry one after the other.
pub(super) const COUNTED_RETRIES: u32 = 5;

/// What releases know.
pub const KNOWN: RangeInclusive<u32> = VERSION_OLDEST..=VERSION;

/// The version after the newest one, which no release knows. Tests roll a group over to it, to see that an upgrade
/// goes well before there is one: batches say that they were encoded by it, and apply counts their commands.
pub const TRIAL: u32 = VERSION + 1;

/// Setting: commands of batches that were encoded by [`TRIAL`].
pub const TRIAL_COMMANDS: &str = "trial.commands";

/// The version without which a command means nothing to some builds. It is not proposed before that is active.
pub(crate) fn version_of(kind: &Kind) -> u32 {
    match kind {
        Kind::FixOwners(_) => OPEN_TOPICS,
        Kind::PutTopic(put) if put.topic.as_ref().is_some_and(|topic| topic.fifo_open) => OPEN_TOPICS,
        Kind::PutLiteSubscription(_) | Kind::DropShare(_) => 1,
        Kind::Append(append) if append.messages.iter().any(|message| message.message_type == LITE) => 1,
        Kind::PutTopic(put) if put.topic.as_ref().is_some_and(has_lite_topics) => 1,
        _ => 0,
    }
}

/// The active version of these rows.
pub(super) fn active(rows: &impl ReadState, known: &RangeInclusive<u32>) -> Result<u32, StateError> {
    let active = machine::version(rows)?;
    if known.contains(&active) { Ok(active) } else { Err(StateError::Version { active, known: known.clone() }) }
}

impl Turn<'_, '_> {
    /// Going back is not possible: a lower version changes nothing.
    pub(super) fn activate(&mut self, version: u32) -> Result<Reply, StateError> {
        self.demand(version)?;
        if version > self.version {
            self.rows.put(key::MACHINE, &key::machine(b'v'), u64::from(version).to_be_bytes().to_vec());
            self.version = version;
        }
        Ok(Reply::default())
    }

    /// Whether a row that is to be put was made of another one than is there: each by id and version. Of two changes that
    /// were made of one row, the second would take the first one back. A row of version 0 was made of none, and is
    /// put whatever is there.
    pub(super) fn is_outdated(&self, known: Option<(u64, u64)>, made_of: (u64, u64)) -> bool {
        self.version >= PUTS_BY_VERSION && made_of.1 != 0 && known != Some(made_of)
    }

    /// Members that know this version go on differently from here: a build that does not must not go on.
    pub(super) fn demand(&self, version: u32) -> Result<(), StateError> {
        if version > *self.known.end() {
            return Err(StateError::Version { active: version, known: self.known.clone() });
        }
        Ok(())
    }

    /// What is new in [`TRIAL`].
    pub(super) fn count_trial(&mut self, encoded_by: u32, commands: usize) -> Result<(), StateError> {
        if self.version >= TRIAL && encoded_by >= TRIAL {
            let count = machine::number_setting(&self.rows, TRIAL_COMMANDS, 0)?.saturating_add(commands as u64);
            self.rows.put(key::MACHINE, &key::setting(TRIAL_COMMANDS), count.to_string().into_bytes());
        }
        Ok(())
    }
}
