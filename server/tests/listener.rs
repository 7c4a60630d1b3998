//! One port takes plaintext and TLS, with and without a PROXY header, and survives everything else.

use std::{
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use raftmq_server::listener::{Connection, Incoming, Listener, ListenerOptions, Tls};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const SOON: Duration = Duration::from_secs(5);

fn options() -> ListenerOptions {
    ListenerOptions { handshake_timeout: Duration::from_millis(300), ..ListenerOptions::new("grpcServerPort") }
}

fn listen(options: ListenerOptions) -> (SocketAddr, Incoming) {
    let listener = Listener::bind("127.0.0.1:0".parse().expect("an address"), options).expect("port 0 is free");
    (listener.address(), listener.incoming().expect("a runtime is there"))
}

async fn next(incoming: &mut Incoming) -> Connection {
    timeout(SOON, incoming.next()).await.expect("it is handed over").expect("the port is open").expect("it is good")
}

async fn expect_preface(connection: &mut Connection) {
    let mut bytes = vec![0; PREFACE.len()];
    timeout(SOON, connection.read_exact(&mut bytes)).await.expect("in time").expect("the bytes are still there");
    assert_eq!(bytes, PREFACE);
}

async fn expect_closed(mut client: TcpStream) {
    let mut rest = Vec::new();
    // Unread bytes turn a close into a reset; both are closed.
    let _ = timeout(SOON, client.read_to_end(&mut rest)).await.expect("the connection is closed in time");
    assert!(rest.is_empty());
}

async fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(address).await.expect("the port is open");
    client.write_all(bytes).await.expect("the socket takes it");
    client
}

/// A certificate in files, and a client that trusts only it.
fn certificate(dir: &tempfile::TempDir) -> (Tls, TlsConnector) {
    let fresh = Fresh::new();
    let (cert, key) = fresh.write(dir);
    (Tls::from_files(&cert, &key).expect("the files are good"), fresh.connector())
}

/// A certificate that nobody has yet.
struct Fresh(rcgen::CertifiedKey<rcgen::KeyPair>);

impl Fresh {
    fn new() -> Self {
        Self(rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate"))
    }

    /// Writes `cert.pem` and `key.pem`.
    fn write(&self, dir: &tempfile::TempDir) -> (PathBuf, PathBuf) {
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, self.0.cert.pem()).expect("the folder is ours");
        std::fs::write(&key, self.0.signing_key.serialize_pem()).expect("the folder is ours");
        (cert, key)
    }

    /// A client that trusts only this.
    fn connector(&self) -> TlsConnector {
        connector(self.0.cert.der().clone())
    }
}

fn connector(trusted: CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).expect("the certificate is good");
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions are there")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<u8>>>);

impl Logged {
    /// Lines about the certificate since the last call.
    fn lines(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().expect("no holder panics"));
        let lines = String::from_utf8(bytes).expect("text");
        lines.lines().filter(|line| line.contains("TLS certificate")).map(str::to_owned).collect()
    }
}

impl Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no holder panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn http2_answers(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    stream.write_all(PREFACE).await.expect("the socket takes it");
    stream.write_all(EMPTY_SETTINGS).await.expect("the socket takes it");
    let mut head = [0; 9];
    timeout(SOON, stream.read_exact(&mut head)).await.expect("in time").expect("the server answers");
    assert_eq!(head[3], 4, "the first frame of a server is SETTINGS");
}

#[tokio::test]
async fn plaintext_is_handed_over_with_its_first_bytes() {
    let (address, mut incoming) = listen(options());
    let client = connect(address, PREFACE).await;
    let mut connection = next(&mut incoming).await;
    let peer = connection.peer();
    assert_eq!(peer.address, client.local_addr().expect("it is connected"));
    assert_eq!(peer.dialled, address);
    assert!(!peer.tls && peer.is_local());
    expect_preface(&mut connection).await;
}

