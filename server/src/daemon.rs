//! What every daemon begins with: flags, settings, logs, and as many open files as it may have.

use crate::logs::{self, LogError, LogFiles, Logs};
use crate::open_files;
use crate::settings::{Effective, Settings};
use clap::Args;
use std::path::PathBuf;

/// Flags that every daemon has.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Properties file with RocketMQ's keys; without it every key has its default.
    #[arg(short = 'c', long = "configFile", value_name = "FILE")]
    pub config_file: Option<PathBuf>,
    /// Print the configuration that is in effect, and leave.
    #[arg(long = "print-config", visible_alias = "printConfigItem")]
    pub print_config: bool,
    /// Set one key, on top of file and environment.
    #[arg(short = 'D', long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl Flags {
    /// Puts the layers that the flags name on top of what is there.
    pub fn layers(&self, settings: &mut Settings) {
        if let Some(file) = &self.config_file {
            settings.file(file);
        }
        for assignment in &self.set {
            settings.assignment("-D", assignment);
        }
    }
}

/// Prints the configuration, where `print` says so, and returns nothing: there is no more to do. Otherwise starts logs at
/// that level, with what the configuration has to be warned of first, and raises the limit of open files.
///
/// # Errors
/// Log files cannot be written.
pub fn begin(
    print: bool,
    effective: &Effective,
    level: &str,
    files: Option<LogFiles>,
) -> Result<Option<Logs>, LogError> {
    if print {
        effective.print();
        return Ok(None);
    }
    let logs = logs::start(level, files)?;
    logs::notice_java_options();
    open_files::raise();
    for warning in &effective.warnings {
        tracing::warn!("{warning}");
    }
    Ok(Some(logs))
}
