//! Settings that change while the name server runs: `updateNamesrvConfig`.
//!
//! What is changed is checked as at the start, and in effect at once. It lasts until the name server is started again,
//! which goes by its configuration file and what stands over it: a name server writes nothing to disk.

use crate::config::{ALIASES, Config};
use crate::grpc::Shared;
use parking_lot::Mutex;
use raftmq_server::settings::{Entry, Program, Settings, UpdateError};

/// Keys that are looked at whenever they matter, and not only at start.
const CHANGEABLE: [&str; 6] =
    ["scanNotActiveBrokerInterval", "brokerSilenceMs", "brokerForgetMs", "brokerGroupsMax", "nodesMax", "topicsMax"];

/// Where a changed value comes from.
const SOURCE: &str = "updateNamesrvConfig";

/// As refusals name it.
const PROGRAM: Program = Program { name: "name server", lists: "getNamesrvConfig" };

/// What an update came to.
#[derive(Debug)]
pub(crate) struct Updated {
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
}

/// The configuration that is in effect.
pub(crate) struct Live {
    /// What it is read from, and what it came to.
    now: Mutex<(Settings, Vec<Entry>)>,
}

impl Live {
    pub(crate) fn new(layers: Option<Settings>, entries: Vec<Entry>) -> Live {
        Live { now: Mutex::new((layers.unwrap_or_else(|| Settings::new(ALIASES)), entries)) }
    }

    /// Every key as it is now.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.now.lock().1.clone()
    }

    /// Changes one key, from here on and until the next start.
    ///
    /// # Errors
    /// [`UpdateError`]; then nothing was changed.
    pub(crate) fn update(&self, shared: &Shared, key: &str, value: &str) -> Result<Updated, UpdateError> {
        let mut now = self.now.lock();
        let (layers, entries) = &mut *now;
        let key = layers.spelled(key);
        if !CHANGEABLE.contains(&&*key) {
            return Err(UpdateError::not_changeable(entries, &key, PROGRAM));
        }
        let mut wanted = layers.clone();
        wanted.change(&key, value, SOURCE)?;
        let mut read = wanted.clone();
        let config = Config::read(&mut read);
        let next = read.finish()?.entries();
        shared.set(config.limits, config.scan_every);
        let updated = Updated { before: Entry::shown(entries, &key), after: Entry::shown(&next, &key) };
        (*layers, *entries) = (wanted, next);
        Ok(updated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route_table::{Limits, RouteTable};
    use std::path::Path;
    use std::time::Duration;

    fn running() -> (Live, Shared) {
        let mut settings =
            Settings::with_environment(ALIASES, |name| (name == "RAFTMQ_NODES_MAX").then(|| "77".to_owned()));
        settings.text(Path::new("namesrv.conf"), "brokerSilenceMs = 60000\nkvConfigPath = kv.json\n");
        let config = Config::read(&mut settings);
        let entries = settings.finish().expect("valid").entries();
        let shared = Shared::new(RouteTable::new(config.limits), config.scan_every);
        (Live::new(config.layers, entries), shared)
    }

    #[test]
    fn a_change_is_in_effect_at_once_and_can_be_taken_back() {
        let (live, shared) = running();
        for key in CHANGEABLE {
            assert!(live.entries().iter().any(|entry| entry.key == key && !entry.unused), "{key}");
        }
        let updated = live.update(&shared, "brokerSilenceMs", "5000").expect("may be changed");
        assert_eq!((updated.before.as_deref(), updated.after.as_deref()), (Some("60000"), Some("5000")));
        assert_eq!(shared.table().limits(), Limits { silence_ms: 5_000, nodes_max: 77, ..Limits::default() });
        live.update(&shared, "scanNotActiveBrokerInterval", "200").expect("may be changed");
        assert_eq!(shared.scan_every(), Duration::from_millis(200));
        assert_eq!(shared.table().limits().silence_ms, 5_000, "what was changed before stays");
        let updated = live.update(&shared, "brokerSilenceMs", "").expect("may be taken back");
        assert_eq!(updated.after.as_deref(), Some("60000"));
    }

    #[test]
    fn what_cannot_be_changed_is_refused_with_the_reason_and_stays() {
        let (live, shared) = running();
        let before = shared.table().limits();
        for (key, value, part) in [
            ("listenPort", "1", "restart this name server"),
            ("brokersilencems", "5000", "did you mean brokerSilenceMs?"),
            ("noSuchKey", "1", "unknown key noSuchKey"),
            ("kvConfigPath", "x", "has no effect here"),
            ("brokerSilenceMs", "1", "brokerSilenceMs = 1 (updateNamesrvConfig): must be a number from 1000 to"),
            ("brokerForgetMs", "2000", "a node is declared dead before it is forgotten"),
            ("nodesMax", "5", "$RAFTMQ_NODES_MAX"),
        ] {
            let refused = live.update(&shared, key, value).expect_err(key).to_string();
            assert!(refused.contains(part), "{key}: {refused}");
        }
        assert_eq!(shared.table().limits(), before);
    }
}
