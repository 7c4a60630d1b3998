//! `mqbroker` that breaks the promises which `RAFTMQ_TEST_BREAK` names (see `raft-store/src/log/faults.rs`), and none
//! when it names none: the control builds that the power-loss tests must fail with.

use std::process::ExitCode;

use clap::Parser;

#[tokio::main]
async fn main() -> ExitCode {
    match raftmq_broker::main_with(raftmq_broker::Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqbroker-faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}