#[tokio::test]
async fn a_preface_in_pieces_is_recognised() {
    let (address, mut incoming) = listen(options());
    let mut client = connect(address, &PREFACE[..2]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.write_all(&PREFACE[2..]).await.expect("the socket takes it");
    expect_preface(&mut next(&mut incoming).await).await;
}

#[tokio::test]
async fn tls_and_plaintext_share_a_port_and_tonic_serves_both() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tls, connector) = certificate(&dir);
    let (address, incoming) = listen(options().with_tls(tls));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(
        tonic::transport::Server::builder()
            .add_routes(tonic::service::Routes::default())
            .serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }),
    );
    http2_answers(TcpStream::connect(address).await.expect("the port is open")).await;
    let name = ServerName::try_from("localhost").expect("a name");
    let tcp = TcpStream::connect(address).await.expect("the port is open");
    let stream = connector.connect(name, tcp).await.expect("the handshake succeeds");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    http2_answers(stream).await;
    drop(stop);
    timeout(SOON, server).await.expect("it stops").expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_certificate_is_replaced_under_connections_that_go_on_and_a_broken_one_is_not_taken() {
    let logged = Logged::default();
    let writer = logged.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _here = tracing::subscriber::set_default(subscriber);
    let dir = tempfile::tempdir().expect("a folder");
    let (first, second, third) = (Fresh::new(), Fresh::new(), Fresh::new());
    let (cert, key) = first.write(&dir);
    let tls = Tls::watching(&cert, &key, Duration::ZERO).expect("the files are good");
    let (address, mut incoming) = listen(options().with_tls(tls));
    let handshake = async |trusting: &Fresh| {
        let tcp = TcpStream::connect(address).await.expect("the port is open");
        let name = ServerName::try_from("localhost").expect("a name");
        timeout(SOON, trusting.connector().connect(name, tcp)).await.expect("in time")
    };
    // Shown what `trusting` trusts, and served.
    let mut served = async |trusting: &Fresh| {
        let mut client = handshake(trusting).await.expect("it is trusted");
        client.write_all(PREFACE).await.expect("the socket takes it");
        let mut server = next(&mut incoming).await;
        expect_preface(&mut server).await;
        (client, server)
    };
    let (mut client, mut server) = served(&first).await;
    assert!(logged.lines().is_empty(), "nothing changed");

    second.write(&dir);
    let (_client, _server) = served(&second).await;
    let lines = logged.lines();
    assert!(lines.len() == 1 && lines[0].contains("another TLS certificate"), "{lines:?}");
    assert!(handshake(&first).await.is_err(), "the first certificate is not shown any more");
    // What began with the first one goes on, both ways.
    client.write_all(b"on").await.expect("the connection is open");
    let mut bytes = [0; 2];
    timeout(SOON, server.read_exact(&mut bytes)).await.expect("in time").expect("the connection is open");
    server.write_all(b"no").await.expect("the connection is open");
    server.flush().await.expect("the connection is open");
    timeout(SOON, client.read_exact(&mut bytes)).await.expect("in time").expect("the connection is open");
    assert_eq!(&bytes, b"no");

    // Half of the third, garbage, nothing at all, and a file without end: each is told once, with the file.
    let endless = vec![b'x'; (1 << 20) + 1];
    let half = third.0.cert.pem().into_bytes();
    for (content, part) in [
        (Some(&half[..]), "cannot be used together"),
        (Some(b"no certificate"), "no items found"),
        (Some(&endless), "more than 1048576 bytes"),
        (None, "No such file"),
    ] {
        match content {
            Some(content) => std::fs::write(&cert, content).expect("the folder is ours"),
            None => std::fs::remove_file(&cert).expect("it is there"),
        }
        for _ in 0..2 {
            served(&second).await;
        }
        let lines = logged.lines();
        let told = |line: &String| line.contains(part) && line.contains(cert.to_str().expect("a path"));
        assert!(lines.len() == 1 && told(&lines[0]), "{part}: {lines:?}");
    }
    third.write(&dir);
    served(&third).await;
}

