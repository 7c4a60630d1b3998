//! `listHalfMessages` and `endTransaction`: transactions that nobody has ended, and their end by hand.

use super::{PerGroup, Where};
use crate::confirm::Consent;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use crate::time::human;
use clap::{Args, ValueEnum};
use raftmq_proto::admin::{EndTransactionRequest, ListHalfMessagesRequest};
use serde_json::json;
use tonic::Code;

/// Show transactional messages that are neither committed nor rolled back, oldest first.
///
/// A message is PARKED when its producers were asked as often, or as long, as the broker is set to
/// (transactionCheckMax, transactionMaxAge). It stays so until its producer or endTransaction ends it.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin listHalfMessages -n localhost:9876 -t TestTopic --parked")]
pub(crate) struct List {
    #[command(flatten)]
    place: Where,
    /// Only of this topic.
    #[arg(short = 't', long = "topic", default_value = "")]
    topic: String,
    /// Only those whose producers are not asked any more.
    #[arg(long = "parked")]
    parked: bool,
    /// At most so many of each broker group.
    #[arg(long = "max", value_name = "MESSAGES", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    max: u32,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Commit a transactional message or roll it back in place of its producer. The first word counts.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin endTransaction -n localhost:9876 -t TestTopic -i TRANSACTION_ID -r commit")]
pub(crate) struct End {
    #[command(flatten)]
    place: Where,
    /// The topic.
    #[arg(short = 't', long = "topic")]
    topic: String,
    /// The transaction id.
    #[arg(short = 'i', long = "transactionId", value_name = "ID")]
    transaction_id: String,
    /// What becomes of the message.
    #[arg(short = 'r', long = "resolution")]
    resolution: Resolution,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// What becomes of a half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Resolution {
    /// It is delivered.
    Commit,
    /// It never is.
    Rollback,
}

pub(crate) async fn list(directory: &Directory, arguments: &List) -> Result<Outcome, AdminError> {
    let mut table = Table::new(&[
        "#Broker Name",
        "#Topic",
        "#Message Id",
        "#Transaction Id",
        "#Store Time",
        "#Checks",
        "#State",
        "#Producer",
    ]);
    let mut report = PerGroup::default();
    for group in directory.groups(arguments.place.target()).await? {
        let (mut from, mut left) = (String::new(), arguments.max);
        loop {
            let page = directory.read_group(&group, |mut node, stale| {
                let request = ListHalfMessagesRequest {
                    topic: arguments.topic.clone(),
                    parked: arguments.parked,
                    messages_max: left,
                    from: from.clone(),
                    stale,
                };
                async move { Ok(node.list_half_messages(request).await?.into_inner()) }
            });
            let page = match page.await {
                Ok((_, page)) => page,
                // The topic may be in another broker group.
                Err(AdminError::Refused { code: Code::NotFound, .. }) => break,
                Err(error) => {
                    report.failed(&group.name, &error);
                    break;
                }
            };
            left = left.saturating_sub(u32::try_from(page.messages.len()).unwrap_or(u32::MAX));
            for half in page.messages {
                let state = if half.parked { "PARKED" } else { "PENDING" };
                table.row(vec![
                    group.name.clone(),
                    half.topic.clone(),
                    half.message_id.clone(),
                    half.transaction_id.clone(),
                    human(half.stored_ms),
                    format!("{}/{}", half.checks, half.checks_max),
                    state.to_owned(),
                    half.producer.clone(),
                ]);
                let row = json!({
                    "brokerName": group.name,
                    "topic": half.topic,
                    "messageId": half.message_id,
                    "transactionId": half.transaction_id,
                    "keys": half.keys,
                    "bodyBytes": half.body_bytes,
                    "storeMs": half.stored_ms,
                    "checks": half.checks,
                    "checksMax": half.checks_max,
                    "ageMaxMs": half.age_max_ms,
                    "state": state,
                    "producer": half.producer,
                });
                report.done("", row);
            }
            from = page.next;
            if from.is_empty() {
                break;
            }
            if left == 0 {
                eprintln!("mqadmin: broker group {} has more than --max {} of them", group.name, arguments.max);
                break;
            }
        }
    }
    report.text = table.to_string();
    Ok(report.outcome())
}

pub(crate) async fn end(directory: &Directory, arguments: &End) -> Result<Outcome, AdminError> {
    let commit = arguments.resolution == Resolution::Commit;
    if !commit {
        arguments
            .consent
            .ask(&format!("The message of transaction {} is never delivered.", arguments.transaction_id))?;
    }
    let mut report = PerGroup::default();
    let mut unknown = Vec::new();
    for group in directory.groups(arguments.place.target()).await? {
        let ended = directory.on_group(&group, |mut node| {
            let request = EndTransactionRequest {
                topic: arguments.topic.clone(),
                transaction_id: arguments.transaction_id.clone(),
                commit,
            };
            async move { node.end_transaction(request).await }
        });
        match ended.await {
            Ok((address, _)) => {
                let did = if commit { "committed" } else { "rolled back" };
                let id = &arguments.transaction_id;
                let row = json!({ "brokerName": group.name, "addr": address, "did": did, "transactionId": id });
                report.done(&format!("transaction {id} {did} on {address} success.\n"), row);
                return Ok(report.outcome());
            }
            // One broker group has it.
            Err(AdminError::Refused { code: Code::NotFound, message, .. }) => {
                unknown.push(format!("broker group {}: {message}", group.name));
            }
            Err(error) => report.failed(&group.name, &error),
        }
    }
    report.failures.extend(unknown);
    Ok(report.outcome())
}
