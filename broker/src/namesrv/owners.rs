//! Who keeps the message groups of a topic that is made: the same broker groups wherever it is made.

use super::ForeignRoute;
use std::collections::BTreeMap;

/// The broker groups that keep the message groups of `topic`, which `own` is about to make; none for `own` alone.
/// Broker groups that have the topic (`hosts`) decide: their message groups stay where they are. The first one takes
/// those that are `wanted`.
///
/// # Errors
/// When broker groups that have the topic say different things.
pub fn owners_of_new(
    topic: &str,
    own: &str,
    hosts: &[ForeignRoute],
    wanted: Vec<String>,
) -> Result<Vec<String>, String> {
    let said: BTreeMap<Vec<String>, &str> =
        hosts.iter().map(|host| (host.owners(), host.broker_group.as_str())).collect();
    let mut said = said.into_iter();
    let owners = match (said.next(), said.next()) {
        (None, _) => wanted,
        (Some((owners, _)), None) => owners,
        (Some((first, a)), Some((second, b))) => {
            return Err(format!(
                "broker groups {a} and {b} have topic {topic} and disagree on who keeps its message groups ({} and {}): \
                 delete it in all of them, and create it again",
                first.join(", "),
                second.join(", ")
            ));
        }
    };
    Ok(if owners == [own] { Vec::new() } else { owners })
}

#[cfg(test)]
mod tests {
    use super::{ForeignRoute, owners_of_new};
    use raftmq_proto::namesrv::Topic;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// What broker group A fixes for a topic that others have with the owners given, and that is wanted in `wanted`.
    fn check(hosts: &[(&str, &str)], wanted: &str, expected: Result<&str, &str>) {
        let hosts: Vec<_> = hosts
            .iter()
            .map(|(group, owners)| ForeignRoute {
                broker_group: (*group).to_owned(),
                topic: Topic { fifo_owners: names(owners), ..Topic::default() },
                members: Vec::new(),
            })
            .collect();
        let owners = owners_of_new("t", "A", &hosts, names(wanted)).map(|owners| owners.join(" "));
        match (owners, expected) {
            (Ok(owners), Ok(expected)) => assert_eq!(owners, expected),
            (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
            (owners, expected) => assert_eq!(owners, expected.map(str::to_owned).map_err(str::to_owned)),
        }
    }

    #[test]
    fn who_keeps_message_groups() {
        check(&[], "", Ok(""));
        check(&[], "A", Ok(""));
        check(&[], "A B", Ok("A B"));
        // Those that have the topic decide, whatever is wanted.
        check(&[("B", "")], "A B", Ok("B"));
        check(&[("B", "A B"), ("C", "A B")], "A B C", Ok("A B"));
        check(&[("B", "A")], "A B", Ok(""));
        check(&[("B", ""), ("C", "")], "A B C", Err("broker groups B and C have topic t and disagree"));
    }
}
