//! What an operator has done at once and for the whole broker group: leading producers past it, trimming its log,
//! writing a node's rows to disk.

use super::AdminService;
use super::door::Caller;
use crate::store::machine::{WRITABLE, is_writable};
use crate::store::retention;
use crate::task::TrimOutcome;
use raft_store::FlushError;
use raftmq_proto::admin::{FlushRowsResponse, SetWritableRequest, SetWritableResponse, TrimLogResponse};
use raftmq_proto::command::PutSetting;
use raftmq_proto::command::command::Kind;
use std::time::Duration;
use tonic::Status;

/// Builds that know this version of commands heed [`WRITABLE`].
const WRITABLE_SINCE: u32 = 5;

/// A trim that takes longer is told of as being under way.
const TRIM_TIMEOUT: Duration = Duration::from_secs(8);

impl AdminService {
    pub(super) async fn set_writable(
        &self,
        request: SetWritableRequest,
        caller: &Caller,
    ) -> Result<SetWritableResponse, Status> {
        self.catch_up(false).await?;
        let before = self.read(is_writable).await?;
        let changed = before != request.writable;
        // Members of older builds would go on telling clients to write here.
        if changed && !request.writable && self.node.proposer.version() < WRITABLE_SINCE {
            return Err(Status::failed_precondition(format!(
                "not before every member of broker group {} runs this build (version {WRITABLE_SINCE} of commands): mqadmin \
                 haStatus shows those behind",
                self.broker_group()
            )));
        }
        if changed {
            let put = PutSetting { key: WRITABLE.to_owned(), value: request.writable.to_string().into() };
            let what = if request.writable { "topics put back into writing" } else { "topics taken out of writing" };
            self.change(what, &self.broker_group(), caller, Kind::PutSetting(put)).await?;
        }
        Ok(SetWritableResponse { broker_group: self.broker_group(), changed, topics: self.node.reporter.topic_count() })
    }

    pub(super) async fn trim_log(&self, caller: &Caller) -> Result<TrimLogResponse, Status> {
        let leadership = self.node.group.leadership();
        if !leadership.leads {
            let leader = leadership
                .leader
                .and_then(|leader| self.node.group.members().into_iter().find(|member| member.id == leader));
            return Err(Status::unavailable(match leader {
                Some(leader) => {
                    format!("this node does not lead; ask {} at {}", leader.label, leader.addresses.admin)
                }
                None => "this node does not lead, and knows of no leader".to_owned(),
            }));
        }
        let before = self.read(retention::trimmed).await?.upto;
        let answer = tokio::time::timeout(TRIM_TIMEOUT, self.node.trims_asked.ask()).await;
        let outcome = match answer {
            Ok(Ok(outcome)) => outcome.map_err(Status::unavailable)?,
            Ok(Err(_)) => return Err(Status::unavailable("this node ceased to lead meanwhile; ask again")),
            Err(_) => {
                let after = self.read(retention::trimmed).await?.upto;
                log(caller, before, after, "under way");
                return Ok(TrimLogResponse { under_way: true, ..self.trimmed(before, after) });
            }
        };
        let TrimOutcome { before, after, held_back } = outcome;
        log(caller, before, after, held_back.as_deref().unwrap_or("done"));
        Ok(TrimLogResponse { held_back: held_back.unwrap_or_default(), ..self.trimmed(before, after) })
    }

    fn trimmed(&self, before: u64, after: u64) -> TrimLogResponse {
        TrimLogResponse {
            broker_group: self.broker_group(),
            first_before: before,
            first_now: after,
            ..TrimLogResponse::default()
        }
    }

    pub(super) async fn flush_rows(&self, caller: &Caller) -> Result<FlushRowsResponse, Status> {
        let flushed = self.node.group.flush_rows().await;
        let outcome = flushed.as_ref().map_or_else(ToString::to_string, |index| format!("up to {index}"));
        tracing::info!(target: "audit", user = caller.name, address = caller.address, outcome, "rows flushed");
        let applied = flushed.map_err(|error| match error {
            FlushError::NoRoom => Status::failed_precondition(error.to_string()),
            FlushError::Closed => Status::unavailable(error.to_string()),
            FlushError::Rows(_) => Status::internal(error.to_string()),
        })?;
        Ok(FlushRowsResponse {
            broker_group: self.broker_group(),
            label: self.node.config.label.clone(),
            applied_index: applied.0,
        })
    }
}

fn log(caller: &Caller, before: u64, after: u64, outcome: &str) {
    let (user, address) = (&caller.name, &caller.address);
    tracing::info!(target: "audit", user, address, before, after, outcome, "trim of the log asked for");
}
