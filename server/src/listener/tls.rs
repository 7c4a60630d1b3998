//! The certificate a daemon shows: one from files, or one it signs itself at each start.
//!
//! Official SDKs that speak TLS by default accept any certificate, so the self-signed one makes them work without
//! configuration; it hides traffic from listeners and proves nothing about who answers.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

/// What a listener needs for TLS. Clones share the certificate.
#[derive(Clone)]
pub struct Tls {
    pub(super) acceptor: TlsAcceptor,
}

/// Why there is no certificate to show.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that cannot be read or holds no PEM section of the kind.
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
    #[error("the TLS certificate and key cannot be used: {0}")]
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
        Self::from_parts(vec![signed.cert.der().clone()], key)
    }

    /// The PEM files that `tlsCertPath` (the certificate, then its chain) and `tlsKeyPath` name.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let file_error = |key, path: &Path, error: rustls::pki_types::pem::Error| TlsError::File {
            key,
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let chain = CertificateDer::pem_file_iter(certificate)
            .and_then(|sections| sections.collect::<Result<Vec<_>, _>>())
            .map_err(|error| file_error("tlsCertPath", certificate, error))?;
        if chain.is_empty() {
            return Err(file_error("tlsCertPath", certificate, rustls::pki_types::pem::Error::NoItemsFound));
        }
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| file_error("tlsKeyPath", key, error))?;
        Self::from_parts(chain, private)
    }

    fn from_parts(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}
