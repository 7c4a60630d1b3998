//! `mqbroker`: a broker node, or with `--dev` a name server and a single-node broker group in one process.

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use raftmq_launcher::dev;

/// A broker node: one member of a broker group.
#[derive(Debug, Parser)]
#[command(name = "mqbroker", version, after_help = "Example: mqbroker -c deploy/config/broker-n0.conf")]
struct Arguments {
    /// Runs a name server and a single-node broker group in this process, without a configuration file.
    #[arg(long)]
    dev: bool,
    #[command(flatten)]
    broker: raftmq_broker::Arguments,
}

#[tokio::main]
async fn main() -> ExitCode {
    let started = Instant::now();
    let arguments = Arguments::parse();
    let outcome = if arguments.dev {
        dev::run(&arguments.broker, started).await
    } else {
        raftmq_broker::main_with(arguments.broker).await
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqbroker: {error:#}");
            ExitCode::FAILURE
        }
    }
}
