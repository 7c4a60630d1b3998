//! The public API as a client without sessions uses it: any node of a broker group, one call after another.

use crate::connect::{PublicAdmin, at, messaging, public_admin, sign, try_another};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use raftmq_proto::rocketmq::messaging_service_client::MessagingServiceClient;
use raftmq_proto::rocketmq::{Code, Status};
use raftmq_proto::signature::Credentials;
use std::sync::atomic::{AtomicU32, Ordering};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

/// A client of its own for each run.
pub struct Client {
    id: String,
    machine: [u8; 6],
    next: AtomicU32,
    credentials: Option<Credentials>,
}

impl Client {
    /// `program` begins the client id.
    #[must_use]
    pub fn new(program: &str, credentials: Option<Credentials>) -> Client {
        let random: u64 = rand::random();
        let bytes = random.to_be_bytes();
        let machine = [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]];
        Client {
            id: format!("{program}@{}@{random:016x}", std::process::id()),
            machine,
            next: AtomicU32::new(0),
            credentials,
        }
    }

    /// A request with the headers that every client sends.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        let request_id = format!("{:032x}", rand::random::<u128>());
        for (key, value) in [
            ("x-mq-client-id", self.id.as_str()),
            ("x-mq-language", "RUST"),
            ("x-mq-protocol", "v2"),
            ("x-mq-client-version", env!("CARGO_PKG_VERSION")),
            ("x-mq-namespace", ""),
            ("x-mq-request-id", request_id.as_str()),
        ] {
            if let Ok(value) = MetadataValue::try_from(value) {
                metadata.insert(key, value);
            }
        }
        if let Some(credentials) = &self.credentials {
            sign(credentials, metadata);
        }
        request
    }

    /// A message id in the form of the SDKs: version, machine, process, seconds since 2021, number.
    pub fn message_id(&self) -> String {
        const YEAR_2021_SECONDS: u64 = 1_609_459_200;
        let seconds = (crate::time::now_ms() / 1_000).saturating_sub(YEAR_2021_SECONDS) & 0xffff_ffff;
        let machine: String = self.machine.iter().map(|byte| format!("{byte:02X}")).collect();
        let process = std::process::id() & 0xffff;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("01{machine}{process:04X}{seconds:08X}{number:08X}")
    }
}

/// Calls the nodes of a broker group, the leader first, until one answers; its public address and the answer.
///
/// # Errors
/// No node answers, or one refuses.
pub async fn on_group<T, F>(
    directory: &Directory,
    group: &Group,
    mut call: impl FnMut(MessagingServiceClient<Channel>) -> F,
) -> Result<(String, T), AdminError>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    on_any(group, |address| Ok(call(messaging(address, &directory.token)?))).await
}

/// As [`on_group`], of the public Admin service.
///
/// # Errors
/// No node answers, or one refuses.
pub async fn on_group_admin<T, F>(
    directory: &Directory,
    group: &Group,
    mut call: impl FnMut(PublicAdmin) -> F,
) -> Result<(String, T), AdminError>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    on_any(group, |address| Ok(call(public_admin(address, &directory.token)?))).await
}

async fn on_any<T, F>(
    group: &Group,
    mut call: impl FnMut(&str) -> Result<F, AdminError>,
) -> Result<(String, T), AdminError>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    let mut reasons = Vec::new();
    for node in group.by_promise().into_iter().filter(|node| !node.grpc.is_empty()) {
        match call(&node.grpc)?.await {
            Ok(answer) => return Ok((node.grpc.clone(), answer)),
            Err(status) if try_another(&status) => reasons.push(at(&node.grpc, &status)),
            Err(status) => return Err(AdminError::refused(&node.grpc, &status)),
        }
    }
    Err(AdminError::NoNode { broker_group: group.name.clone(), reasons: reasons.join(", ") })
}

/// Broker groups that host a topic, with the addresses of their nodes; the one of that name when it is given. Where
/// the topic is not known they are all groups: a broker may create it.
///
/// # Errors
/// No name server answers, or there is no such broker group.
pub async fn hosts(directory: &Directory, topic: &str, broker_group: Option<&str>) -> Result<Vec<Group>, AdminError> {
    let hosting: Vec<String> = directory.route(topic).await?.into_iter().map(|(group, _)| group.name).collect();
    let all = directory.all().await?;
    let known: Vec<String> = all.iter().map(|group| group.name.clone()).collect();
    let wanted = |group: &Group| match broker_group {
        Some(name) => group.name == name,
        None => hosting.is_empty() || hosting.contains(&group.name),
    };
    let groups: Vec<Group> = all.into_iter().filter(wanted).collect();
    if groups.is_empty() {
        return Err(AdminError::Unknown(match broker_group {
            Some(name) => format!("no broker group is called {name}; there are {}", known.join(", ")),
            None => "no broker has reported to the name servers so far".to_owned(),
        }));
    }
    Ok(groups)
}

/// OK, or what the broker said.
///
/// # Errors
/// It did not say OK.
pub fn check(address: &str, status: Option<&Status>) -> Result<(), AdminError> {
    let status = status.cloned().unwrap_or_default();
    if status.code() == Code::Ok {
        return Ok(());
    }
    Err(AdminError::Refused {
        address: address.to_owned(),
        code: tonic::Code::FailedPrecondition,
        message: format!("{}: {}", status.code().as_str_name(), status.message),
    })
}

#[cfg(test)]
mod tests {
    use super::Client;

    #[test]
    fn message_ids_differ_and_have_the_length_of_the_sdks() {
        let client = Client::new("test", None);
        let (one, other) = (client.message_id(), client.message_id());
        assert_eq!(one.len(), 34);
        assert_ne!(one, other);
    }
}
