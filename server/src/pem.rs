//! PEM files that are replaced while a daemon runs: what they hold now, made into what connections need.
//!
//! Files are read again when a connection comes and they have not been looked at for a second. What they hold then
//! counts for that connection and all later ones; connections that are open keep what they began with. Files that cannot
//! be used, alone or together, change nothing but the log.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::Read,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use thiserror::Error;
use tokio::time::Instant;

/// Files are looked at as often, at most.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Bytes of a file with certificates, or with a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there is no certificate to show, or none to check others by.
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
    /// Files that are good each for itself and do not fit together, or are of a kind that is not supported.
    #[error("{files} cannot be used together: {reason}")]
    Together {
        /// Keys and files.
        files: String,
        /// What does not fit.
        reason: String,
    },
    /// There is nobody whose certificates are believed.
    #[error("this system has no CA certificates{why}: set {key} to a file with those that are to be believed")]
    NoRoots {
        /// The configuration key that names a file.
        key: &'static str,
        /// From the system, in parentheses.
        why: String,
    },
    /// The self-signed certificate is of a kind that is not supported.
    #[error("the self-signed TLS certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The self-signed certificate could not be made.
    #[error("the self-signed TLS certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
}

/// A file, and the configuration key that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PemFile {
    pub key: &'static str,
    pub path: PathBuf,
}

/// What a file held when it was read.
pub(crate) struct Pem<'a> {
    file: &'a PemFile,
    bytes: Vec<u8>,
}

/// What is made of some files, and is made anew when they change. Clones share it.
#[derive(Clone)]
pub(crate) struct Watched<T> {
    shown: Arc<Mutex<T>>,
    files: Option<Arc<Files<T>>>,
}

/// Makes something of the files, which come in the order in which they are listed.
pub(crate) type Build<T> = fn(&[Pem<'_>]) -> Result<T, TlsError>;

struct Files<T> {
    files: Vec<PemFile>,
    build: Build<T>,
    /// For the log.
    what: &'static str,
    look_every: Duration,
    seen: tokio::sync::Mutex<Seen>,
}

/// The last look at the files.
struct Seen {
    at: Instant,
    /// A digest of what they held, or why they could not be read. The same again is not told again.
    found: Result<u64, String>,
    /// Something was made of it. What could not be used may be usable later: a certificate's time may come.
    made: bool,
}

impl<T: Clone + 'static> Watched<T> {
    /// Something that never changes.
    pub(crate) fn fixed(value: T) -> Self {
        Self { shown: Arc::new(Mutex::new(value)), files: None }
    }

    /// What `build` makes of the files, now and whenever a look at them, `look_every` after the last one, finds a
    /// change. `what` says in the log what they are.
    ///
    /// # Errors
    /// The file that cannot be used, and why.
    pub(crate) fn of(
        files: Vec<PemFile>,
        what: &'static str,
        look_every: Duration,
        build: Build<T>,
    ) -> Result<Self, TlsError> {
        let read = read_all(&files)?;
        let shown = Arc::new(Mutex::new(build(&read)?));
        let seen = Seen { at: Instant::now(), found: Ok(digest(&read)), made: true };
        drop(read);
        let files = Files { files, build, what, look_every, seen: tokio::sync::Mutex::new(seen) };
        Ok(Self { shown, files: Some(Arc::new(files)) })
    }

    /// What counts for the next connection.
    pub(crate) async fn current(&self) -> T {
        if let Some(files) = &self.files
            && let Some(changed) = files.look().await
        {
            *self.shown.lock() = changed;
        }
        self.shown.lock().clone()
    }
}

impl<T: 'static> Files<T> {
    /// What the files make, when they hold something else than before that can be used.
    async fn look(self: &Arc<Self>) -> Option<T> {
        // Whoever comes while another looks gets what was there before.
        let mut seen = self.seen.try_lock().ok()?;
        if seen.at.elapsed() < self.look_every {
            return None;
        }
        seen.at = Instant::now();
        let files = self.files.clone();
        let read = move || read_all(&files).map(|read| read.into_iter().map(|pem| pem.bytes).collect::<Vec<_>>());
        let read = tokio::task::spawn_blocking(read).await.ok()?.map(|contents| {
            let pairs = self.files.iter().zip(contents);
            pairs.map(|(file, bytes)| Pem { file, bytes }).collect::<Vec<_>>()
        });
        let found = read.as_deref().map(digest).map_err(ToString::to_string);
        let told = found == seen.found;
        if told && (seen.made || found.is_err()) {
            return None;
        }
        seen.found = found;
        match read.and_then(|read| (self.build)(&read)) {
            Ok(made) => {
                seen.made = true;
                tracing::info!(files = names(&self.files), "new connections are shown another {}", self.what);
                Some(made)
            }
            Err(error) => {
                seen.made = false;
                if !told {
                    tracing::error!(%error, "the {} stays: what is in its files now cannot be used", self.what);
                }
                None
            }
        }
    }
}

impl Pem<'_> {
    /// The certificates of the file, at least one.
    pub(crate) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let found = found.map_err(|error| self.file.wrong(error))?;
        if found.is_empty() {
            return Err(self.file.wrong(rustls::pki_types::pem::Error::NoItemsFound));
        }
        Ok(found)
    }

    /// The private key of the file.
    pub(crate) fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| self.file.wrong(error))
    }

    /// That the file cannot be used.
    pub(crate) fn wrong(&self, reason: impl ToString) -> TlsError {
        self.file.wrong(reason)
    }
}

/// That files do not fit together.
pub(crate) fn together(files: &[Pem<'_>], reason: impl ToString) -> TlsError {
    let files: Vec<PemFile> = files.iter().map(|pem| pem.file.clone()).collect();
    TlsError::Together { files: names(&files), reason: reason.to_string() }
}

impl PemFile {
    fn wrong(&self, reason: impl ToString) -> TlsError {
        TlsError::File { key: self.key, path: self.path.clone(), reason: reason.to_string() }
    }

    fn read(&self) -> Result<Pem<'_>, TlsError> {
        let mut bytes = Vec::new();
        File::open(&self.path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| self.wrong(error))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(self.wrong(format!("it has more than {FILE_BYTES_MAX} bytes, which is the limit")));
        }
        Ok(Pem { file: self, bytes })
    }
}

fn read_all(files: &[PemFile]) -> Result<Vec<Pem<'_>>, TlsError> {
    files.iter().map(PemFile::read).collect()
}

/// `tlsCertPath = cert.pem and tlsKeyPath = key.pem`.
fn names(files: &[PemFile]) -> String {
    let named: Vec<String> = files.iter().map(|file| format!("{} = {}", file.key, file.path.display())).collect();
    named.join(" and ")
}

/// Files may be replaced within one tick of their clock: what they hold tells them apart.
fn digest(read: &[Pem<'_>]) -> u64 {
    let mut hasher = DefaultHasher::new();
    read.iter().for_each(|pem| pem.bytes.hash(&mut hasher));
    hasher.finish()
}
