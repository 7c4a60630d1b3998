//! `completion`: what a shell needs to complete commands and flags.

use crate::cli::Cli;
use crate::output::Outcome;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use serde_json::Value;

/// Print a script that completes commands and flags in a shell.
///
/// bash: `source <(mqadmin completion bash)` in ~/.bashrc; zsh: `mqadmin completion zsh > "${fpath[1]}/_mqadmin"`;
/// fish: `mqadmin completion fish > ~/.config/fish/completions/mqadmin.fish`.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin completion bash")]
pub(crate) struct Arguments {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "mqadmin", &mut script);
    Outcome::done(String::from_utf8_lossy(&script), Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_completed_in_every_shell() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = run(&Arguments { shell }).text;
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }
}
