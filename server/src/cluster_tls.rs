//! TLS among the programs of a cluster: both ends prove themselves by a certificate that the cluster's CA signed.
//!
//! Brokers, name servers, `mqadmin` and the dashboard call one another over this ([`crate::dial`]), and the ports that
//! they call take it ([`crate::listener`]). One certificate serves a node both ways. A caller asks for it by the ALPN name
//! [`MEMBER_ALPN`]: so the clients' port, which shows anybody another certificate, proves itself to members as well. The
//! first byte that comes back is [`WELCOME`]: in TLS 1.3 a caller is not told otherwise that its certificate was taken, and
//! would learn from a broken stream, much later, that it was not.
//!
//! Sessions are not resumed, so every connection is checked by what the files hold now.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore, ServerConfig,
    client::{Resumption, verify_server_cert_signed_by_trust_anchor},
    pki_types::{CertificateDer, UnixTime},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};

use crate::pem::{LOOK_EVERY, Pem, PemFile, Watched, together};
use crate::settings::Settings;

pub use crate::pem::TlsError;

/// What a caller from inside the cluster asks for.
pub(crate) const MEMBER_ALPN: &[u8] = b"raftmq";

/// What a caller that asked by [`MEMBER_ALPN`] is sent before anything else, once its certificate has been checked.
pub(crate) const WELCOME: u8 = b'+';

/// Whether a node speaks TLS with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Plaintext both ways; a caller with TLS is refused.
    Disabled,
    /// Takes both. Calls by TLS, and in plaintext whom it does not reach so: for the way from the one to the other.
    Permissive,
    /// TLS both ways; a caller without it is refused.
    Enforcing,
}

/// The configuration keys of the three files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keys {
    certificate: &'static str,
    key: &'static str,
    pub(crate) trust: &'static str,
}

/// Of brokers and name servers.
const NODE: Keys =
    Keys { certificate: "tls.server.certPath", key: "tls.server.keyPath", trust: "tls.server.trustCertPath" };

/// Of those who only call.
const TOOL: Keys =
    Keys { certificate: "tls.client.certPath", key: "tls.client.keyPath", trust: "tls.client.trustCertPath" };

/// The certificate of a program, its key, and the CAs whose certificates it takes, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterTlsFiles {
    keys: Keys,
    certificate: PathBuf,
    key: PathBuf,
    trust: PathBuf,
    /// `false`: plaintext is taken and spoken too.
    enforcing: bool,
}

/// TLS among the programs of a cluster, as one of them speaks it. Clones share the certificate.
#[derive(Clone)]
pub struct ClusterTls {
    material: Watched<Material>,
    files: Arc<ClusterTlsFiles>,
}

#[derive(Clone)]
struct Material {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl ClusterTlsFiles {
    /// What a broker or name server is told: `tls.server.mode` and its three files. `None` when it is disabled.
    pub fn of_node(settings: &mut Settings) -> Option<Self> {
        let modes =
            [("disabled", TlsMode::Disabled), ("permissive", TlsMode::Permissive), ("enforcing", TlsMode::Enforcing)];
        let mode = settings.choice("tls.server.mode", "disabled", &modes);
        let [certificate, key, trust] = [NODE.certificate, NODE.key, NODE.trust].map(|key| settings.optional_path(key));
        if mode == TlsMode::Disabled {
            return None;
        }
        let (Some(certificate), Some(key), Some(trust)) = (certificate, key, trust) else {
            settings.rule(format!(
                "tls.server.mode = {} needs {}, {} and {}: this node's certificate, its key, and the CA that signs the \
                 certificates of all nodes and tools",
                if mode == TlsMode::Permissive { "permissive" } else { "enforcing" },
                NODE.certificate,
                NODE.key,
                NODE.trust
            ));
            return None;
        };
        Some(Self { keys: NODE, certificate, key, trust, enforcing: mode == TlsMode::Enforcing })
    }

    /// What a program that only calls is told: three files, or none of them for plaintext.
    pub fn of_tool(settings: &mut Settings) -> Option<Self> {
        let files = [TOOL.certificate, TOOL.key, TOOL.trust].map(|key| settings.optional_path(key));
        match Self::tool(files) {
            Ok(files) => files,
            Err(half) => {
                settings.rule(half);
                None
            }
        }
    }

