//! A CA of a test's own and what it signs, as PEM files in a folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use raftmq_server::{cluster_tls::ClusterTlsFiles, dial::Dialer, settings::Settings};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// A folder with `ca.pem`, and `NAME.pem` and `NAME.key` of everything that was signed.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new CA in a folder, which is made.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = folder.file_name().context("a folder has a name")?.to_string_lossy().into_owned();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate()?;
        fs::write(folder.join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// Signs a certificate for some hosts, for both ends of a connection.
    ///
    /// # Errors
    ///
    /// The folder cannot be written.
    pub fn sign(&self, name: &str, hosts: &[&str]) -> Result<()> {
        let mut params = CertificateParams::new(hosts.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem())?;
        fs::write(self.path(&format!("{name}.pem")), certificate.pem())?;
        Ok(())
    }

    /// A file in the folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// Lines of a node's configuration that name what was signed as `name`; they turn nothing on.
    pub fn lines(&self, name: &str) -> String {
        let [certificate, key, trust] = self.files(name);
        format!("tls.server.certPath = {certificate}\ntls.server.keyPath = {key}\ntls.server.trustCertPath = {trust}\n")
    }

    /// Certificate, key and CA.
    pub fn files(&self, name: &str) -> [String; 3] {
        [format!("{name}.pem"), format!("{name}.key"), "ca.pem".to_owned()]
            .map(|file| self.path(&file).display().to_string())
    }

    /// Calls nodes with what was signed as `name`: by TLS alone, or in plaintext those that take nothing else.
    ///
    /// # Errors
    ///
    /// The files cannot be used.
    pub fn dialer(&self, name: &str, mode: &str) -> Result<Dialer> {
        let mut settings = Settings::with_environment(&[], |_| None);
        settings.text(Path::new("test.conf"), &format!("{}tls.server.mode = {mode}\n", self.lines(name)));
        let files = ClusterTlsFiles::of_node(&mut settings).context("the mode is on")?;
        Ok(Dialer::new(Some(files.load()?)))
    }
}
