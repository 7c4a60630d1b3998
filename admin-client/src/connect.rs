//! Connections to name servers and to the admin and public ports of brokers.

use crate::error::{AdminError, reason};
use crate::time::now_ms;
use raftmq_proto::admin::admin_client::AdminClient;
use raftmq_proto::namesrv::name_server_client::NameServerClient;
use raftmq_proto::rocketmq::admin_client::AdminClient as PublicAdminClient;
use raftmq_proto::rocketmq::messaging_service_client::MessagingServiceClient;
use raftmq_proto::signature::Credentials;
use raftmq_server::dial::Dialer;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// To connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// For one answer: a change waits for an election, a dump for an applied index.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// A topic table or dump may be larger than gRPC's usual 4 MiB.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Shows the adminToken and signs with the user's keys, where there are such, and says who calls, for the broker's log.
#[derive(Clone)]
pub struct Token {
    token: Option<MetadataValue<Ascii>>,
    /// The user whose keys sign every call.
    pub credentials: Option<Credentials>,
    caller: Option<MetadataValue<Ascii>>,
    /// The way to the nodes: in plaintext, or over TLS.
    dialer: Dialer,
}

impl Token {
    /// `caller` is for the broker's log only, and left out where a header cannot hold it.
    ///
    /// # Errors
    /// A token that a header cannot hold.
    pub fn new(
        token: Option<&str>,
        credentials: Option<Credentials>,
        caller: &str,
        dialer: Dialer,
    ) -> Result<Token, AdminError> {
        let token = token
            .map(|token| format!("Bearer {token}").parse())
            .transpose()
            .map_err(|_| AdminError::Usage("the admin token has characters that a header cannot have".to_owned()))?;
        Ok(Token { token, credentials, caller: caller.parse().ok(), dialer })
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.token {
            request.metadata_mut().insert("authorization", value.clone());
        }
        if let Some(credentials) = &self.credentials {
            sign(credentials, request.metadata_mut());
        }
        if let Some(value) = &self.caller {
            request.metadata_mut().insert("x-raftmq-caller", value.clone());
        }
        Ok(request)
    }
}

/// Signs a call as RocketMQ's clients do.
pub fn sign(credentials: &Credentials, metadata: &mut MetadataMap) {
    // That it can be done was tried when the keys were read.
    let _ = credentials.sign(metadata, now_ms());
}

/// `raftmq.admin.v1` of a node.
pub type Admin = AdminClient<InterceptedService<Channel, Token>>;

fn channel(address: &str, way: &Token) -> Result<Channel, AdminError> {
    let wrong = || AdminError::Usage(format!("{address} is not HOST:PORT"));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| wrong())?;
    if endpoint.uri().port().is_none() {
        return Err(wrong());
    }
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT).tcp_nodelay(true);
    Ok(way.dialer.channel(&endpoint, address))
}

/// The admin port of a node; nothing is sent before the first call.
///
/// # Errors
/// The address is not `HOST:PORT`.
pub fn admin(address: &str, token: &Token) -> Result<Admin, AdminError> {
    let channel = channel(address, token)?;
    Ok(AdminClient::with_interceptor(channel, token.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// A name server, as its clients see it.
pub type NameServer = NameServerClient<InterceptedService<Channel, Token>>;

/// A name server. It is signed for and not shown the adminToken, which is the brokers'.
///
/// # Errors
/// The address is not `HOST:PORT`.
pub fn name_server(address: &str, token: &Token) -> Result<NameServer, AdminError> {
    let channel = channel(address, token)?;
    let signs = Token { token: None, ..token.clone() };
    Ok(NameServerClient::with_interceptor(channel, signs).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// The public port of a node.
///
/// # Errors
/// The address is not `HOST:PORT`.
pub fn messaging(address: &str, way: &Token) -> Result<MessagingServiceClient<Channel>, AdminError> {
    let channel = channel(address, way)?;
    Ok(MessagingServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// The public Admin service of a node.
pub type PublicAdmin = PublicAdminClient<InterceptedService<Channel, Token>>;

/// The public Admin service, on the public port of a node.
///
/// # Errors
/// The address is not `HOST:PORT`.
pub fn public_admin(address: &str, token: &Token) -> Result<PublicAdmin, AdminError> {
    let channel = channel(address, token)?;
    Ok(PublicAdminClient::with_interceptor(channel, token.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// Whether another node of the group may do better: this one was not reached, or has no leader to turn to.
pub fn try_another(status: &Status) -> bool {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Unavailable, Unknown};
    matches!(status.code(), Unavailable | DeadlineExceeded | Cancelled | Aborted | Unknown)
}

/// `127.0.0.1:10911: Connection refused`.
pub fn at(address: &str, status: &Status) -> String {
    format!("{address}: {}", reason(status))
}
