//! Access rules: what a rule's words mean, and which rule decides. Pure; the machine checks rules with it, and the
//! edges ask it who may do what.
//!
//! Of the rules that match a call (resource, action, source address), the one with the most exact resource decides; of
//! two that are equally exact, the one that denies. Rules of the default policy count where no other matches, and where
//! none matches at all the answer is no.

use raftmq_proto::command::{AclAction, AclRule};
use std::fmt;
use std::net::IpAddr;

/// Bytes of the name in a resource.
const NAME_BYTES_MAX: usize = 255;

/// What a rule is about, or what a call touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Of any kind.
    Any,
    /// A cluster.
    Cluster,
    /// A namespace.
    Namespace,
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
}

const KINDS: [(Kind, &str); 4] =
    [(Kind::Cluster, "Cluster"), (Kind::Namespace, "Namespace"), (Kind::Topic, "Topic"), (Kind::Group, "Group")];

/// The name part of a rule's resource, from vague to exact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Any,
    Prefix(String),
    Exactly(String),
}

/// The resources that a rule is about: `Topic:orders`, `Group:billing*`, `Topic:*`, `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    kind: Kind,
    name: Name,
}

impl Pattern {
    /// Reads the words of a rule.
    ///
    /// # Errors
    /// A sentence that says what it should be.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        let refused = || format!("{text:?} is no resource such as Topic:orders, Group:billing*, Topic:* or *");
        if text.trim() == "*" {
            return Ok(Pattern { kind: Kind::Any, name: Name::Any });
        }
        let (kind, name) = text.trim().split_once(':').ok_or_else(refused)?;
        let kind = KINDS.iter().find(|(_, word)| word.eq_ignore_ascii_case(kind.trim())).ok_or_else(refused)?.0;
        let name = name.trim();
        let bad = |name: &str| name.is_empty() || name.contains(|c: char| c == '*' || c == ',' || c.is_control());
        let name = match name.strip_suffix('*') {
            Some("") => Name::Any,
            Some(prefix) if !bad(prefix) => Name::Prefix(prefix.to_owned()),
            None if !bad(name) => Name::Exactly(name.to_owned()),
            _ => return Err(refused()),
        };
        match &name {
            Name::Prefix(text) | Name::Exactly(text) if text.len() > NAME_BYTES_MAX => {
                Err(format!("the name in a resource has at most {NAME_BYTES_MAX} bytes"))
            }
            _ => Ok(Pattern { kind, name }),
        }
    }

    fn matches(&self, kind: Kind, name: &str) -> bool {
        (self.kind == Kind::Any || self.kind == kind)
            && match &self.name {
                Name::Any => true,
                Name::Prefix(prefix) => name.starts_with(prefix.as_str()),
                Name::Exactly(exactly) => exactly == name,
            }
    }

    /// Grows with exactness.
    fn exactness(&self) -> (bool, u8, usize) {
        let (form, length) = match &self.name {
            Name::Any => (0, 0),
            Name::Prefix(prefix) => (1, prefix.len()),
            Name::Exactly(name) => (2, name.len()),
        };
        (self.kind != Kind::Any, form, length)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((_, word)) = KINDS.iter().find(|(kind, _)| *kind == self.kind) {
            write!(f, "{word}:")?;
        }
        match &self.name {
            Name::Any => f.write_str("*"),
            Name::Prefix(prefix) => write!(f, "{prefix}*"),
            Name::Exactly(name) => f.write_str(name),
        }
    }
}

/// An address or a network: `10.1.2.3`, `10.1.0.0/16`, `fd00::/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads it; bits behind its mask are cleared.
    ///
    /// # Errors
    /// A sentence that says what it should be.
    pub fn parse(text: &str) -> Result<Network, String> {
        let refused = || format!("{text:?} is no address or network such as 10.1.2.3 or 10.1.0.0/16");
        let (address, bits) = match text.trim().split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| refused())?)),
            None => (text.trim(), None),
        };
        let address: IpAddr = address.parse::<IpAddr>().map_err(|_| refused())?.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(refused());
        }
        Ok(Network { address: masked(address, bits), bits })
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address.to_canonical(), self.bits) == self.address
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = if self.address.is_ipv4() { 32 } else { 128 };
        match self.bits == most {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.bits),
        }
    }
}

/// A rule, ready to be asked.
#[derive(Debug, Clone)]
pub struct Rule {
    default_policy: bool,
    pattern: Pattern,
    actions: Vec<AclAction>,
    sources: Vec<Network>,
    deny: bool,
}

