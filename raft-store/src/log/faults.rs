//! Switches that break a promise on purpose, so that a test can show that it would notice.
//!
//! `RAFTMQ_TEST_BREAK` holds names separated by commas. Compiled in only with the feature `test-faults`.

use std::sync::OnceLock;

/// Environment variable that names what to break.
pub const BREAK_VARIABLE: &str = "RAFTMQ_TEST_BREAK";

fn broken(name: &str) -> bool {
    static BROKEN: OnceLock<Vec<String>> = OnceLock::new();
    let broken = BROKEN.get_or_init(|| {
        let value = std::env::var(BREAK_VARIABLE).unwrap_or_default();
        let names: Vec<String> = value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if !names.is_empty() {
            tracing::warn!(variable = BREAK_VARIABLE, broken = value, "TEST MODE: promises are broken on purpose");
        }
        names
    });
    broken.iter().any(|known| known == name)
}

/// `sync_noop`: a sync of the log succeeds and does nothing.
pub fn sync_does_nothing() -> bool {
    broken("sync_noop")
}

/// `append_unsynced`: entries are reported durable as soon as they are queued.
pub fn append_before_sync() -> bool {
    broken("append_unsynced")
}

/// `vote_unsynced`: a vote is reported durable before it is.
pub fn vote_before_sync() -> bool {
    broken("vote_unsynced")
}

/// `apply_unsynced`: rows do not wait until the log is durable up to them (rule I1).
pub fn apply_before_sync() -> bool {
    broken("apply_unsynced")
}

/// `state_folder_unsynced`: that the folder of the rows is there is never made durable.
pub fn state_folder_unsynced() -> bool {
    broken("state_folder_unsynced")
}
