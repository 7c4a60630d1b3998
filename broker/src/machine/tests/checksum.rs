//! What apply makes of commands never changes within a version of them (`machine/version.rs`): members of two builds, and a
//! member that replays what an older build wrote, must come to the same rows.
//!
//! One sequence of commands, in which all kinds of them occur, is pinned for each version with the checksum that it
//! leads to: over every row that was written, replies among them. Another checksum means a change that is to begin with a
//! version of its own, and no other pin. Only a change of the sequence itself, which the digest of its entries tells, is
//! pinned anew, from a build whose rules are those of before.

use super::Harness;
use super::timeline::check_with;
use crate::command::Payload;
use crate::machine::version::COUNTED_RETRIES;
use crate::machine::{OPEN_TOPICS, VERSION, VERSION_OLDEST};
use crate::store::machine;
use prost::Message;
use prost_types::FileDescriptorSet;
use raftmq_proto::command::command::Kind;
use raftmq_proto::command::{
    AclAction, AclRule, DeleteAcl, DeleteUser, FixOwners, PutAcl, PutMode, PutTopic, PutUser, Refusal, Refuse, Topic,
    reply,
};
use std::collections::BTreeSet;
use xxhash_rust::xxh3::Xxh3;

/// Of each version: digest of the entries, and checksum of what they led to.
const PINS: [(u64, u64); VERSION as usize + 1] = [
    (0x3758_5248_56a5_85a0, 0xcc49_dbb8_111a_706d),
    (0x4da5_3472_0c54_47a3, 0x446a_583f_d9c3_427e),
    (0x8249_b5be_5cac_4631, 0xfe3f_9c31_4ff7_0225),
    (0x7b27_542b_9a85_43f6, 0x5c4a_1d5a_ee45_169b),
    (0xc250_8da6_7b7e_9c5a, 0xdfbc_7bbc_0bfe_546b),
    (0, 0),
];

/// The same of a broker group that was upgraded in between, version after version.
const UPGRADED: (u64, u64) = (0x708a_4f0e_750c_217f, 0xddce_858d_0b07_8347);

/// What there is in every version, up to where a broker group is upgraded.
const FIRST: &str = "
    set idempotence.window.ms 60000 => ok
    set retention.ms 36000000 => ok
    topic t queues=2 types=1,2,3,4 => version 1
    topic p queues=3 types=6 => version 1
    topic u reserve=1h => version 1
    group g retry=1 from=first => ok
    group h order=off => ok
    session c g t=x|y p=* => ok
    session d g t=sql:n>3 => ok
    send t a/x b/y?5 k.e k.f l.i/x n?9 => 0@0+2 1@0+2 0@2+2
    send t id=m1 o/x => 1@2+1
    send t id=m1 o/x => 1@2+1
    send t id=m1 content=2 o2/x => 0@4+1
    delay t 10s v1 v2 => waits 2
    delay t 1h id=m2 late => waits 1
    half t w z after=6s every=30s checks=2 => waits 2
    half t parked after=1s every=1s checks=1 => waits 1
    recall v1 => ok
    receive c g t tags=x|y max=3 => a:1 b:1 i:1
    receive d g t sql=n>3 => n:1
    receive e h t for=20s attempt=1 => e:1 f:1 o:1 a:1 b:1 i:1 n:1 o2:1
    receive e h t for=20s attempt=1 => e:1 f:1 o:1 a:1 b:1 i:1 n:1 o2:1
    ack h t a e f => ok ok ok
    ack h t a! a => invalid_handle ok
    store h t 0 1 => ok
    store r t 1 1 create => ok
    +2s; tick; wanted => parked
    checked parked => ok
    +2s; tick => ok
    progress g t => 0/5/5 flying 4, 3/3/3 flying 0, retry 2 flying 0, lag 0+2+4
    progress h t => 1/5/5 flying 4, 2/3/3 flying 1, retry 0 flying 0, lag 0+0+5
    send p type=6 priority=2 q => 2@0+1
    send p type=6 priority=0 r => 0@0+1
    receive c g p renewed=3h attempt=7 unless-confirmed=5s => q:1 r:1
    receive c g p renewed=3h attempt=7 unless-confirmed=5s => q:1 r:1
    confirm q r => ok
    +6s; tick => ok
    receive f g t renewed=1h unless-confirmed=1s => o:1 o2:1 v2:1
    +2s; tick => ok
    receive f g t renewed=1h => o:1 o2:1 v2:1
    progress g t => 0/5/5 flying 4, 4/4/4 flying 0, retry 0 flying 3, lag 0+0+7
    commit w => ok
    +6s; tick; wanted => w z
    rollback z => ok
    receive c h t => w:1 v2:1
    dead h t w => ok
    receive c h %DLQ%h => w:1
    +30s; tick => ok
    receive c g t tags=x|y => a:2 b:2 i:2
    hide g t a 60s => ok
