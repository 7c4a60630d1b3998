//! Callers from inside the cluster prove themselves to the ports of nodes, and those to them. Who cannot is refused with
//! what to do about it; on the way from plaintext to TLS nobody is.

use std::{
    cell::RefCell,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Once},
    time::Duration,
};

use raftmq_server::{
    cluster_tls::{ClusterTls, ClusterTlsFiles},
    dial::Dialer,
    listener::{Incoming, Listener, ListenerOptions, Tls},
    settings::Settings,
};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SOON: Duration = Duration::from_secs(5);

/// A CA, which signs certificates into a folder of its own.
struct Ca {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let dir = tempfile::tempdir().expect("a folder");
        let certificate = params.self_signed(&key).expect("a certificate");
        std::fs::write(dir.path().join("ca.pem"), certificate.pem()).expect("the folder is ours");
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs `name.pem` and `name.key` for a host.
    fn sign(&self, name: &str, host: &str, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("the folder is ours");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("the folder is ours");
    }

    fn settings(&self, mode: &str, name: &str) -> Settings {
        let mut settings = Settings::with_environment(&[], |_| None);
        settings.flag("-D", "tls.server.mode", Some(mode));
        for (key, file) in [("certPath", format!("{name}.pem")), ("keyPath", format!("{name}.key"))] {
            settings.flag("-D", &format!("tls.server.{key}"), Some(self.path(&file).display()));
        }
        settings.flag("-D", "tls.server.trustCertPath", Some(self.path("ca.pem").display()));
        settings
    }

    /// What a node with this certificate speaks.
    fn node(&self, mode: &str, name: &str) -> ClusterTls {
        self.load(mode, name).expect("the files are good")
    }

    fn load(&self, mode: &str, name: &str) -> Result<ClusterTls, String> {
        let files = ClusterTlsFiles::of_node(&mut self.settings(mode, name)).expect("a mode that is on");
        files.watching(Duration::ZERO).map_err(|error| error.to_string())
    }
}

/// A node's port in some mode.
struct Port {
    address: SocketAddr,
    incoming: Incoming,
}

impl Port {
    fn new(options: ListenerOptions) -> Self {
        let options = ListenerOptions { handshake_timeout: Duration::from_secs(2), ..options };
        let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), options).expect("port 0 is free");
        Self { address: listener.address(), incoming: listener.incoming().expect("a runtime is there") }
    }

    fn for_members(tls: Option<&ClusterTls>) -> Self {
        Self::new(ListenerOptions::new("listenPort").for_members(tls))
    }

    /// Whether a call arrives over TLS; or why there is none.
    async fn called_by(&mut self, dialer: &Dialer) -> Result<bool, String> {
        let mut client = timeout(SOON, dialer.connect(&self.address.to_string()))
            .await
            .expect("in time")
            .map_err(|error| error.to_string())?;
        client.write_all(PREFACE).await.expect("the socket takes it");
        client.flush().await.expect("the socket takes it");
        let mut server = timeout(SOON, self.incoming.next()).await.expect("in time").expect("open").expect("good");
        let mut bytes = vec![0; PREFACE.len()];
        timeout(SOON, server.read_exact(&mut bytes)).await.expect("in time").expect("the bytes arrive");
        assert_eq!(bytes, PREFACE, "nothing but what was sent arrives");
        Ok(server.peer().tls)
    }

    async fn refusal(&mut self, dialer: &Dialer) -> String {
        self.called_by(dialer).await.expect_err("it is refused")
    }
}

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is logged on this thread, which is that of one test. One subscriber serves all of them: where each has its own,
/// a line that another test's thread comes to first may be taken for one that nobody wants.
struct Logged;

impl Logged {
    fn start() -> Self {
        static STARTED: Once = Once::new();
        STARTED.call_once(|| tracing_subscriber::fmt().with_ansi(false).with_writer(|| Logged).init());
        LINES.take();
        Logged
    }

    fn take(&self) -> String {
        String::from_utf8(LINES.take()).expect("text")
    }

