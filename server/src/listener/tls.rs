//! The certificate a daemon shows to anybody: one from files, or one it signs itself at each start.
//!
//! Official SDKs that speak TLS by default accept any certificate, so the self-signed one makes them work without
//! configuration; it hides traffic from listeners and proves nothing about who answers.

use std::{path::Path, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use crate::pem::{LOOK_EVERY, Pem, PemFile, TlsError, Watched, together};

/// What a listener needs for TLS. Clones share the certificate.
#[derive(Clone)]
pub struct Tls(Watched<Arc<ServerConfig>>);

impl Tls {
    /// A fresh certificate for `names` (host names or addresses), signed by itself.
    pub fn self_signed(names: impl IntoIterator<Item = String>) -> Result<Self, TlsError> {
        let signed = rcgen::generate_simple_self_signed(names.into_iter().collect::<Vec<_>>())?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der()));
        Ok(Self(Watched::fixed(config(vec![signed.cert.der().clone()], key)?)))
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
        let files = [("tlsCertPath", certificate), ("tlsKeyPath", key)];
        let files = files.map(|(key, path)| PemFile { key, path: path.to_owned() });
        Ok(Self(Watched::of(files.to_vec(), "TLS certificate", look_every, build)?))
    }

    /// What the next connection is shown.
    pub(super) async fn current(&self) -> Arc<ServerConfig> {
        self.0.current().await
    }
}

fn build(files: &[Pem<'_>]) -> Result<Arc<ServerConfig>, TlsError> {
    let [certificate, key] = files else { return Err(together(files, "a certificate and its key are wanted")) };
    config(certificate.certificates()?, key.private_key()?).map_err(|reason| together(files, reason))
}

fn config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}
