//! Settings that apply depends on.

use super::turn::Turn;
use super::{Effect, refused};
use crate::store::key;
use raft_store::StateError;
use raftmq_proto::command::{Refusal, Reply};

/// Bytes of a setting's value.
const VALUE_BYTES_MAX: usize = 64 << 10;

impl Turn<'_, '_> {
    pub(super) fn put_setting(&mut self, name: &str, value: &[u8]) -> Result<Reply, StateError> {
        if name.is_empty() || name.len() > super::topic::NAME_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
            return Ok(refused(Refusal::InvalidArgument, "the setting has no name, or it or its value is too long"));
        }
        self.rows.put(key::MACHINE, &key::setting(name), value.to_vec());
        self.effects.add(Effect::SettingChanged { key: name.into() });
        Ok(Reply::default())
    }
}
