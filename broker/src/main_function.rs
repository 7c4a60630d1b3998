//! `mqbroker`: configuration, ports, start, a signal, drain.

use crate::broker::{Broker, Listeners, processors, raft_threads};
use crate::config::{ALIASES, BrokerConfig};
use crate::machine::KNOWN;
use clap::Parser;
use raftmq_server::daemon::{self, Flags};
use raftmq_server::logs;
use raftmq_server::settings::Settings;
use raftmq_server::shutdown::Shutdown;
use std::ops::RangeInclusive;
use tokio::runtime::Runtime;

/// Runs a broker node.
#[derive(Debug, Parser)]
#[command(
    name = "mqbroker",
    version,
    about = "A broker node: one member of a broker group",
    after_help = "Example: mqbroker -c deploy/config/broker-n0.conf",
    mut_arg("print_config", |print| print.short('p'))
)]
pub struct Arguments {
    /// Those of every daemon.
    #[command(flatten)]
    pub flags: Flags,
    /// Name servers, host:port separated by ';'.
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    pub namesrv_addr: Option<String>,
    /// As -p; there is no list of "important" keys here.
    #[arg(short = 'm', long = "printImportantConfig", hide = true)]
    pub print_important: bool,
    /// Accepted: the gRPC API is part of every broker.
    #[arg(long = "enable-proxy", hide = true)]
    pub enable_proxy: bool,
}

impl Arguments {
    /// The layers that these arguments name.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::new(ALIASES);
        self.layers(&mut settings);
        settings
    }

    /// Puts the layers that these arguments name on top of what is there.
    pub fn layers(&self, settings: &mut Settings) {
        settings.flag("-n", "namesrvAddr", self.namesrv_addr.as_ref());
        self.flags.layers(settings);
    }
}

/// The runtime for everything but Raft, which has its own. Together they have no more threads than there are
/// processors, and one each: a thread that wakes up to find nothing left to do costs more than it gains.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> std::io::Result<Runtime> {
    let threads = processors().saturating_sub(raft_threads()).max(1);
    if threads == 1 {
        // In the order in which tasks were woken, so that answers that are ready together are written together; see
        // `raft-store/src/runtime.rs`.
        return tokio::runtime::Builder::new_current_thread().enable_all().build();
    }
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

/// The whole of `mqbroker` without `--dev`.
///
/// # Errors
/// What is wrong with configuration, ports or store, and what to do about it.
pub async fn main_with(arguments: Arguments) -> anyhow::Result<()> {
    main_knowing(KNOWN, arguments).await
}

/// As [`main_with`], for a build that knows other versions of commands: tests have one that knows
/// [`TRIAL`](crate::machine::TRIAL).
///
/// # Errors
/// As [`main_with`].
pub async fn main_knowing(versions: RangeInclusive<u32>, arguments: Arguments) -> anyhow::Result<()> {
    let (mut config, effective) = BrokerConfig::read(arguments.settings())?;
    config.versions = versions;
    let print = arguments.flags.print_config || arguments.print_important;
    let Some(_logs) = daemon::begin(print, &effective, "info", config.log_files.clone())? else { return Ok(()) };
    let shutdown = Shutdown::on_signals()?;
    let listeners = Listeners::bind(&config)?;
    let (name, address) =
        (config.broker_group.clone(), format!("{}:{}", config.addresses.host, config.addresses.admin_port));
    let name_servers = config.name_servers.join(";");
    let broker = Broker::start(config, listeners).await?;
    // The line that RocketMQ's scripts wait for.
    logs::say(format_args!(
        "The broker[{name}, {address}] boot success. serializeType=JSON and name server is {name_servers}"
    ));
    tokio::select! {
        () = shutdown.requested() => broker.stop().await,
        reason = broker.halted() => anyhow::bail!("this node stopped, nothing is acknowledged any more: {reason}"),
    }
    Ok(())
}
