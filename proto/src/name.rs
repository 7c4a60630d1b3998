//! Names, parsed once at the edge: whoever holds one of these types need not check it again.

use std::fmt;

/// Characters a topic name may have.
pub const TOPIC_CHARS_MAX: usize = 127;
/// Characters the name of a consumer group may have, so that `%DLQ%` still fits before it in a topic name.
pub const CONSUMER_GROUP_CHARS_MAX: usize = 120;
/// Characters the name of a broker group may have: it stands in paths.
pub const BROKER_GROUP_CHARS_MAX: usize = 127;

const DEAD_LETTER: &str = "%DLQ%";
const RETRY: &str = "%RETRY%";
const LITE: &str = "%LMQ%";

/// Topics of the reference server's own; nobody sends to them or reads them.
const SYSTEM_TOPICS: [&str; 10] = [
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];
const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";
const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";

/// What a name was meant to name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A topic.
    Topic,
    /// A consumer group.
    ConsumerGroup,
    /// A broker group.
    BrokerGroup,
    /// A namespace of topics and consumer groups.
    Namespace,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Named::Topic => "topic",
            Named::ConsumerGroup => "consumer group",
            Named::BrokerGroup => "broker group",
            Named::Namespace => "namespace",
        })
    }
}

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or white space.
    #[error("the name of the {0} is blank")]
    Blank(Named),
    /// More characters than the kind of name allows, its namespace included.
    #[error("the name of the {named} has {chars} characters, but the limit is {max}")]
    TooLong {
        /// What was to be named.
        named: Named,
        /// Characters it has.
        chars: usize,
        /// Characters it may have.
        max: usize,
    },
    /// A character outside the alphabet.
    #[error("the name of the {named} contains {found:?}, but only letters, digits and {allowed} are allowed")]
    Character {
        /// What was to be named.
        named: Named,
        /// The first character that is not allowed.
        found: char,
        /// Signs allowed beside letters and digits.
        allowed: &'static str,
    },
    /// A topic or group that the system keeps for itself.
    #[error("cannot access system {named} {name}")]
    System {
        /// What was named.
        named: Named,
        /// Its name.
        name: String,
    },
}

fn check(named: Named, name: &str, max: usize, signs: &'static str, allowed: &'static str) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank(named));
    }
    // One character is one byte in this alphabet; the foreign character is reported before the length.
    if let Some(found) = name.chars().find(|&c| !c.is_ascii_alphanumeric() && !signs.contains(c)) {
        return Err(NameError::Character { named, found, allowed });
    }
    if name.len() > max {
        return Err(NameError::TooLong { named, chars: name.len(), max });
    }
    Ok(())
}

fn check_resource(named: Named, name: &str, max: usize) -> Result<(), NameError> {
    check(named, name, max, "%|_-", "% | _ -")
}

/// Puts `namespace` before `name`, behind a `%DLQ%` or `%RETRY%` that it may start with, so that the dead letter
/// topic of a group in a namespace is found under the namespace and the group's name alike.
fn qualified(namespace: &str, name: String) -> Result<String, NameError> {
    if namespace.is_empty() {
        return Ok(name);
    }
    check(Named::Namespace, namespace, TOPIC_CHARS_MAX, "_-", "_ -")?;
    let (prefix, rest) = split_prefix(&name);
    Ok(format!("{prefix}{namespace}%{rest}"))
}

fn split_prefix(name: &str) -> (&str, &str) {
    for prefix in [DEAD_LETTER, RETRY] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return (prefix, rest);
        }
    }
    ("", name)
}

/// A topic's name, its namespace included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(String);

impl TopicName {
    /// Parses a name without a namespace.
    ///
    /// # Errors
    /// What is wrong with it; system topics are refused.
    pub fn parse(name: impl Into<String>) -> Result<TopicName, NameError> {
        TopicName::parse_in("", name)
    }

