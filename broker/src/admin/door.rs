//! Who may call: anybody on this machine, and whoever shows the `adminToken`; with access control, administrators only.

use crate::access::{Denied, Identity};
use raftmq_server::listener::Peer;
use raftmq_server::logs::Limited;
use std::time::Duration;
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

/// Header in which callers say who they are. It is a claim, for the log.
const CALLER: &str = "x-raftmq-caller";
/// Characters of it that are logged.
const CALLER_CHARS_MAX: usize = 64;

/// Who called.
#[derive(Debug, Clone, Default)]
pub(super) struct Caller {
    /// As the caller calls itself, and how it got in.
    pub name: String,
    /// Where the call came from.
    pub address: String,
}

impl Caller {
    /// Who was let in with this request.
    pub(super) fn of<T>(request: &Request<T>) -> Caller {
        request.extensions().get().cloned().unwrap_or_default()
    }
}

/// Lets a request in or refuses it with a sentence that says how to get in. `administrator` says who signed a call;
/// `None` without access control.
pub(super) fn guard(
    token: Option<String>,
    administrator: impl Fn(&MetadataMap, Option<&Peer>) -> Option<Result<Identity, Denied>> + Clone,
) -> impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone {
    let refusals = std::sync::Arc::new(Limited::every(Duration::from_secs(10)));
    move |mut request| {
        let peer = Peer::of(&request);
        let address = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
        match administrator(request.metadata(), peer.as_ref()) {
            Some(Ok(identity)) => {
                request.extensions_mut().insert(Caller { name: identity.user, address });
                return Ok(request);
            }
            Some(Err(denied)) => {
                if let Some(suppressed) = refusals.pass() {
                    tracing::warn!(target: "audit", address, suppressed, reason = %denied, "an administrator's call is refused");
                }
                return Err(refused(&denied));
            }
            None => {}
        }
        let way_in = match way_in(token.as_deref(), request.metadata(), peer.as_ref()) {
            Ok(way_in) => way_in,
            Err(sentence) => {
                if let Some(suppressed) = refusals.pass() {
                    tracing::warn!(target: "audit", address, suppressed, "an administrator's call without the adminToken is refused");
                }
                return Err(Status::permission_denied(sentence));
            }
        };
        let claimed = request.metadata().get(CALLER).and_then(|value| value.to_str().ok()).unwrap_or("unnamed");
        let claimed: String = claimed.chars().take(CALLER_CHARS_MAX).collect();
        request.extensions_mut().insert(Caller { name: format!("{claimed} ({way_in})"), address });
        Ok(request)
    }
}

/// How a caller gets in without access control: from this machine, or with the `adminToken`; else what it must do.
pub(crate) fn way_in(
    token: Option<&str>,
    metadata: &MetadataMap,
    peer: Option<&Peer>,
) -> Result<&'static str, &'static str> {
    match (token, bearer(metadata)) {
        (Some(token), Some(shown)) if same(token.as_bytes(), shown.as_bytes()) => Ok("adminToken"),
        _ if peer.is_some_and(Peer::is_local) => Ok("local"),
        (Some(_), _) => {
            Err("calls from another machine must show this broker's adminToken: mqadmin --adminToken TOKEN, \
                             or RAFTMQ_ADMIN_TOKEN")
        }
        (None, _) => Err("this broker takes administrators' calls from its own machine only: set adminToken in its \
                          configuration, and show it with mqadmin --adminToken TOKEN or RAFTMQ_ADMIN_TOKEN"),
    }
}

fn refused(denied: &Denied) -> Status {
    match denied {
        Denied::NoProof(_) | Denied::NotProven(_) => Status::unauthenticated(format!(
            "{denied}. This broker has access control: mqadmin takes accessKey and secretKey of a user of type Super from \
             $ROCKETMQ_HOME/conf/tools.yml, or RAFTMQ_ACCESS_KEY and RAFTMQ_SECRET_KEY"
        )),
        Denied::NotAllowed { .. } | Denied::NoAdministrator(_) => Status::permission_denied(denied.to_string()),
        Denied::Rows(_) => Status::internal(denied.to_string()),
    }
}

/// A call may be signed beside.
fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let mut values = metadata.get_all("authorization").iter().filter_map(|value| value.to_str().ok());
    values.find_map(|value| value.strip_prefix("Bearer "))
}

/// Compares in a time that does not tell how much of a guess is right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_server::listener::{Arrival, Outgoing};
    use std::net::SocketAddr;

    fn arrival(address: SocketAddr) -> Arrival {
        let peer = Peer { address, dialled: address, socket: address, tls: false };
        Arrival { peer, outgoing: Outgoing::default() }
    }

    fn call(from: &str, token: Option<&str>, shown: Option<&str>) -> Result<String, String> {
        let mut request = Request::new(());
        let address: SocketAddr = from.parse().expect("an address");
        request.extensions_mut().insert(arrival(address));
        if let Some(shown) = shown {
            let value = format!("Bearer {shown}").parse().expect("a header");
            request.metadata_mut().insert("authorization", value);
        }
        request.metadata_mut().insert(CALLER, "ops".parse().expect("a header"));
        let admitted = guard(token.map(str::to_owned), |_, _| None)(request);
        admitted.map(|request| Caller::of(&request).name).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn from_this_machine_or_with_the_token() {
        for (from, token, shown, way_in) in [
            ("127.0.0.1:5", None, None, Some("local")),
            ("[::1]:5", Some("secret"), Some("wrong"), Some("local")),
            ("10.0.0.9:5", Some("secret"), Some("secret"), Some("adminToken")),
            ("10.0.0.9:5", Some("secret"), Some("secre"), None),
            ("10.0.0.9:5", Some("secret"), None, None),
            ("10.0.0.9:5", None, Some(""), None),
        ] {
            let outcome = call(from, token, shown);
            match way_in {
                Some(way_in) => assert_eq!(outcome, Ok(format!("ops ({way_in})")), "{from}"),
                None => assert!(outcome.expect_err(from).contains("adminToken"), "{from}"),
            }
        }
    }

    #[test]
    fn a_call_from_nowhere_is_refused() {
        assert!(guard(None, |_, _| None)(Request::new(())).is_err());
    }

    #[test]
    fn with_access_control_neither_the_token_nor_this_machine_is_enough() {
        let mut request = Request::new(());
        let address: SocketAddr = "127.0.0.1:5".parse().expect("an address");
        request.extensions_mut().insert(arrival(address));
        request.metadata_mut().insert("authorization", "Bearer secret".parse().expect("a header"));
        let not_proven = |_: &MetadataMap, _: Option<&Peer>| Some(Err(Denied::NotProven("root".to_owned())));
        let refused = guard(Some("secret".to_owned()), not_proven)(request).expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        assert!(refused.message().contains("tools.yml"), "{}", refused.message());
    }
}
