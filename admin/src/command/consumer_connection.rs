//! `consumerConnection`: who is connected for a consumer group, and what they subscribe to.

use super::Where;
use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use clap::Args;
use raftmq_admin_client::progress::clients_of;
use raftmq_proto::admin::{Client, Subscription};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Show the clients of a consumer group that are connected, and their subscriptions.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin consumerConnection -n localhost:9876 -g YourConsumerGroup")]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The consumer group.
    #[arg(short = 'g', long = "consumerGroup", value_name = "GROUP")]
    group: String,
    #[command(flatten)]
    pub output: ShortOutput,
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let (clients, mut failures) = connected(directory, &arguments.place, &arguments.group, "").await?;
    if clients.is_empty() && failures.is_empty() {
        failures.push(format!("no client of consumer group {} is connected", arguments.group));
    }
    Ok(Outcome { failures, ..describe(&clients) })
}

/// Clients that are connected to any of the broker groups, by id, and what could not be asked. A client has a
/// connection to every broker group; the first one's is shown.
pub(super) async fn connected(
    directory: &Directory,
    place: &Where,
    consumer_group: &str,
    topic: &str,
) -> Result<(Vec<Client>, Vec<String>), AdminError> {
    let (mut clients, mut failures) = (BTreeMap::new(), Vec::new());
    for group in directory.groups(place.target()).await? {
        let listed = clients_of(directory, &group, consumer_group, topic);
        match listed.await {
            Ok(listed) => {
                for client in listed {
                    clients.entry(client.client_id.clone()).or_insert(client);
                }
            }
            Err(error) => failures.push(super::failure(&group.name, &error)),
        }
    }
    Ok((clients.into_values().collect(), failures))
}

/// What is known of every client, for programs.
pub(super) fn to_json(client: &Client) -> Value {
    json!({
        "clientId": client.client_id,
        "clientAddr": client.address,
        "language": client.language,
        "version": client.version,
        "hostname": client.hostname,
    })
}

fn describe(clients: &[Client]) -> Outcome {
    let mut table = Table::new(&["#ClientId", "#ClientAddr", "#Language", "#Version"]);
    // Topic → expression → who has it.
    let mut shares: BTreeMap<&str, BTreeMap<String, BTreeSet<&str>>> = BTreeMap::new();
    let mut rows = Vec::new();
    for client in clients {
        let Client { client_id, address, language, version, .. } = client;
        table.row(vec![client_id.clone(), address.clone(), language.clone(), version.clone()]);
        let mut row = to_json(client);
        row["subscriptions"] = client
            .subscriptions
            .iter()
            .map(|known| json!({ "topic": known.topic, "subString": known.expression, "sql": known.is_sql }))
            .collect();
        rows.push(row);
        for known in &client.subscriptions {
            let share = shares.entry(&known.topic).or_default().entry(expression(known)).or_default();
            share.insert(client_id);
        }
    }
    let mut subscriptions = Table::new(&["#Topic", "#SubExpression", "#Clients"]);
    let mut disagree = String::new();
    for (topic, expressions) in &shares {
        for (expression, clients) in expressions {
            subscriptions.row(vec![(*topic).to_owned(), expression.clone(), clients.len().to_string()]);
        }
        if expressions.len() > 1 {
            let ways = expressions.len();
            disagree += &format!("Members filter topic {topic} in {ways} ways; they should have one filter\n");
        }
    }
    let text = format!("{table}\nBelow is subscription:\n{subscriptions}\n{disagree}MessageModel: CLUSTERING\n");
    Outcome::done(text, json!({ "clients": rows, "messageModel": "CLUSTERING" }))
}

fn expression(known: &Subscription) -> String {
    if known.is_sql { format!("SQL92: {}", known.expression) } else { known.expression.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_disagree_are_named() {
        let client = |id: &str, expression: &str| Client {
            client_id: id.to_owned(),
            address: "10.0.0.1:4000".to_owned(),
            language: "JAVA".to_owned(),
            version: "5.1.2".to_owned(),
            subscriptions: vec![Subscription {
                topic: "T".to_owned(),
                expression: expression.to_owned(),
                is_sql: expression.contains('>'),
            }],
            ..Client::default()
        };
        let text = describe(&[client("a", "*"), client("b", "*"), client("c", "x > 1")]).text;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["a", "10.0.0.1:4000", "JAVA", "5.1.2"]);
        assert_eq!(lines[5], "Below is subscription:");
        assert_eq!(lines[7].split_whitespace().collect::<Vec<_>>(), ["T", "*", "2"]);
        assert!(lines[8].contains("SQL92: x > 1"), "{text}");
        assert!(text.contains("Members filter topic T in 2 ways"), "{text}");
        assert!(!describe(&[client("a", "*")]).text.contains("Members filter"));
    }
}
