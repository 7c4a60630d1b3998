//! `mqbroker` that breaks the promises which `RAFTMQ_TEST_BREAK` names (see `raft-store/src/log/faults.rs`), and none
//! when it names none: the control builds that the power-loss tests must fail with.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match run(raftmq_broker::Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqbroker-faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: raftmq_broker::Arguments) -> anyhow::Result<()> {
    raftmq_broker::runtime()?.block_on(raftmq_broker::main_with(arguments))
}
