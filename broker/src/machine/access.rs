//! Users and their access rules: create, change, delete.

use super::turn::Turn;
use super::{Effect, refused};
use crate::access::rule::Rule;
use crate::store::access::{self, USER_SUBJECT, acl, user, user_count};
use crate::store::key;
use prost::Message;
use raft_store::StateError;
use raftmq_proto::command::{Acl, DeleteAcl, PutAcl, PutMode, PutUser, Refusal, Reply, User};

/// Users of a broker group.
pub(super) const USERS_MAX: u64 = 10_000;
/// Access rules of one user.
pub(super) const RULES_MAX: usize = 1_000;
/// Addresses and networks of one rule.
const SOURCES_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 127;
const SECRET_BYTES_MAX: usize = 255;

impl Turn<'_, '_> {
    pub(super) fn put_user(&mut self, put: PutUser) -> Result<Reply, StateError> {
        if let Some(fault) = name_fault(&put.name).or_else(|| put.secret.as_deref().and_then(secret_fault)) {
            return Ok(refused(Refusal::InvalidArgument, fault));
        }
        let Ok(mode) = PutMode::try_from(put.mode) else {
            return Ok(refused(Refusal::InvalidArgument, "the change of a user is of an unknown kind"));
        };
        let count = user_count(&self.rows)?;
        let known = user(&self.rows, &put.name)?;
        match (mode, &known) {
            (PutMode::Create, Some(_)) => {
                return Ok(refused(Refusal::AlreadyExists, format!("user {} exists already", put.name)));
            }
            (PutMode::Update, None) => return Ok(no_user(&put.name)),
            (PutMode::First, _) if count.admins > 0 => {
                return Ok(refused(Refusal::AlreadyExists, "there is a user that may administer"));
            }
            (_, None) if count.all >= USERS_MAX => {
                let detail = format!("there are {USERS_MAX} users, which is the limit");
                return Ok(refused(Refusal::InvalidArgument, detail));
            }
            _ => {}
        }
        let first = mode == PutMode::First;
        let before =
            known.unwrap_or_else(|| User { name: put.name.clone(), created_ms: self.now_ms, ..User::default() });
        let row = User {
            name: put.name,
            secret: put.secret.unwrap_or_else(|| before.secret.clone()),
            admin: first || put.admin.unwrap_or(before.admin),
            disabled: !first && put.disabled.unwrap_or(before.disabled),
            version: before.version + 1,
            created_ms: before.created_ms,
            updated_ms: self.now_ms,
            rate_messages: put.rate_messages.unwrap_or(before.rate_messages),
            rate_bytes: put.rate_bytes.unwrap_or(before.rate_bytes),
        };
        if row.secret.is_empty() {
            return Ok(refused(Refusal::InvalidArgument, "a user needs a password"));
        }
        let is_new = u64::from(before.version == 0);
        let admins = count.admins - administers(&before) + administers(&row);
        self.put_user_count(access::Users { all: count.all + is_new, admins });
        self.rows.put(key::ACCESS, &key::user(&row.name), row.encode_to_vec());
        self.access_changed(&row.name);
        Ok(Reply::default())
    }

    /// The user is gone with its rules: another of the same name has none of them.
    pub(super) fn delete_user(&mut self, name: &str) -> Result<Reply, StateError> {
        let Some(row) = user(&self.rows, name)? else { return Ok(no_user(name)) };
        let count = user_count(&self.rows)?;
        self.put_user_count(access::Users { all: count.all - 1, admins: count.admins - administers(&row) });
        self.rows.delete(key::ACCESS, &key::user(name));
        self.rows.delete(key::ACCESS, &key::acl(&format!("{USER_SUBJECT}{name}")));
        self.access_changed(name);
        Ok(Reply::default())
    }

