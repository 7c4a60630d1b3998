//! What a node says of itself over HTTP, on `metricsPromExporterPort`: figures for Prometheus under RocketMQ's names
//! (`/metrics`), whether it works (`/healthz`) and whether it serves clients (`/readyz`). The figures also go to an
//! OpenTelemetry collector where one is named.
//!
//! Counters are of the calls that this node answered, so that the sum over all nodes is the broker group's. What is
//! the same on every member (lag, half messages, topics) is said by the leader alone, for the same reason.

pub(crate) mod consumers;
mod counters;
mod latency;
mod otlp;
mod scrape;
mod served;

pub(crate) use counters::Counters;
pub use otlp::Export;
pub(crate) use otlp::run as export;

use crate::broker::Node;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use raft_store::{GroupStatus, Role, Standing};
use std::sync::Arc;
use std::time::Duration;
use tonic::service::Routes;

/// A follower that lacks what was committed so long ago sends clients elsewhere: their calls are answered once it has
/// applied them. Long enough for a pause of its disk, short enough that the next node can be restarted.
const BEHIND_MAX: Duration = Duration::from_secs(3);

/// The pages.
pub(crate) fn routes(node: Arc<Node>) -> Routes {
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state(node);
    Routes::from(pages)
}

async fn metrics(State(node): State<Arc<Node>>) -> impl IntoResponse {
    // Rows are read from disk.
    let text = tokio::task::spawn_blocking(move || scrape::text(&node)).await;
    match text.map_err(|error| error.to_string()).and_then(|text| text.map_err(|error| error.to_string())) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], text)
        }
        Err(error) => {
            tracing::error!(%error, "figures cannot be read");
            let kind = "text/plain; charset=utf-8";
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, kind)], format!("{error}\n"))
        }
    }
}

async fn healthz(State(node): State<Arc<Node>>) -> impl IntoResponse {
    page(health(&node.group.status()))
}

async fn readyz(State(node): State<Arc<Node>>) -> impl IntoResponse {
    let closing = node.closing.is_cancelled();
    page(readiness(&node.group.status(), closing))
}

fn page(state: Result<String, String>) -> (StatusCode, String) {
    match state {
        Ok(text) => (StatusCode::OK, text + "\n"),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text + "\n"),
    }
}

/// Whether the process is of use at all: one that is not should be started again.
fn health(status: &GroupStatus) -> Result<String, String> {
    match &status.halted {
        Some(why) => Err(format!("stopped: {why}")),
        None => Ok("OK".to_owned()),
    }
}

/// Whether clients are served here: this node has a vote, its group has a leader, and it is level with that one. Who
/// restarts nodes one by one waits for it.
fn readiness(status: &GroupStatus, closing: bool) -> Result<String, String> {
    health(status)?;
    if closing {
        return Err("this node is stopping".to_owned());
    }
    if let Some(why) = &status.waiting {
        return Err(why.clone());
    }
    if let Some(why) = crate::admin::lonely(status) {
        return Err(why);
    }
    match (status.role, status.leader) {
        (Role::Learner, _) => Err("this node has no vote yet: it is being filled".to_owned()),
        (Role::Removed, _) => Err("this node was removed from its group".to_owned()),
        (Role::Stopped, _) => Err("this node has stopped".to_owned()),
        (Role::Candidate, _) | (_, None) => Err("the group has no leader at the moment".to_owned()),
        (Role::Leader, Some(_)) => Ok("OK: leader".to_owned()),
        (Role::Follower, Some(_)) => level(status.standing).map(|()| "OK: follower".to_owned()),
    }
}

/// Whether a follower has what its leader has, or nearly so.
fn level(standing: Standing) -> Result<(), String> {
    match standing {
        Standing::Untold => Err("this node waits for the first word of its leader since it started".to_owned()),
        Standing::Starting { entries } => {
            Err(format!("this node catches up after its start: {entries} committed entries are not applied yet"))
        }
        Standing::Follows { entries, since } if since > BEHIND_MAX => Err(format!(
            "this node is {} ms behind its leader, {} ms at most are ready: {entries} committed entries are not applied yet",
            since.as_millis(),
            BEHIND_MAX.as_millis()
        )),
        Standing::Follows { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_is_ready_once_it_is_level() {
        let follows = |millis| Standing::Follows { entries: 9, since: Duration::from_millis(millis) };
        for (standing, why) in [
            (Standing::Untold, Some("waits for the first word of its leader")),
            (Standing::Starting { entries: 9 }, Some("9 committed entries are not applied yet")),
            (follows(0), None),
            (follows(3000), None),
            (follows(3001), Some("3001 ms behind its leader, 3000 ms at most are ready: 9 committed entries")),
        ] {
            let said = level(standing);
            assert!(
                match why {
                    None => said.is_ok(),
                    Some(why) => said.as_ref().is_err_and(|said| said.contains(why)),
                },
                "{standing:?}: {said:?}"
            );
        }
    }
}
