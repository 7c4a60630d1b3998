//! How many files and connections the process may have open.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files as far as the system lets this process: what a shell gives, often 1,024, is less
/// than the clients of one node. Returns what the limit is now; none when there is none.
///
/// Where it cannot be raised it stays as it is: connections beyond it are then refused, and told in the log.
pub fn raise() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let mut raised = limit;
        raised.current = limit.maximum;
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!(%error, limit = limit.current, "the limit of open files cannot be raised"),
        }
    }
    limit.current
}

#[cfg(test)]
mod tests {
    use super::{Resource, getrlimit, raise};

    #[test]
    fn the_limit_is_what_the_system_allows() {
        assert_eq!(raise(), getrlimit(Resource::Nofile).maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, getrlimit(Resource::Nofile).maximum);
    }
}
