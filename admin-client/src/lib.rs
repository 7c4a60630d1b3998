//! The way from a tool to the nodes of a cluster, for whoever looks at it from outside: `mqadmin` and the dashboard.
//!
//! ```text
//! name servers ─▶ directory ─▶ broker groups and their nodes ─▶ connect ─▶ raftmq.admin.v1, the public API
//! ```
//!
//! It makes calls that a user could make, knows no command line and no page, and prints nothing.

pub mod connect;
pub mod credentials;
pub mod dead_letter;
pub mod directory;
pub mod error;
pub mod look;
pub mod message;
pub mod progress;
pub mod public;
pub mod send;
pub mod time;
pub mod tls;
pub mod topic;
