//! `mqbroker` as a later build: it knows the version of commands after the newest one, which no release knows
//! (`broker/src/machine/version.rs`).

use std::process::ExitCode;

use clap::Parser;
use raftmq_broker::machine::{TRIAL, VERSION_OLDEST};

fn main() -> ExitCode {
    match run(raftmq_broker::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqbroker-next: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: raftmq_broker::Arguments) -> anyhow::Result<()> {
    raftmq_broker::runtime()?.block_on(raftmq_broker::main_knowing(VERSION_OLDEST..=TRIAL, arguments))
}
