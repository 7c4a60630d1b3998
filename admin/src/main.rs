//! `mqadmin`: RocketMQ's admin commands.

use std::process::ExitCode;

fn main() -> ExitCode {
    raftmq_admin::main(std::env::args_os())
}
