//! Users and their access rules.

use super::codec::{Reader, put_varint};
use super::{StateError, key};
use prost::Message;
use raft_store::ReadState;
use raftmq_proto::command::{Acl, User};
use std::ops::ControlFlow;

const TABLE: &str = key::TABLES[key::ACCESS.0 as usize];

/// What the subject of access rules begins with: only users have any.
pub const USER_SUBJECT: &str = "User:";

/// How many users there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Users {
    /// All of them.
    pub all: u64,
    /// Those that may administer and are not disabled.
    pub admins: u64,
}

impl Users {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut row = Vec::new();
        put_varint(&mut row, self.all);
        put_varint(&mut row, self.admins);
        row
    }
}

/// How many users there are.
///
/// # Errors
/// When the row cannot be read.
pub fn user_count(state: &impl ReadState) -> Result<Users, StateError> {
    let Some(row) = state.get(key::ACCESS, key::USER_COUNT)? else { return Ok(Users::default()) };
    let mut reader = Reader::new(TABLE, &row);
    let users = Users { all: reader.varint()?, admins: reader.varint()? };
    reader.end()?;
    Ok(users)
}

/// The user of this name.
///
/// # Errors
/// When the row cannot be read.
pub fn user(state: &impl ReadState, name: &str) -> Result<Option<User>, StateError> {
    state.get(key::ACCESS, &key::user(name))?.map(|value| decode(&value)).transpose()
}

/// All users, by name.
///
/// # Errors
/// When a row cannot be read.
pub fn users(state: &impl ReadState) -> Result<Vec<User>, StateError> {
    all(state, key::USERS)
}

/// The access rules of a subject such as `User:alice`.
///
/// # Errors
/// When the row cannot be read.
pub fn acl(state: &impl ReadState, subject: &str) -> Result<Option<Acl>, StateError> {
    state.get(key::ACCESS, &key::acl(subject))?.map(|value| decode(&value)).transpose()
}

/// All access rules, by subject.
///
/// # Errors
/// When a row cannot be read.
pub fn acls(state: &impl ReadState) -> Result<Vec<Acl>, StateError> {
    all(state, key::ACLS)
}

fn all<T: Message + Default>(state: &impl ReadState, prefix: &[u8]) -> Result<Vec<T>, StateError> {
    let mut rows = Vec::new();
    state.scan(key::ACCESS, prefix, &key::after(prefix), &mut |_, value| {
        rows.push(decode(value));
        ControlFlow::Continue(())
    })?;
    rows.into_iter().collect()
}

fn decode<T: Message + Default>(value: &[u8]) -> Result<T, StateError> {
    T::decode(value).map_err(|error| StateError::Corrupt { table: TABLE, what: error.to_string() })
}