";

/// And after it.
const SECOND: &str = "
    hide g t o 0s suspend => ok
    receive c g t tags=x|y => o:1
    ack g t o => ok
    +31s; tick => ok
    receive c h t => o:2 b:2 i:2 n:2 o2:2 v2:2
    progress g t => 6/6/6 flying 0, 4/4/4 flying 0, retry 2 flying 3, lag 0+2+3
    progress h t => 6/6/6 flying 0, 4/4/4 flying 0, retry 0 flying 6, lag 0+0+6
    receive c i %DLQ%g => b:1 i:1
    send t k2.x1/x k2.x2/x l2.y1/x k2.x3/x => 1@4+4
    receive c g t tags=x|y => x1:1 y1:1
    ack g t x1 => ok
    receive c g t tags=x|y => x2:1
    progress g t => 6/6/6 flying 0, 6/8/8 flying 1, retry 2 flying 4, lag 0+2+5, aside 1
    end c; end f term=9 => deadline_passed
    end f => ok
    receive x g p => q:2 r:2
    ack g p q r => ok ok
    reset g t 0=0 1=1 => 0=0 1=1
    receive x g t max=2 => f:1 o:1
    tick => ok
    send t s/x j.aa/x j.bb => 1@8+3
    +1s; send t late1 => 0@6+1
    receive x h t => x1:1 x2:1 y1:1 x3:1 s:1 aa:1 bb:1 late1:1
    receive x g t => a:1 b:1 i:1 n:1 o2:1 w:1 late1:1 v2:1 x1:1 y1:1 s:1 aa:1
    ack g t late1 => ok
    receive x g t => nothing
    trim late1 => held
    move => a a b b b f i i i n n o o o2 o2 v2 v2 late w parked x1 x1 x2 y1 x3 x2 y1 y1 s s aa aa bb
    trim late1 => ok
    +2h; tick; expire t; expire u => ok
    send t end => 0@7+1
    trim end settle => up to late1
    progress g t => 7/7/8 flying 0, 11/11/12 flying 0, retry 13 flying 0, lag 2+13+0, aside 3
    progress h t => 7/7/8 flying 0, 11/11/12 flying 0, retry 14 flying 0, lag 2+14+0
    waiting t => 0 timers, 1 halves, 1 parked
    group n from=last factor=50 => ok
    receive z n t => end:1 late:1
    send t late2 late3 => 1@12+2
    receive z n t => late2:1 late3:1
    drop-group h => ok
    drop-topic p => ok
    tick => ok
    topic p queues=1 types=1 => version 1
    receive y g p => nothing
";

