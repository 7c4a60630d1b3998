//! Users and access rules: commands in, rows out.

use super::Harness;
use crate::machine::Effect;
use crate::machine::access::{RULES_MAX, USERS_MAX};
use crate::store::access::{Users, acl, acls, user, user_count, users};
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{AclAction, AclRule, DeleteAcl, DeleteUser, PutAcl, PutMode, PutUser, Refusal};

impl Harness {
    fn put(&mut self, put: PutUser) -> Refusal {
        self.run(Kind::PutUser(put)).refusal()
    }

    fn delete(&mut self, name: &str) -> Refusal {
        self.run(Kind::DeleteUser(DeleteUser { name: name.to_owned() })).refusal()
    }

    fn rules(&mut self, subject: &str, rules: &[(&str, AclAction, bool)], mode: PutMode) -> Refusal {
        let rule = |(resource, action, deny): &(&str, AclAction, bool)| AclRule {
            resource: (*resource).to_owned(),
            actions: vec![(*action).into()],
            deny: *deny,
            ..AclRule::default()
        };
        let rules = rules.iter().map(rule).collect();
        self.run(Kind::PutAcl(PutAcl { subject: subject.to_owned(), rules, mode: mode.into() })).refusal()
    }

    fn count(&self) -> (u64, u64) {
        let Users { all, admins } = user_count(&self.state).expect("readable");
        assert_eq!(all, users(&self.state).expect("readable").len() as u64);
        (all, admins)
    }

    fn resources(&self, subject: &str) -> Vec<String> {
        let acl = acl(&self.state, subject).expect("readable");
        acl.map(|acl| acl.rules.into_iter().map(|rule| rule.resource).collect()).unwrap_or_default()
    }
}

fn named(name: &str, mode: PutMode) -> PutUser {
    PutUser { name: name.to_owned(), secret: Some("secret".to_owned()), mode: mode.into(), ..PutUser::default() }
}

#[test]
fn users_come_change_and_go() {
    let mut machine = Harness::new();
    let alice = || named("alice", PutMode::Create);
    assert_eq!(machine.put(named("alice", PutMode::Update)), Refusal::UserNotFound);
    assert_eq!(machine.put(alice()), Refusal::Unspecified);
    assert_eq!(machine.effects, [Effect::AccessChanged { user: "alice".into() }]);
    assert_eq!(machine.put(alice()), Refusal::AlreadyExists);
    assert!(machine.effects.is_empty());
    assert_eq!(machine.count(), (1, 0));

    // What is not given stays.
    let update = PutUser { secret: None, admin: Some(true), ..named("alice", PutMode::Update) };
    assert_eq!(machine.put(update.clone()), Refusal::Unspecified);
    let row = user(&machine.state, "alice").expect("readable").expect("there");
    assert_eq!((row.secret.as_str(), row.admin, row.disabled, row.version), ("secret", true, false, 2));
    assert_eq!(machine.count(), (1, 1));
    assert_eq!(machine.put(PutUser { disabled: Some(true), ..update.clone() }), Refusal::Unspecified);
    assert_eq!(machine.count(), (1, 0));
    assert_eq!(machine.put(PutUser { disabled: Some(false), ..update }), Refusal::Unspecified);
    assert_eq!(machine.count(), (1, 1));
    assert_eq!(machine.delete("alice"), Refusal::Unspecified);
    assert_eq!(machine.delete("alice"), Refusal::UserNotFound);
    assert_eq!(machine.count(), (0, 0));
    machine.assert_replays(1);
    machine.assert_replays(4);
}

#[test]
fn the_first_administrator_is_made_once() {
    let mut machine = Harness::new();
    assert_eq!(machine.put(named("alice", PutMode::Create)), Refusal::Unspecified);
    assert_eq!(machine.put(named("root", PutMode::First)), Refusal::Unspecified);
    assert_eq!(machine.count(), (2, 1));
    // Another node was told of another one.
    assert_eq!(machine.put(named("admin", PutMode::First)), Refusal::AlreadyExists);
    assert_eq!(machine.put(named("root", PutMode::First)), Refusal::AlreadyExists);
    // Whoever locks everybody out gets in again by the same key.
    let off = PutUser { disabled: Some(true), ..named("root", PutMode::Update) };
    assert_eq!(machine.put(off), Refusal::Unspecified);
    let again = PutUser { secret: Some("new".to_owned()), ..named("root", PutMode::First) };
    assert_eq!(machine.put(again), Refusal::Unspecified);
    let row = user(&machine.state, "root").expect("readable").expect("there");
    assert_eq!((row.secret.as_str(), row.admin, row.disabled), ("new", true, false));
    assert_eq!(machine.count(), (2, 1));
}

