//! `mqnamesrv`: configuration → port → serve → drain.

use anyhow::Context as _;
use clap::Parser;
use raftmq_namesrv::{ALIASES, Config, NameServer};
use raftmq_server::daemon::{self, Flags};
use raftmq_server::logs;
use raftmq_server::{settings::Settings, shutdown::Shutdown};
use std::process::ExitCode;

/// The name server: a registry that brokers keep fed by heartbeats.
///
/// Example: mqnamesrv -c deploy/config/namesrv.conf
#[derive(Parser)]
#[command(name = "mqnamesrv", version, mut_arg("print_config", |print| print.short('p')))]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Accepted for scripts that pass it to every program; a name server asks no other.
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    namesrv_addr: Option<String>,
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
    arguments.flags.layers(&mut settings);
    let mut config = Config::read(&mut settings);
    let effective = settings.finish()?;
    config.entries = effective.entries();
    let print = arguments.flags.print_config;
    let Some(_logs) = daemon::begin(print, &effective, "info", config.log_files.clone())? else { return Ok(()) };
    if arguments.namesrv_addr.is_some() {
        tracing::info!("-n is ignored: name servers do not know one another");
    }

    let server = NameServer::bind(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        logs::say(format_args!("The Name Server boot success. serializeType=JSON, address {}", server.address()));
        server.run(shutdown).await?;
        tracing::info!("name server stopped");
        Ok(())
    })
}
