//! TLS with the nodes of a cluster, for tools: their own certificate, and the CA that signed the nodes'.

use crate::error::AdminError;
use raftmq_server::cluster_tls::ClusterTlsFiles;
use raftmq_server::dial::Dialer;
use std::path::PathBuf;

/// The way to nodes with certificate, key and CA in PEM files, or in plaintext without any of them.
///
/// # Errors
/// One without the others, or files that cannot be used.
pub fn from_files(files: [Option<PathBuf>; 3]) -> Result<Dialer, AdminError> {
    dialer(ClusterTlsFiles::tool(files).map_err(AdminError::Usage)?)
}

/// As [`from_files`], of settings that were read.
///
/// # Errors
/// Files that cannot be used.
pub fn dialer(files: Option<ClusterTlsFiles>) -> Result<Dialer, AdminError> {
    let tls = files.map(ClusterTlsFiles::load).transpose();
    Ok(Dialer::new(tls.map_err(|error| AdminError::Usage(error.to_string()))?))
}
