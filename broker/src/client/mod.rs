//! Connected clients: who they are, what they told us, and whether they are alive.

pub mod registry;
pub mod settings;

pub use registry::Registry;