    pub(super) fn put_acl(&mut self, put: PutAcl) -> Result<Reply, StateError> {
        let Some(name) = put.subject.strip_prefix(USER_SUBJECT) else {
            let detail = format!("the subject {:?} is not User: and a name", put.subject);
            return Ok(refused(Refusal::InvalidArgument, detail));
        };
        if user(&self.rows, name)?.is_none() {
            return Ok(no_user(name));
        }
        let known = acl(&self.rows, &put.subject)?;
        if known.is_none() && put.mode() == PutMode::Update {
            return Ok(no_acl(&put.subject));
        }
        if put.rules.is_empty() || put.rules.len() > RULES_MAX {
            let detail = format!("{} access rules are given, not 1 to {RULES_MAX}", put.rules.len());
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        let mut row = known.unwrap_or_else(|| Acl { subject: put.subject, created_ms: self.now_ms, ..Acl::default() });
        for rule in &put.rules {
            let rule = match Rule::read(rule) {
                _ if rule.sources.len() > SOURCES_MAX => {
                    let detail = format!("an access rule names at most {SOURCES_MAX} addresses");
                    return Ok(refused(Refusal::InvalidArgument, detail));
                }
                Ok(rule) => rule.row(),
                Err(fault) => return Ok(refused(Refusal::InvalidArgument, fault)),
            };
            let place = |known: &raftmq_proto::command::AclRule| (known.default_policy, known.resource.clone());
            match row.rules.binary_search_by_key(&place(&rule), place) {
                Ok(at) => row.rules[at] = rule,
                Err(at) => row.rules.insert(at, rule),
            }
        }
        if row.rules.len() > RULES_MAX {
            let detail = format!("{} would have more than {RULES_MAX} access rules", row.subject);
            return Ok(refused(Refusal::InvalidArgument, detail));
        }
        self.store_acl(row);
        Ok(Reply::default())
    }

    pub(super) fn delete_acl(&mut self, delete: &DeleteAcl) -> Result<Reply, StateError> {
        let Some(mut row) = acl(&self.rows, &delete.subject)? else { return Ok(no_acl(&delete.subject)) };
        let resource = match delete.resource.as_str() {
            "" => None,
            text => match crate::access::rule::Pattern::parse(text) {
                Ok(pattern) => Some(pattern.to_string()),
                Err(fault) => return Ok(refused(Refusal::InvalidArgument, fault)),
            },
        };
        let before = row.rules.len();
        row.rules.retain(|rule| {
            resource.as_ref().is_some_and(|resource| rule.resource != *resource)
                || delete.default_policy.is_some_and(|default_policy| rule.default_policy != default_policy)
        });
        if row.rules.len() == before {
            return Ok(no_acl(&format!("{} {}", delete.subject, delete.resource)));
        }
        self.store_acl(row);
        Ok(Reply::default())
    }

    fn store_acl(&mut self, row: Acl) {
        let key = key::acl(&row.subject);
        self.access_changed(row.subject.strip_prefix(USER_SUBJECT).unwrap_or(&row.subject));
        if row.rules.is_empty() {
            self.rows.delete(key::ACCESS, &key);
        } else {
            let row = Acl { version: row.version + 1, updated_ms: self.now_ms, ..row };
            self.rows.put(key::ACCESS, &key, row.encode_to_vec());
        }
    }

    fn put_user_count(&mut self, count: access::Users) {
        self.rows.put(key::ACCESS, key::USER_COUNT, count.encode());
    }

    fn access_changed(&mut self, user: &str) {
        self.effects.add(Effect::AccessChanged { user: user.into() });
    }
}

/// 1 for a user that may administer.
fn administers(user: &User) -> u64 {
    u64::from(user.version > 0 && user.admin && !user.disabled)
}

fn no_user(name: &str) -> Reply {
    refused(Refusal::UserNotFound, format!("user {name} does not exist"))
}

fn no_acl(subject: &str) -> Reply {
    refused(Refusal::AclNotFound, format!("there is no access rule of {}", subject.trim_end()))
}

/// The name stands in a header and in lists.
fn name_fault(name: &str) -> Option<String> {
    let bad = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ',' | '*');
    match name {
        "" => Some("a user needs a name".to_owned()),
        long if long.len() > NAME_BYTES_MAX => {
            Some(format!("the name of a user has at most {NAME_BYTES_MAX} characters"))
        }
        odd => odd.chars().find(|c| bad(*c)).map(|c| format!("the name of a user cannot contain {c:?}")),
    }
}

fn secret_fault(secret: &str) -> Option<String> {
    match secret {
        "" => Some("a user needs a password".to_owned()),
        long if long.len() > SECRET_BYTES_MAX => Some(format!("a password has at most {SECRET_BYTES_MAX} bytes")),
        _ => None,
    }
}
