//! `mqbroker` that breaks the promises which `RAFTMQ_TEST_BREAK` names (see `raft-store/src/log/faults.rs`), and none
//! when it names none: the control builds that the power-loss tests must fail with.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = raftmq_broker::Arguments::parse();
    let run = |runtime: tokio::runtime::Runtime| runtime.block_on(raftmq_broker::main_with(arguments));
    match raftmq_broker::runtime().map_err(anyhow::Error::from).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqbroker-faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}
