//! Rows that concern the machine as a whole.

use super::codec::Reader;
use super::{ConsumerGroupId, LeaseId, StateError, key};
use raft_store::ReadState;

const TABLE: &str = key::TABLES[key::MACHINE.0 as usize];

/// How far the machine has come, and a digest of how it came there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Index of the last entry with commands that was applied.
    pub index: u64,
    /// Cluster time of that entry, ms since the Unix epoch.
    pub time_ms: u64,
    /// Chained over every row change since the first entry: two replicas that applied the same index and
    /// differ here have different rows.
    pub checksum: u64,
}

impl Applied {
    pub(crate) fn encode(self) -> [u8; 24] {
        let mut value = [0; 24];
        value[..8].copy_from_slice(&self.index.to_be_bytes());
        value[8..16].copy_from_slice(&self.time_ms.to_be_bytes());
        value[16..].copy_from_slice(&self.checksum.to_be_bytes());
        value
    }
}

/// How far the machine has come.
///
/// # Errors
/// When the row cannot be read.
pub fn applied(state: &impl ReadState) -> Result<Applied, StateError> {
    let Some(value) = state.get(key::MACHINE, &key::machine(b'a'))? else { return Ok(Applied::default()) };
    let mut reader = Reader::new(TABLE, &value);
    let applied = Applied { index: reader.u64()?, time_ms: reader.u64()?, checksum: reader.u64()? };
    reader.end()?;
    Ok(applied)
}

fn number(state: &impl ReadState, letter: u8) -> Result<u64, StateError> {
    let Some(value) = state.get(key::MACHINE, &key::machine(letter))? else { return Ok(0) };
    let mut reader = Reader::new(TABLE, &value);
    let number = reader.u64()?;
    reader.end()?;
    Ok(number)
}

/// The last id given to a topic or a consumer group.
pub(crate) fn last_id(state: &impl ReadState) -> Result<u64, StateError> {
    number(state, b'i')
}

/// The last id given to a lease.
pub(crate) fn last_lease(state: &impl ReadState) -> Result<LeaseId, StateError> {
    Ok(LeaseId(number(state, b'l')?))
}

/// The version whose behaviour is active; 0 before the first activation.
///
/// # Errors
/// When the row cannot be read.
pub fn version(state: &impl ReadState) -> Result<u32, StateError> {
    let version = number(state, b'v')?;
    u32::try_from(version).map_err(|_| StateError::Corrupt { table: TABLE, what: format!("version {version}") })
}

/// The value of a setting that the group replicates.
///
/// # Errors
/// When the row cannot be read.
pub fn setting(state: &impl ReadState, name: &str) -> Result<Option<Vec<u8>>, StateError> {
    state.get(key::MACHINE, &key::setting(name))
}

/// The value of a setting that is a number.
///
/// # Errors
/// When the row cannot be read.
pub fn number_setting(state: &impl ReadState, name: &str, default: u64) -> Result<u64, StateError> {
    let value = setting(state, name)?;
    // Whoever wrote something else meant something else: the default is never wrong.
    Ok(value.and_then(|value| String::from_utf8(value).ok()?.parse().ok()).unwrap_or(default))
}

/// The setting by which producers are led past the topics of the broker group: `false` while they are.
pub const WRITABLE: &str = "writable";

/// Whether producers are led to the topics of the broker group.
///
/// # Errors
/// When the row cannot be read.
pub fn is_writable(state: &impl ReadState) -> Result<bool, StateError> {
    Ok(setting(state, WRITABLE)?.as_deref() != Some(b"false"))
}

/// The secret that nonces of receipt handles are derived from; made by the first lease.
pub(crate) fn secret(state: &impl ReadState) -> Result<Option<[u8; 16]>, StateError> {
    let Some(value) = state.get(key::MACHINE, &key::machine(b'k'))? else { return Ok(None) };
    let mut reader = Reader::new(TABLE, &value);
    let mut secret = [0; 16];
    secret.copy_from_slice(reader.take(16)?);
    reader.end()?;
    Ok(Some(secret))
}

/// A secret of a random number and what else differs between broker groups.
pub(crate) fn new_secret(random: u64, index: u64, now_ms: u64) -> [u8; 16] {
    use md5::Digest;
    let numbers = [random, index, now_ms];
    numbers.iter().fold(md5::Md5::new(), |digest, number| digest.chain_update(number.to_be_bytes())).finalize().into()
}

/// The nonce of a lease: whoever does not hold the secret cannot guess it.
pub(crate) fn nonce(secret: &[u8; 16], group: ConsumerGroupId, lease: LeaseId) -> u64 {
    use md5::Digest;
    let digest =
        md5::Md5::new().chain_update(secret).chain_update(key::lease(group, lease)).chain_update(secret).finalize();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(bytes)
}
