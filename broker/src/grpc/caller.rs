//! Who calls: what the headers and the connection of a request say.

use super::status::ApiError;
use raftmq_server::listener::{Arrival, Outgoing, Peer};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Extensions, Request};

/// An answer is on its way this long before the client's deadline: what arrives at the deadline is lost.
pub(crate) const DEADLINE_MARGIN: Duration = Duration::from_millis(100);

/// The header in which a client says who it is.
const CLIENT_ID: &str = "x-mq-client-id";

/// The headers and the connection of one request.
pub(crate) struct Caller {
    metadata: MetadataMap,
    arrival: Option<Arrival>,
    arrived: Instant,
}

impl Caller {
    /// Takes a request apart.
    pub(crate) fn split<T>(request: Request<T>) -> (Caller, T) {
        let (metadata, extensions, message) = request.into_parts();
        (Caller::new(metadata, &extensions), message)
    }

    fn new(metadata: MetadataMap, extensions: &Extensions) -> Caller {
        Caller { metadata, arrival: extensions.get::<Arrival>().cloned(), arrived: Instant::now() }
    }

    /// The same call, as a request for something else; `client_id` where it names no client.
    pub(crate) fn request<T>(&self, message: T, client_id: &'static str) -> Request<T> {
        let mut metadata = self.metadata.clone();
        if self.client_id().is_err() {
            metadata.insert(CLIENT_ID, MetadataValue::from_static(client_id));
        }
        let mut extensions = Extensions::default();
        if let Some(arrival) = &self.arrival {
            extensions.insert(arrival.clone());
        }
        Request::from_parts(metadata, extensions, message)
    }

    fn header(&self, name: &'static str) -> &str {
        self.metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// All headers.
    pub(crate) fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    /// The connection, where there is one.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.arrival.as_ref().map(|arrival| &arrival.peer)
    }

    /// What goes back on the connection.
    pub(crate) fn outgoing(&self) -> Outgoing {
        self.arrival.as_ref().map(|arrival| arrival.outgoing.clone()).unwrap_or_default()
    }

    /// Names the client in everything that is kept about it.
    pub(crate) fn client_id(&self) -> Result<&str, ApiError> {
        let id = self.header(CLIENT_ID);
        if id.trim().is_empty() { Err(ApiError::ClientIdRequired) } else { Ok(id) }
    }

    /// `x-mq-language`; empty when it is missing, which is no reason to refuse anything.
    pub(crate) fn language(&self) -> &str {
        self.header("x-mq-language")
    }

    /// `x-mq-client-version`.
    pub(crate) fn client_version(&self) -> &str {
        self.header("x-mq-client-version")
    }

    /// When the call arrived.
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The client's deadline; `None` for none.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let timeout = parse_timeout(self.header("grpc-timeout"))?;
        self.arrived.checked_add(timeout)
    }

    /// When an answer must be on its way.
    pub(crate) fn answer_by(&self) -> Option<Instant> {
        let deadline = self.deadline()?;
        // A client in a greater hurry than the margin still gets half of its time.
        let margin = DEADLINE_MARGIN.min(deadline.saturating_duration_since(self.arrived) / 2);
        Some(deadline - margin)
    }

    /// Where the client is.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.peer().map(|peer| peer.address)
    }

    /// Whether the connection to this node is TLS.
    pub(crate) fn over_tls(&self) -> bool {
        self.peer().is_some_and(|peer| peer.tls)
    }

    /// The address of this node that the client's connection came to; `None` where a proxy stands between them.
    pub(crate) fn reached(&self) -> Option<SocketAddr> {
        self.peer().filter(|peer| peer.address == peer.socket).map(|peer| peer.dialled)
    }
}

/// Reads a `grpc-timeout` header: up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Caller, parse_timeout};
    use std::time::Duration;
    use tonic::Request;

    /// A caller with these headers.
    pub(crate) fn caller(headers: &[(&'static str, &str)]) -> Caller {
        let mut request = Request::new(());
        for (name, value) in headers {
            request.metadata_mut().insert(*name, value.parse().expect("a header value"));
        }
        Caller::split(request).0
    }

    #[test]
    fn timeouts() {
        let check = |text: &str, expected: Option<Duration>| assert_eq!(parse_timeout(text), expected, "{text:?}");
        check("3S", Some(Duration::from_secs(3)));
        check("2999999u", Some(Duration::from_micros(2_999_999)));
        check("23000m", Some(Duration::from_secs(23)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3600)));
        check("1n", Some(Duration::from_nanos(1)));
        check("123456789S", None);
        check("S", None);
        check("", None);
        check("3x", None);
        check("-3S", None);
        check("3µ", None);
    }

    #[test]
    fn a_blank_client_id_is_none() {
        assert!(caller(&[("x-mq-client-id", " ")]).client_id().is_err());
        assert!(caller(&[]).client_id().is_err());
        assert_eq!(caller(&[("x-mq-client-id", "h@1")]).client_id().ok(), Some("h@1"));
    }

    #[tokio::test(start_paused = true)]
    async fn answers_leave_before_the_deadline() {
        let check = |timeout: &str, expected_ms: u64| {
            let caller = caller(&[("grpc-timeout", timeout)]);
            let by = caller.answer_by().expect("a deadline");
            assert_eq!(by - caller.arrived(), Duration::from_millis(expected_ms), "{timeout}");
        };
        check("3S", 2_900);
        check("100m", 50);
        assert!(caller(&[]).answer_by().is_none());
        assert!(caller(&[("grpc-timeout", "99999999H")]).answer_by().is_some());
    }
}