#[tokio::test]
async fn tls_without_a_certificate_is_closed() {
    let (address, _incoming) = listen(options());
    expect_closed(connect(address, &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await).await;
}

#[tokio::test]
async fn the_self_signed_certificate_is_shown() {
    let tls = Tls::self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("a certificate");
    let (address, _incoming) = listen(options().with_tls(tls));
    let dir = tempfile::tempdir().expect("a folder");
    let (_, connector) = certificate(&dir);
    let tcp = TcpStream::connect(address).await.expect("the port is open");
    let name = ServerName::try_from("localhost").expect("a name");
    let error = connector.connect(name, tcp).await.expect_err("another certificate is trusted");
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn proxy_headers_give_the_addresses() {
    let (address, mut incoming) = listen(options());
    let mut bytes = b"PROXY TCP4 203.0.113.7 198.51.100.1 51234 8081\r\n".to_vec();
    bytes.extend(PREFACE);
    let client = connect(address, &bytes).await;
    let mut connection = next(&mut incoming).await;
    let peer = connection.peer();
    assert_eq!(peer.address.to_string(), "203.0.113.7:51234");
    assert_eq!(peer.dialled.to_string(), "198.51.100.1:8081");
    assert_eq!(peer.socket, client.local_addr().expect("it is connected"));
    assert!(!peer.is_local());
    expect_preface(&mut connection).await;

    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend([203, 0, 113, 8, 198, 51, 100, 1, 0xc8, 0x22, 0x1f, 0x91]);
    bytes.extend(PREFACE);
    let _client = connect(address, &bytes).await;
    let mut connection = next(&mut incoming).await;
    assert_eq!(connection.peer().address.to_string(), "203.0.113.8:51234");
    expect_preface(&mut connection).await;
}

#[tokio::test]
async fn a_proxy_header_goes_before_tls() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tls, connector) = certificate(&dir);
    let (address, mut incoming) = listen(options().with_tls(tls));
    let tcp = connect(address, b"PROXY TCP4 203.0.113.7 198.51.100.1 51234 8081\r\n").await;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut client = connector.connect(name, tcp).await.expect("the handshake succeeds");
    client.write_all(PREFACE).await.expect("the socket takes it");
    let mut connection = next(&mut incoming).await;
    assert!(connection.peer().tls);
    assert_eq!(connection.peer().address.to_string(), "203.0.113.7:51234");
    expect_preface(&mut connection).await;
}

#[tokio::test]
async fn a_proxy_header_is_refused_where_it_is_not_wanted_and_twice() {
    let (address, _incoming) = listen(ListenerOptions { proxy_headers: false, ..options() });
    expect_closed(connect(address, b"PROXY UNKNOWN\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await).await;
    let (address, _incoming) = listen(options());
    expect_closed(connect(address, b"PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n").await).await;
}

#[tokio::test]
async fn garbage_is_closed_and_the_port_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tls, _) = certificate(&dir);
    let (address, mut incoming) = listen(options().with_tls(tls));
    let long = [b'P'; 9000];
    for garbage in [
        &b"\0"[..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff\xfe\xfd\xfc",
        b"PRI * HTTP/1.0\r\n\r\n",
        b"PRI",
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\xff\xff\xff\xff\xff\xff",
        b"PROXY TCP4 x y z\r\n",
        b"PROXY TCP4 1.2.3.4",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01",
        &long,
    ] {
        let mut client = TcpStream::connect(address).await.expect("the port is open");
        let _ = client.write_all(garbage).await;
        let mut rest = Vec::new();
        let _ = timeout(SOON, client.read_to_end(&mut rest)).await.expect("garbage is closed in time");
        // A TLS alert is the only thing anybody is told.
        assert!(rest.is_empty() || rest[0] == 0x15, "{garbage:?} was answered {rest:?}");
    }
    let _client = connect(address, PREFACE).await;
    expect_preface(&mut next(&mut incoming).await).await;
}

#[tokio::test]
async fn silent_connections_are_cut_and_do_not_block_the_port_for_ever() {
    let (address, mut incoming) = listen(ListenerOptions { half_open_max: 2, ..options() });
    let silent = [connect(address, b"").await, connect(address, b"PR").await];
    let _client = connect(address, PREFACE).await;
    expect_preface(&mut next(&mut incoming).await).await;
    for client in silent {
        expect_closed(client).await;
    }
}

#[tokio::test]
async fn more_connections_than_allowed_are_closed_until_one_ends() {
    let (address, mut incoming) = listen(ListenerOptions { connections_max: 1, ..options() });
    let _first_client = connect(address, PREFACE).await;
    let first = next(&mut incoming).await;
    expect_closed(connect(address, PREFACE).await).await;
    drop(first);
    let _second_client = connect(address, PREFACE).await;
    next(&mut incoming).await;
}

#[tokio::test]
async fn a_dropped_stream_closes_the_port_and_a_taken_port_is_an_error() {
    let (address, incoming) = listen(options());
    let error = Listener::bind(address, options()).err().expect("the port is taken");
    assert!(error.to_string().starts_with(&format!("grpcServerPort: cannot listen on {address}: ")), "{error}");
    drop(incoming);
    let free = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, free).await.expect("nobody listens any more");
}
