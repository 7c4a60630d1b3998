//! What `docs/metrics.md` says of the metrics, against what nodes show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use raftmq_tests::root;

/// Labels that every series has.
pub const OF_NODE: [&str; 4] = ["broker_group", "cluster", "node_id", "node_type"];

/// A metric of a page.
#[derive(Debug, Default)]
struct Metric {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

/// The metrics of a page, by the names that their series have there.
fn metrics(page: &str) -> Result<BTreeMap<String, Metric>> {
    let mut found: BTreeMap<String, Metric> = BTreeMap::new();
    for line in page.lines() {
        let told = line.strip_prefix("# ").and_then(|line| line.split_once(' '));
        if let Some((what, (name, text))) = told.and_then(|(what, rest)| Some((what, rest.split_once(' ')?))) {
            let metric = found.entry(name.to_owned()).or_default();
            match what {
                "HELP" => text.trim_end_matches('.').clone_into(&mut metric.help),
                "TYPE" => text.clone_into(&mut metric.kind),
                _ => {}
            }
        } else if let Some((series, labels)) = line.split_once('{') {
            // Names have no commas, and neither have the other values.
            let labels = labels.split_once('}').context("labels end")?.0.split(',');
            let labels = labels.filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
            let labels = labels.filter(|name| name != "le" && !OF_NODE.contains(&name.as_str()));
            let ends = ["_total", "_bucket", "_count", "_sum", ""];
            let name = ends.iter().filter_map(|end| series.strip_suffix(end)).find(|name| found.contains_key(*name));
            let name = name.with_context(|| format!("{series} has a kind"))?.to_owned();
            found.entry(name).or_default().labels.extend(labels);
        }
    }
    let named = |(name, metric): (String, Metric)| {
        (if metric.kind == "counter" { format!("{name}_total") } else { name }, metric)
    };
    Ok(found.into_iter().map(named).collect())
}

/// The rows of the reference. Whoever is not seen to say something may still be one that could: then it stays as written.
fn rows(pages: &[String], leader: usize, written: &str) -> Result<String> {
    let (mut all, mut by_followers) = (BTreeMap::<String, Metric>::new(), BTreeSet::new());
    for (number, page) in pages.iter().enumerate() {
        for (name, metric) in metrics(page)? {
            if number != leader {
                by_followers.insert(name.clone());
            }
            let known = all.entry(name).or_default();
            let labels = std::mem::take(&mut known.labels);
            *known = metric;
            known.labels.extend(labels);
        }
    }
    let mut text = String::new();
    for (name, Metric { kind, help, labels }) in all {
        let start = format!("| `{name}` | ");
        let here = written.lines().find(|line| line.starts_with(&start));
        let by = here.and_then(|line| line.split(" | ").nth(2)).unwrap_or("the leader");
        let by = if by_followers.contains(&name) { "every node" } else { by };
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        text.push_str(&format!("{start}{kind} | {by} | {} | {help} |\n", labels.join(" ")));
    }
    Ok(text)
}

/// Holds the reference against the pages of all nodes; `make docs` writes it anew.
pub fn check(pages: &[String], leader: usize) -> Result<()> {
    const HEAD: &str = "| --- | --- | --- | --- | --- |\n";
    let path = root().join("docs/metrics.md");
    let written = fs::read_to_string(&path)?;
    let (before, table) = written.split_once(HEAD).context("it has a table")?;
    let after: String = table.split_inclusive('\n').skip_while(|line| line.starts_with('|')).collect();
    let text = format!("{before}{HEAD}{}{after}", rows(pages, leader, table)?);
    if std::env::var_os("RAFTMQ_WRITE_DOCS").is_some() {
        return Ok(fs::write(&path, text)?);
    }
    ensure!(text == written, "docs/metrics.md is not what the nodes show: run make docs\n{text}");
    Ok(())
}
