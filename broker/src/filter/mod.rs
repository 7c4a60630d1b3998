//! Which messages a consumer asked for: expressions become predicates here, and nothing else happens.

pub mod tag;
