//! What processes take of the machine, as `/proc` tells it.

use std::time::Duration;

use anyhow::{Context, Result};

/// Totals of one process since it started; memory is as of now.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Bytes that the process caused to be written to disk.
    pub written_bytes: u64,
}

impl Usage {
    /// Of the process with this id.
    ///
    /// # Errors
    ///
    /// It is gone, or not ours to look at.
    pub fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/{name}")).with_context(|| format!("process {pid}"))
        };
        let stat = read("stat")?;
        // The command's name, in parentheses, may hold spaces; user and system time are fields 14 and 15 of the whole.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |number: usize| fields.get(number).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        let cpu = Duration::from_millis((ticks(11) + ticks(12)) * 10);
        let status = read("status")?;
        let resident_bytes = field(&status, "VmRSS:") * 1024;
        let written_bytes = read("io").map(|io| field(&io, "write_bytes:")).unwrap_or_default();
        Ok(Self { cpu, resident_bytes, written_bytes })
    }

    /// What was added since `before`; memory is this one's.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            resident_bytes: self.resident_bytes,
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}
