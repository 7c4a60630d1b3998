//! A whole local cluster under a supervisor, its demonstration, and `mqbroker --dev`.
//!
//! ```text
//! raftmq-cluster up ─▶ layout (ports, files) ─▶ supervisor ─▶ 2 × mqnamesrv, 3 × mqbroker, dashboard
//!                status, kill-leader ─▶ layout on disk ─▶ the nodes' admin API, a process id
//!                demo ─▶ a layout on free ports, clients, kill -9, a count
//! mqbroker --dev ─▶ dev: name server and a single-node group in one process
//! ```

pub mod client;
pub mod cluster;
pub mod demo;
pub mod dev;
pub mod layout;
pub mod status;
pub mod supervisor;
