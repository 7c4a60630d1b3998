//! The first administrator: without one, nobody could make any user.

use crate::broker::Node;
use crate::store::access::user_count;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{PutMode, PutUser, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// For one try; the group may have no leader at the moment.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Runs [`make`] unless the node stops first.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = make(&node) => {}
    }
}

/// Makes the user of `initAuthenticationUser` when there is no user that may administer. Every node that is told of one
/// tries, and the replicated rules take the first.
async fn make(node: &Node) {
    node.group.voting().await;
    let config = node.access.config();
    let Some(user) = &config.first_user else {
        if config.authentication && user_count(&node.group.state()).is_ok_and(|count| count.admins == 0) {
            tracing::warn!(
                "authenticationEnabled is true and this node sees no user that may administer: set \
                 initAuthenticationUser={{\"username\":…,\"password\":…}} and start it again to make one"
            );
        }
        return;
    };
    loop {
        if user_count(&node.group.state()).is_ok_and(|count| count.admins > 0) {
            return;
        }
        let put = Kind::PutUser(PutUser {
            name: user.access_key.clone(),
            secret: Some(user.secret_key.clone()),
            mode: PutMode::First.into(),
            ..PutUser::default()
        });
        match node.proposer.submit(put, Vec::new(), Some(Instant::now() + TIMEOUT)).await {
            Ok(reply) => match reply.refusal() {
                Refusal::Unspecified => {
                    tracing::info!(target: "audit", user = user.access_key, by = "initAuthenticationUser", "user created");
                    return;
                }
                Refusal::AlreadyExists => return,
                Refusal::DeadlinePassed | Refusal::StaleBoot | Refusal::DiskFull => {}
                _ => {
                    tracing::error!(reason = reply.detail, "the user of initAuthenticationUser cannot be made");
                    return;
                }
            },
            Err(error) => tracing::debug!(%error, "the user of initAuthenticationUser is not made yet"),
        }
        // The state of this node may lag behind a user that exists.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