#[test]
fn users_that_make_no_sense_are_refused() {
    let mut machine = Harness::new();
    let long = "a".repeat(128);
    for name in ["", "a b", "a/b", "a,b", "ä", "a\n", "*", &long] {
        assert_eq!(machine.put(named(name, PutMode::Create)), Refusal::InvalidArgument, "{name:?}");
    }
    for secret in [None, Some(String::new()), Some("a".repeat(256))] {
        let put = PutUser { secret, ..named("alice", PutMode::Create) };
        assert_eq!(machine.put(put), Refusal::InvalidArgument);
    }
    assert_eq!(machine.put(PutUser { mode: 9, ..named("alice", PutMode::Create) }), Refusal::InvalidArgument);
    assert_eq!(machine.count(), (0, 0));
    let all = (0..USERS_MAX).map(|number| Kind::PutUser(named(&format!("u{number}"), PutMode::Create))).collect();
    let batch = machine.batch(all);
    let answers = machine.apply_batches(&[batch]);
    assert!(answers[0].replies.iter().all(|reply| reply.refusal() == Refusal::Unspecified));
    assert_eq!(machine.put(named("one-more", PutMode::Create)), Refusal::InvalidArgument);
    assert_eq!(machine.put(named("u7", PutMode::Update)), Refusal::Unspecified);
}

#[test]
fn rules_are_kept_by_resource_and_go_with_their_user() {
    let mut machine = Harness::new();
    let (publish, subscribe) = (AclAction::Pub, AclAction::Sub);
    let rule = [("topic:b", publish, false), ("Topic:a", subscribe, false)];
    assert_eq!(machine.rules("User:alice", &rule, PutMode::Create), Refusal::UserNotFound);
    assert_eq!(machine.rules("alice", &rule, PutMode::Create), Refusal::InvalidArgument);
    assert_eq!(machine.put(named("alice", PutMode::Create)), Refusal::Unspecified);
    assert_eq!(machine.rules("User:alice", &rule, PutMode::Update), Refusal::AclNotFound);
    assert_eq!(machine.rules("User:alice", &rule, PutMode::Create), Refusal::Unspecified);
    assert_eq!(machine.effects, [Effect::AccessChanged { user: "alice".into() }]);
    assert_eq!(machine.resources("User:alice"), ["Topic:a", "Topic:b"]);
    // The same resource has one rule.
    assert_eq!(machine.rules("User:alice", &[("Topic:a", publish, true)], PutMode::Update), Refusal::Unspecified);
    let row = acl(&machine.state, "User:alice").expect("readable").expect("there");
    assert_eq!((row.rules.len(), row.rules[0].deny, row.version), (2, true, 2));

    for wrong in [("Queue:a", publish), ("Topic:a", AclAction::Unspecified), ("", publish)] {
        let rules = [(wrong.0, wrong.1, false)];
        assert_eq!(machine.rules("User:alice", &rules, PutMode::Update), Refusal::InvalidArgument, "{wrong:?}");
    }
    assert_eq!(machine.rules("User:alice", &[], PutMode::Update), Refusal::InvalidArgument);
    let names: Vec<String> = (0..RULES_MAX).map(|number| format!("Topic:many-{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), publish, false)).collect();
    assert_eq!(machine.rules("User:alice", &many, PutMode::Update), Refusal::InvalidArgument);

    let mut delete = |resource: &str, default_policy| {
        let delete = DeleteAcl { subject: "User:alice".to_owned(), resource: resource.to_owned(), default_policy };
        machine.run(Kind::DeleteAcl(delete)).refusal()
    };
    assert_eq!(delete("Topic:c", None), Refusal::AclNotFound);
    assert_eq!(delete("Topic:a", Some(true)), Refusal::AclNotFound);
    assert_eq!(delete("topic:a", Some(false)), Refusal::Unspecified);
    assert_eq!(delete("a", None), Refusal::InvalidArgument);
    assert_eq!(delete("", None), Refusal::Unspecified);
    assert_eq!(delete("", None), Refusal::AclNotFound);
    assert!(acls(&machine.state).expect("readable").is_empty());

    // Another user of the same name inherits nothing.
    assert_eq!(machine.rules("User:alice", &rule, PutMode::Create), Refusal::Unspecified);
    assert_eq!(machine.delete("alice"), Refusal::Unspecified);
    assert_eq!(machine.put(named("alice", PutMode::Create)), Refusal::Unspecified);
    assert!(machine.resources("User:alice").is_empty());
    machine.assert_replays(3);
}
