//! The cluster that `raftmq-cluster up` starts on this machine, on ports that are free.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::{
    client::eventually,
    cluster::{LEADER_WITHIN, Place, Process, program},
};

/// Until all that it started has stopped.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// It is stopped as Ctrl-C does when this is dropped.
pub struct LocalCluster {
    supervisor: Process,
    /// Where clients connect, each as `address:port`.
    pub clients: Vec<String>,
}

impl LocalCluster {
    /// Starts it with its data and its output in `folder`, and waits until it says where clients connect.
    ///
    /// # Errors
    ///
    /// It cannot be started, or is not ready within [`LEADER_WITHIN`].
    pub async fn start(folder: &Path) -> Result<Self> {
        let data = folder.join("data");
        let arguments = ["up", "--free-ports", "--data", data.to_str().context("a path of ours is text")?];
        let program = program("raftmq-cluster")?;
        let supervisor = Process::start(&program, &arguments, &folder.join("up.log"), &Place::default())?;
        let mut local = Self { supervisor, clients: Vec::new() };
        eventually("the local cluster is ready", LEADER_WITHIN, async || said(&local.supervisor).is_some()).await?;
        local.clients = said(&local.supervisor).context("it was there")?;
        Ok(local)
    }
}

/// The addresses for clients, once it has printed them.
fn said(supervisor: &Process) -> Option<Vec<String>> {
    let output = supervisor.output();
    let line = output.lines().find_map(|line| line.trim_start().strip_prefix("clients "))?;
    Some(line.trim().split(';').map(str::to_owned).collect())
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if self.supervisor.signal(Signal::INT).is_ok() {
            let _ = self.supervisor.ended(STOPS_WITHIN);
        }
    }
}
