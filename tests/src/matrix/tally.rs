//! How much happened before, during and after the fault: a run in which little did proves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::invariant::Verdict;

/// Part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nothing has gone wrong yet.
    Before,
    /// From the fault until it is taken back.
    During,
    /// From then on.
    After,
}

const PHASES: [Phase; 3] = [Phase::Before, Phase::During, Phase::After];

/// What a run must have in it at least.
#[derive(Debug, Clone, Copy)]
pub struct Least {
    /// Operations that succeeded before the fault.
    pub before: usize,
    /// Operations that were begun while it lasted, whatever became of them.
    pub during: usize,
    /// Operations that succeeded after it.
    pub after: usize,
}

/// Counts operations by phase.
#[derive(Debug, Default)]
pub struct Tally {
    phase: AtomicUsize,
    begun: [AtomicUsize; 3],
    done: [AtomicUsize; 3],
}

impl Tally {
    /// The phase that it is now.
    pub fn phase(&self) -> Phase {
        PHASES[self.phase.load(Ordering::SeqCst)]
    }

    /// From now on it is this phase.
    pub fn mark(&self, phase: Phase) {
        self.phase.store(phase as usize, Ordering::SeqCst);
    }

    /// An operation begins.
    pub fn begin(&self) {
        self.begun[self.phase() as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// An operation succeeded.
    pub fn done(&self) {
        self.done[self.phase() as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn begun_in(&self, phase: Phase) -> usize {
        self.begun[phase as usize].load(Ordering::Relaxed)
    }

    fn done_in(&self, phase: Phase) -> usize {
        self.done[phase as usize].load(Ordering::Relaxed)
    }

    /// Waits for enough operations in a phase.
    ///
    /// # Errors
    ///
    /// There are fewer after `limit`.
    pub async fn reaches(&self, phase: Phase, least: Least, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let (so_far, wanted) = match phase {
                Phase::Before => (self.done_in(phase), least.before),
                Phase::During => (self.begun_in(phase), least.during),
                Phase::After => (self.done_in(phase), least.after),
            };
            if so_far >= wanted {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{so_far} of {wanted} operations {phase:?} the fault in {limit:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Whether there was enough.
    pub fn coverage(&self, least: Least) -> Verdict {
        let (before, during) = (self.done_in(Phase::Before), self.begun_in(Phase::During));
        let after = self.done_in(Phase::After);
        if before < least.before || during < least.during || after < least.after {
            return Verdict::Unknown(format!("too little happened: {self}, where {least:?} is wanted"));
        }
        Verdict::True
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (before, after) = (self.done_in(Phase::Before), self.done_in(Phase::After));
        write!(f, "{before} done before, {} begun during, {after} done after", self.begun_in(Phase::During))
    }
}

/// What the tasks of a workload share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Counts their operations.
    pub tally: Tally,
    senders_over: AtomicBool,
    receivers_over: AtomicBool,
}

impl Shared {
    /// Whether senders go on.
    pub fn sends(&self) -> bool {
        !self.senders_over.load(Ordering::Relaxed)
    }

    /// Whether receivers go on.
    pub fn receives(&self) -> bool {
        !self.receivers_over.load(Ordering::Relaxed)
    }
}

/// The tasks of a workload: those that make something new, and those that see what became of it.
#[derive(Default)]
pub struct Crew {
    /// What they share.
    pub shared: Arc<Shared>,
    senders: JoinSet<()>,
    receivers: JoinSet<()>,
}

impl Crew {
    /// Adds one that ends when [`Shared::sends`] says no.
    pub fn sender(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.senders.spawn(task);
    }

    /// Adds one that ends when [`Shared::receives`] says no.
    pub fn receiver(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.receivers.spawn(task);
    }

    /// Nothing new from now on; returns when all that was begun has ended.
    ///
    /// # Errors
    ///
    /// A task panicked.
    pub async fn end_senders(&mut self) -> Result<()> {
        self.shared.senders_over.store(true, Ordering::Relaxed);
        end(&mut self.senders).await
    }

    /// Returns when the last receives have ended: what wrongly comes shows in them.
    ///
    /// # Errors
    ///
    /// A task panicked.
    pub async fn end_receivers(&mut self) -> Result<()> {
        self.shared.receivers_over.store(true, Ordering::Relaxed);
        end(&mut self.receivers).await
    }
}

async fn end(tasks: &mut JoinSet<()>) -> Result<()> {
    while let Some(ended) = tasks.join_next().await {
        ended.context("a task of the workload ended early")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_in_any_phase_is_unknown() {
        let least = Least { before: 2, during: 1, after: 2 };
        let tally = Tally::default();
        for (phase, operations) in [(Phase::Before, 2), (Phase::During, 1), (Phase::After, 2)] {
            assert!(matches!(tally.coverage(least), Verdict::Unknown(_)));
            tally.mark(phase);
            for _ in 0..operations {
                tally.begin();
                tally.done();
            }
        }
        assert_eq!(tally.coverage(least), Verdict::True);
        assert!(matches!(tally.coverage(Least { during: 2, ..least }), Verdict::Unknown(_)));
    }
}
