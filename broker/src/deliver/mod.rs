//! Reading on behalf of clients: long polls that wait for messages, handles of what was handed out, bodies, and whether
//! they arrived. What SQL filters say of messages, before anybody gets them.

pub(crate) mod confirm;
pub mod handle;
pub mod judge;
pub mod read;
pub mod wait;