    /// Certificate, key and CA of a program that only calls; `None` without any.
    ///
    /// # Errors
    /// One without the others, in a sentence.
    pub fn tool(files: [Option<PathBuf>; 3]) -> Result<Option<Self>, String> {
        match files {
            [Some(certificate), Some(key), Some(trust)] => {
                Ok(Some(Self { keys: TOOL, certificate, key, trust, enforcing: true }))
            }
            [None, None, None] => Ok(None),
            _ => Err(format!(
                "{}, {} and {} go together: set all three, or none for plaintext",
                TOOL.certificate, TOOL.key, TOOL.trust
            )),
        }
    }

    /// Reads the files, which are looked at again once a second while connections come and are made.
    ///
    /// # Errors
    /// A file that cannot be used, or a certificate that the others would not take.
    pub fn load(self) -> Result<ClusterTls, TlsError> {
        self.watching(LOOK_EVERY)
    }

    /// As [`ClusterTlsFiles::load`], with a look at the files whenever `look_every` has passed since the last one.
    ///
    /// # Errors
    /// As there.
    pub fn watching(self, look_every: Duration) -> Result<ClusterTls, TlsError> {
        let keys = self.keys;
        let files = [(keys.certificate, &self.certificate), (keys.key, &self.key), (keys.trust, &self.trust)];
        let files = files.map(|(key, path)| PemFile { key, path: path.clone() });
        // A tool's certificate needs not be good for serving.
        let build = if keys == NODE { build_node } else { build_tool };
        let material = Watched::of(files.to_vec(), "certificate for the cluster", look_every, build)?;
        Ok(ClusterTls { material, files: Arc::new(self) })
    }
}

impl ClusterTls {
    /// Whether plaintext is refused, and never spoken.
    pub fn is_enforcing(&self) -> bool {
        self.files.enforcing
    }

    /// How the next caller is answered.
    pub(crate) async fn server(&self) -> Arc<ServerConfig> {
        self.material.current().await.server
    }

    /// How the next call is made.
    pub(crate) async fn client(&self) -> Arc<ClientConfig> {
        self.material.current().await.client
    }

    /// Why a caller was refused, and what would let it in.
    pub(crate) fn caller_refused(&self, error: &std::io::Error) -> String {
        let (trust, certificate) = (self.trusted(), self.files.certificate.display());
        match tls_error(error) {
            Some(Error::AlertReceived(alert)) => format!(
                "a caller does not take the certificate of this node ({alert:?}): {} = {certificate} must be valid, name \
                 the host that was called, and be signed by a CA in the caller's own trustCertPath",
                self.files.keys.certificate
            ),
            Some(Error::NoCertificatesPresented) => {
                format!("refused a caller that shows no certificate: {}", must_show(&trust))
            }
            Some(Error::InvalidCertificate(why)) => {
                format!("refused a caller with {}: {}", fault(why), must_show(&trust))
            }
            _ => format!("TLS handshake failed: {error}"),
        }
    }

    /// Why a plaintext caller was refused.
    pub(crate) fn plaintext_refused(&self) -> String {
        format!("refused a caller in plaintext, tls.server.mode is enforcing here: {}", must_show(&self.trusted()))
    }

