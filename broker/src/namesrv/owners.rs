//! Who keeps the message groups of a topic: agreed among all broker groups before any of them stores a message of one.
//!
//! Each broker group has a row of its own for a topic, with a table of owners. Two that make the topic in the same moment
//! (on its first use, or by two hands) begin with different tables, and nothing orders what they do but the name servers,
//! which each of them reports to and asks. So a row is made *open*: it takes no message of a message group (the machine
//! refuses it, `machine/fifo.rs`) until its broker group has *settled* it, and a settled table never changes. The leader
//! settles, by this rule, from one answer of each name server that answers, in which its own row stands as it is now:
//!
//! 1. Another broker group has settled: its table is taken. Several have settled different ones: nobody who is open
//!    settles, and an operator must delete the topic.
//! 2. Nobody has settled, and another open broker group comes before this one by name: its table is taken, and this row
//!    stays open.
//! 3. Nobody has settled, and this broker group is the first of those that have the topic: it settles its own table once
//!    all the others have taken that, at once when there are none.
//!
//! **Why no two tables are settled.** A row is published before the answer that settles it was given, since it stands in
//! it. Of two broker groups that publish to one name server and ask it afterwards, at least one finds the other. If both
//! do, one comes first by name, and settles only when the other has taken its table, from which that one goes nowhere but
//! to a settled table. If one finds nobody, it settles its own, and the other, which finds it, waits for what it settles:
//! as a later one by rule 2, as an earlier one because the table that it sees is not its own. Changes of a row are
//! compared with what they were decided on (`FixOwners.from`), so a deposed leader settles nothing that has moved.
//! `settling_is_safe_in_every_order` tries every order of two and three broker groups, with name servers that are wiped.
//!
//! **Name servers forget.** An answer counts only when it has the topics of every broker group that it names and of every one
//! that this node knows: after a wipe it takes a report of each. One that does not count holds nothing up, as if that
//! name server had not answered; one in which this row does not stand yet is waited for. While no answer counts, a node that
//! knows of other broker groups waits, and messages of new message groups are refused; one that knows of none goes on alone.
//!
//! **A broker group that is down** with an open row that comes first by name is waited for; with a settled row it keeps what
//! it settled. What is not covered: two broker groups that hear of each other from no name server that both of them reach in
//! that moment, and one that was just started and does not know yet that there are others, because no name server answered or
//! because those have not reported to it since it was started too. Both may settle what the other does not know of. Once
//! they hear of each other, neither takes a message of any message group (`grpc/owner.rs`), and rule 1's operator is needed.

use super::ForeignRoute;
use super::routes::owners_in;
use raftmq_proto::command::Topic;
use raftmq_proto::namesrv::RouteResponse;
use std::collections::{BTreeMap, BTreeSet};

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
    let settled = hosts.iter().filter(|host| !host.topic.fifo_open);
    let said: BTreeMap<Vec<String>, &str> = settled.map(|host| (host.owners(), host.broker_group.as_str())).collect();
    let mut said = said.into_iter();
    let owners = match (said.next(), said.next()) {
        // What is open yet is agreed on later; to begin with the same saves that.
        (None, _) => hosts.iter().min_by_key(|host| &host.broker_group).map_or(wanted, ForeignRoute::owners),
        (Some((owners, _)), None) => owners,
        (Some((first, a)), Some((second, b))) => return Err(disagree(topic, (a, &first), (b, &second))),
    };
    Ok(row_of(own, owners))
}

/// A topic as another broker group has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    broker_group: String,
    owners: Vec<String>,
    open: bool,
}

/// What a leader does about an open row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// For this, and looks again.
    Wait(String),
    /// Takes this table, and is open as before.
    Take(Vec<String>),
    /// Settles this table.
    Settle(Vec<String>),
}

