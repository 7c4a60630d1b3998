//! The digest of a topic table: what a broker and a name server compare instead of 100,000 topics.

use crate::namesrv::Topic;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

/// Digest of a set of topics: the wrapping sum of the hashes of their encodings. It does not depend on order,
/// and a change costs one subtraction and one addition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct TopicDigest(pub u64);

impl TopicDigest {
    /// Takes a topic into the set.
    pub fn add(&mut self, topic: &Topic) {
        self.0 = self.0.wrapping_add(hash(topic));
    }

    /// Takes a topic out of the set.
    pub fn remove(&mut self, topic: &Topic) {
        self.0 = self.0.wrapping_sub(hash(topic));
    }
}

fn hash(topic: &Topic) -> u64 {
    xxh3_64(&topic.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str, version: u64) -> Topic {
        Topic { name: name.to_owned(), read_queues: 8, write_queues: 8, permission: 6, version, ..Topic::default() }
    }

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let (a, b) = (topic("a", 1), topic("b", 1));
        let mut one = TopicDigest::default();
        one.add(&a);
        one.add(&b);
        let mut other = TopicDigest::default();
        other.add(&b);
        other.add(&a);
        assert_eq!(one, other);
        other.remove(&a);
        other.add(&topic("a", 2));
        assert_ne!(one, other);
        other.remove(&topic("a", 2));
        other.remove(&b);
        assert_eq!(other, TopicDigest::default());
    }
}