/// What there is since version 1.
const LITE: &str = "
    topic lt types=5 lite-expiration=15 lite-quota=3 => version 1
    group lg bind=lt model=Exclusive lite-quota=2 => ok
    lite c lg lt +a +b start=first => ok
    send lt lite=a la1 la2 => 0@0+2
    send lt lite=b lb1 => 0@0+1
    send lt lite=c lc1 => 0@0+1
    send lt lite=e le1 => lite_topic_quota
    receive c lg lt => la1:1 lb1:1
    ack lg lt la1 => ok
    receive c lg lt => la2:1
    hide lg lt lb1 5s => ok
    +6s; tick; receive c lg lt => lb1:2
    lite d lg lt +a take => ok
    receive d lg lt => nothing
    lite c lg lt -b => ok
    lite-topics lt => 3
    end d => ok
    +20m; tick => ok
    lite-topics lt => 0
    drop-share r t => ok
    drop-topic lt; tick => ok
";

/// What there is since version 5.
const EACH_KIND: &str = "
    topic et types=1,3 => version 1
    group eg => ok
    send et id=m a => 0@0+1
    send et id=m content=2 b => 0@1+1
    delay et 1h id=m content=3 c => waits 1
    send et id=m a => 0@0+1
    send et id=m content=2 b => 0@1+1
    delay et 1h id=m content=3 c => waits 1
    receive c eg et for=1s => nothing
    send et d e f g h i => 0@2+6
    receive c eg et for=1s => d:1 e:1 f:1 g:1 h:1 i:1
    +1s; tick => ok
    send et j k => 0@8+2
    receive c eg et max=1 => d:2
    receive c eg et max=1 => e:2
    receive c eg et max=1 => f:2
    receive c eg et max=1 => g:2
    receive c eg et max=1 => j:1
    receive c eg et max=1 => h:2
    drop-topic et; tick => ok
";

/// What timelines do not say.
fn others(harness: &mut Harness, version: u32) {
    let user = |name: &str, mode: PutMode| {
        let secret = Some("secret".to_owned());
        Kind::PutUser(PutUser { name: name.to_owned(), secret, mode: mode.into(), ..PutUser::default() })
    };
    let rules = vec![AclRule {
        resource: "Topic:t*".to_owned(),
        actions: vec![AclAction::Pub.into(), AclAction::Sub.into()],
        sources: vec!["10.0.0.0/8".to_owned()],
        deny: true,
        ..AclRule::default()
    }];
    let acl = |mode: PutMode| {
        Kind::PutAcl(PutAcl { subject: "User:alice".to_owned(), rules: rules.clone(), mode: mode.into() })
    };
    for kind in [
        user("root", PutMode::First),
        user("alice", PutMode::Create),
        user("alice", PutMode::Update),
        user("bob", PutMode::Create),
        acl(PutMode::Create),
        acl(PutMode::Update),
        Kind::DeleteAcl(DeleteAcl {
            subject: "User:alice".to_owned(),
            resource: "Topic:t*".to_owned(),
            ..DeleteAcl::default()
        }),
        Kind::DeleteUser(DeleteUser { name: "bob".to_owned() }),
    ] {
        let shown = format!("{kind:?}");
        assert_eq!(harness.run(kind).refusal(), Refusal::Unspecified, "{shown}");
    }
    let refuse = Refuse { refusal: Refusal::DiskFull.into(), detail: "full".to_owned() };
    assert_eq!(harness.run(Kind::Refuse(refuse)).refusal(), Refusal::DiskFull);

    // Two changes that were made of one row, and a topic whose owners of message groups are agreed on.
    let put = |topic: Topic| Kind::PutTopic(PutTopic { topic: Some(topic), create_only: false });
    let open = Topic {
        name: "o".to_owned(),
        read_queues: 2,
        write_queues: 2,
        permission: 6,
        message_types: vec![2],
        attributes: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
        fifo_open: version >= OPEN_TOPICS,
        ..Topic::default()
    };
    let Some(reply::Kind::Topic(made)) = harness.run(put(open)).kind else { panic!("the topic is made") };
    assert_eq!(harness.run(put(made.clone())).refusal(), Refusal::Unspecified);
    let outdated = harness.run(put(made.clone())).refusal();
    assert_eq!(outdated == Refusal::ChangedMeanwhile, version >= OPEN_TOPICS);
    if version >= OPEN_TOPICS {
        let (from, to) = (Vec::new(), vec!["A".to_owned(), "B".to_owned()]);
        let fix = FixOwners { topic: made.name, id: made.id, from, to, settle: true };
        let Some(reply::Kind::Topic(fixed)) = harness.run(Kind::FixOwners(fix)).kind else { panic!("it was open") };
        assert!(!fixed.fifo_open && fixed.fifo_owners.len() == 2);
    }
}

