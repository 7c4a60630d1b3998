//! Who may ask and tell a name server, where `authenticationEnabled` is set: brokers, by the credentials that they all
//! share, and the user of `initAuthenticationUser`, for tools. A name server keeps no users of its own.

use raftmq_proto::signature::{Credentials, Shown};
use raftmq_server::listener::Peer;
use raftmq_server::logs::Limited;
use raftmq_server::settings::Settings;
use std::sync::Arc;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

/// What a name server is told about access. Off by default.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// `authenticationEnabled`.
    pub authentication: bool,
    /// What brokers sign with (`innerClientAuthenticationCredentials`).
    pub brokers: Option<Credentials>,
    /// Whose tools are answered (`initAuthenticationUser`).
    pub administrator: Option<Credentials>,
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// May report.
    Broker,
    /// May ask.
    Administrator,
}

impl Access {
    /// Reads every key; mistakes stay in `settings` for its `finish`.
    pub fn read(settings: &mut Settings) -> Access {
        let credentials = |(access_key, secret_key)| Credentials { access_key, secret_key };
        let access = Access {
            authentication: settings.boolean("authenticationEnabled", false),
            administrator: settings.credentials("initAuthenticationUser", ["username", "password"]).map(credentials),
            brokers: settings
                .credentials("innerClientAuthenticationCredentials", ["accessKey", "secretKey"])
                .map(credentials),
        };
        if access.authentication && access.brokers.is_none() {
            settings.rule(
                "authenticationEnabled = true needs innerClientAuthenticationCredentials, the same as in the brokers' \
                 configuration: without it no broker could report",
            );
        }
        access
    }

    fn caller(&self, metadata: &MetadataMap) -> Result<Caller, String> {
        let shown = Shown::of(metadata).map_err(|fault| fault.to_string())?;
        for (known, caller) in [(&self.brokers, Caller::Broker), (&self.administrator, Caller::Administrator)] {
            let known = known.as_ref().filter(|known| known.access_key == shown.access_key);
            if known.is_some_and(|known| shown.is_proven(&known.secret_key)) {
                return Ok(caller);
            }
        }
        Err(format!("{} is neither known here nor has it this secret key", shown.access_key))
    }

    /// Lets a request in, or refuses it with a sentence that says how to get in.
    pub(crate) fn guard(self) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
        let refusals = Arc::new(Limited::every(Duration::from_secs(10)));
        move |mut request| {
            if !self.authentication {
                return Ok(request);
            }
            match self.caller(request.metadata()) {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    Ok(request)
                }
                Err(why) => {
                    if let Some(suppressed) = refusals.pass() {
                        let address = Peer::of(&request).map(|peer| peer.address.to_string()).unwrap_or_default();
                        tracing::warn!(target: "audit", address, suppressed, reason = why, "a call is refused");
                    }
                    Err(Status::unauthenticated(format!(
                        "{why}. This name server has access control: brokers need its \
                         innerClientAuthenticationCredentials, mqadmin the user of its initAuthenticationUser"
                    )))
                }
            }
        }
    }

    /// Settings are changed by the administrator, or without access control by whoever is on this machine.
    #[allow(clippy::result_large_err, reason = "the type of errors is tonic's")]
    pub(crate) fn may_administer<T>(request: &Request<T>) -> Result<(), Status> {
        match request.extensions().get::<Caller>() {
            Some(Caller::Administrator) => Ok(()),
            Some(Caller::Broker) => Err(Status::permission_denied(
                "settings are changed by the user of this name server's initAuthenticationUser",
            )),
            None if Peer::of(request).is_some_and(|peer| peer.is_local()) => Ok(()),
            None => Err(Status::permission_denied(
                "this name server has no access control (authenticationEnabled), so its settings are changed from its own \
                 machine only",
            )),
        }
    }

    /// Only brokers report.
    #[allow(clippy::result_large_err, reason = "the type of errors is tonic's")]
    pub(crate) fn may_report<T>(request: &Request<T>) -> Result<(), Status> {
        match request.extensions().get::<Caller>() {
            Some(Caller::Administrator) => Err(Status::permission_denied("only brokers report to a name server")),
            Some(Caller::Broker) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(access_key: &str, secret_key: &str) -> Credentials {
        Credentials { access_key: access_key.to_owned(), secret_key: secret_key.to_owned() }
    }

    #[test]
    fn brokers_report_and_administrators_ask() {
        let access = Access {
            authentication: true,
            brokers: Some(user("broker", "inner")),
            administrator: Some(user("root", "secret")),
        };
        let call = |access: &Access, keys: Option<Credentials>| {
            let mut request = Request::new(());
            if let Some(keys) = keys {
                keys.sign(request.metadata_mut(), 0).expect("a plain name");
            }
            access.clone().guard()(request)
        };
        let may_report = |keys| Access::may_report(&call(&access, Some(keys)).expect("known")).is_ok();
        let may_administer = |keys| Access::may_administer(&call(&access, Some(keys)).expect("known")).is_ok();
        assert!(may_administer(user("root", "secret")));
        assert!(!may_administer(user("broker", "inner")));
        assert!(may_report(user("broker", "inner")));
        assert!(!may_report(user("root", "secret")));
        for keys in [None, Some(user("broker", "secret")), Some(user("root", "")), Some(user("eve", "inner"))] {
            assert_eq!(call(&access, keys).expect_err("refused").code(), tonic::Code::Unauthenticated);
        }
        let open = call(&Access::default(), None).expect("open");
        assert!(Access::may_report(&open).is_ok());
        let refused = Access::may_administer(&open).expect_err("from nowhere");
        assert!(refused.message().contains("from its own machine"), "{}", refused.message());
    }

    #[test]
    fn it_is_never_half_on() {
        let read = |text: &str| {
            let mut settings = Settings::with_environment(&[], |_| None);
            settings.text(std::path::Path::new("namesrv.conf"), text);
            let access = Access::read(&mut settings);
            settings.finish().map(|_| access).map_err(|errors| errors.to_string())
        };
        assert!(read("authenticationEnabled=true").expect_err("half").contains("innerClientAuthenticationCredentials"));
        let inner = "innerClientAuthenticationCredentials={\"accessKey\":\"broker\",\"secretKey\":\"inner\"}";
        let access = read(&format!("authenticationEnabled=true\n{inner}")).expect("whole");
        assert_eq!(access.brokers, Some(user("broker", "inner")));
    }
}
