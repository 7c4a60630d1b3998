//! Settings that change while the node runs: `updateBrokerConfig`.
//!
//! What is changed is checked as at the start, kept in a file in the store folder, and then in effect for every call that
//! begins afterwards. Everything else is read at start only, and a change of it is refused.

use crate::config::BrokerConfig;
use parking_lot::{Mutex, RwLock};
use raftmq_server::settings::{Entry, Program, Settings, UpdateError};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// Whom a setting concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The calls that this node answers.
    Node,
    /// The broker group, while this node leads it.
    Group,
}

/// Keys that are looked at whenever they matter, and not only at start.
const CHANGEABLE: &[(&str, Reach)] = &[
    ("maxMessageSize", Reach::Node),
    ("sendBatchMessagesMax", Reach::Node),
    ("userPropertyMaxNum", Reach::Node),
    ("maxUserPropertySize", Reach::Node),
    ("maxMessageGroupSize", Reach::Node),
    ("maxLiteTopicSize", Reach::Node),
    ("maxSyncLiteSubscriptionRate", Reach::Node),
    ("enableMessageBodyEmptyCheck", Reach::Node),
    ("maxDelayTimeMillis", Reach::Node),
    ("messageDelayLevel", Reach::Node),
    ("maxTransactionRecoverySecond", Reach::Node),
    ("transactionTimeOut", Reach::Node),
    ("transactionCheckInterval", Reach::Node),
    ("transactionCheckMax", Reach::Node),
    ("transactionMaxAge", Reach::Node),
    ("minInvisibleTimeMillisForRecv", Reach::Node),
    ("maxInvisibleTimeMillis", Reach::Node),
    ("renewMaxTimeMillis", Reach::Node),
    ("defaultInvisibleTimeMillis", Reach::Node),
    ("grpcClientConsumerMinLongPollingTimeoutMillis", Reach::Node),
    ("grpcClientConsumerMaxLongPollingTimeoutMillis", Reach::Node),
    ("grpcClientConsumerLongPollingBatchSize", Reach::Node),
    ("filterExpressionBytesMax", Reach::Node),
    ("grpcClientProducerMaxAttempts", Reach::Node),
    ("grpcClientProducerBackoffInitialMillis", Reach::Node),
    ("grpcClientProducerBackoffMaxMillis", Reach::Node),
    ("grpcClientProducerBackoffMultiplier", Reach::Node),
    ("autoCreateTopicEnable", Reach::Node),
    ("autoCreateSubscriptionGroup", Reach::Node),
    ("defaultTopicQueueNums", Reach::Node),
    ("enableTopicMessageTypeCheck", Reach::Node),
    ("useEndpointPortFromRequest", Reach::Node),
    ("clientRateMessages", Reach::Node),
    ("clientRateBytes", Reach::Node),
    ("idempotentWindowMillis", Reach::Group),
    ("idempotentMessagesMax", Reach::Group),
    ("fileReservedTime", Reach::Group),
    ("deleteWhen", Reach::Group),
    ("fileReservedSize", Reach::Group),
    ("diskMaxUsedSpaceRatio", Reach::Group),
    ("cleanFileForciblyEnable", Reach::Group),
    ("diskSpaceCleanForciblyRatio", Reach::Group),
    ("slowDiskMillis", Reach::Group),
    ("slowDiskHandoverIntervalMillis", Reach::Group),
    ("clockSkewMaxMs", Reach::Group),
];

/// Where a value that is not kept yet comes from.
const SOURCE: &str = "updateBrokerConfig";

/// As refusals name it.
const PROGRAM: Program = Program { name: "node", lists: "getBrokerConfig" };

/// What an update came to.
pub(crate) struct Updated {
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
    pub(crate) kept_in: PathBuf,
    pub(crate) reach: Reach,
}

/// The configuration that is in effect.
pub(crate) struct Live {
    now: RwLock<Arc<BrokerConfig>>,
    /// What it is read from. Held while a change is made, so that one follows the other.
    layers: Mutex<Settings>,
    changed: watch::Sender<u64>,
}

impl Live {
    pub(crate) fn new(config: Arc<BrokerConfig>) -> Live {
        Live { layers: Mutex::new(config.layers.clone()), now: RwLock::new(config), changed: watch::Sender::new(0) }
    }

    /// As it is now. Whoever looks at two settings that go together keeps it meanwhile.
    pub(crate) fn now(&self) -> Arc<BrokerConfig> {
        self.now.read().clone()
    }

