//! The tag filter: `a || b` takes messages tagged `a` or `b`, `*` takes all.
//!
//! Apply sees tags as 32-bit hashes ([`TagSet`]), so that index rows stay small; whoever delivers a message
//! compares the tag itself ([`TagFilter::matches`]) and acknowledges a message that only shares the hash.

use raftmq_proto::command::Filter;

/// The hash of a tag in index rows; 0 stands for "no tag" and is never the hash of one.
///
/// Rows hold it for as long as retention says: it must never change.
#[must_use]
pub fn tag_hash(tag: &str) -> u32 {
    let hash = xxhash_rust::xxh3::xxh3_64(tag.as_bytes());
    u32::try_from(hash & 0xffff_ffff).expect("masked to 32 bits").max(1)
}

/// An expression that names no tag, such as `||`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filter expression {0:?} names no tag")]
pub struct NoTags(pub String);

/// A parsed tag expression.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagFilter {
    /// Sorted, without duplicates; empty when everything matches.
    tags: Vec<String>,
}

impl TagFilter {
    /// Everything matches.
    #[must_use]
    pub fn all() -> TagFilter {
        TagFilter::default()
    }

    /// Parses `a || b`; `*` and the empty expression match everything.
    ///
    /// # Errors
    /// [`NoTags`] when only separators are left.
    pub fn parse(expression: &str) -> Result<TagFilter, NoTags> {
        if matches!(expression.trim(), "" | "*") {
            return Ok(TagFilter::all());
        }
        let mut tags: Vec<_> =
            expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        if tags.is_empty() {
            return Err(NoTags(expression.to_owned()));
        }
        tags.sort_unstable();
        tags.dedup();
        Ok(TagFilter { tags })
    }

    /// Whether a message with this tag is wanted. An untagged message matches only "everything".
    #[must_use]
    pub fn matches(&self, tag: Option<&str>) -> bool {
        self.tags.is_empty() || tag.is_some_and(|tag| self.tags.iter().any(|wanted| wanted == tag))
    }

    /// The form that commands carry.
    #[must_use]
    pub fn to_command(&self) -> Filter {
        Filter { tags: self.tags.clone(), ..Filter::default() }
    }

    /// What apply sees of it.
    #[must_use]
    pub fn set(&self) -> TagSet {
        TagSet::of_tags(&self.tags)
    }
}

/// Hashes of the tags a filter takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct TagSet {
    /// Sorted, without duplicates; empty when everything matches.
    hashes: Vec<u32>,
}

impl TagSet {
    /// The set of a command's filter; no filter matches everything.
    #[must_use]
    pub fn of(filter: Option<&Filter>) -> TagSet {
        TagSet::of_tags(filter.map_or(&[], |filter| &filter.tags))
    }

    /// The set with these hashes, as a row keeps them.
    #[must_use]
    pub fn of_hashes(mut hashes: Vec<u32>) -> TagSet {
        hashes.sort_unstable();
        hashes.dedup();
        TagSet { hashes }
    }

    fn of_tags(tags: &[String]) -> TagSet {
        TagSet::of_hashes(tags.iter().map(|tag| tag_hash(tag)).collect())
    }

    /// Whether a message whose tag has this hash (0: no tag) may be wanted.
    #[must_use]
    pub fn matches(&self, hash: u32) -> bool {
        self.hashes.is_empty() || self.hashes.binary_search(&hash).is_ok()
    }

    /// Sorted hashes; empty when everything matches.
    #[must_use]
    pub fn hashes(&self) -> &[u32] {
        &self.hashes
    }

    /// Names the set itself, for rows that remember something per filter.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let bytes: Vec<u8> = self.hashes.iter().flat_map(|hash| hash.to_be_bytes()).collect();
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{NoTags, TagFilter, tag_hash};

    fn check(expression: &str, matching: &[&str], others: &[&str]) {
        let filter = TagFilter::parse(expression).expect("good expression");
        for (tags, wanted) in [(matching, true), (others, false)] {
            for tag in tags {
                let tag = Some(*tag).filter(|tag| !tag.is_empty());
                assert_eq!(filter.matches(tag), wanted, "{expression:?} and {tag:?}");
                assert_eq!(filter.set().matches(tag.map_or(0, tag_hash)), wanted, "{expression:?} and hash of {tag:?}");
            }
        }
    }

    #[test]
    fn expressions() {
        check("*", &["a", "b", ""], &[]);
        check("", &["a", ""], &[]);
        check("  * ", &["a", ""], &[]);
        check("a", &["a"], &["A", "b", "", "aa"]);
        check("a||b", &["a", "b"], &["c", ""]);
        check(" a ||  b||", &["a", "b"], &["", "a ", "||"]);
        check("* || a", &["*", "a"], &["b"]);
        assert_eq!(TagFilter::parse("||"), Err(NoTags("||".into())));
        assert_eq!(TagFilter::parse("a || a"), TagFilter::parse("a"));
    }

    #[test]
    fn hashes_are_fixed() {
        assert_eq!(tag_hash("TagA"), 0x7bbf_3a8f);
        assert_ne!(tag_hash(""), 0);
    }
}
