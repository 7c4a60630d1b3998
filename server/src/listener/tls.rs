//! The certificate a daemon shows: one from files, or one it signs itself at each start.
//!
//! Official SDKs that speak TLS by default accept any certificate, so the self-signed one makes them work without
//! configuration; it hides traffic from listeners and proves nothing about who answers.
//!
//! Files are read again when a connection comes and they have not been looked at for a second. What they hold then is
//! shown to that connection and all later ones; connections that are open keep what they began with. A pair that cannot
//! be used changes nothing but the log.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use thiserror::Error;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// Files are looked at as often, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bytes of a file with a certificate and its chain, or with a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a listener needs for TLS. Clones share the certificate.
#[derive(Clone)]
pub struct Tls {
    shown: Arc<Mutex<TlsAcceptor>>,
    files: Option<Arc<Files>>,
}

/// Where the certificate comes from.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    look_every: Duration,
    seen: tokio::sync::Mutex<Seen>,
}

/// The last look at the files.
struct Seen {
    at: Instant,
    /// A digest of what they held, or why they could not be read. The same again is not tried, nor told, again.
    found: Result<u64, String>,
}

/// What two files hold.
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Why there is no certificate to show.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that cannot be read, is too large, or holds no PEM section of the kind.
    #[error("{key} = {path}: {reason}", path = path.display())]
    File {
        /// The configuration key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// From the system or the PEM reader.
        reason: String,
    },
    /// Certificate and key do not fit together, or are of a kind that is not supported.
    #[error(
        "tlsCertPath = {certificate} and tlsKeyPath = {key} cannot be used together: {reason}",
        certificate = certificate.display(),
        key = key.display()
    )]
    Pair {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
        /// From the TLS library.
        reason: rustls::Error,
    },
    /// The self-signed certificate is of a kind that is not supported.
    #[error("the self-signed TLS certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The self-signed certificate could not be made.
    #[error("the self-signed TLS certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
}

impl Tls {
    /// A fresh certificate for `names` (host names or addresses), signed by itself.
    pub fn self_signed(names: impl IntoIterator<Item = String>) -> Result<Self, TlsError> {
        let signed = rcgen::generate_simple_self_signed(names.into_iter().collect::<Vec<_>>())?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
        let acceptor = acceptor(vec![signed.cert.der().clone()], key)?;
        Ok(Self { shown: Arc::new(Mutex::new(acceptor)), files: None })
    }

    /// The PEM files that `tlsCertPath` (the certificate, then its chain) and `tlsKeyPath` name, as they are now and as
    /// they become: they are looked at once a second while connections come.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Self::watching(certificate, key, LOOK_EVERY)
    }

    /// As [`Tls::from_files`], with a look at the files whenever `look_every` has passed since the last one.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub fn watching(certificate: &Path, key: &Path, look_every: Duration) -> Result<Self, TlsError> {
        let pair = Pair::read(certificate, key)?;
        let shown = Arc::new(Mutex::new(pair.acceptor(certificate, key)?));
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            look_every,
            seen: tokio::sync::Mutex::new(Seen { at: Instant::now(), found: Ok(pair.digest()) }),
        };
        Ok(Self { shown, files: Some(Arc::new(files)) })
    }

    /// What the next connection is shown.
    pub(super) async fn acceptor(&self) -> TlsAcceptor {
        if let Some(files) = &self.files
            && let Some(changed) = files.look().await
        {
            *self.shown.lock() = changed;
        }
        self.shown.lock().clone()
    }
}

impl Files {
    /// What the files hold, when it is something else than before and can be used.
    async fn look(self: &Arc<Self>) -> Option<TlsAcceptor> {
        // Whoever comes while another looks is shown what was shown before.
        let mut seen = self.seen.try_lock().ok()?;
        if seen.at.elapsed() < self.look_every {
            return None;
        }
        seen.at = Instant::now();
        let files = self.clone();
        let read = tokio::task::spawn_blocking(move || Pair::read(&files.certificate, &files.key)).await.ok()?;
        let found = read.as_ref().map(Pair::digest).map_err(ToString::to_string);
        if found == seen.found {
            return None;
        }
        seen.found = found;
        match read.and_then(|pair| pair.acceptor(&self.certificate, &self.key)) {
            Ok(acceptor) => {
                let (certificate, key) = (self.certificate.display(), self.key.display());
                tracing::info!(%certificate, %key, "new connections are shown another TLS certificate");
                Some(acceptor)
            }
            Err(error) => {
                tracing::error!(%error, "the TLS certificate that is shown stays: what is in its files now cannot be used");
                None
            }
        }
    }
}

impl Pair {
    fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        Ok(Self { certificate: read("tlsCertPath", certificate)?, key: read("tlsKeyPath", key)? })
    }

    /// Files may be replaced within one tick of their clock: what they hold tells them apart.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.certificate, &self.key).hash(&mut hasher);
        hasher.finish()
    }

    fn acceptor(&self, certificate: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong("tlsCertPath", certificate, error))?;
        if chain.is_empty() {
            return Err(wrong("tlsCertPath", certificate, rustls::pki_types::pem::Error::NoItemsFound));
        }
        let private = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| wrong("tlsKeyPath", key, error))?;
        acceptor(chain, private).map_err(|reason| TlsError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            reason,
        })
    }
}

fn wrong(key: &'static str, path: &Path, reason: impl ToString) -> TlsError {
    TlsError::File { key, path: path.to_owned(), reason: reason.to_string() }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| wrong(key, path, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(key, path, format!("it has more than {FILE_BYTES_MAX} bytes, which is the limit")));
    }
    Ok(bytes)
}

fn acceptor(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