    /// Parses the name of a topic in `namespace`; an empty one is none.
    ///
    /// # Errors
    /// What is wrong with either; system topics are refused.
    pub fn parse_in(namespace: &str, name: impl Into<String>) -> Result<TopicName, NameError> {
        let name = name.into();
        check_resource(Named::Topic, &name, TOPIC_CHARS_MAX)?;
        if SYSTEM_TOPICS.contains(&name.as_str()) || name.starts_with(SYSTEM_TOPIC_PREFIX) {
            return Err(NameError::System { named: Named::Topic, name });
        }
        let name = qualified(namespace, name)?;
        check_resource(Named::Topic, &name, TOPIC_CHARS_MAX)?;
        Ok(TopicName(name))
    }

    /// The topic that takes the dead letters of `group`.
    #[must_use]
    pub fn dead_letters_of(group: &ConsumerGroup) -> TopicName {
        TopicName(format!("{DEAD_LETTER}{}", group.0))
    }

    /// Whether a first use may create it: names with a meaning of their own are made by the broker alone.
    #[must_use]
    pub fn may_be_auto_created(&self) -> bool {
        ![DEAD_LETTER, RETRY, LITE].iter().any(|prefix| self.0.starts_with(prefix))
    }

    /// The name as a client of `namespace` knows it.
    #[must_use]
    pub fn name_in(&self, namespace: &str) -> String {
        name_in(&self.0, namespace)
    }

    /// The name, its namespace included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, its namespace included.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

/// A full name as a client of `namespace` knows it.
#[must_use]
pub fn name_in(full: &str, namespace: &str) -> String {
    if namespace.is_empty() {
        return full.to_owned();
    }
    let (prefix, rest) = split_prefix(full);
    match rest.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('%')) {
        Some(rest) => format!("{prefix}{rest}"),
        None => full.to_owned(),
    }
}

/// The name of a consumer group, its namespace included.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConsumerGroup(String);

impl ConsumerGroup {
    /// Parses a name without a namespace.
    ///
    /// # Errors
    /// What is wrong with it; system groups are refused.
    pub fn parse(name: impl Into<String>) -> Result<ConsumerGroup, NameError> {
        ConsumerGroup::parse_in("", name)
    }

    /// Parses the name of a consumer group in `namespace`; an empty one is none.
    ///
    /// # Errors
    /// What is wrong with either; system groups are refused.
    pub fn parse_in(namespace: &str, name: impl Into<String>) -> Result<ConsumerGroup, NameError> {
        let name = name.into();
        check_resource(Named::ConsumerGroup, &name, CONSUMER_GROUP_CHARS_MAX)?;
        if name.starts_with(SYSTEM_GROUP_PREFIX) {
            return Err(NameError::System { named: Named::ConsumerGroup, name });
        }
        let name = qualified(namespace, name)?;
        check_resource(Named::ConsumerGroup, &name, CONSUMER_GROUP_CHARS_MAX)?;
        Ok(ConsumerGroup(name))
    }

    /// The name, its namespace included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name, its namespace included.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

/// The name of a broker group (`brokerName`): the Raft group behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerGroup(String);

impl BrokerGroup {
    /// Parses a name. It stands in paths, so it has no separators and no leading dot.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: impl Into<String>) -> Result<BrokerGroup, NameError> {
        let name = name.into();
        check(Named::BrokerGroup, &name, BROKER_GROUP_CHARS_MAX, "_-.", "_ - .")?;
        if name.starts_with('.') {
            return Err(NameError::Character {
                named: Named::BrokerGroup,
                found: '.',
                allowed: "_ -, or a dot after the first,",
            });
        }
        Ok(BrokerGroup(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

macro_rules! shown_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    )*};
}
shown_as_text!(TopicName, ConsumerGroup, BrokerGroup);

#[cfg(test)]
mod tests {
    use super::{BrokerGroup, ConsumerGroup, NameError, TopicName};