/// The whole sequence at one version.
fn played(version: u32) -> Harness {
    let lite = if version == VERSION_OLDEST { "" } else { LITE };
    let each_kind = if version < COUNTED_RETRIES { "" } else { EACH_KIND };
    let mut harness = check_with(Harness::new(), &format!("activate {version}\n{FIRST}{SECOND}{lite}{each_kind}"));
    others(&mut harness, version);
    harness
}

fn outcome(harness: &Harness) -> (u64, u64) {
    harness.assert_replays(5);
    let mut entries = Xxh3::new();
    for payload in &harness.log {
        entries.update(&(payload.len() as u64).to_be_bytes());
        entries.update(payload);
    }
    (entries.digest(), machine::applied(&harness.state).expect("read").checksum)
}

fn compare(what: &str, (entries, checksum): (u64, u64), pinned: (u64, u64), wrong: &mut Vec<String>) {
    let now = format!("is now (0x{entries:016x}, 0x{checksum:016x})");
    if entries != pinned.0 {
        wrong.push(format!("{what}: the sequence is another one than the pinned one, {now}"));
    } else if checksum != pinned.1 {
        wrong.push(format!("{what}: apply makes something else of the same commands without a new version, {now}"));
    }
}

#[test]
fn apply_makes_of_each_version_what_it_always_made() {
    let mut wrong = Vec::new();
    for (version, pinned) in (VERSION_OLDEST..=VERSION).zip(PINS) {
        compare(&format!("version {version}"), outcome(&played(version)), pinned, &mut wrong);
    }
    // What is answered depends on where in the log a command stands: there is nothing to compare.
    let step = |line: &str| line.split("=>").next().unwrap_or_default().to_owned() + "\n";
    let steps = |part: &str| part.lines().map(step).collect::<String>();
    let activate = |version: u32| format!("activate {version}\n");
    let later: String = (2..=VERSION).map(activate).collect();
    let parts = [steps(FIRST), activate(1), steps(LITE), later, steps(SECOND), steps(EACH_KIND)];
    let mut upgraded = check_with(Harness::new(), &parts.concat());
    others(&mut upgraded, VERSION);
    compare("upgraded", outcome(&upgraded), UPGRADED, &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_of_command_is_pinned() {
    let contracts = FileDescriptorSet::decode(raftmq_proto::DESCRIPTORS).expect("our descriptors decode");
    let file = contracts.file.iter().find(|file| file.package() == "raftmq.command.v1").expect("it is ours");
    let command = file.message_type.iter().find(|message| message.name() == "Command").expect("it is in it");
    let kinds = command.field.iter().filter(|field| field.oneof_index.is_some());
    let known: BTreeSet<String> = kinds.map(|field| field.name().replace('_', "")).collect();
    let mut played_kinds = BTreeSet::new();
    for payload in played(VERSION).log {
        let entry = Payload::parse(payload).and_then(|payload| payload.entry()).expect("encoded here");
        for kind in entry.batches.into_iter().flat_map(|batch| batch.commands).filter_map(|command| command.kind) {
            let shown = format!("{kind:?}").to_lowercase();
            played_kinds.insert(shown.split('(').next().unwrap_or_default().to_owned());
        }
    }
    assert_eq!(played_kinds, known);
}
