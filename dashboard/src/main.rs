//! `raftmq-dashboard`: configuration → port → serve → stop.

use anyhow::Context as _;
use clap::Parser;
use raftmq_dashboard::{ALIASES, Config, Dashboard};
use raftmq_server::{logs, settings::Settings, shutdown::Shutdown};
use std::path::PathBuf;
use std::process::ExitCode;

/// The web pages of a RaftMQ cluster.
///
/// Example: raftmq-dashboard -n 127.0.0.1:9876, then open http://127.0.0.1:8082
#[derive(Parser)]
#[command(name = "raftmq-dashboard", version)]
struct Arguments {
    /// Properties file; without it every key has its default.
    #[arg(short = 'c', long = "configFile", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Name servers, as host:port, separated by `;`; over NAMESRV_ADDR and the file.
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    namesrv_addr: Option<String>,
    /// The port of the pages (listenPort).
    #[arg(short = 'p', long = "port", value_name = "PORT")]
    port: Option<u16>,
    /// Print the effective configuration and leave.
    #[arg(long = "print-config")]
    print_config: bool,
    /// Set a key over file and environment.
    #[arg(short = 'D', long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
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
    if let Some(file) = &arguments.config {
        settings.file(file);
    }
    settings.variable("NAMESRV_ADDR", "namesrvAddr");
    settings.flag("-n", "namesrvAddr", arguments.namesrv_addr.as_ref());
    settings.flag("--port", "listenPort", arguments.port);
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

    let dashboard = Dashboard::bind(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        println!("The dashboard boot success. address {}", dashboard.url());
        dashboard.run(shutdown).await?;
        tracing::info!("dashboard stopped");
        Ok(())
    })
}
