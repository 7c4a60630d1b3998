//! Connected clients: who they are, what they told us, whether they are alive, and how they are reached.

pub(crate) mod reconnect;
pub mod registry;
pub(crate) mod relay;
pub mod settings;
pub(crate) mod streams;

pub use registry::Registry;
