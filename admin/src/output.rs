//! What a command prints: text for people and scripts, or JSON.

use clap::{Args, ValueEnum};
use serde_json::Value;

/// How the outcome is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// As RocketMQ's tools do.
    #[default]
    Text,
    /// One JSON document.
    Json,
}

/// `-o json`, where RocketMQ's command has no `-o` of its own.
#[derive(Debug, Clone, Args)]
pub(crate) struct ShortOutput {
    /// Print text or one JSON document.
    #[arg(short = 'o', long = "output", value_enum, default_value = "text", value_name = "FORMAT")]
    pub output: Format,
}

/// `--output json`, where `-o` has RocketMQ's meaning.
#[derive(Debug, Clone, Args)]
pub(crate) struct LongOutput {
    /// Print text or one JSON document.
    #[arg(long = "output", value_enum, default_value = "text", value_name = "FORMAT")]
    pub output: Format,
}

/// The outcome of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// For people; ends with a line break.
    pub text: String,
    /// For programs.
    pub json: Value,
    /// What did not work, by broker group or node.
    pub failures: Vec<String>,
}

impl Outcome {
    pub(crate) fn done(text: impl Into<String>, json: Value) -> Outcome {
        Outcome { text: text.into(), json, failures: Vec::new() }
    }

    /// Prints, and says whether all was done.
    pub(crate) fn print(&self, format: Format) -> bool {
        match format {
            Format::Text => print!("{}", self.text),
            Format::Json => println!("{:#}", self.json),
        }
        for failure in &self.failures {
            eprintln!("mqadmin: {failure}");
        }
        self.failures.is_empty()
    }
}
