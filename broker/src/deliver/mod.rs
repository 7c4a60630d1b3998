//! Reading on behalf of clients: long polls that wait for messages, handles of what was handed out, bodies, and whether
//! they arrived.

pub(crate) mod confirm;
pub mod handle;
pub mod read;
pub mod wait;
