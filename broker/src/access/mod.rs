//! Who may do what: users and access rules are replicated rows, the checks stand at this node's doors.
//!
//! ```text
//! headers ─► signature ─► user ─► may administer? ─► all is allowed
//!                                 └─► access rules ─► this resource, this action, from this address?
//! ```
//!
//! Everything is off until `authenticationEnabled` is set, and then nothing is answered to somebody whom the rows do not
//! know. The rows are kept decoded in memory: every change of them raises a counter before it is answered, and whoever
//! checks next reads what changed.

pub(crate) mod bootstrap;
mod config;
pub mod rule;

pub use config::AccessConfig;

use crate::rate::Limit;
use crate::store::{StateError, access};
use parking_lot::Mutex;
use raft_store::State;
use raftmq_proto::command::{Acl, AclAction, User};
use raftmq_proto::signature::{NoProof, Shown};
use raftmq_server::listener::Peer;
use rule::{Kind, Rule};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::metadata::MetadataMap;

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    /// Nothing that proves who calls.
    #[error(transparent)]
    NoProof(#[from] NoProof),
    /// One text for all three, which tells nobody what names there are.
    #[error("user {0} does not exist, is disabled, or has another secret key")]
    NotProven(String),
    /// No rule allows it.
    #[error("user {user} at {source_ip} has no permission to {action} {resource}")]
    NotAllowed { user: String, source_ip: String, action: &'static str, resource: String },
    /// For administrators only.
    #[error("user {0} may not administer: only a user of type Super may")]
    NoAdministrator(String),
    /// The rows cannot be read: nobody is let in.
    #[error("the access rules cannot be read: {0}")]
    Rows(#[from] StateError),
}

/// One thing that a call wants to do. It is allowed when any of the actions is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub actions: &'static [AclAction],
    pub kind: Kind,
    pub name: String,
}

/// Who calls, proven.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub user: String,
    /// Of the user's row; it changes with the secret.
    version: u64,
    source: Option<IpAddr>,
}

/// What was allowed to whom, for calls that last.
#[derive(Debug)]
pub(crate) struct Permit {
    pub identity: Identity,
    needs: Vec<Need>,
    as_of: u64,
}

/// A user, decoded.
struct Known {
    user: User,
    rules: Vec<Rule>,
}

/// The rows, decoded.
#[derive(Default, Clone)]
struct Rows {
    as_of: u64,
    users: HashMap<String, Arc<Known>>,
    /// There is a user that may not send as fast as it likes.
    limits: bool,
}

/// Users that are read one by one; where more changed, all are read.
const CHANGED_MAX: usize = 1_000;

/// What changed since the rows were read.
enum Changed {
    /// Perhaps everything.
    All,
    /// These users.
    Users(Vec<String>),
}

/// The checks of this node.
pub(crate) struct Access {
    config: AccessConfig,
    /// How many changes there were; 0 before the rows were ever read.
    changes: AtomicU64,
    changed: Mutex<Changed>,
    rows: Mutex<Arc<Rows>>,
}

impl Access {
    pub(crate) fn new(config: AccessConfig) -> Access {
        Access { config, changes: AtomicU64::new(1), changed: Mutex::new(Changed::All), rows: Mutex::default() }
    }

    /// Whether anything is checked at all.
    pub(crate) fn is_on(&self) -> bool {
        self.config.authentication
    }

    pub(crate) fn config(&self) -> &AccessConfig {
        &self.config
    }

