//! `decodeMessageId`: what the id of a message says of its maker.

use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use crate::table::Table;
use crate::time::human;
use clap::Args;
use serde_json::json;

/// From 2021 on the seconds in an id count.
const YEAR_2021_MS: u64 = 1_609_459_200_000;

/// Show what the id of a message says: the machine and the process of its producer, and when it was made.
///
/// The clients of RocketMQ 5 make ids of 34 hexadecimal digits; others say nothing.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin decodeMessageId -i 0156F7E71C361B21BC0A8C49F800000000")]
pub(crate) struct Arguments {
    /// The message id; several are separated by commas.
    #[arg(short = 'i', long = "messageId", value_name = "ID", value_delimiter = ',', required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    pub output: ShortOutput,
}

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    machine: String,
    process: u64,
    made_ms: u64,
    number: u64,
}

/// Version, machine, process, seconds since 2021, number.
fn decode(id: &str) -> Option<Decoded> {
    if id.len() != 34 || !id.starts_with("01") || !id.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = |from: usize, to: usize| u64::from_str_radix(&id[from..to], 16).ok();
    let machine: Vec<&str> = (2..14).step_by(2).map(|at| &id[at..at + 2]).collect();
    Some(Decoded {
        machine: machine.join(":").to_lowercase(),
        process: number(14, 18)?,
        made_ms: YEAR_2021_MS + number(18, 26)? * 1_000,
        number: number(26, 34)?,
    })
}

/// When the message of an id was made, as far as the id says it.
pub(super) fn made_ms(id: &str) -> Option<u64> {
    decode(id).map(|decoded| decoded.made_ms)
}

pub(crate) async fn run(_: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let mut table = Table::new(&["#MsgId", "#Machine", "#Process", "#Made", "#Number"]);
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for id in &arguments.ids {
        let Some(Decoded { machine, process, made_ms, number }) = decode(id) else {
            failures.push(format!("{id} is no id of 34 hexadecimal digits that begins with 01"));
            continue;
        };
        table.row(vec![id.clone(), machine.clone(), process.to_string(), human(made_ms), number.to_string()]);
        rows.push(json!({ "msgId": id, "machine": machine, "process": process, "madeMs": made_ms, "number": number }));
    }
    let text = if table.is_empty() { String::new() } else { table.to_string() };
    Ok(Outcome { text, json: rows.into(), failures })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_who_and_when() {
        let made = decode("0156F7E71C361B21BC0A8C49F800000007").expect("the form of the clients");
        assert_eq!((made.machine.as_str(), made.process, made.number), ("56:f7:e7:1c:36:1b", 0x21bc, 7));
        assert_eq!(made.made_ms, YEAR_2021_MS + 0x0a8c_49f8 * 1_000);
        for other in ["", "01", "0256F7E71C361B21BC0A8C49F800000007", "01é6F7E71C361B21BC0A8C49F80000007", "ABC"] {
            assert_eq!(decode(other), None, "{other}");
        }
    }
}