    /// Why a node that was called is not believed, or does not believe this one.
    pub(crate) fn called_refused(&self, host: &str, error: &std::io::Error) -> String {
        let (keys, trust) = (self.files.keys, self.trusted());
        match tls_error(error) {
            Some(Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => no_member_tls(),
            Some(Error::AlertReceived(alert)) => format!(
                "it does not take the certificate of this side ({alert:?}): {} = {} must be valid and signed by a CA in \
                 its tls.server.trustCertPath",
                keys.certificate,
                self.files.certificate.display()
            ),
            Some(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => format!("its tls.server.certPath does not name {host}: its certificate needs it as a subjectAltName"),
            Some(Error::InvalidCertificate(why)) => format!(
                "it shows {}: give it by its tls.server.certPath a valid one that a CA in {trust} signed",
                fault(why)
            ),
            Some(error) => format!("the TLS handshake failed: {error}"),
            None => no_member_tls(),
        }
    }

    fn trusted(&self) -> String {
        format!("{} = {}", self.files.keys.trust, self.files.trust.display())
    }
}

/// For those who neither refuse a certificate nor show one.
fn no_member_tls() -> String {
    "it speaks no TLS with other nodes: its tls.server.mode must be permissive or enforcing".to_owned()
}

fn must_show(trust: &str) -> String {
    format!(
        "give it a certificate that a CA in {trust} signed, on nodes with tls.server.mode, tls.server.certPath, \
         tls.server.keyPath and tls.server.trustCertPath, for the dashboard with tls.client.certPath, tls.client.keyPath \
         and tls.client.trustCertPath, for mqadmin with --tlsCert, --tlsKey and --tlsTrustCert"
    )
}

/// What is wrong with a certificate, as the end of a sentence.
pub(crate) fn fault(error: &CertificateError) -> String {
    use CertificateError as C;
    match error {
        C::Expired | C::ExpiredContext { .. } => "a certificate that has expired".to_owned(),
        C::NotValidYet | C::NotValidYetContext { .. } => "a certificate that is not valid yet".to_owned(),
        C::UnknownIssuer | C::BadSignature => "a certificate of another CA".to_owned(),
        C::InvalidPurpose | C::InvalidPurposeContext { .. } => {
            "a certificate for another purpose (extendedKeyUsage: nodes need serverAuth and clientAuth, tools clientAuth)"
                .to_owned()
        }
        other => format!("a certificate that cannot be used ({other})"),
    }
}

/// What TLS itself said of a connection that broke off.
pub(crate) fn tls_error(error: &std::io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn build_node(files: &[Pem<'_>]) -> Result<Material, TlsError> {
    build(files, Purpose::BothWays)
}

fn build_tool(files: &[Pem<'_>]) -> Result<Material, TlsError> {
    build(files, Purpose::Calling)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    BothWays,
    Calling,
}

fn build(files: &[Pem<'_>], purpose: Purpose) -> Result<Material, TlsError> {
    let [certificate, key, trust] = files else {
        return Err(together(files, "a certificate, its key and a CA are wanted"));
    };
    let chain = certificate.certificates()?;
    let mut roots = RootCertStore::empty();
    for ca in trust.certificates()? {
        roots.add(ca).map_err(|error| trust.wrong(error))?;
    }
    let made = material(&chain, &roots, purpose, || key.private_key());
    made.map_err(|error| match error {
        Unfit::Tls(TlsError::Unusable(error)) => together(files, error),
        Unfit::Tls(error) => error,
        Unfit::Refused(why) => together(files, format!("the others would refuse {}", fault(&why))),
    })
}

/// Why there is no material.
enum Unfit {
    Tls(TlsError),
    /// By those who trust the same CAs.
    Refused(CertificateError),
}

impl<E: Into<TlsError>> From<E> for Unfit {
    fn from(error: E) -> Self {
        match error.into() {
            TlsError::Unusable(Error::InvalidCertificate(why)) => Self::Refused(why),
            error => Self::Tls(error),
        }
    }
}

fn material(
    chain: &[CertificateDer<'static>],
    roots: &RootCertStore,
    purpose: Purpose,
    key: impl Fn() -> Result<rustls::pki_types::PrivateKeyDer<'static>, TlsError>,
) -> Result<Material, Unfit> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone())
        .build()
        .map_err(|error| Error::General(error.to_string()))?;
    // What the others would refuse is refused here, where somebody looks.
    let (own, above) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    let now = UnixTime::now();
    verifier.verify_client_cert(own, above, now)?;
    if purpose == Purpose::BothWays {
        let own = ParsedCertificate::try_from(own)?;
        verify_server_cert_signed_by_trust_anchor(&own, roots, above, now, algorithms.all)?;
    }
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.to_vec(), key()?)?;
    server.alpn_protocols = vec![MEMBER_ALPN.to_vec(), b"h2".to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots.clone())
        .with_client_auth_cert(chain.to_vec(), key()?)?;
    client.alpn_protocols = vec![MEMBER_ALPN.to_vec()];
    client.resumption = Resumption::disabled();
    Ok(Material { server: Arc::new(server), client: Arc::new(client) })
}
