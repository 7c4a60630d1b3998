//! `mqadmin`: what RocketMQ's users type, carried out through `raftmq.admin.v1` of the brokers.
//!
//! ```text
//! arguments ─▶ cli ─▶ command ─▶ directory (name servers, or -b) ─▶ a node of each broker group ─▶ output
//! ```
//!
//! Every command is a file in `command/`. A command that goes to several broker groups does what it can and reports
//! each of them; the exit code is 0 only when all of them agreed: 0 done, 1 failed, 2 wrong usage.

mod absent;
mod cli;
mod command;
mod confirm;
mod members;
mod output;
mod progress;
mod table;

pub use raftmq_admin_client::error::AdminError;

use clap::Parser as _;
use clap::error::{ContextKind, ContextValue};
use raftmq_admin_client::{connect, credentials, directory, error, time};
use std::ffi::OsString;
use std::process::ExitCode;

/// The whole program: parses, carries out, prints. Returns 0 when all was done, 1 when something failed and 2 when
/// the arguments make no sense.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = cli::with_known_spelling(arguments.into_iter().collect());
    let cli = match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(refused) => {
            if let Some(ContextValue::String(name)) = refused.get(ContextKind::InvalidSubcommand)
                && let Some(why) = absent::why(name)
            {
                eprintln!("mqadmin: {why}");
                return ExitCode::from(2);
            }
            let code = if refused.use_stderr() { 2 } else { 0 };
            // Nothing can be said when standard output and error are closed.
            let _ = refused.print();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("mqadmin: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(command::run(cli)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mqadmin: {error}");
            ExitCode::FAILURE
        }
    }
}
