//! Calling a server that is no part of the cluster over TLS: it proves itself by a certificate that a CA of a file signed,
//! or else one of the system's. The caller shows none.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::cluster_tls::{fault, tls_error};
use crate::pem::{LOOK_EVERY, Pem, PemFile, TlsError, Watched, together};

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The configuration key that names the file.
    pub key: &'static str,
    /// CA certificates in PEM; the system's where there is none.
    pub path: Option<PathBuf>,
}

/// How a server outside is called. Clones share what the file holds.
#[derive(Clone)]
pub struct OutsideTls {
    client: Watched<Arc<ClientConfig>>,
    trust: Trust,
}

impl Trust {
    /// Reads the certificates. A file is looked at again once a second while connections are made; what the system
    /// believes counts until the program ends.
    ///
    /// # Errors
    /// A file that cannot be used, or a system without any CA.
    pub fn load(self) -> Result<OutsideTls, TlsError> {
        let client = match &self.path {
            Some(path) => {
                let file = PemFile { key: self.key, path: path.clone() };
                Watched::of(vec![file], "CA of a server outside the cluster", LOOK_EVERY, build)?
            }
            None => Watched::fixed(of_system(self.key)?),
        };
        Ok(OutsideTls { client, trust: self })
    }
}

impl OutsideTls {
    /// A channel to the host and port of `uri`. Nothing is resolved or connected before it is used. `target` is the key
    /// that names the server.
    ///
    /// A connection that cannot be made fails with a sentence that says what to repair.
    ///
    /// # Errors
    /// An address without a host.
    pub fn channel(&self, uri: &Uri, connect_timeout: Duration, target: &'static str) -> Result<Channel, http::Error> {
        let host = uri.host().unwrap_or_default().to_owned();
        let port = uri.port_u16().unwrap_or(443);
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let with =
            |scheme: &str| Uri::builder().scheme(scheme).authority(authority.as_str()).path_and_query("/").build();
        // Of an endpoint that is https itself tonic would make a connection over TLS within this one.
        let endpoint = Endpoint::from(with("http")?).origin(with("https")?).connect_timeout(connect_timeout);
        let tls = self.clone();
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let (tls, host) = (tls.clone(), host.clone());
            async move { tls.connect(&host, port, target).await.map(TokioIo::new) }
        })))
    }

    async fn connect(&self, host: &str, port: u16, target: &'static str) -> io::Result<TlsStream<TcpStream>> {
        let plain = TcpStream::connect((host.trim_start_matches('[').trim_end_matches(']'), port)).await?;
        plain.set_nodelay(true)?;
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name)
            .map_err(|_| io::Error::other(format!("{host} is nothing that a certificate names")))?;
        let connector = TlsConnector::from(self.client.current().await);
        let refused = |error: io::Error| io::Error::other(self.refused(host, target, &error));
        connector.connect(name, plain).await.map_err(refused)
    }

    /// Why there is no connection, and what would let one be made.
    fn refused(&self, host: &str, target: &str, error: &io::Error) -> String {
        let key = self.trust.key;
        let trusted = match &self.trust.path {
            Some(path) => format!("{key} = {}", path.display()),
            None => format!("this system's own ({key} is not set)"),
        };
        match tls_error(error) {
            Some(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => format!("its certificate does not name {host}, as {target} does: it needs that as a subjectAltName"),
            Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                format!("it shows a certificate that none of the CAs signed which are believed: {trusted}")
            }
            Some(Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            )) => "it shows a certificate that is not for servers (extendedKeyUsage needs serverAuth)".to_owned(),
            Some(Error::InvalidCertificate(why)) => {
                format!("it shows {}; the CAs that are believed are {trusted}", fault(why))
            }
            Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
                format!("it demands a certificate of its callers, and {target} is called without one")
            }
            Some(Error::InvalidMessage(_)) => {
                format!("it speaks no TLS: with http:// in {target} it is called in plaintext")
            }
            Some(error) => format!("the TLS handshake of {target} failed: {error}"),
            None => format!("the TLS handshake of {target} broke off: {error}"),
        }
    }
}

fn build(files: &[Pem<'_>]) -> Result<Arc<ClientConfig>, TlsError> {
    let [trust] = files else { return Err(together(files, "one file is wanted")) };
    let mut roots = RootCertStore::empty();
    for ca in trust.certificates()? {
        roots.add(ca).map_err(|error| trust.wrong(error))?;
    }
    client(roots).map_err(|error| trust.wrong(error))
}

fn of_system(key: &'static str) -> Result<Arc<ClientConfig>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems keep some that no TLS takes any more.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(TlsError::NoRoots { key, why });
    }
    Ok(client(roots)?)
}

fn client(roots: RootCertStore) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(client))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::{ServerConfig, pki_types::PrivateKeyDer};
    use tokio::{io::AsyncReadExt, net::TcpListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const KEY: &str = "trustPath";
    const TARGET: &str = "target";

    /// A CA in `path`, and a server that it signed for 127.0.0.1.
    async fn server(path: &Path) -> u16 {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        fs::write(path, params.self_signed(&key).expect("signs").pem()).expect("written");
        let issuer = Issuer::new(params, key);
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("signs").der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(vec![certificate], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.expect("they fit")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    tokio::spawn(async move { stream.read_u8().await });
                }
            }
        });
        port
    }

    #[tokio::test]
    async fn a_server_is_believed_by_its_ca_and_its_name_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let (own, other) = (dir.path().join("own.pem"), dir.path().join("other.pem"));
        let port = server(&own).await;
        let elsewhere = server(&other).await;
        let tls = Trust { key: KEY, path: Some(own.clone()) }.load().expect("good");
        tls.connect("127.0.0.1", port, TARGET).await.expect("it is believed");
        let refused = async |host: &str, port| tls.connect(host, port, TARGET).await.expect_err("refused").to_string();
        let why = refused("127.0.0.1", elsewhere).await;
        assert!(why.contains(&format!("{KEY} = {}", own.display())), "{why}");
        let why = refused("localhost", port).await;
        assert!(why.contains("does not name localhost") && why.contains(TARGET), "{why}");
        let plain = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = plain.local_addr().expect("bound").port();
        let answers = async {
            let (mut stream, _) = plain.accept().await.expect("it comes");
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 \r\n\r\n").await.expect("written");
            stream
        };
        let (why, _stream) = tokio::join!(refused("127.0.0.1", port), answers);
        assert!(why.contains("http://") && why.contains(TARGET), "{why}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ca.pem");
        let load = || Trust { key: KEY, path: Some(path.clone()) }.load().err().expect("refused").to_string();
        assert!(load().contains(&format!("{KEY} = {}", path.display())));
        fs::write(&path, "no certificate").expect("written");
        assert!(load().contains(KEY));
    }
}
