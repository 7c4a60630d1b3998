//! Who is at the other end: sessions, what a form must carry, and what each may do.
//!
//! A browser has a random id in a cookie that scripts and other sites cannot read or send. Every form carries a token
//! made from that id with a key of this process; a form without it does nothing. Who signs in gets a new id.

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use raftmq_proto::signature::Credentials;
use sha1::Sha1;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The cookie with a browser's id.
pub(crate) const COOKIE: &str = "raftmq_session";
/// A session ends after this long without a request.
const IDLE_MAX: Duration = Duration::from_secs(8 * 3_600);
/// Sessions that are kept; the one that was silent for longest makes way.
const SESSIONS_MAX: usize = 1_000;
/// Sentences that wait to be shown to a browser.
const NOTES_MAX: usize = 8;
/// After a wrong password, the next attempt of anybody waits this long.
pub(crate) const WRONG_PAUSE: Duration = Duration::from_millis(500);

/// What a visitor may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// Has not signed in. Calls are not signed, so a cluster with access control refuses them.
    Nobody,
    /// Looks, and changes nothing; calls are signed with the dashboard's own keys.
    Viewer,
    /// Does what the user of these keys may do.
    User,
}

/// What is known of a browser.
#[derive(Clone)]
pub(crate) struct Session {
    pub role: Role,
    /// Signs this session's calls.
    pub credentials: Option<Credentials>,
    /// The name that was signed in with.
    pub user: String,
}

impl Session {
    fn nobody() -> Session {
        Session { role: Role::Nobody, credentials: None, user: String::new() }
    }
}

/// What came of a form, shown on the page that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    pub good: bool,
    pub text: String,
}

struct Kept {
    session: Session,
    notes: Vec<Note>,
    seen: Instant,
}

/// The sessions of this process; gone when it ends.
pub(crate) struct Sessions {
    key: [u8; 32],
    kept: Mutex<HashMap<String, Kept>>,
}

impl Sessions {
    pub(crate) fn new() -> Sessions {
        Sessions { key: rand::random(), kept: Mutex::default() }
    }

    /// An id that nobody guesses.
    pub(crate) fn fresh_id() -> String {
        format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
    }

    /// Whether a cookie's value can be an id of ours.
    pub(crate) fn is_id(text: &str) -> bool {
        text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// What forms of this browser carry.
    pub(crate) fn form_token(&self, id: &str) -> String {
        let bytes = self.mac(id).finalize().into_bytes();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether a form came from one of our pages in this browser.
    pub(crate) fn is_form_token(&self, id: &str, token: &str) -> bool {
        let bytes: Option<Vec<u8>> =
            (0..token.len()).step_by(2).map(|at| u8::from_str_radix(token.get(at..at + 2)?, 16).ok()).collect();
        bytes.is_some_and(|bytes| self.mac(id).verify_slice(&bytes).is_ok())
    }

    fn mac(&self, id: &str) -> Hmac<Sha1> {
        let mut mac = Hmac::<Sha1>::new_from_slice(&self.key).expect("HMAC takes keys of any length");
        mac.update(id.as_bytes());
        mac
    }

    /// The session of an id; nobody's where there is none or it has ended.
    pub(crate) fn get(&self, id: &str) -> Session {
        let mut kept = self.kept.lock();
        match kept.get_mut(id) {
            Some(found) if found.seen.elapsed() < IDLE_MAX => {
                found.seen = Instant::now();
                found.session.clone()
            }
            Some(_) => {
                kept.remove(id);
                Session::nobody()
            }
            None => Session::nobody(),
        }
    }

    /// Takes a session in under a fresh id, which is returned.
    pub(crate) fn sign_in(&self, session: Session) -> String {
        let id = Sessions::fresh_id();
        self.keep(&id, session);
        id
    }

    pub(crate) fn sign_out(&self, id: &str) {
        self.kept.lock().remove(id);
    }

    /// Shows a sentence on this browser's next page.
    pub(crate) fn note(&self, id: &str, note: Note) {
        if !self.kept.lock().contains_key(id) {
            self.keep(id, Session::nobody());
        }
        if let Some(found) = self.kept.lock().get_mut(id)
            && found.notes.len() < NOTES_MAX
        {
            found.notes.push(note);
        }
    }

    pub(crate) fn take_notes(&self, id: &str) -> Vec<Note> {
        self.kept.lock().get_mut(id).map(|found| std::mem::take(&mut found.notes)).unwrap_or_default()
    }

    /// Keys of whoever signed in and was here last: for charts, where the dashboard has no keys of its own.
    pub(crate) fn latest_credentials(&self) -> Option<Credentials> {
        let kept = self.kept.lock();
        let signed_in = kept.values().filter(|known| known.session.credentials.is_some());
        let latest = signed_in.filter(|known| known.seen.elapsed() < IDLE_MAX).max_by_key(|known| known.seen);
        latest.and_then(|known| known.session.credentials.clone())
    }

    fn keep(&self, id: &str, session: Session) {
        let mut kept = self.kept.lock();
        if kept.len() >= SESSIONS_MAX {
            kept.retain(|_, known| known.seen.elapsed() < IDLE_MAX);
        }
        if kept.len() >= SESSIONS_MAX {
            // Those who signed in stay longest: a stranger's notes must not push them out.
            let oldest = kept.iter().min_by_key(|(_, known)| (known.session.role != Role::Nobody, known.seen));
            if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                kept.remove(&oldest);
            }
        }
        kept.insert(id.to_owned(), Kept { session, notes: Vec::new(), seen: Instant::now() });
    }
}

/// Compares two passwords without telling by its time how far they agree.
pub(crate) fn same(key: &Sessions, left: &str, right: &str) -> bool {
    key.is_form_token(left, &key.form_token(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_token_is_of_one_browser_and_one_process() {
        let (sessions, others) = (Sessions::new(), Sessions::new());
        let (one, other) = (Sessions::fresh_id(), Sessions::fresh_id());
        assert!(Sessions::is_id(&one) && one != other);
        let token = sessions.form_token(&one);
        assert!(sessions.is_form_token(&one, &token));
        for wrong in
            [sessions.form_token(&other), others.form_token(&one), String::new(), "é".into(), token[2..].into()]
        {
            assert!(!sessions.is_form_token(&one, &wrong), "{wrong}");
        }
        assert!(same(&sessions, "p", "p") && !same(&sessions, "p", "q"));
    }

    #[test]
    fn strangers_do_not_push_out_who_signed_in() {
        let sessions = Sessions::new();
        let user = Session { role: Role::User, credentials: None, user: "root".to_owned() };
        let id = sessions.sign_in(user);
        for _ in 0..SESSIONS_MAX + 10 {
            sessions.note(&Sessions::fresh_id(), Note { good: true, text: String::new() });
        }
        assert_eq!(sessions.kept.lock().len(), SESSIONS_MAX);
        assert_eq!(sessions.get(&id).role, Role::User);
        sessions.sign_out(&id);
        assert_eq!(sessions.get(&id).role, Role::Nobody);
    }

    #[test]
    fn a_note_is_shown_once() {
        let sessions = Sessions::new();
        let note = Note { good: false, text: "no".to_owned() };
        sessions.note("a", note.clone());
        assert_eq!(sessions.take_notes("a"), [note]);
        assert_eq!(sessions.take_notes("a"), []);
    }
}
