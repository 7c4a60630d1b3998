//! Makes what this node's configuration says of the whole broker group its replicated settings: the leader's file
//! counts.

use crate::broker::Node;
use crate::machine::{MESSAGES_MAX, WINDOW_MS};
use crate::store::machine;
use crate::store::retention::RETENTION_MS;
use raftmq_proto::command::PutSetting;
use raftmq_proto::command::command::Kind;
use std::future::pending;
use std::time::Duration;

/// A setting that was not stored is proposed again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Proposes what differs, now and whenever a setting is changed, until the task is dropped.
pub(super) async fn run(node: &Node) {
    let mut changes = node.live.changes();
    loop {
        changes.mark_unchanged();
        let settings = node.settings();
        let wanted = [
            (WINDOW_MS, settings.idempotence.window_ms.to_string()),
            (MESSAGES_MAX, settings.idempotence.messages_max.to_string()),
            (RETENTION_MS, settings.retention.kept_ms.to_string()),
        ];
        for (key, value) in wanted {
            while !put(node, key, &value).await {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
        // It ends with the node, whose task this is.
        if changes.changed().await.is_err() {
            pending().await
        }
    }
}

/// Whether the setting has this value now.
async fn put(node: &Node, key: &str, value: &str) -> bool {
    let stored = match machine::setting(&node.group.state(), key) {
        Ok(stored) => stored,
        Err(error) => {
            tracing::error!(%error, key, "cannot read a setting");
            return false;
        }
    };
    if stored.as_deref() == Some(value.as_bytes()) {
        return true;
    }
    let put = PutSetting { key: key.to_owned(), value: value.to_owned().into() };
    match node.proposer.submit(Kind::PutSetting(put), Vec::new(), None).await {
        Ok(_) => {
            tracing::info!(key, value, "setting of the broker group");
            true
        }
        Err(error) => {
            tracing::debug!(%error, key, "setting was not stored");
            false
        }
    }
}
