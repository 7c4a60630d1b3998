//! RocketMQ's keys for access control.

use super::rule::Network;
use raftmq_proto::signature::Credentials;
use raftmq_server::settings::Settings;
use tonic::metadata::MetadataMap;

/// What a broker node is told about access. Off by default.
#[derive(Debug, Clone, Default)]
pub struct AccessConfig {
    /// Who calls must prove who it is, at every port (`authenticationEnabled`).
    pub authentication: bool,
    /// On the public port, access rules decide what a user may do (`authorizationEnabled`).
    pub authorization: bool,
    /// A user that may administer, made when there is none (`initAuthenticationUser`).
    pub first_user: Option<Credentials>,
    /// What nodes of the cluster prove themselves with to one another and to name servers
    /// (`innerClientAuthenticationCredentials`).
    pub inner: Option<Credentials>,
    /// Load balancers whose PROXY headers name the address that access rules go by (`trustedProxyAddresses`).
    pub trusted_proxies: Vec<Network>,
}

impl AccessConfig {
    /// Reads every key; mistakes stay in `settings` for its `finish`.
    pub fn read(settings: &mut Settings) -> AccessConfig {
        let authentication = settings.boolean("authenticationEnabled", false);
        let authorization = settings.boolean("authorizationEnabled", false);
        if authorization && !authentication {
            settings.rule(
                "authorizationEnabled = true needs authenticationEnabled = true: without it nobody is known by name",
            );
        }
        let credentials = |(access_key, secret_key)| Credentials { access_key, secret_key };
        let first_user = settings.credentials("initAuthenticationUser", ["username", "password"]).map(credentials);
        let inner =
            settings.credentials("innerClientAuthenticationCredentials", ["accessKey", "secretKey"]).map(credentials);
        if inner.as_ref().is_some_and(|inner| inner.sign(&mut MetadataMap::new(), 0).is_err()) {
            settings
                .wrong("innerClientAuthenticationCredentials", "an accessKey that a header can hold, without / and ,");
        }
        let trusted_proxies = settings
            .optional_parsed("trustedProxyAddresses", "addresses and networks separated by ';'", |text| {
                text.split(';').filter(|part| !part.trim().is_empty()).map(|part| Network::parse(part).ok()).collect()
            })
            .unwrap_or_default();
        settings.unused(
            &[
                "authenticationProvider",
                "authenticationMetadataProvider",
                "authenticationStrategy",
                "authenticationWhitelist",
                "authorizationProvider",
                "authorizationMetadataProvider",
                "authorizationStrategy",
                "authorizationWhitelist",
                "migrateAuthFromV1Enabled",
            ],
            "users and access rules are replicated rows here, and every call is checked",
        );
        AccessConfig { authentication, authorization, first_user, inner, trusted_proxies }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<(AccessConfig, String), String> {
        let mut settings = Settings::with_environment(&[], |_| None);
        settings.text(Path::new("broker.conf"), text);
        let config = AccessConfig::read(&mut settings);
        let effective = settings.finish().map_err(|errors| errors.to_string())?;
        Ok((config, format!("{effective}\n{}", effective.warnings.join("\n"))))
    }

    #[test]
    fn rocketmqs_keys() {
        let (config, printed) = read(
            "authenticationEnabled=true\nauthorizationEnabled=true\nauthenticationWhitelist=1\n\
             initAuthenticationUser={\"username\":\"root\",\"password\":\"hush\"}\n\
             trustedProxyAddresses=10.0.0.1;10.1.0.0/16\n",
        )
        .expect("valid");
        assert!(config.authentication && config.authorization);
        assert_eq!(
            config.first_user.map(|user| (user.access_key, user.secret_key)),
            Some(("root".into(), "hush".into()))
        );
        assert_eq!(config.trusted_proxies.len(), 2);
        assert!(!printed.contains("hush") && printed.contains("initAuthenticationUser=***"), "{printed}");
        assert!(printed.contains("authenticationWhitelist = 1"), "{printed}");
    }

    #[test]
    fn off_by_default_and_never_half() {
        let (config, _) = read("").expect("valid");
        assert!(!config.authentication && !config.authorization && config.first_user.is_none());
        assert!(read("authorizationEnabled=true").expect_err("half").contains("authenticationEnabled"));
        for wrong in ["{\"username\":\"root\"}", "root:hush", "{\"username\":\"root\",\"password\":\"\"}", "[]"] {
            let error = read(&format!("initAuthenticationUser={wrong}")).expect_err(wrong);
            assert!(error.contains("initAuthenticationUser = ***") && !error.contains("hush"), "{error}");
        }
    }
}
