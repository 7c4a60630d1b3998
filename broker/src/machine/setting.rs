//! Settings that apply depends on, and the version whose behaviour is active.

use super::turn::Turn;
use super::{Effect, refused};
use crate::store::{key, machine};
use raft_store::StateError;
use raftmq_proto::command::{Refusal, Reply};

/// The newest version that this build knows. New behaviour of apply comes with a higher one, and starts when
/// every member has reported that it knows it.
pub const VERSION: u32 = 1;

/// Bytes of a setting's value.
const VALUE_BYTES_MAX: usize = 64 << 10;

impl Turn<'_, '_> {
    /// Going back is not possible: a lower version changes nothing.
    pub(super) fn activate(&mut self, version: u32) -> Result<Reply, StateError> {
        if version > VERSION {
            // Members that know it go on differently from here.
            let what = format!("version {version} was activated, this build knows {VERSION}: it must be upgraded");
            return Err(StateError::Corrupt { table: key::TABLES[usize::from(key::MACHINE.0)], what });
        }
        if version > machine::version(&self.rows)? {
            self.rows.put(key::MACHINE, &key::machine(b'v'), u64::from(version).to_be_bytes().to_vec());
        }
        Ok(Reply::default())
    }

    pub(super) fn put_setting(&mut self, name: &str, value: &[u8]) -> Result<Reply, StateError> {
        if name.is_empty() || name.len() > super::topic::NAME_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Ok(refused(Refusal::InvalidArgument, "the setting has no name, or it or its value is too long"));
        }
        self.rows.put(key::MACHINE, &key::setting(name), value.to_vec());
        self.effects.add(Effect::SettingChanged { key: name.into() });
        Ok(Reply::default())
    }
}