impl Rule {
    /// From its row.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn read(row: &AclRule) -> Result<Rule, String> {
        let mut actions = Vec::with_capacity(row.actions.len());
        for action in row.actions() {
            match action {
                AclAction::Unspecified => return Err("an access rule names an action that is not known".to_owned()),
                action => actions.push(action),
            }
        }
        if actions.is_empty() {
            return Err("an access rule names no action".to_owned());
        }
        actions.sort_unstable();
        actions.dedup();
        let sources = row.sources.iter().map(|source| Network::parse(source)).collect::<Result<_, _>>()?;
        Ok(Rule {
            default_policy: row.default_policy,
            pattern: Pattern::parse(&row.resource)?,
            actions,
            sources,
            deny: row.deny,
        })
    }

    /// The row of the rule, in the one way it is written.
    #[must_use]
    pub fn row(&self) -> AclRule {
        AclRule {
            default_policy: self.default_policy,
            resource: self.pattern.to_string(),
            actions: self.actions.iter().map(|action| i32::from(*action)).collect(),
            sources: self.sources.iter().map(Network::to_string).collect(),
            deny: self.deny,
        }
    }

    fn matches(&self, kind: Kind, name: &str, action: AclAction, source: IpAddr) -> bool {
        self.pattern.matches(kind, name)
            && self.actions.iter().any(|known| [AclAction::All, action].contains(known))
            && (self.sources.is_empty() || self.sources.iter().any(|network| network.contains(source)))
    }
}

/// Whether rules let somebody at `source` do this to the resource.
#[must_use]
pub fn allows(rules: &[Rule], kind: Kind, name: &str, action: AclAction, source: IpAddr) -> bool {
    let most_exact = |default_policy: bool| {
        let matching = rules.iter().filter(|rule| rule.default_policy == default_policy);
        let matching = matching.filter(|rule| rule.matches(kind, name, action, source));
        matching.max_by_key(|rule| (rule.pattern.exactness(), rule.deny))
    };
    most_exact(false).or_else(|| most_exact(true)).is_some_and(|rule| !rule.deny)
}

