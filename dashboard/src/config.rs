//! What the dashboard is told, under the names of RocketMQ's dashboard where it has one.

use raftmq_admin_client::credentials;
use raftmq_proto::signature::Credentials;
use raftmq_server::cluster_tls::ClusterTlsFiles;
use raftmq_server::logs::LogFiles;
use raftmq_server::settings::{Alias, Settings};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Spellings of RocketMQ's dashboard.
pub const ALIASES: &[Alias] = &[
    ("server.port", "listenPort"),
    ("server.address", "bindAddress"),
    ("rocketmq.config.namesrvAddr", "namesrvAddr"),
    ("rocketmq.config.accessKey", "accessKey"),
    ("rocketmq.config.secretKey", "secretKey"),
];

/// Keys of RocketMQ's dashboard that have no meaning here.
const UNUSED: &[&str] = &[
    "rocketmq.config.isVIPChannel",
    "rocketmq.config.dataPath",
    "rocketmq.config.enableDashBoardCollect",
    "rocketmq.config.loginRequired",
    "rocketmq.config.useTLS",
    "rocketmq.config.authMode",
];

/// What the dashboard is told.
#[derive(Clone)]
pub struct Config {
    /// `bindAddress`: this machine only, unless said otherwise.
    pub bind: IpAddr,
    /// `listenPort`; 0 lets the system choose.
    pub port: u16,
    /// `namesrvAddr`, `host:port` each.
    pub name_servers: Vec<String>,
    /// `adminToken` of the brokers, where they run on other machines without access control.
    pub admin_token: Option<String>,
    /// `accessKey` and `secretKey`: what the dashboard itself shows to name servers, and to brokers for its charts and
    /// for those who may only look.
    pub credentials: Option<Credentials>,
    /// `viewerUser` and `viewerPassword`: who may look and change nothing.
    pub viewer: Option<(String, String)>,
    /// Nobody changes anything here.
    pub read_only: bool,
    /// `tls.client.certPath`, `tls.client.keyPath`, `tls.client.trustCertPath`: TLS with the cluster.
    pub cluster_tls: Option<ClusterTlsFiles>,
    /// `tlsCertPath` and `tlsKeyPath`.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Log files beside standard output; `None` for none.
    pub log_files: Option<LogFiles>,
}

impl Config {
    /// Reads every key; mistakes stay in `settings` for its `finish`.
    pub fn read(settings: &mut Settings) -> Config {
        let bind = settings.parsed(
            "bindAddress",
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            "an IP address of this machine, or 0.0.0.0",
            |text| text.parse().ok(),
        );
        let port = settings.number("listenPort", 8082_u16, 0..=65_535);
        let name_servers = settings.string("namesrvAddr", "127.0.0.1:9876");
        let name_servers = name_servers.split([';', ',']).map(str::trim).filter(|address| !address.is_empty());
        let name_servers: Vec<String> = name_servers.map(str::to_owned).collect();
        if name_servers.is_empty() {
            settings.missing("namesrvAddr", "HOST:PORT of a name server, several separated by ;");
        }
        let admin_token = settings.secret("adminToken");
        let credentials = match (settings.optional("accessKey"), settings.secret("secretKey")) {
            (Some(access_key), Some(secret_key)) => Some(Credentials { access_key, secret_key }),
            (None, None) => None,
            _ => {
                settings.rule("accessKey and secretKey go together: set both or neither");
                None
            }
        };
        if let Some(problem) = credentials.as_ref().and_then(credentials::problem) {
            settings.rule(problem);
        }
        let viewer = match (settings.optional("viewerUser"), settings.secret("viewerPassword")) {
            (Some(user), Some(password)) => Some((user, password)),
            (None, None) => None,
            _ => {
                settings.rule("viewerUser and viewerPassword go together: set both or neither");
                None
            }
        };
        if viewer.is_some() && credentials.is_none() {
            settings.rule("viewerUser needs accessKey and secretKey: the viewer's calls are signed with them");
        }
        let certificate = match (settings.optional_path("tlsCertPath"), settings.optional_path("tlsKeyPath")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                settings.rule("tlsCertPath and tlsKeyPath go together: set both or neither");
                None
            }
        };
        let cluster_tls = ClusterTlsFiles::of_tool(settings);
        let read_only = settings.boolean("readOnly", false);
        settings.unused(UNUSED, "this dashboard keeps no files, and asks for a login when the cluster wants one");
        let log_files = LogFiles::read(settings, "dashboard", None);
        Config {
            bind,
            port,
            name_servers,
            admin_token,
            credentials,
            viewer,
            read_only,
            cluster_tls,
            certificate,
            log_files,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<(Config, Vec<String>), String> {
        let mut settings = Settings::with_environment(ALIASES, |_| None);
        settings.text(Path::new("dashboard.conf"), text);
        let config = Config::read(&mut settings);
        let effective = settings.finish().map_err(|errors| errors.to_string())?;
        Ok((config, effective.warnings))
    }

    #[test]
    fn defaults_are_for_this_machine() {
        let (config, _) = read("").expect("defaults are valid");
        assert_eq!((config.port, config.bind.is_loopback()), (8082, true));
        assert_eq!(config.name_servers, ["127.0.0.1:9876"]);
    }

    #[test]
    fn names_of_rocketmqs_dashboard_are_taken() {
        let text = "server.port=8080\nrocketmq.config.namesrvAddr=a:1;b:2\nrocketmq.config.loginRequired=true";
        let (config, warnings) = read(text).expect("they are known");
        assert_eq!(config.port, 8080);
        assert_eq!(config.name_servers, ["a:1", "b:2"]);
        assert!(warnings.iter().any(|line| line.contains("loginRequired")), "{warnings:?}");
    }

    #[test]
    fn halves_are_refused() {
        let errors = read("accessKey=a\nviewerUser=v\nviewerPassword=p\ntlsKeyPath=k").err().expect("three mistakes");
        for part in ["accessKey and secretKey", "viewerUser needs accessKey", "tlsCertPath and tlsKeyPath"] {
            assert!(errors.contains(part), "{part} in {errors}");
        }
    }
}
