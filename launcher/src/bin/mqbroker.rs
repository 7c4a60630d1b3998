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

/// Rows, frames and requests are many and small, and freed on other threads than they were made on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let started = Instant::now();
    match run(Arguments::parse(), started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqbroker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments, started: Instant) -> anyhow::Result<()> {
    raftmq_broker::runtime()?.block_on(async {
        if arguments.dev {
            dev::run(&arguments.broker, started).await
        } else {
            raftmq_broker::main_with(arguments.broker).await
        }
    })
}
