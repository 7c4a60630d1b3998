//! The tables of `docs/faults.md`.

use super::fault::Fault;
use super::workload::Kind;

/// What a table of the page begins with and ends with.
const MARKS: [&str; 2] = ["<!-- written by make docs -->\n", "<!-- to here -->\n"];

/// The page with its tables as the code has them; none when a mark is missing.
pub fn written_anew(page: &str) -> Option<String> {
    let mut rest = page;
    let mut text = String::new();
    for table in [faults(), workloads(), cells()] {
        let (before, after) = rest.split_once(MARKS[0])?;
        let (_, after) = after.split_once(MARKS[1])?;
        text.push_str(&format!("{before}{}{table}{}", MARKS[0], MARKS[1]));
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

fn faults() -> String {
    let mut text = "| `FAULT` | |\n| --- | --- |\n".to_owned();
    for fault in Fault::ALL {
        text.push_str(&format!("| `{}` | {} |\n", fault.name(), fault.meaning()));
    }
    text
}

fn workloads() -> String {
    let mut text = "| `WORKLOAD` | clients | what must hold |\n| --- | --- | --- |\n".to_owned();
    for kind in Kind::ALL {
        let (does, checks) = kind.meaning();
        text.push_str(&format!("| `{}` | {does} | {checks} |\n", kind.name()));
    }
    text
}

fn cells() -> String {
    let names = Kind::ALL.map(Kind::name).join(" | ");
    let mut text = format!("| | {names} | all seven at once |\n| --- |{}\n", " --- |".repeat(Kind::ALL.len() + 1));
    for fault in Fault::ALL {
        text.push_str(&format!("| {} |", fault.name()));
        for workload in Kind::ALL.map(Kind::name).into_iter().chain(["all"]) {
            text.push_str(&format!(" `make fault FAULT={} WORKLOAD={workload}` |", fault.name()));
        }
        text.push('\n');
    }
    text
}
