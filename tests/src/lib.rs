//! Tests and benchmarks of the real programs: clusters of processes that are killed, paused, cut off and restarted,
//! and an oracle of what their clients were told.
//!
//! - [`cluster`] starts, breaks and ends processes; [`client`] speaks to them as an SDK does.
//! - [`local_cluster`] is the one that `raftmq-cluster up` starts, as a user has it.
//! - [`certificates`] has a CA; [`browser`] starts the dashboard and reads its pages.
//! - [`relay`] stands in front of ports and loses bytes; [`netns`] cuts links between hosts.
//! - [`workload`] runs clients through a fault and writes down in [`oracle`] what they were told.
//! - [`power`] has the runs in which the power goes; [`disk_journal`] knows what of RocksDB's files is left then.
//! - [`invariant`] has the properties, one a file, that the oracle's history is held against.
//! - [`matrix`] puts each fault into each workload.
//! - [`official`] runs the official clients; [`emulate`] stands for two of them.
//! - [`deploy_tools`] has the programs that read what `deploy/` holds for others.
//! - [`load`], [`do_nothing`], [`dev_start`] and [`usage`] are the benchmark's.

// Tests measure real time and start tasks of their own.
#![allow(clippy::disallowed_methods)]

pub mod browser;
pub mod certificates;
pub mod client;
pub mod cluster;
pub mod deploy_tools;
pub mod dev_start;
pub mod disk_journal;
pub mod do_nothing;
pub mod emulate;
pub mod invariant;
pub mod load;
pub mod local_cluster;
pub mod matrix;
#[cfg(feature = "nats")]
pub mod nats;
pub mod netns;
pub mod official;
pub mod oracle;
pub mod power;
pub mod relay;
pub mod session;
pub mod small_disk;
pub mod usage;
pub mod workload;

/// The folder of the repository.
#[must_use]
pub fn root() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(ToOwned::to_owned).unwrap_or_default()
}
