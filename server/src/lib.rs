//! What every RaftMQ daemon is made of.
//!
//! ```text
//! file, environment, flags ─▶ settings ─▶ typed values, or every mistake at once
//! any port ─▶ listener ─▶ peek ─▶ PROXY v1/v2 │ TLS │ HTTP/2 │ other: one log line, closed
//!                                      └─────────┴──────┴─▶ a stream of connections for tonic
//! dial ─▶ plaintext, or TLS that proves both ends ─▶ a channel for tonic
//! outside_tls ─▶ TLS that proves the other end ─▶ a channel to a server outside the cluster
//! ```
//!
//! A daemon's `main` is a recipe made of these: [`daemon`] ([`settings`] → [`logs`]) → [`listener`] → run → [`shutdown`].

pub mod cluster_tls;
pub mod daemon;
pub mod dial;
pub mod listener;
pub mod logs;
pub mod open_files;
pub mod outside_tls;
mod pem;
pub mod properties;
pub mod settings;
pub mod shutdown;