/// The rule. `table` is that of the open row which `own` has of the topic.
pub(crate) fn step(topic: &str, own: &str, table: &[String], hosts: &[Host]) -> Step {
    let mut settled = hosts.iter().filter(|host| !host.open);
    if let Some(first) = settled.next() {
        return match settled.find(|host| host.owners != first.owners) {
            Some(other) => {
                Step::Wait(disagree(topic, (&first.broker_group, &first.owners), (&other.broker_group, &other.owners)))
            }
            None => Step::Settle(first.owners.clone()),
        };
    }
    match hosts.iter().min_by_key(|host| &host.broker_group) {
        Some(first) if first.broker_group.as_str() < own && first.owners == table => {
            Step::Wait(format!("broker group {} has yet to settle who keeps its message groups", first.broker_group))
        }
        Some(first) if first.broker_group.as_str() < own => Step::Take(first.owners.clone()),
        _ => match hosts.iter().find(|host| host.owners != table) {
            Some(other) => {
                Step::Wait(format!("broker group {} has yet to take over {}", other.broker_group, table.join(", ")))
            }
            None => Step::Settle(table.to_vec()),
        },
    }
}

/// The other broker groups that have the topic of an open row, by what name servers answered to one question each, where
/// `known` are all others that this node knows.
///
/// # Errors
/// Why these answers settle nothing.
pub(crate) fn hosts_in(
    own: &str,
    row: &Topic,
    answers: &[RouteResponse],
    known: &BTreeSet<String>,
) -> Result<Vec<Host>, String> {
    if let (true, Some(other)) = (answers.is_empty(), known.first()) {
        return Err(format!("no name server answers, and broker group {other} may have made it too"));
    }
    let mut hosts: BTreeMap<&str, ((u64, u64), Host)> = BTreeMap::new();
    let (mut counted, mut not_heard) = (answers.is_empty(), String::new());
    for answer in answers {
        let listed: BTreeMap<&str, bool> =
            answer.broker_groups.iter().map(|group| (group.name.as_str(), group.topics_known)).collect();
        let unheard = known.iter().map(String::as_str).filter(|name| !listed.contains_key(name));
        let unheard =
            unheard.chain(listed.iter().filter(|(name, known)| **name != own && !**known).map(|(name, _)| *name));
        let counts = match unheard.min() {
            Some(name) => {
                not_heard = format!("a name server has not heard of the topics of broker group {name} yet");
                false
            }
            None => true,
        };
        counted |= counts;
        let rows = answer.topics.iter().flat_map(|route| &route.broker_groups);
        let rows = rows.filter_map(|host| Some((host.broker_group.as_str(), host.topic.as_ref()?)));
        let mut published = false;
        for (name, topic) in rows.filter(|(_, topic)| topic.name == row.name) {
            if name == own {
                published = (topic.id, topic.version) == (row.id, row.version);
                continue;
            }
            let owners = owners_in(name, &topic.fifo_owners);
            let host = Host { broker_group: name.to_owned(), owners, open: topic.fifo_open };
            match hosts.get(name) {
                Some((newest, _)) if *newest >= (topic.id, topic.version) => {}
                _ => drop(hosts.insert(name, ((topic.id, topic.version), host))),
            }
        }
        if counts && !published {
            return Err("a name server has not heard of it from this broker group yet".to_owned());
        }
    }
    if !counted {
        return Err(not_heard);
    }
    Ok(hosts.into_values().map(|(_, host)| host).collect())
}

/// As a row names its owners: nobody stands for the broker group that it belongs to.
pub(crate) fn row_of(own: &str, owners: Vec<String>) -> Vec<String> {
    if owners == [own] { Vec::new() } else { owners }
}