    /// Waits until a line has all of `parts`; what has been logged is taken.
    async fn says(&self, parts: &[&str]) {
        let mut text = String::new();
        let waited = timeout(SOON, async {
            loop {
                text.push_str(&self.take());
                if text.lines().any(|line| parts.iter().all(|part| line.contains(part))) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "{parts:?} is not in\n{text}");
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.with_borrow_mut(|lines| lines.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn plain() -> Dialer {
    Dialer::default()
}

fn over(tls: ClusterTls) -> Dialer {
    Dialer::new(Some(tls))
}

#[tokio::test]
async fn every_pair_of_neighbouring_modes_gets_on_and_enforcing_takes_nothing_else() {
    let ca = Ca::new("cluster");
    ca.sign("node", "127.0.0.1", |_| {});
    let (permissive, enforcing) = (ca.node("permissive", "node"), ca.node("enforcing", "node"));
    let mut disabled_port = Port::for_members(None);
    let mut permissive_port = Port::for_members(Some(&permissive));
    let mut enforcing_port = Port::for_members(Some(&enforcing));
    let (permissive, enforcing) = (over(permissive), over(enforcing));

    assert_eq!(disabled_port.called_by(&plain()).await, Ok(false));
    assert_eq!(disabled_port.called_by(&permissive).await, Ok(false));
    assert_eq!(permissive_port.called_by(&plain()).await, Ok(false));
    assert_eq!(permissive_port.called_by(&permissive).await, Ok(true));
    assert_eq!(permissive_port.called_by(&enforcing).await, Ok(true));
    assert_eq!(enforcing_port.called_by(&permissive).await, Ok(true));
    assert_eq!(enforcing_port.called_by(&enforcing).await, Ok(true));
    let refusal = disabled_port.refusal(&enforcing).await;
    assert!(refusal.contains("its tls.server.mode must be permissive or enforcing"), "{refusal}");
}

#[tokio::test]
async fn a_plaintext_caller_reads_in_its_own_error_what_is_wanted() {
    let logged = Logged::start();
    let ca = Ca::new("cluster");
    ca.sign("node", "127.0.0.1", |_| {});
    let port = Port::for_members(Some(&ca.node("enforcing", "node")));
    let endpoint = Endpoint::from_shared(format!("http://{}", port.address)).expect("an address");
    let channel = plain().channel(&endpoint, &port.address.to_string());
    let mut client = tonic::client::Grpc::new(channel);
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/a/B");
    client.ready().await.expect("the port is open");
    let called = client.unary(tonic::Request::new(()), path, tonic_prost::ProstCodec::<(), ()>::default());
    let status = timeout(SOON, called).await.expect("in time").expect_err("it is refused");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
    assert!(status.message().contains("tls.server.mode is enforcing"), "{status:?}");
    logged.says(&["refused a caller in plaintext", "tls.server.trustCertPath", "--tlsCert"]).await;
}

#[tokio::test]
async fn certificates_that_are_not_good_are_refused_by_either_side_and_say_why() {
    let logged = Logged::start();
    let (ca, other) = (Ca::new("cluster"), Ca::new("other"));
    ca.sign("node", "127.0.0.1", |_| {});
    ca.sign("elsewhere", "192.0.2.1", |_| {});
    other.sign("node", "127.0.0.1", |_| {});
    let mut port = Port::for_members(Some(&ca.node("enforcing", "node")));

    // Of another CA, where the caller trusts the node, and where it does not.
    std::fs::copy(other.path("ca.pem"), other.path("own.pem")).expect("it is there");
    let foreign = over(other.node("enforcing", "node"));
    std::fs::copy(ca.path("ca.pem"), ca.path("copy.pem")).expect("it is there");
    let refusal = port.refusal(&foreign).await;
    assert!(refusal.contains("a certificate of another CA") && refusal.contains("tls.server.certPath"), "{refusal}");
    logged.says(&["does not take the certificate of this node", "tls.server.certPath"]).await;

    // A caller that trusts both, and whom the node does not know.
    let both = [other.path("own.pem"), ca.path("copy.pem")].map(|path| std::fs::read_to_string(path).expect("read"));
    std::fs::write(other.path("ca.pem"), both.concat()).expect("the folder is ours");
    let mut port = Port::for_members(Some(&ca.node("enforcing", "node")));
    let refusal = port.refusal(&over(other.node("enforcing", "node"))).await;
    assert!(refusal.contains("does not take the certificate of this side"), "{refusal}");
    logged.says(&["refused a caller with a certificate of another CA", "tls.server.trustCertPath", "--tlsCert"]).await;
    // The same on the way to TLS goes on in plaintext, with a warning.
    let mut permissive = Port::for_members(Some(&ca.node("permissive", "node")));
    assert_eq!(permissive.called_by(&over(other.node("permissive", "node"))).await, Ok(false));
    logged.says(&["called in plaintext", "does not take the certificate of this side"]).await;

    // A good certificate for another host.
    let mut misnamed = Port::for_members(Some(&ca.node("enforcing", "elsewhere")));
    let refusal = misnamed.refusal(&over(ca.node("enforcing", "node"))).await;
    assert!(refusal.contains("does not name 127.0.0.1") && refusal.contains("subjectAltName"), "{refusal}");

    // TLS without a certificate.
    let mut port = Port::for_members(Some(&ca.node("enforcing", "node")));
    let bare = tokio_rustls::rustls::ClientConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::ring::default_provider(),
    ));
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(ca.path("copy.pem")).expect("read");
    let der = rustls::pki_types::pem::PemObject::from_pem_slice(&pem).expect("a certificate");
    roots.add(der).expect("good");
    let bare = bare.with_safe_default_protocol_versions().expect("versions").with_root_certificates(roots);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(bare.with_no_client_auth()));
    let tcp = TcpStream::connect(port.address).await.expect("the port is open");
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").expect("a name");
    let mut stream = connector.connect(name, tcp).await.expect("TLS 1.3 tells it later");
    let mut rest = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("in time");
    assert!(read.is_err() && rest.is_empty(), "{read:?}");
    logged.says(&["shows no certificate", "tls.server.trustCertPath", "--tlsCert"]).await;
    assert_eq!(port.called_by(&over(ca.node("enforcing", "node"))).await, Ok(true), "and harms nobody else");
}

#[tokio::test]
async fn what_the_others_would_refuse_does_not_start() {
    let (ca, other) = (Ca::new("cluster"), Ca::new("other"));
    let long_ago = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    };
    let only = |purpose| move |params: &mut CertificateParams| params.extended_key_usages = vec![purpose];
    ca.sign("old", "127.0.0.1", long_ago);
    ca.sign("client", "127.0.0.1", only(ExtendedKeyUsagePurpose::ClientAuth));
    ca.sign("server", "127.0.0.1", only(ExtendedKeyUsagePurpose::ServerAuth));
    other.sign("node", "127.0.0.1", |_| {});
    for file in ["node.pem", "node.key"] {
        std::fs::copy(other.path(file), ca.path(file)).expect("it is there");
    }
    for (name, part) in [
        ("old", "has expired"),
        ("client", "another purpose"),
        ("server", "another purpose"),
        ("node", "of another CA"),
        ("none", "No such file"),
    ] {
        let refused = ca.load("permissive", name).err().unwrap_or_default();
        assert!(refused.contains(part) && refused.contains("tls.server.certPath"), "{name}: {refused:?}");
    }
    // A tool needs not serve.
    let files = [ca.path("client.pem"), ca.path("client.key"), ca.path("ca.pem")].map(Some);
    let tool = ClusterTlsFiles::tool(files).expect("all three").expect("on").load();
    assert!(tool.is_ok(), "{:?}", tool.err());
    assert!(ClusterTlsFiles::tool([None, None, Some(ca.path("ca.pem"))]).is_err());
    let mut settings = Settings::with_environment(&[], |_| None);
    settings.flag("-D", "tls.server.mode", Some("enforcing"));
    assert!(ClusterTlsFiles::of_node(&mut settings).is_none());
    let mistakes = settings.finish().expect_err("three files are missing").to_string();
    assert!(mistakes.contains("tls.server.trustCertPath"), "{mistakes}");
}

#[tokio::test]
async fn the_clients_port_shows_members_the_certificate_of_the_cluster_and_others_its_own() {
    let ca = Ca::new("cluster");
    ca.sign("node", "127.0.0.1", |_| {});
    let tls = Tls::self_signed(["localhost".to_owned()]).expect("a certificate");
    let clients = || ListenerOptions::new("grpcServerPort").with_tls(tls.clone());
    let node = ca.node("enforcing", "node");
    let mut port = Port::new(clients().with_members(Some(&node)));
    assert_eq!(port.called_by(&over(node.clone())).await, Ok(true));
    assert_eq!(port.called_by(&plain()).await, Ok(false), "clients may still come in plaintext");
    // One that is no part of it yet says so to those that are.
    let mut before = Port::new(clients());
    let refusal = before.refusal(&over(node)).await;
    assert!(refusal.contains("its tls.server.mode must be"), "{refusal}");
    assert_eq!(before.called_by(&over(ca.node("permissive", "node"))).await, Ok(false));
}

#[tokio::test]
async fn certificate_and_ca_are_replaced_under_connections_that_go_on() {
    let logged = Logged::start();
    let (ca, next) = (Ca::new("cluster"), Ca::new("next"));
    ca.sign("node", "127.0.0.1", |_| {});
    next.sign("node", "127.0.0.1", |_| {});
    let mut port = Port::for_members(Some(&ca.node("enforcing", "node")));
    let dialer = over(ca.node("enforcing", "node"));
    let mut open = dialer.connect(&port.address.to_string()).await.expect("it is let in");
    open.write_all(PREFACE).await.expect("it is open");
    let mut server = timeout(SOON, port.incoming.next()).await.expect("in time").expect("open").expect("good");

    // First both are trusted, then the certificate changes, then the first CA goes.
    let stranger = over(next.node("enforcing", "node"));
    let both = [ca.path("ca.pem"), next.path("ca.pem")].map(|path| std::fs::read_to_string(path).expect("read"));
    std::fs::write(ca.path("ca.pem"), both.concat()).expect("the folder is ours");
    assert_eq!(port.called_by(&dialer).await, Ok(true));
    logged.says(&["another certificate for the cluster", "tls.server.trustCertPath"]).await;
    for file in ["node.key", "node.pem"] {
        std::fs::copy(next.path(file), ca.path(file)).expect("it is there");
        // In between, the key has no certificate, and what was there stays.
        assert_eq!(port.called_by(&dialer).await, Ok(true), "{file}");
    }
    assert_eq!(port.called_by(&stranger).await, Ok(true), "it shows the next CA's certificate");
    std::fs::write(ca.path("ca.pem"), &both[1]).expect("the folder is ours");
    assert_eq!(port.called_by(&stranger).await, Ok(true));

    open.write_all(b"on").await.expect("it is open");
    open.flush().await.expect("it is open");
    let mut bytes = vec![0; PREFACE.len() + 2];
    timeout(SOON, server.read_exact(&mut bytes)).await.expect("in time").expect("it is open");
    assert!(bytes.ends_with(b"on"));
}