    /// Wakes up whenever something was changed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes one key, and returns when that is on disk. Waits for the disk.
    ///
    /// # Errors
    /// [`UpdateError`]; then nothing was changed.
    pub(crate) fn update(&self, key: &str, value: &str) -> Result<Updated, UpdateError> {
        let mut layers = self.layers.lock();
        let old = self.now();
        let key = layers.spelled(key);
        let reach = changeable(&old.entries, &key)?;
        let mut wanted = layers.clone();
        wanted.change(&key, value, SOURCE)?;
        let (read, _) = BrokerConfig::read(wanted.clone())?;
        let kept_in = wanted.keep()?;
        *layers = wanted;
        let (before, after) = (Entry::shown(&old.entries, &key), Entry::shown(&read.entries, &key));
        // What is not to be changed is as it was at start, whatever else has happened to where it was read from.
        let BrokerConfig { grpc, idempotence, retention, slow_disk, clock_skew_ms_max, entries, .. } = read;
        let next = BrokerConfig {
            grpc,
            idempotence,
            retention,
            slow_disk,
            clock_skew_ms_max,
            entries,
            ..BrokerConfig::clone(&old)
        };
        *self.now.write() = Arc::new(next);
        self.changed.send_modify(|times| *times += 1);
        Ok(Updated { before, after, kept_in, reach })
    }
}

/// Whom a key concerns, unless it cannot be changed.
fn changeable(entries: &[Entry], key: &str) -> Result<Reach, UpdateError> {
    if let Some((_, reach)) = CHANGEABLE.iter().find(|(known, _)| *known == key) {
        return Ok(*reach);
    }
    Err(UpdateError::not_changeable(entries, key, PROGRAM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ALIASES;
    use std::path::Path;

    fn live(folder: &Path) -> Live {
        let mut settings = Settings::with_environment(ALIASES, |name| {
            (name == "RAFTMQ_TRANSACTION_TIME_OUT").then(|| "7000".to_owned())
        });
        settings.text(Path::new("broker.conf"), &format!("storePathRootDir={}\n", folder.display()));
        Live::new(Arc::new(BrokerConfig::read(settings).expect("valid").0))
    }

    #[test]
    fn every_key_that_can_be_changed_is_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let entries = live(folder.path()).now().entries.clone();
        for (key, _) in CHANGEABLE {
            assert!(entries.iter().any(|entry| entry.key == *key && !entry.unused), "{key}");
        }
    }

    #[test]
    fn a_change_is_in_effect_and_after_a_restart_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let running = live(folder.path());
        let mut changes = running.changes();
        let updated = running.update("maxDelayTimeMills", "1000").expect("it may be changed");
        assert_eq!((updated.before.as_deref(), updated.after.as_deref()), (Some("0"), Some("1000")));
        assert_eq!((running.now().grpc.delivery_ahead_ms_max, updated.reach), (1_000, Reach::Node));
        assert!(changes.has_changed().expect("it lives"), "whoever waits is told");
        changes.mark_unchanged();
        assert_eq!(running.update("fileReservedTime", "1").expect("may be changed").reach, Reach::Group);
        assert_eq!(running.now().retention.kept_ms, 3_600_000);
        assert_eq!(live(folder.path()).now().grpc.delivery_ahead_ms_max, 1_000);
        assert_eq!(live(folder.path()).now().retention.kept_ms, 3_600_000);
        running.update("maxDelayTimeMillis", "").expect("it may be taken back");
        assert_eq!(live(folder.path()).now().grpc.delivery_ahead_ms_max, 0);
    }

    #[test]
    fn what_cannot_be_changed_is_refused_with_the_reason_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let running = live(folder.path());
        for (key, value, part) in [
            ("listenPort", "1", "restart this node"),
            ("maxmessagesize", "1", "did you mean maxMessageSize?"),
            ("brokerRole", "SLAVE", "unknown key"),
            ("maxMessageSize", "0", "maxMessageSize = 0 (updateBrokerConfig): must be a number from 1 to"),
            ("fileReservedSize", "5", "at least two segments"),
            ("transactionTimeOut", "5000", "$RAFTMQ_TRANSACTION_TIME_OUT"),
        ] {
            let refused = running.update(key, value).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(refused.contains(part), "{key}: {refused}");
        }
        assert!(!folder.path().join("changed.properties").exists(), "nothing was kept");
    }
}
