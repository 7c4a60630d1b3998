//! The topics of this node's group as a digest, and what changed lately: a name server that is one change behind
//! is sent one topic, not 100,000.

use prost::Message as _;
use raftmq_proto::digest::TopicDigest;
use raftmq_proto::namesrv::Topic;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use xxhash_rust::xxh3::xxh3_64;

/// Names kept of topics that changed; a name server that is further behind gets the whole table.
const HISTORY_NAMES_MAX: usize = 4_096;

/// Names and hashes of all topics, and the last changes.
#[derive(Debug, Default)]
pub(super) struct TopicTable {
    hashes: BTreeMap<String, u64>,
    digest: TopicDigest,
    history: VecDeque<Change>,
    history_names: usize,
}

/// What led from one digest to the next.
#[derive(Debug)]
struct Change {
    base: TopicDigest,
    names: Vec<String>,
}

impl TopicTable {
    pub(super) fn digest(&self) -> TopicDigest {
        self.digest
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.hashes.keys().cloned().collect()
    }

    /// Takes the present topics, and notes how they differ from the ones before.
    pub(super) fn replace(&mut self, topics: &[Topic]) {
        let mut digest = TopicDigest::default();
        let mut hashes = BTreeMap::new();
        let mut changed = Vec::new();
        for topic in topics {
            digest.add(topic);
            let hash = xxh3_64(&topic.encode_to_vec());
            if self.hashes.remove(&topic.name) != Some(hash) {
                changed.push(topic.name.clone());
            }
            hashes.insert(topic.name.clone(), hash);
        }
        changed.extend(std::mem::take(&mut self.hashes).into_keys());
        self.hashes = hashes;
        if changed.is_empty() {
            return;
        }
        self.history_names += changed.len();
        self.history.push_back(Change { base: self.digest, names: changed });
        self.digest = digest;
        while self.history_names > HISTORY_NAMES_MAX
            && let Some(oldest) = self.history.pop_front()
        {
            self.history_names -= oldest.names.len();
        }
    }

    /// Names of the topics that differ from the table with digest `base`; `None` when that is not known or they are
    /// more than `max`.
    pub(super) fn changed_since(&self, base: TopicDigest, max: usize) -> Option<BTreeSet<String>> {
        // The youngest change that starts there: a table may have been the same more than once.
        let from = self.history.iter().rposition(|change| change.base == base)?;
        let names: BTreeSet<String> =
            self.history.iter().skip(from).flat_map(|change| change.names.iter().cloned()).collect();
        (names.len() <= max).then_some(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[(&str, u64)]) -> Vec<Topic> {
        let topic =
            |(name, version): &(&str, u64)| Topic { name: (*name).to_owned(), version: *version, ..Topic::default() };
        names.iter().map(topic).collect()
    }

    fn changed(table: &TopicTable, base: TopicDigest) -> Option<Vec<String>> {
        Some(table.changed_since(base, 100)?.into_iter().collect())
    }

    #[test]
    fn changes_since_any_digest_that_is_remembered() {
        let mut table = TopicTable::default();
        table.replace(&topics(&[("a", 1), ("b", 1)]));
        let first = table.digest();
        table.replace(&topics(&[("a", 1), ("b", 1)]));
        assert_eq!(changed(&table, first), None, "nothing changed: there is nothing to send");
        table.replace(&topics(&[("a", 2), ("b", 1)]));
        let second = table.digest();
        table.replace(&topics(&[("a", 2), ("c", 1)]));
        assert_eq!(changed(&table, second), Some(vec!["b".to_owned(), "c".to_owned()]));
        assert_eq!(changed(&table, first), Some(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
        assert_eq!(changed(&table, TopicDigest(12345)), None);
        assert_eq!(table.changed_since(first, 2), None);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut table = TopicTable::default();
        table.replace(&topics(&[("a", 0)]));
        let start = table.digest();
        for version in 1..=5_000 {
            table.replace(&topics(&[("a", version)]));
        }
        assert!(table.history_names <= HISTORY_NAMES_MAX);
        assert_eq!(changed(&table, start), None);
    }
}
