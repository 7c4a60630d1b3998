//! A local cluster: two name servers and a three-node broker group on this machine.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use raftmq_launcher::{cluster, demo};

/// Runs a RaftMQ cluster on this machine.
#[derive(Debug, Parser)]
#[command(name = "raftmq-cluster", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts two name servers and three broker nodes, keeps them running, stops them on Ctrl-C.
    Up {
        #[command(flatten)]
        data: Data,
        /// Not the usual ports but some that are free. A folder that was used before keeps its ports either way.
        #[arg(long)]
        free_ports: bool,
    },
    /// Shows which node leads, in which term, and how far the others are.
    Status(Data),
    /// kill -9 the leader, and shows the next one.
    KillLeader(Data),
    /// kill -9 a node and deletes all that it has on disk, and shows the command that admits it again.
    Wipe {
        /// Which one: n0, n1 or n2.
        node: String,
        #[command(flatten)]
        data: Data,
    },
    /// Produces and consumes on a cluster of its own, kills the leader in the middle, prints the timeline.
    Demo,
}

#[derive(Debug, clap::Args)]
struct Data {
    /// Folder for configuration, logs and data.
    #[arg(long, default_value = "raftmq-data")]
    data: PathBuf,
}

impl Data {
    /// Absolute, so that it means the same in every terminal and in process lists.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        Ok(std::path::absolute(&self.data)?)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Up { data, free_ports } => {
            in_folder(&data, async |folder: &std::path::Path| cluster::up(folder, free_ports).await).await
        }
        Command::Status(data) => in_folder(&data, cluster::status).await,
        Command::KillLeader(data) => in_folder(&data, cluster::kill_leader).await,
        Command::Wipe { node, data } => {
            in_folder(&data, async |folder: &std::path::Path| cluster::wipe(folder, &node).await).await
        }
        Command::Demo => demo::run().await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raftmq-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn in_folder(data: &Data, run: impl AsyncFnOnce(&std::path::Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    run(&data.folder()?).await
}
