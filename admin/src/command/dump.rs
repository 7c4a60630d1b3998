//! `dump`: checksums of every table of every node at one applied index.

use super::Where;
use crate::connect::at;
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::progress::Progress;
use crate::table::Table;
use clap::Args;
use raftmq_proto::admin::{DumpRequest, DumpResponse};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Looks at the nodes again when they are not at one index.
const ROUNDS: usize = 50;

/// Compare the replicas of each broker group: row count and checksum of every table at one applied index.
///
/// Fails when replicas differ, when a node does not answer, or when they could not be caught at one index because
/// the group was written to all the time.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin dump -n localhost:9876 -o json")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (mut text, mut rows, mut failures) = (String::new(), Vec::new(), Vec::new());
    for group in directory.groups(arguments.place.target()).await? {
        let dumps = at_one_index(directory, &group, &mut failures).await?;
        let _ = writeln!(text, "#Cluster Name: {}  #Broker Name: {}", group.cluster, group.name);
        let mut table = Table::new(&["#Label", "#Applied", "#Table", "#Rows", "#Bytes", "#Hash"]);
        for (label, dump) in &dumps {
            for part in &dump.tables {
                table.row(vec![
                    label.clone(),
                    dump.applied_index.to_string(),
                    part.name.clone(),
                    part.rows.to_string(),
                    part.bytes.to_string(),
                    format!("{:016x}", part.hash),
                ]);
            }
            rows.push(to_json(&group, label, dump));
        }
        let verdict = verdict(&dumps);
        let _ = writeln!(text, "{table}{}\n", verdict.as_deref().unwrap_or("replicas agree"));
        if let Some(verdict) = verdict {
            failures.push(format!("broker group {}: {verdict}", group.name));
        }
    }
    Ok(Outcome { text, json: rows.into(), failures })
}

async fn at_one_index(
    directory: &Directory,
    group: &Group,
    failures: &mut Vec<String>,
) -> Result<Vec<(String, DumpResponse)>, AdminError> {
    let mut dumps: Vec<(String, DumpResponse)> = Vec::new();
    let mut progress = Progress::patient();
    let members = group.nodes.iter().filter(|node| node.member && !node.admin.is_empty());
    let count = members.clone().count();
    for round in 1..=ROUNDS {
        let at_least = dumps.iter().map(|(_, dump)| dump.applied_index).max().unwrap_or(0);
        dumps.clear();
        for (number, node) in members.clone().enumerate() {
            let again = if round > 1 { format!(", look {round} for one applied index") } else { String::new() };
            progress.step(number, count, &format!("replicas of {} summed up{again}", group.name));
            let answer = crate::connect::admin(&node.admin, &directory.token)?.dump(DumpRequest { at_least }).await;
            match answer {
                Ok(answer) => dumps.push((node.label.clone(), answer.into_inner())),
                Err(status) if round == ROUNDS || round == 1 => {
                    let reason = format!("{} of {}: {}", node.label, group.name, at(&node.admin, &status));
                    if !failures.contains(&reason) {
                        failures.push(reason);
                    }
                }
                Err(_) => {}
            }
        }
        let first = dumps.first().map(|(_, dump)| dump.applied_index);
        if dumps.iter().all(|(_, dump)| Some(dump.applied_index) == first) {
            break;
        }
    }
    Ok(dumps)
}

/// What is wrong, if anything.
fn verdict(dumps: &[(String, DumpResponse)]) -> Option<String> {
    let Some((_, first)) = dumps.first() else { return Some("no replica answers".to_owned()) };
    if dumps.iter().any(|(_, dump)| dump.applied_index != first.applied_index) {
        return Some("the replicas were not caught at one applied index; stop writing and try again".to_owned());
    }
    let differing: Vec<&str> = first
        .tables
        .iter()
        .filter(|part| dumps.iter().any(|(_, dump)| !dump.tables.contains(part)))
        .map(|part| part.name.as_str())
        .collect();
    let lengths_agree = dumps.iter().all(|(_, dump)| dump.tables.len() == first.tables.len());
    match (differing.is_empty(), lengths_agree) {
        (true, true) => None,
        (true, false) => Some("the replicas do not have the same tables".to_owned()),
        (false, _) => Some(format!("replicas differ in {}", differing.join(", "))),
    }
}

fn to_json(group: &Group, label: &str, dump: &DumpResponse) -> Value {
    let tables: Vec<Value> = dump
        .tables
        .iter()
        .map(|part| {
            json!({ "table": part.name, "rows": part.rows, "bytes": part.bytes, "hash": format!("{:016x}", part.hash) })
        })
        .collect();
    json!({
        "cluster": group.cluster,
        "brokerName": group.name,
        "label": label,
        "node": format!("{:x}", dump.node),
        "applied": dump.applied_index,
        "tables": tables,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_proto::admin::TableDump;

    #[test]
    fn verdicts() {
        let dump = |applied_index, hash| {
            let tables = vec![TableDump { name: "topic".to_owned(), rows: 1, bytes: 9, hash }];
            ("n".to_owned(), DumpResponse { applied_index, tables, ..DumpResponse::default() })
        };
        assert_eq!(verdict(&[dump(5, 1), dump(5, 1)]), None);
        assert_eq!(verdict(&[dump(5, 1), dump(5, 2)]).as_deref(), Some("replicas differ in topic"));
        assert!(verdict(&[dump(5, 1), dump(6, 1)]).is_some_and(|text| text.contains("one applied index")));
        assert!(verdict(&[]).is_some());
    }
}