/// The names of the actions, as users write them.
pub const ACTIONS: [(&str, AclAction); 8] = [
    ("All", AclAction::All),
    ("Pub", AclAction::Pub),
    ("Sub", AclAction::Sub),
    ("Create", AclAction::CreateResource),
    ("Update", AclAction::UpdateResource),
    ("Delete", AclAction::DeleteResource),
    ("Get", AclAction::Get),
    ("List", AclAction::List),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources() {
        for (text, expected) in [
            ("*", "*"),
            ("topic:orders", "Topic:orders"),
            (" Group:billing* ", "Group:billing*"),
            ("TOPIC:*", "Topic:*"),
            ("Topic:%DLQ%billing", "Topic:%DLQ%billing"),
            ("Topic:shop%orders", "Topic:shop%orders"),
            ("Cluster:DefaultCluster", "Cluster:DefaultCluster"),
        ] {
            assert_eq!(Pattern::parse(text).map(|pattern| pattern.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for wrong in ["", "orders", "Topic:", "Queue:a", "Topic:a*b", "Topic:**", "*:*", "Topic:a,b", "Topic:a\nb"] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(Pattern::parse(&format!("Topic:{}", "a".repeat(256))).is_err());
    }

    #[test]
    fn networks() {
        for (network, written, inside, outside) in [
            ("10.1.2.3", "10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.1.2.3/16", "10.1.0.0/16", "10.1.255.255", "10.2.0.0"),
            ("0.0.0.0/0", "0.0.0.0/0", "1.2.3.4", "::1"),
            ("10.1.2.3/32", "10.1.2.3", "::ffff:10.1.2.3", "10.1.2.2"),
            ("fd00::1/8", "fd00::/8", "fdff::9", "fe00::1"),
            ("::/0", "::/0", "::1", "1.2.3.4"),
        ] {
            let parsed = Network::parse(network).expect(network);
            assert_eq!(parsed.to_string(), written);
            assert!(parsed.contains(inside.parse().expect("an address")), "{inside} in {network}");
            assert!(!parsed.contains(outside.parse().expect("an address")), "{outside} not in {network}");
        }
        for wrong in ["", "10.1.2", "10.1.2.3/33", "::1/129", "10.1.2.3/", "host", "10.1.2.3/-1"] {
            assert!(Network::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// `Custom|Default Allow|Deny RESOURCE ACTIONS [SOURCES]`.
    fn rule(line: &str) -> Rule {
        let words: Vec<&str> = line.split(' ').collect();
        let action = |word: &str| ACTIONS.iter().find(|(name, _)| *name == word).expect("an action").1.into();
        let row = AclRule {
            default_policy: words[0] == "Default",
            deny: words[1] == "Deny",
            resource: words[2].to_owned(),
            actions: words[3].split(',').map(action).collect(),
            sources: words.get(4).map(|list| list.split(',').map(str::to_owned).collect()).unwrap_or_default(),
        };
        Rule::read(&row).expect(line)
    }

    #[test]
    fn who_may_do_what() {
        let check = |rules: &[&str], resource: &str, action: AclAction, source: &str, expected: bool| {
            let rules: Vec<Rule> = rules.iter().map(|line| rule(line)).collect();
            let (kind, name) = resource.split_once(':').expect("a kind");
            let kind = if kind == "Topic" { Kind::Topic } else { Kind::Group };
            let source = source.parse().expect("an address");
            assert_eq!(allows(&rules, kind, name, action, source), expected, "{rules:?} {resource} {action:?}");
            // The order of rules decides nothing.
            let backwards: Vec<Rule> = rules.iter().rev().cloned().collect();
            assert_eq!(allows(&backwards, kind, name, action, source), expected);
        };
        let (publish, subscribe) = (AclAction::Pub, AclAction::Sub);
        let anywhere = "192.0.2.1";
        // Nothing is allowed that no rule allows.
        check(&[], "Topic:orders", publish, anywhere, false);
        check(&["Custom Allow Topic:orders Pub"], "Topic:orders", publish, anywhere, true);
        check(&["Custom Allow Topic:orders Pub"], "Topic:orders", subscribe, anywhere, false);
        check(&["Custom Allow Topic:orders Pub"], "Topic:orders2", publish, anywhere, false);
        check(&["Custom Allow Topic:orders Pub"], "Group:orders", publish, anywhere, false);
        check(&["Custom Allow Topic:orders Pub,Sub"], "Topic:orders", subscribe, anywhere, true);
        check(&["Custom Allow Topic:orders All"], "Topic:orders", subscribe, anywhere, true);
        check(&["Custom Allow Topic:orders Get,List"], "Topic:orders", subscribe, anywhere, false);
        check(&["Custom Allow * All"], "Group:billing", subscribe, anywhere, true);
        check(&["Custom Allow Topic:ord* Pub"], "Topic:orders", publish, anywhere, true);
        check(&["Custom Allow Topic:ord* Pub"], "Topic:or", publish, anywhere, false);
        // The most exact resource decides.
        let mixed = ["Custom Allow Topic:* Pub", "Custom Deny Topic:pay* Pub", "Custom Allow Topic:pay-test* Pub"];
        check(&mixed, "Topic:orders", publish, anywhere, true);
        check(&mixed, "Topic:payments", publish, anywhere, false);
        check(&mixed, "Topic:pay-test-1", publish, anywhere, true);
        check(&["Custom Deny * All", "Custom Allow Topic:* Pub"], "Topic:orders", publish, anywhere, true);
        check(&["Custom Deny Topic:a* Pub", "Custom Allow Topic:abc Pub"], "Topic:abc", publish, anywhere, true);
        check(&["Custom Allow Topic:a* Pub", "Custom Deny Topic:abc Pub"], "Topic:abc", publish, anywhere, false);
        // Of two that are equally exact, no wins.
        check(&["Custom Allow Topic:a All", "Custom Deny Topic:a Pub"], "Topic:a", publish, anywhere, false);
        check(&["Custom Allow Topic:a All", "Custom Deny Topic:a Pub"], "Topic:a", subscribe, anywhere, true);
        // Sources.
        let office = ["Custom Allow Topic:a Pub 10.0.0.0/8,192.0.2.7"];
        check(&office, "Topic:a", publish, "10.9.9.9", true);
        check(&office, "Topic:a", publish, "192.0.2.7", true);
        check(&office, "Topic:a", publish, "192.0.2.8", false);
        check(
            &["Custom Allow Topic:a Pub", "Custom Deny Topic:a Pub 10.0.0.0/8"],
            "Topic:a",
            publish,
            "10.1.1.1",
            false,
        );
        // The default policy counts where no other rule matches.
        check(&["Default Allow Topic:* Pub"], "Topic:a", publish, anywhere, true);
        check(&["Default Deny Topic:a Pub", "Custom Allow Topic:* Pub"], "Topic:a", publish, anywhere, true);
        check(&["Default Allow Topic:a Pub", "Custom Deny * All"], "Topic:a", publish, anywhere, false);
        check(&["Default Allow Topic:a Sub", "Custom Deny Topic:a Pub"], "Topic:a", subscribe, anywhere, true);
    }

    #[test]
    fn rules_are_written_in_one_way() {
        let row = AclRule {
            resource: "topic: orders".to_owned(),
            actions: vec![AclAction::Sub.into(), AclAction::Pub.into(), AclAction::Sub.into()],
            sources: vec!["10.1.2.3/8".to_owned()],
            ..AclRule::default()
        };
        let row = Rule::read(&row).expect("sound").row();
        assert_eq!((row.resource.as_str(), row.sources), ("Topic:orders", vec!["10.0.0.0/8".to_owned()]));
        assert_eq!(row.actions, [i32::from(AclAction::Pub), i32::from(AclAction::Sub)]);
        for actions in [vec![], vec![0], vec![99]] {
            assert!(Rule::read(&AclRule { resource: "*".to_owned(), actions, ..AclRule::default() }).is_err());
        }
    }
}