    /// The parsed name, or the first words of the complaint.
    fn shown(parsed: Result<String, NameError>) -> String {
        match parsed {
            Ok(name) => name,
            Err(NameError::Blank(_)) => "! blank".to_owned(),
            Err(NameError::TooLong { chars, max, .. }) => format!("! {chars} of {max}"),
            Err(NameError::Character { found, .. }) => format!("! {found:?}"),
            Err(NameError::System { .. }) => "! system".to_owned(),
        }
    }

    #[test]
    fn topics() {
        let check = |namespace: &str, name: &str, expected: &str| {
            let parsed = TopicName::parse_in(namespace, name);
            assert_eq!(shown(parsed.map(TopicName::into_string)), expected, "{namespace:?} {name:?}");
        };
        let (longest, too_long) = ("t".repeat(127), "t".repeat(128));
        check("", "orders", "orders");
        check("", "Orders_2-a|b%c", "Orders_2-a|b%c");
        check("", "%DLQ%billing", "%DLQ%billing");
        check("", &longest, &longest);
        check("", &too_long, "! 128 of 127");
        check("", "", "! blank");
        check("", " \t", "! blank");
        check("", "a.b", "! '.'");
        check("", "a b", "! ' '");
        check("", "größe", "! 'ö'");
        check("", "TBW102", "! system");
        check("", "rmq_sys_x", "! system");
        check("", "RMQ_SYS_TRACE_TOPIC", "! system");
        check("", "RMQ_SYS", "RMQ_SYS");
        check("shop", "orders", "shop%orders");
        check("shop", "%DLQ%billing", "%DLQ%shop%billing");
        check("shop", "TBW102", "! system");
        check("shop", &longest, "! 132 of 127");
        check("a%b", "orders", "! '%'");
    }

    #[test]
    fn consumer_groups() {
        let check = |namespace: &str, name: &str, expected: &str| {
            let parsed = ConsumerGroup::parse_in(namespace, name);
            assert_eq!(shown(parsed.map(ConsumerGroup::into_string)), expected, "{namespace:?} {name:?}");
        };
        check("", "billing", "billing");
        check("shop", "billing", "shop%billing");
        check("", &"g".repeat(120), &"g".repeat(120));
        check("", &"g".repeat(121), "! 121 of 120");
        check("", "", "! blank");
        check("", "a/b", "! '/'");
        check("", "CID_RMQ_SYS_x", "! system");
    }

    #[test]
    fn broker_groups() {
        let check = |name: &str, expected: &str| {
            assert_eq!(shown(BrokerGroup::parse(name).map(BrokerGroup::into_string)), expected, "{name:?}");
        };
        check("RaftNode00", "RaftNode00");
        check("broker-a.1", "broker-a.1");
        check("..", "! '.'");
        check("a/b", "! '/'");
        check("", "! blank");
        check("a%b", "! '%'");
    }

    #[test]
    fn a_name_reads_back_in_its_namespace() {
        for (namespace, name) in [("", "orders"), ("shop", "orders"), ("shop", "%DLQ%billing"), ("shop", "shop%orders")]
        {
            let topic = TopicName::parse_in(namespace, name).expect("a good name");
            assert_eq!(topic.name_in(namespace), name);
        }
        let group = ConsumerGroup::parse_in("shop", "billing").expect("a good name");
        let topic = TopicName::parse_in("shop", "%DLQ%billing").expect("a good name");
        assert_eq!(TopicName::dead_letters_of(&group), topic);
        assert!(!topic.may_be_auto_created());
        assert!(TopicName::parse("orders").expect("a good name").may_be_auto_created());
    }

    #[test]
    fn a_complaint_names_limit_and_value() {
        let error = TopicName::parse("t".repeat(200)).expect_err("too long");
        assert_eq!(error.to_string(), "the name of the topic has 200 characters, but the limit is 127");
    }
}