    /// A user or its rules changed, and readers can see it.
    pub(crate) fn changed(&self, user: &str) {
        let mut changed = self.changed.lock();
        match &mut *changed {
            // Nobody looks while nothing is checked: the names must not pile up.
            Changed::Users(users) if users.len() >= CHANGED_MAX => *changed = Changed::All,
            Changed::Users(users) => users.push(user.to_owned()),
            Changed::All => {}
        }
        drop(changed);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// All rows were replaced.
    pub(crate) fn replaced(&self) {
        *self.changed.lock() = Changed::All;
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Who signed a call.
    pub(crate) fn identify(
        &self,
        metadata: &MetadataMap,
        peer: Option<&Peer>,
        state: impl FnOnce() -> State,
    ) -> Result<Identity, Denied> {
        let shown = Shown::of(metadata)?;
        let rows = self.rows(state)?;
        let user = rows.users.get(shown.access_key).map(|known| &known.user);
        let user = user.filter(|user| !user.disabled && shown.is_proven(&user.secret));
        let user = user.ok_or_else(|| Denied::NotProven(shown.access_key.to_owned()))?;
        let source = peer.map(|peer| self.source(peer));
        Ok(Identity { user: user.name.clone(), version: user.version, source })
    }

    /// Who signed a call, when it is a user that may administer.
    pub(crate) fn administrator(
        &self,
        metadata: &MetadataMap,
        peer: Option<&Peer>,
        state: impl Fn() -> State,
    ) -> Result<Identity, Denied> {
        let identity = self.identify(metadata, peer, &state)?;
        match self.rows(state)?.users.get(&identity.user) {
            Some(known) if known.user.admin => Ok(identity),
            _ => Err(Denied::NoAdministrator(identity.user)),
        }
    }

    /// Whether any user may not send as fast as it likes.
    pub(crate) fn limits_users(&self, state: impl FnOnce() -> State) -> bool {
        self.is_on() && self.rows(state).is_ok_and(|rows| rows.limits)
    }

    /// How fast a user may send.
    pub(crate) fn limit_of(&self, user: &str, state: impl FnOnce() -> State) -> Limit {
        let rows = self.rows(state).ok();
        rows.and_then(|rows| rows.users.get(user).map(|known| known.limit())).unwrap_or_default()
    }

    /// Whether somebody may do all of this.
    pub(crate) fn permit(
        &self,
        identity: Identity,
        needs: Vec<Need>,
        state: impl FnOnce() -> State,
    ) -> Result<Permit, Denied> {
        let rows = self.rows(state)?;
        self.allowed(&rows, &identity, &needs)?;
        Ok(Permit { identity, needs, as_of: rows.as_of })
    }

    /// Whether what was allowed still is.
    pub(crate) fn holds(&self, permit: &Permit, state: impl FnOnce() -> State) -> Result<(), Denied> {
        if self.changes.load(Ordering::Acquire) == permit.as_of {
            return Ok(());
        }
        self.allowed(&*self.rows(state)?, &permit.identity, &permit.needs)
    }

    fn allowed(&self, rows: &Rows, identity: &Identity, needs: &[Need]) -> Result<(), Denied> {
        let known = rows.users.get(&identity.user);
        let known = known.filter(|known| !known.user.disabled && known.user.version == identity.version);
        let Known { user, rules } = &**known.ok_or_else(|| Denied::NotProven(identity.user.clone()))?;
        if user.admin || !self.config.authorization {
            return Ok(());
        }
        for need in needs {
            let may = |action: &AclAction| match identity.source {
                Some(source) => rule::allows(rules, need.kind, &need.name, *action, source),
                None => false,
            };
            if !need.actions.iter().any(may) {
                return Err(Denied::NotAllowed {
                    user: user.name.clone(),
                    source_ip: identity.source.map(|source| source.to_string()).unwrap_or_default(),
                    action: need.action_words(),
                    resource: need.resource(),
                });
            }
        }
        Ok(())
    }

    /// The address that rules go by. A PROXY header may name any, so it counts only from a load balancer that is
    /// trusted.
    fn source(&self, peer: &Peer) -> IpAddr {
        let socket = peer.socket.ip();
        let trusted = self.config.trusted_proxies.iter().any(|network| network.contains(socket));
        if trusted { peer.address.ip().to_canonical() } else { socket.to_canonical() }
    }

    /// The rows as of the last change at least.
    fn rows(&self, state: impl FnOnce() -> State) -> Result<Arc<Rows>, StateError> {
        // Before the rows are read: what changes meanwhile is read again by the next.
        let as_of = self.changes.load(Ordering::Acquire);
        let mut rows = self.rows.lock();
        if rows.as_of < as_of {
            let changed = std::mem::replace(&mut *self.changed.lock(), Changed::Users(Vec::new()));
            match rows.reread(&state(), as_of, &changed) {
                Ok(read) => *rows = Arc::new(read),
                Err(error) => {
                    *self.changed.lock() = Changed::All;
                    return Err(error);
                }
            }
        }
        Ok(rows.clone())
    }
}

impl Rows {
    fn reread(&self, state: &State, as_of: u64, changed: &Changed) -> Result<Rows, StateError> {
        let Changed::Users(names) = changed else { return Rows::read(state, as_of) };
        let mut rows = Rows { as_of, users: self.users.clone(), limits: false };
        for name in names {
            match access::user(state, name)? {
                Some(user) => {
                    let acl = access::acl(state, &format!("{}{name}", access::USER_SUBJECT))?;
                    rows.users.insert(name.clone(), Arc::new(Known::read(user, acl)?));
                }
                None => drop(rows.users.remove(name)),
            }
        }
        rows.limits = rows.users.values().any(|known| known.limit().is_set());
        Ok(rows)
    }

    fn read(state: &State, as_of: u64) -> Result<Rows, StateError> {
        let mut acls: HashMap<String, Acl> =
            access::acls(state)?.into_iter().map(|acl| (acl.subject.clone(), acl)).collect();
        let mut users: HashMap<String, Arc<Known>> = HashMap::new();
        for user in access::users(state)? {
            let acl = acls.remove(&format!("{}{}", access::USER_SUBJECT, user.name));
            users.insert(user.name.clone(), Arc::new(Known::read(user, acl)?));
        }
        let limits = users.values().any(|known| known.limit().is_set());
        Ok(Rows { as_of, users, limits })
    }
}

impl Known {
    fn read(user: User, acl: Option<Acl>) -> Result<Known, StateError> {
        let rules = acl.map(|acl| acl.rules.iter().map(Rule::read).collect::<Result<_, _>>()).transpose();
        let rules = rules.map_err(|what| StateError::Corrupt { table: "access", what })?.unwrap_or_default();
        Ok(Known { user, rules })
    }

    fn limit(&self) -> Limit {
        Limit { messages: self.user.rate_messages, bytes: self.user.rate_bytes }
    }
}

impl Need {
    fn action_words(&self) -> &'static str {
        match self.actions {
            [AclAction::Pub] => "publish to",
            [AclAction::Sub] => "subscribe to",
            _ => "publish or subscribe to",
        }
    }

    fn resource(&self) -> String {
        match self.kind {
            Kind::Group => format!("consumer group {}", self.name),
            _ => format!("topic {}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{TABLES, key};
    use prost::Message as _;
    use raftmq_proto::command::AclRule;
    use raftmq_proto::signature::Credentials;
    use std::net::SocketAddr;

    fn access(authorization: bool) -> Access {
        let trusted_proxies = vec![rule::Network::parse("10.0.0.1").expect("an address")];
        Access::new(AccessConfig { authentication: true, authorization, trusted_proxies, ..AccessConfig::default() })
    }

    fn state() -> State {
        State::ordered(TABLES)
    }

    fn put_user(state: &State, name: &str, secret: &str, change: impl FnOnce(&mut User)) {
        let mut user = User { name: name.to_owned(), secret: secret.to_owned(), version: 1, ..User::default() };
        change(&mut user);
        let mut batch = state.batch();
        batch.put(key::ACCESS, key::user(name), user.encode_to_vec());
        batch.write().expect("memory takes it");
    }

    fn allow(state: &State, user: &str, resource: &str, action: AclAction, source: &str) {
        let rule = AclRule {
            resource: resource.to_owned(),
            actions: vec![action.into()],
            sources: vec![source.to_owned()],
            ..AclRule::default()
        };
        let acl = Acl { subject: format!("User:{user}"), rules: vec![rule], ..Acl::default() };
        let mut batch = state.batch();
        batch.put(key::ACCESS, key::acl(&acl.subject), acl.encode_to_vec());
        batch.write().expect("memory takes it");
    }

    fn signed(name: &str, secret: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        let credentials = Credentials { access_key: name.to_owned(), secret_key: secret.to_owned() };
        credentials.sign(&mut metadata, 1_700_000_000_000).expect("a plain name");
        metadata
    }

    fn peer(address: &str, socket: &str) -> Peer {
        let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 5);
        Peer { address: at(address), dialled: at(socket), socket: at(socket), tls: false }
    }

    fn need(kind: Kind, name: &str) -> Need {
        Need { actions: &[AclAction::Sub], kind, name: name.to_owned() }
    }

    #[test]
    fn who_calls() {
        let (access, state) = (access(true), state());
        put_user(&state, "alice", "secret", |_| {});
        put_user(&state, "off", "secret", |user| user.disabled = true);
        put_user(&state, "root", "secret", |user| user.admin = true);
        let identify = |metadata: &MetadataMap| {
            access.identify(metadata, None, || state.clone()).map(|identity| identity.user).map_err(|e| e.to_string())
        };
        assert_eq!(identify(&signed("alice", "secret")).as_deref(), Ok("alice"));
        for metadata in [signed("alice", "Secret"), signed("off", "secret"), signed("nobody", "secret")] {
            assert!(identify(&metadata).expect_err("refused").contains("another secret key"));
        }
        assert!(identify(&MetadataMap::new()).expect_err("refused").contains("not signed"));
        let administrator = |name| access.administrator(&signed(name, "secret"), None, || state.clone());
        assert!(administrator("root").is_ok());
        assert!(matches!(administrator("alice"), Err(Denied::NoAdministrator(_))));
    }

    #[test]
    fn what_is_allowed_follows_the_rows_and_the_address() {
        let (access, state) = (access(true), state());
        put_user(&state, "alice", "secret", |_| {});
        allow(&state, "alice", "Topic:a", AclAction::Sub, "192.0.2.0/24");
        let permit = |peer: &Peer, need: Need| {
            let identity = access.identify(&signed("alice", "secret"), Some(peer), || state.clone()).expect("known");
            access.permit(identity, vec![need], || state.clone())
        };
        let there = peer("192.0.2.9", "192.0.2.9");
        let held = permit(&there, need(Kind::Topic, "a")).expect("allowed");
        assert!(permit(&there, need(Kind::Topic, "b")).is_err() && permit(&there, need(Kind::Group, "a")).is_err());
        // A forged header changes nothing, a load balancer's does.
        assert!(permit(&peer("192.0.2.9", "198.51.100.1"), need(Kind::Topic, "a")).is_err());
        assert!(permit(&peer("192.0.2.9", "10.0.0.1"), need(Kind::Topic, "a")).is_ok());

        // Rows are read again when they are said to have changed.
        allow(&state, "alice", "Topic:b", AclAction::Sub, "192.0.2.0/24");
        assert!(access.holds(&held, || state.clone()).is_ok());
        access.changed("alice");
        assert!(matches!(access.holds(&held, || state.clone()), Err(Denied::NotAllowed { .. })));
        let held = permit(&there, need(Kind::Topic, "b")).expect("allowed now");
        put_user(&state, "alice", "other", |user| user.version = 2);
        access.changed("alice");
        assert!(matches!(access.holds(&held, || state.clone()), Err(Denied::NotProven(_))));

        // Another user's change is not looked for, unless all was replaced.
        put_user(&state, "bob", "secret", |_| {});
        access.changed("alice");
        let bob = || access.identify(&signed("bob", "secret"), None, || state.clone());
        assert!(bob().is_err());
        access.replaced();
        assert!(bob().is_ok());
    }

    #[test]
    fn without_rules_everybody_who_is_known_may() {
        let (off, on, state) = (access(false), access(true), state());
        put_user(&state, "alice", "secret", |_| {});
        put_user(&state, "root", "secret", |user| user.admin = true);
        let permit = |access: &Access, user| {
            let identity = access.identify(&signed(user, "secret"), None, || state.clone()).expect("known");
            access.permit(identity, vec![need(Kind::Topic, "a")], || state.clone()).is_ok()
        };
        assert!(permit(&off, "alice") && permit(&on, "root") && !permit(&on, "alice"));
    }
}
