//! The name server's configuration: RocketMQ's keys where it has one, checked as a whole at start.

use crate::access::Access;
use crate::route_table::Limits;
use raftmq_server::cluster_tls::ClusterTlsFiles;
use raftmq_server::logs::LogFiles;
use raftmq_server::settings::{Alias, Entry, Settings};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// Other spellings of keys: none so far.
pub const ALIASES: &[Alias] = &[];

/// Keys of RocketMQ's name server that mean nothing to a registry without files.
const UNUSED: &[&str] = &[
    "kvConfigPath",
    "configStorePath",
    "rocketmqHome",
    "productEnvName",
    "clusterTest",
    "orderMessageEnable",
    "supportActingMaster",
    "returnOrderTopicConfigToBroker",
    "notifyMinBrokerIdChanged",
    "enableControllerInNamesrv",
    "needWaitForService",
    "waitSecondsForService",
    "deleteTopicWithBrokerRegistration",
    "clientRequestThreadPoolNums",
    "defaultThreadPoolNums",
    "clientRequestThreadPoolQueueCapacity",
    "defaultThreadPoolQueueCapacity",
    "unRegisterBrokerQueueCapacity",
    "serverWorkerThreads",
    "serverCallbackExecutorThreads",
    "serverSelectorThreads",
    "serverOnewaySemaphoreValue",
    "serverAsyncSemaphoreValue",
    "serverChannelMaxIdleTimeSeconds",
    "useEpollNativeSelector",
];

/// What a name server is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address that it listens on (`bindAddress`).
    pub bind: IpAddr,
    /// `listenPort`; 0 lets the system choose.
    pub listen_port: u16,
    /// How often it looks for silent nodes (`scanNotActiveBrokerInterval`).
    pub scan_every: Duration,
    /// Bounds, and how long silence lasts.
    pub limits: Limits,
    /// Who may call.
    pub access: Access,
    /// TLS with brokers and tools; `None` for plaintext.
    pub cluster_tls: Option<ClusterTlsFiles>,
    /// Log files beside standard output; `None` for none.
    pub log_files: Option<LogFiles>,
    /// What all of this was read from, secrets masked: put here once it was checked.
    pub entries: Vec<Entry>,
    /// What all of this was read from, for changes while it runs; `None` for the defaults.
    pub layers: Option<Settings>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            bind: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            listen_port: 9876,
            scan_every: Duration::from_secs(5),
            limits: Limits::default(),
            access: Access::default(),
            cluster_tls: None,
            log_files: None,
            entries: Vec::new(),
            layers: None,
        }
    }
}

impl Config {
    /// Reads every key; mistakes stay in `settings` for its `finish`.
    pub fn read(settings: &mut Settings) -> Config {
        let layers = settings.clone();
        let default = Config::default();
        let limits = default.limits;
        let config = Config {
            bind: settings.parsed("bindAddress", default.bind, "an IP address of this machine, or 0.0.0.0", |text| {
                text.parse().ok()
            }),
            listen_port: settings.number("listenPort", default.listen_port, 0..=65_535),
            scan_every: Duration::from_millis(settings.number(
                "scanNotActiveBrokerInterval",
                5_000_u64,
                100..=3_600_000,
            )),
            limits: Limits {
                silence_ms: settings.number("brokerSilenceMs", limits.silence_ms, 1_000..=86_400_000),
                forget_ms: settings.number("brokerForgetMs", limits.forget_ms, 1_000..=30 * 86_400_000),
                groups_max: settings.number("brokerGroupsMax", limits.groups_max, 1..=100_000),
                nodes_max: settings.number("nodesMax", limits.nodes_max, 1..=1_000_000),
                topics_max: settings.number("topicsMax", limits.topics_max, 1..=100_000_000),
            },
            access: Access::read(settings),
            cluster_tls: ClusterTlsFiles::of_node(settings),
            log_files: LogFiles::read(settings, "namesrv", None),
            entries: Vec::new(),
            layers: Some(layers),
        };
        if config.limits.forget_ms < config.limits.silence_ms {
            settings.rule(format!(
                "brokerForgetMs = {} is less than brokerSilenceMs = {}: a node is declared dead before it is forgotten",
                config.limits.forget_ms, config.limits.silence_ms
            ));
        }
        settings.unused(UNUSED, "this name server keeps nothing but what brokers report");
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<(Config, String), String> {
        let mut settings = Settings::with_environment(ALIASES, |_| None);
        settings.text(Path::new("namesrv.conf"), text);
        let config = Config::read(&mut settings);
        let effective = settings.finish().map_err(|errors| errors.to_string())?;
        Ok((config, format!("{effective}{}", effective.warnings.join("\n"))))
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let (config, printed) = read("").expect("defaults are valid");
        assert_eq!((config.listen_port, config.limits.silence_ms), (9876, 120_000));
        assert!(printed.contains("listenPort=9876") || printed.contains("listenPort = 9876"), "{printed}");
    }

    #[test]
    fn keys_of_rocketmq_are_taken_or_named() {
        let text = "listenPort = 9877\nkvConfigPath=/x/kv.json\nscanNotActiveBrokerInterval=1000\nlistenport=1";
        let (config, printed) = read(text).expect("the file is valid");
        assert_eq!((config.listen_port, config.scan_every), (9877, Duration::from_secs(1)));
        assert!(printed.contains("kvConfigPath = /x/kv.json"), "{printed}");
        assert!(printed.contains("unknown key listenport"), "{printed}");
    }

    #[test]
    fn mistakes_come_all_at_once_with_key_value_and_bounds() {
        let text = "listenPort=70000\nbindAddress=here\nbrokerSilenceMs=2000\nbrokerForgetMs=1000";
        let errors = read(text).expect_err("four mistakes");
        for part in ["listenPort = 70000", "from 0 to 65535", "bindAddress = here", "brokerForgetMs = 1000"] {
            assert!(errors.contains(part), "{part} in {errors}");
        }
    }
}