fn disagree(topic: &str, (a, first): (&str, &[String]), (b, second): (&str, &[String])) -> String {
    format!(
        "broker groups {a} and {b} have topic {topic} and disagree on who keeps its message groups ({} and {}): delete it in \
         all of them, and create it again",
        first.join(", "),
        second.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftmq_proto::namesrv::{BrokerGroup, Topic as Wire, TopicInGroup, TopicRoute};
    use std::collections::HashSet;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// `B: A B` has settled, `B? A B` is open.
    fn host(text: &str) -> (String, Vec<String>, bool) {
        let (group, owners) = text.split_once([':', '?']).expect("a mark");
        (group.to_owned(), names(owners), text.contains('?'))
    }

    /// What broker group A fixes for a topic that others have with the owners given, and that is wanted in `wanted`.
    fn check(hosts: &[&str], wanted: &str, expected: Result<&str, &str>) {
        let hosts: Vec<_> = hosts
            .iter()
            .map(|text| {
                let (broker_group, fifo_owners, fifo_open) = host(text);
                let topic = Wire { fifo_owners, fifo_open, ..Wire::default() };
                ForeignRoute { broker_group, topic, members: Vec::new() }
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
        check(&["B:"], "A B", Ok("B"));
        check(&["B: A B", "C: A B"], "A B C", Ok("A B"));
        check(&["B: A"], "A B", Ok(""));
        check(&["B:", "C:"], "A B C", Err("broker groups B and C have topic t and disagree"));
        check(&["B?", "C:"], "A B C", Ok("C"));
        check(&["C?", "B? B C"], "A", Ok("B C"));
    }

    #[test]
    fn what_a_leader_does_about_an_open_row() {
        let step = |hosts: &[&str]| {
            let hosts: Vec<Host> = hosts
                .iter()
                .map(|text| {
                    let (broker_group, named, open) = host(text);
                    Host { owners: owners_in(&broker_group, &named), broker_group, open }
                })
                .collect();
            super::step("t", "B", &names("B"), &hosts)
        };
        assert_eq!(step(&[]), Step::Settle(names("B")));
        assert_eq!(step(&["C? B"]), Step::Settle(names("B")));
        assert!(matches!(step(&["C?"]), Step::Wait(why) if why.contains("C has yet to take over B")));
        assert_eq!(step(&["A?", "C? B"]), Step::Take(names("A")));
        assert!(matches!(step(&["A? B"]), Step::Wait(why) if why.contains("A has yet to settle")));
        assert_eq!(step(&["A?", "C:"]), Step::Settle(names("C")));
        assert!(matches!(step(&["A:", "C:"]), Step::Wait(why) if why.contains("disagree")));
    }

    #[test]
    fn answers_that_settle_something() {
        let row = Topic { name: "t".to_owned(), id: 7, version: 2, fifo_open: true, ..Topic::default() };
        let answer = |groups: &[(&str, bool)], rows: &[(&str, u64, u64)]| RouteResponse {
            broker_groups: groups
                .iter()
                .map(|(name, topics_known)| BrokerGroup {
                    name: (*name).to_owned(),
                    topics_known: *topics_known,
                    ..BrokerGroup::default()
                })
                .collect(),
            topics: vec![TopicRoute {
                topic: "t".to_owned(),
                broker_groups: rows
                    .iter()
                    .map(|(group, id, version)| TopicInGroup {
                        broker_group: (*group).to_owned(),
                        topic: Some(Wire { name: "t".to_owned(), id: *id, version: *version, ..Wire::default() }),
                        ..TopicInGroup::default()
                    })
                    .collect(),
            }],
            ..RouteResponse::default()
        };
        let hosts = |answers: &[RouteResponse], known: &str| {
            let hosts = hosts_in("A", &row, answers, &names(known).into_iter().collect());
            hosts.map(|hosts| hosts.into_iter().map(|host| host.broker_group).collect::<Vec<_>>().join(" "))
        };
        let own = ("A", 7, 2);
        let (both, alone) = ([("A", true), ("B", true)], [("A", true)]);
        assert_eq!(hosts(&[answer(&both, &[own, ("B", 1, 1)])], "B"), Ok("B".to_owned()));
        assert_eq!(hosts(&[answer(&alone, &[own])], ""), Ok(String::new()));
        assert_eq!(hosts(&[], ""), Ok(String::new()), "nobody is there to be asked about");
        // A name server that forgot holds nothing up, and what it knows counts.
        let wiped = answer(&[("A", true), ("B", false)], &[("B", 1, 1)]);
        assert_eq!(hosts(&[answer(&both, &[own]), wiped.clone()], "B"), Ok("B".to_owned()));
        assert_eq!(hosts(&[answer(&[("A", true)], &[]), answer(&both, &[own])], "B"), Ok(String::new()));
        for (answers, part) in [
            (vec![], "no name server answers"),
            (vec![answer(&alone, &[own])], "topics of broker group B"),
            (vec![answer(&[("A", true), ("B", false)], &[own])], "topics of broker group B"),
            (vec![wiped.clone(), answer(&alone, &[own])], "topics of broker group B"),
            (vec![answer(&both, &[])], "not heard of it from this broker group"),
            (vec![answer(&both, &[("A", 7, 1)])], "not heard of it from this broker group"),
            (vec![answer(&both, &[("A", 6, 2)])], "not heard of it from this broker group"),
            (vec![answer(&both, &[own]), answer(&both, &[])], "not heard of it from this broker group"),
        ] {
            let why = hosts(&answers, "B").expect_err(part);
            assert!(why.contains(part), "{why}");
        }
    }

    /// One broker group of the model: its row, what the name server has of it (`None` when it was wiped), and what its
    /// leader decided last, which it may still propose.
    #[derive(Clone, PartialEq, Eq, Hash, Default)]
    struct Member {
        row: Option<(usize, bool)>,
        published: Option<Option<(usize, bool)>>,
        proposal: Option<(usize, usize, bool)>,
    }

    /// Tables are named by the broker group that began with them; all rows are of one topic.
    fn next(members: &[Member], wipes_left: bool) -> Vec<(Vec<Member>, bool)> {
        const NAMES: [&str; 3] = ["A", "B", "C"];
        let mut all = Vec::new();
        for (at, member) in members.iter().enumerate() {
            let mut with = |change: &dyn Fn(&mut Member)| {
                let mut after = members.to_vec();
                change(&mut after[at]);
                all.push((after, wipes_left));
            };
            if member.row.is_none() {
                with(&|member| member.row = Some((at, true)));
            }
            if member.published != Some(member.row) {
                with(&|member| member.published = Some(member.row));
            }
            // What was decided is compared with the row when it is carried out, however late that is.
            if let Some((from, to, settles)) = member.proposal {
                with(&|member| {
                    member.proposal = None;
                    if member.row == Some((from, true)) {
                        member.row = Some((to, !settles));
                    }
                });
            }
            let Some((table, true)) = member.row else { continue };
            let heard_of_all = members.iter().all(|member| member.published.is_some());
            if !heard_of_all || member.published != Some(member.row) {
                continue;
            }
            let others = members.iter().enumerate().filter(|(other, _)| *other != at);
            let hosts: Vec<Host> = others
                .filter_map(|(other, member)| {
                    let (table, open) = member.published.flatten()?;
                    let owners = vec![NAMES[table].to_owned()];
                    Some(Host { broker_group: NAMES[other].to_owned(), owners, open })
                })
                .collect();
            let number = |owners: &[String]| NAMES.iter().position(|name| owners == [*name]).expect("a name");
            let proposal = match step("t", NAMES[at], &[NAMES[table].to_owned()], &hosts) {
                Step::Wait(_) => continue,
                Step::Take(owners) => (table, number(&owners), false),
                Step::Settle(owners) => (table, number(&owners), true),
            };
            if member.proposal != Some(proposal) {
                with(&|member| member.proposal = Some(proposal));
            }
        }
        if wipes_left {
            let mut after = members.to_vec();
            after.iter_mut().for_each(|member| member.published = None);
            all.push((after, false));
        }
        all
    }

    /// Every order of what two and three broker groups and their name server do: no two tables are ever settled, and
    /// wherever it stops, all have settled.
    #[test]
    fn settling_is_safe_in_every_order() {
        for count in [2, 3] {
            let begin = (vec![Member { published: Some(None), ..Member::default() }; count], true);
            let (mut seen, mut left) = (HashSet::from([begin.clone()]), vec![begin]);
            let mut ends = BTreeSet::new();
            while let Some((members, wipes_left)) = left.pop() {
                let settled: BTreeSet<usize> =
                    members.iter().filter_map(|member| member.row.filter(|row| !row.1).map(|row| row.0)).collect();
                assert!(settled.len() < 2, "two tables are settled");
                let after = next(&members, wipes_left);
                if after.iter().all(|(_, wipes)| *wipes != wipes_left) {
                    assert!(members.iter().all(|member| member.row.is_some_and(|row| !row.1)), "it stops half way");
                    ends.extend(settled);
                }
                for state in after {
                    if seen.insert(state.clone()) {
                        left.push(state);
                    }
                }
            }
            assert_eq!(ends.len(), count, "each may be the one");
        }
    }
}
