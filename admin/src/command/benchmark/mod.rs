//! `benchmark`: sends or receives as fast as asked for, through the public API as a client does: routes first, then calls
//! to the queues' own endpoints, and on to the next one where one does not answer.

mod consumer;
mod load;
mod producer;
mod route;

use crate::directory::Directory;
use crate::error::AdminError;
use crate::output::{Format, Outcome};
use clap::{Args, Subcommand};
use std::time::Duration;

/// Measure how fast messages are sent or received, with a line for every second and a summary.
///
/// It ends after --seconds, after -q messages, or with Ctrl-C, and lets the calls that are under way end. The load
/// generator takes processor time too: on the brokers' own machine it measures both.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin benchmark producer -n localhost:9876 -t TOOLS_BENCHMARK -w 64 -s 1024")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    side: Side,
    #[command(flatten)]
    pub output: GlobalOutput,
}

/// `-o` for both sides.
#[derive(Debug, Args)]
pub(crate) struct GlobalOutput {
    /// Print the summary as text or as one JSON document; lines go to standard error then.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text", value_name = "FORMAT", global = true)]
    pub output: Format,
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "camelCase")]
enum Side {
    Producer(producer::Arguments),
    Consumer(consumer::Arguments),
}

/// How long, and how often it says something.
#[derive(Debug, Args)]
struct Bounds {
    /// Stop after so many seconds.
    #[arg(long = "seconds", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    seconds: u64,
    /// Stop after so many messages; 0 for any number.
    #[arg(short = 'q', long = "messageQuantity", value_name = "MESSAGES", default_value_t = 0)]
    quantity: u64,
    /// Milliseconds between two lines.
    #[arg(short = 'i', long = "reportInterval", value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    interval: u64,
}

impl Bounds {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

pub(crate) async fn run(directory: &Directory, arguments: &Arguments) -> Result<Outcome, AdminError> {
    let format = arguments.output.output;
    match &arguments.side {
        Side::Producer(producer) => producer::run(directory, producer, format).await,
        Side::Consumer(consumer) => consumer::run(directory, consumer, format).await,
    }
}
