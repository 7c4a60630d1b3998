//! Every workload under every fault, on a real group of three: `docs/faults.md` has the table, in which each cell is a
//! command. The gate runs all workloads at once under three of the faults.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use raftmq_tests::invariant::Verdict;
use raftmq_tests::matrix::{self, Cell, fault::Fault, page, workload::Kind};
use raftmq_tests::root;

/// Runs cells with the seed of `SEED`, or any. All workloads side by side, or each on a group of its own.
async fn cells(faults: &[Fault], workloads: &[Kind], side_by_side: bool) -> Result<()> {
    let seed = match std::env::var("SEED") {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("SEED={text} must be a number"))?,
        _ => rand::random_range(0..1_000_000),
    };
    let mut cells: Vec<Cell> = Vec::new();
    for fault in faults {
        if let Some(reason) = fault.unavailable() {
            eprintln!("SKIPPED: {} was not made and nothing was proved: {reason}", fault.name());
            continue;
        }
        let at_once = if side_by_side { workloads.len() } else { 1 };
        for workloads in workloads.chunks(at_once) {
            cells.extend(matrix::run(*fault, workloads, seed).await);
        }
    }
    let failed: Vec<String> =
        cells.iter().filter(|cell| cell.verdict != Verdict::True).map(ToString::to_string).collect();
    println!("seed {seed}: {} verdicts, {} not true", cells.len(), failed.len());
    ensure!(failed.is_empty(), "seed {seed}:\n{}", failed.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_workloads_under_a_killed_leader() -> Result<()> {
    cells(&[Fault::KillLeader], &Kind::ALL, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_workloads_under_a_clock_that_jumps() -> Result<()> {
    cells(&[Fault::ClockForward], &Kind::ALL, true).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_workloads_under_a_partition_in_one_direction() -> Result<()> {
    cells(&[Fault::LeaderMute], &Kind::ALL, true).await
}

/// `make fault` and `make faults` choose by `FAULT` (a name, or `every`) and `WORKLOAD` (a name, `all` side by side, or
/// `each` on a group of its own). `make chaos`, which chooses nothing, has all workloads side by side under every fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make faults runs every cell, make fault one of them"]
async fn chosen_cells() -> Result<()> {
    let chosen = |name: &str, default: &str| match std::env::var(name) {
        Ok(text) if !text.is_empty() => text,
        _ => default.to_owned(),
    };
    let (fault, workload) = (chosen("FAULT", "every"), chosen("WORKLOAD", "all"));
    let faults = match (&*fault, Fault::named(&fault)) {
        ("every", _) => Fault::ALL.to_vec(),
        (_, Some(fault)) => vec![fault],
        _ => bail!("FAULT={fault} must be every or one of {}", Fault::ALL.map(Fault::name).join(", ")),
    };
    let (workloads, side_by_side) = match (&*workload, Kind::named(&workload)) {
        ("all", _) => (Kind::ALL.to_vec(), true),
        ("each", _) => (Kind::ALL.to_vec(), false),
        (_, Some(kind)) => (vec![kind], true),
        _ => bail!("WORKLOAD={workload} must be all, each or one of {}", Kind::ALL.map(Kind::name).join(", ")),
    };
    cells(&faults, &workloads, side_by_side).await
}

/// `make docs` writes them anew.
#[test]
fn the_page_has_every_cell() -> Result<()> {
    let path = root().join("docs/faults.md");
    let page = fs::read_to_string(&path)?;
    let anew = page::written_anew(&page).context("docs/faults.md lacks the marks around its three tables")?;
    if std::env::var_os("RAFTMQ_WRITE_DOCS").is_some() {
        return Ok(fs::write(&path, anew)?);
    }
    ensure!(anew == page, "docs/faults.md is not what the code has: run make docs");
    Ok(())
}
