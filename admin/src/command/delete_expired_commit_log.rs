//! `deleteExpiredCommitLog`: removes what is due to go, now.

use super::{Where, failure};
use crate::connect::{self, at, try_another};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::progress::Progress;
use clap::Args;
use raftmq_proto::admin::{TrimLogRequest, TrimLogResponse};
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A leader is looked for this long.
const LEADER_WITHIN: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(300);

/// Have the leader of each broker group remove at once what is due to go: messages that are too old, outside deleteWhen
/// too, and what is more than sizes and marks of disks allow.
///
/// It removes nothing that would not go by itself when its hour comes, and waits until it is done. What is still to be
/// delivered stays. Every member removes the same; their disks come free a moment later, by whole segments, index and all.
#[derive(Debug, Args)]
#[command(
    visible_alias = "cleanExpiredCQ",
    after_help = "Example: mqadmin deleteExpiredCommitLog -n localhost:9876 -c DefaultCluster"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for group in directory.groups(arguments.place.target()).await? {
        match trim(directory, &group, arguments).await {
            Ok((address, first_before, trimmed)) => {
                let TrimLogResponse { first_now, held_back, .. } = trimmed;
                let what = if first_now > first_before {
                    format!("its log begins at entry {first_now} now, and began at {first_before}")
                } else if held_back.is_empty() {
                    format!("nothing is due of its log, which begins at entry {first_now}")
                } else {
                    format!("its log still begins at entry {first_now}")
                };
                let _ = writeln!(text, "success: broker group {} ({address}): {what}", group.name);
                if !held_back.is_empty() {
                    let _ = writeln!(text, "{held_back}");
                }
                rows.push(json!({
                    "brokerName": group.name,
                    "addr": address,
                    "firstIndexBefore": first_before,
                    "firstIndex": first_now,
                    "heldBack": Some(held_back).filter(|why| !why.is_empty()),
                }));
            }
            Err(error) => failures.push(failure(&group.name, &error)),
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

/// Asks whoever leads until nothing is under way any more.
async fn trim(
    directory: &Directory,
    group: &Group,
    arguments: &Arguments,
) -> Result<(String, u64, TrimLogResponse), AdminError> {
    let (mut progress, mut first) = (Progress::patient(), None);
    let mut until = Instant::now() + LEADER_WITHIN;
    let mut group = group.clone();
    loop {
        let mut reasons = Vec::new();
        for node in group.by_promise() {
            match connect::admin(&node.admin, &directory.token)?.trim_log(TrimLogRequest {}).await {
                Ok(answer) => {
                    let answer = answer.into_inner();
                    let first = *first.get_or_insert(answer.first_before);
                    if !answer.under_way {
                        return Ok((node.admin.clone(), first, answer));
                    }
                    let text = format!("the log of {} begins at entry {}, and goes on", group.name, answer.first_now);
                    progress.show(&text, true);
                    until = Instant::now() + LEADER_WITHIN;
                    break;
                }
                Err(status) if try_another(&status) => reasons.push(at(&node.admin, &status)),
                Err(status) => return Err(AdminError::refused(&node.admin, &status)),
            }
        }
        if Instant::now() >= until {
            return Err(AdminError::NoLeader {
                broker_group: group.name.clone(),
                seconds: LEADER_WITHIN.as_secs(),
                reasons: reasons.join(", "),
            });
        }
        sleep(PAUSE).await;
        // Leadership moves.
        if let Ok(groups) = directory.groups(arguments.place.target()).await
            && let Some(found) = groups.into_iter().find(|found| found.name == group.name)
        {
            group = found;
        }
    }
}
