//! `mqnamesrv`: configuration → port → serve → drain.

use anyhow::Context as _;
use clap::Parser;
use raftmq_namesrv::{ALIASES, Config, NameServer};
use raftmq_server::{logs, settings::Settings, shutdown::Shutdown};
use std::path::PathBuf;
use std::process::ExitCode;

/// The name server: a registry that brokers keep fed by heartbeats.
///
/// Example: mqnamesrv -c deploy/config/namesrv.conf
#[derive(Parser)]
#[command(name = "mqnamesrv", version)]
struct Arguments {
    /// Properties file; without it every key has its default.
    #[arg(short = 'c', long = "configFile", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective configuration and leave.
    #[arg(short = 'p', long = "print-config", visible_alias = "printConfigItem")]
    print_config: bool,
    /// Accepted for scripts that pass it to every program; a name server asks no other.
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    namesrv_addr: Option<String>,
    /// Set a key over file and environment.
    #[arg(short = 'D', long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mqnamesrv: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut settings = Settings::new(ALIASES);
    if let Some(file) = &arguments.config {
        settings.file(file);
    }
    for assignment in &arguments.set {
        settings.assignment("--set", assignment);
    }
    let config = Config::read(&mut settings);
    let effective = settings.finish()?;
    if arguments.print_config {
        effective.print();
        return Ok(());
    }
    logs::start("info");
    raftmq_server::open_files::raise();
    logs::notice_java_options();
    effective.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if arguments.namesrv_addr.is_some() {
        tracing::info!("-n is ignored: name servers do not know one another");
    }

    let server = NameServer::bind(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        println!("The Name Server boot success. serializeType=JSON, address {}", server.address());
        server.run(shutdown).await?;
        tracing::info!("name server stopped");
        Ok(())
    })
}
