//! The programs by which tests look at what `deploy/` holds for others: helm, and what reads Compose files and rules of
//! Prometheus as those programs do. `scripts/deploy-tools.sh` builds them.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::root;

/// What an expression asks Prometheus for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Its name there.
    pub metric: String,
    /// Labels by which it is chosen or summed.
    pub labels: BTreeSet<String>,
}

/// An alert.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// When it is one.
    pub expression: String,
    /// For how long that must last, as Prometheus writes it; `0s` for at once.
    pub lasts: String,
    /// What it means, and what to do.
    pub texts: (String, String),
    /// What its expression asks for.
    pub series: Vec<Series>,
}

/// A program among them.
///
/// # Errors
///
/// It cannot be built: the sentence is that of the script.
pub fn tool(name: &str) -> Result<PathBuf> {
    let output = Command::new(root().join("scripts/deploy-tools.sh")).output().context("scripts/deploy-tools.sh")?;
    ensure!(output.status.success(), "NOTHING IN deploy/ WAS CHECKED: {}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()).join(name))
}

fn understood(output: &Output) -> Result<Value> {
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn series(value: &Value) -> Result<Vec<Series>> {
    let one = |series: &Value| {
        let labels = series["labels"].as_array().context("labels")?.iter().filter_map(Value::as_str);
        Ok(Series { metric: text(&series["metric"])?, labels: labels.map(str::to_owned).collect() })
    };
    value.as_array().context("series")?.iter().map(one).collect()
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}

/// The alerts of a file with rules.
///
/// # Errors
///
/// Prometheus would not take it.
pub fn alerts(file: &str) -> Result<Vec<Alert>> {
    let found = understood(&Command::new(tool("deploy-check")?).args(["rules", file]).current_dir(root()).output()?)?;
    let one = |rule: &Value| {
        Ok(Alert {
            name: text(&rule["alert"])?,
            expression: text(&rule["expr"])?,
            lasts: text(&rule["for"])?,
            texts: (text(&rule["annotations"]["summary"])?, text(&rule["annotations"]["description"])?),
            series: series(&rule["series"])?,
        })
    };
    found.as_array().context("rules")?.iter().map(one).collect()
}

/// What expressions, one a line, ask for.
///
/// # Errors
///
/// One of them is no PromQL.
pub fn asked(expressions: &[String]) -> Result<Vec<Series>> {
    series(&fed(Command::new(tool("deploy-check")?).arg("promql"), expressions.join("\n").as_bytes())?)
}

/// What helm makes of the chart in namespace `mq`, as release `r`, with these values over its own.
///
/// # Errors
///
/// It does not render.
pub fn chart(values: &[&str]) -> Result<Vec<Value>> {
    let set = values.iter().flat_map(|value| ["--set", value]);
    let mut command = Command::new(tool("helm")?);
    command.args(["template", "r", "deploy/helm/raftmq", "--namespace", "mq"]).args(set).current_dir(root());
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let documents = fed(Command::new(tool("deploy-check")?).arg("yaml"), &output.stdout)?;
    Ok(documents.as_array().context("documents")?.clone())
}

/// What a program prints that is given `input`.
fn fed(command: &mut Command, input: &[u8]) -> Result<Value> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("it is piped")?;
    // It reads all before it prints.
    stdin.write_all(input)?;
    drop(stdin);
    understood(&child.wait_with_output()?)
}

/// A composed cluster with variables filled in, as `docker compose config` shows it.
///
/// # Errors
///
/// It is not one that the Compose specification allows.
pub fn compose(file: &str, environment: &[(&str, &str)]) -> Result<Value> {
    let mut command = Command::new(tool("deploy-check")?);
    command.args(["compose", file]).current_dir(root()).env_clear().envs(environment.iter().copied());
    understood(&command.output()?)
}
