//! The fault matrix: every workload, each with a checker of its own, against every fault.
//!
//! [`run`] starts a real group of three, runs one workload or several on it, puts the fault into their middle, takes it
//! back, waits until the group is whole, and drains: everything acknowledged must come, nothing may come that must not.
//! A verdict is true, false, or unknown when too little happened before, during or after the fault; unknown is no pass.
//!
//! - [`fault`] has what goes wrong; [`workload`] has what clients do meanwhile and what is checked, a file each.
//! - [`tally`] counts what a run had in it. [`linear`] checks registers. [`page`] writes the table of `docs/faults.md`.
//!
//! The seed decides what the test chooses: pace, what is left, held, renewed or recalled, whom a fault meets and how long
//! it lasts, what a disk keeps. It does not decide what real processes and networks do.

pub mod fault;
pub mod linear;
pub mod page;
pub mod tally;
pub mod workload;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::cluster::LEADER_WITHIN;
use crate::invariant::{self, Verdict};

use fault::{Fault, Stage};
use tally::Phase;
use workload::{Kind, Scene};

/// A phase with enough in it comes within this.
const COVERED_WITHIN: Duration = Duration::from_secs(60);

/// What became of one workload, or of the replicas.
#[derive(Debug)]
pub struct Cell {
    /// A row of the table.
    pub fault: Fault,
    /// A column; none for what is common to them.
    pub workload: Option<Kind>,
    /// What was proved.
    pub verdict: Verdict,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = self.workload.map_or("the group", Kind::name);
        write!(f, "{} × {workload}: {}", self.fault.name(), self.verdict)
    }
}

/// The command that makes this run.
pub fn command(fault: Fault, workloads: &[Kind], seed: u64) -> String {
    let workload = if let [one] = workloads { one.name() } else { "all" };
    format!("make fault FAULT={} WORKLOAD={workload} SEED={seed}", fault.name())
}

/// One run: these workloads, side by side on one group, under this fault. Prints its command, what it had in it, and its
/// verdicts.
pub async fn run(fault: Fault, workloads: &[Kind], seed: u64) -> Vec<Cell> {
    let command = command(fault, workloads, seed);
    println!("{command}");
    let since = Instant::now();
    let cells = match runs(fault, workloads, seed).await {
        Ok(cells) => cells,
        Err(failure) => {
            let verdict = Verdict::Unknown(format!("the run came to no end: {failure:#}"));
            workloads.iter().map(|kind| Cell { fault, workload: Some(*kind), verdict: verdict.clone() }).collect()
        }
    };
    for cell in &cells {
        println!("{cell}");
    }
    println!("{command}: {:.0?}", since.elapsed());
    cells
}

async fn runs(fault: Fault, workloads: &[Kind], seed: u64) -> Result<Vec<Cell>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = Stage::set(fault, workload::settings(), seed).await.context("starting the group")?;
    for kind in workloads {
        kind.prepare(&stage.cluster).await.with_context(|| format!("preparing {}", kind.name()))?;
    }
    stage.cluster.caught_up(0, LEADER_WITHIN).await?;
    let scene = Scene::of(&stage.cluster)?;
    let mut running = Vec::new();
    for kind in workloads {
        let started = kind.start(&scene, random.random()).await;
        running.push((*kind, started.with_context(|| format!("starting {}", kind.name()))?));
    }
    covered(&running, Phase::Before).await?;
    tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
    stage.choose(&mut random).await?;
    for (_, workload) in &running {
        workload.brace().await?;
    }
    stage.inject(&mut random)?;
    running.iter().for_each(|(_, workload)| workload.mark(Phase::During));
    tokio::time::sleep(stage.lasts(&mut random)).await;
    covered(&running, Phase::During).await?;
    stage.take_back()?;
    running.iter().for_each(|(_, workload)| workload.mark(Phase::After));
    stage.whole().await.context("after the fault was taken back")?;
    covered(&running, Phase::After).await.with_context(|| stage.cluster.log_tails(0))?;
    let finishing = running.into_iter().map(|(kind, workload)| {
        let cluster = &stage.cluster;
        async move { (kind, workload.finish(cluster).await) }
    });
    let mut cells = Vec::new();
    for (kind, report) in futures::future::join_all(finishing).await {
        let verdict = match report {
            Ok(report) => {
                println!("{} × {}: {}", fault.name(), kind.name(), report.summary);
                report.verdict()
            }
            Err(failure) => Verdict::Unknown(format!("the workload came to no end: {failure:#}")),
        };
        cells.push(Cell { fault, workload: Some(kind), verdict });
    }
    let verdict = invariant::replicas_agree(&stage.cluster, 0, 3).await;
    cells.push(Cell { fault, workload: None, verdict });
    if cells.iter().any(|cell| matches!(cell.verdict, Verdict::False(_))) {
        println!("{}", stage.cluster.log_tails(0));
    }
    Ok(cells)
}

async fn covered(running: &[(Kind, Box<dyn workload::Running>)], phase: Phase) -> Result<()> {
    for (kind, workload) in running {
        workload.covered(phase, COVERED_WITHIN).await.with_context(|| kind.name())?;
    }
    Ok(())
}
