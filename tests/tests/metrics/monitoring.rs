//! What Grafana and Prometheus are told to ask for, against what nodes show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use raftmq_tests::deploy_tools::{Alert, Series, alerts, asked};
use raftmq_tests::root;
use serde_json::Value;

use super::reference::OF_NODE;

const RULES: &str = "deploy/helm/raftmq/prometheus/raftmq.rules.yaml";
const DASHBOARDS: &str = "deploy/helm/raftmq/grafana";

/// Every series of the pages, by its name there, with its labels.
fn shown(pages: &[String]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in pages.iter().flat_map(|page| page.lines()).filter(|line| !line.starts_with('#')) {
        let Some((name, labels)) = line.split_once('{') else { continue };
        let labels = labels.rsplit_once('}').map_or("", |(labels, _)| labels);
        let names = labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name);
        found.entry(name).or_default().extend(names);
    }
    found
}

/// Expressions of all panels, and of the lists to choose from.
fn of_dashboard(dashboard: &Value) -> Result<Vec<String>> {
    let mut expressions = Vec::new();
    let mut titles = BTreeSet::new();
    for panel in dashboard["panels"].as_array().context("it has panels")? {
        let title = panel["title"].as_str().context("a panel has a title")?;
        ensure!(titles.insert(title), "two panels are called {title}");
        // Outside the chart too: no data source is named, whoever opens it chooses.
        ensure!(panel["datasource"]["uid"] == "${datasource}", "{title} has a data source of its own");
        for target in panel["targets"].as_array().with_context(|| format!("{title} shows something"))? {
            expressions.push(target["expr"].as_str().context("a target has an expression")?.to_owned());
        }
    }
    for variable in dashboard["templating"]["list"].as_array().context("it has variables")? {
        let query = variable["query"].as_str().context("a variable has a query")?;
        if let Some(values) = query.strip_prefix("label_values(") {
            let (metric, label) = values.trim_end_matches(')').split_once(", ").context("a metric and a label")?;
            expressions.push(format!("sum by ({label}) ({metric})"));
        }
    }
    Ok(expressions)
}

/// The alerts' rows of the handbook.
fn rows(alerts: &[Alert]) -> String {
    let row = |Alert { name, expression, lasts, texts: (means, todo), .. }: &Alert| {
        let lasts = if lasts == "0s" { String::new() } else { format!(" for {lasts}") };
        format!("| `{name}` | `{expression}`{lasts} | {means} | {todo} |\n")
    };
    alerts.iter().map(row).collect()
}

/// Holds alerts and dashboards against the pages of all nodes, and the handbook against the alerts; `make docs` writes
/// its table anew.
pub fn check(pages: &[String]) -> Result<()> {
    let shown = shown(pages);
    let there = |from: &str, series: &Series| {
        let labels = shown.get(series.metric.as_str());
        let labels = labels.with_context(|| format!("{from} asks for {}, which no node shows", series.metric))?;
        for label in &series.labels {
            let known = labels.contains(label.as_str()) || OF_NODE.contains(&label.as_str());
            ensure!(known, "{from} asks for {} by {label}, which it does not have", series.metric);
        }
        anyhow::Ok(())
    };
    let alerts = alerts(RULES)?;
    ensure!(alerts.len() > 9, "{alerts:?}");
    for alert in &alerts {
        ensure!(!alert.series.is_empty(), "{} asks for nothing", alert.name);
        alert.series.iter().try_for_each(|series| there(&alert.name, series))?;
    }
    let mut dashboards = 0;
    for file in fs::read_dir(root().join(DASHBOARDS))? {
        let file = file?.path();
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        let series = asked(&of_dashboard(&dashboard)?)?;
        let name = file.display().to_string();
        series.iter().try_for_each(|series| there(&name, series))?;
        dashboards += 1;
    }
    ensure!(dashboards > 0, "there is no dashboard in {DASHBOARDS}");

    const HEAD: &str = "| alert | when | it means | do |\n| --- | --- | --- | --- |\n";
    let path = root().join("docs/operations.md");
    let written = fs::read_to_string(&path)?;
    let (before, table) = written.split_once(HEAD).context("the handbook has a table of alerts")?;
    let after: String = table.split_inclusive('\n').skip_while(|line| line.starts_with('|')).collect();
    let text = format!("{before}{HEAD}{}{after}", rows(&alerts));
    if std::env::var_os("RAFTMQ_WRITE_DOCS").is_some() {
        return Ok(fs::write(&path, text)?);
    }
    ensure!(text == written, "docs/operations.md does not have the alerts of {RULES}: run make docs");
    Ok(())
}
