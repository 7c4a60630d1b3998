//! `raftmq-dashboard`: configuration → port → serve → stop.

use anyhow::Context as _;
use clap::Parser;
use raftmq_dashboard::{ALIASES, Config, Dashboard};
use raftmq_server::daemon::{self, Flags};
use raftmq_server::logs;
use raftmq_server::{settings::Settings, shutdown::Shutdown};
use std::process::ExitCode;

/// The web pages of a RaftMQ cluster.
///
/// Example: raftmq-dashboard -n 127.0.0.1:9876, then open http://127.0.0.1:8082
#[derive(Parser)]
#[command(name = "raftmq-dashboard", version)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Name servers, as host:port, separated by `;`; over NAMESRV_ADDR and the file.
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    namesrv_addr: Option<String>,
    /// The port of the pages (listenPort).
    #[arg(short = 'p', long = "port", value_name = "PORT")]
    port: Option<u16>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("raftmq-dashboard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut settings = Settings::new(ALIASES);
    settings.variable("NAMESRV_ADDR", "namesrvAddr");
    settings.flag("-n", "namesrvAddr", arguments.namesrv_addr.as_ref());
    settings.flag("--port", "listenPort", arguments.port);
    arguments.flags.layers(&mut settings);
    let config = Config::read(&mut settings);
    let effective = settings.finish()?;
    let print = arguments.flags.print_config;
    let Some(_logs) = daemon::begin(print, &effective, "info", config.log_files.clone())? else { return Ok(()) };

    let dashboard = Dashboard::bind(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        logs::say(format_args!("The dashboard boot success. address {}", dashboard.url()));
        dashboard.run(shutdown).await?;
        tracing::info!("dashboard stopped");
        Ok(())
    })
}
