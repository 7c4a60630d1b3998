//! What one consumer costs others, as the p99 from send to receipt without it and with it: one message group that nobody
//! finishes among many, and a filter that takes few of very many messages.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use raftmq_proto::{admin, rocketmq as pb};
use raftmq_tests::load::{self, Fate, Figures, Pool, Receivers, Target};

use super::{CONNECTIONS, Column, Run, TOPIC, bounded, scale, thousands};

/// Messages a second whose latency is taken.
const RATE: u32 = 1_000;

/// What a process does once, it does before the clock starts; and what piles up for a start is gone.
const WARM: Duration = Duration::from_secs(2);

const RATIO_MAX: f64 = 1.5;

/// Messages of a call, and calls under way, that are sent ahead.
const PER_CALL: usize = 16;
const IN_FLIGHT: usize = 256;

/// One message in so many is of the message group that is poisoned, or is not.
const POISONED_ONE_IN: usize = 10;

/// The message that nobody finishes is given back, to come again after this.
const COMES_AGAIN: Duration = Duration::from_millis(100);

/// One message of so many is what the filters take.
const TAKEN_ONE_IN: usize = 10_000;

/// A filter that is not through after this is not waited for.
const THROUGH_WITHIN: Duration = Duration::from_secs(120);

/// Message groups, of which one is poisoned: its first message is given back each time, and as many messages as there
/// are groups wait behind it. What the others take does not count its messages, neither before nor then.
pub async fn fifo(options: &Run, column: &mut Column) -> Result<()> {
    const GROUP: &str = "bench-ordered";
    const POISONED: &str = "group-00000";
    column.name = "RaftMQ ×3, SYNC_FLUSH, message groups".into();
    let groups = options.sizes.message_groups / PER_CALL * PER_CALL;
    ensure!(groups >= PER_CALL, "there are {PER_CALL} message groups at least");
    let (cluster, target) = bounded::start(Some("FIFO"), Vec::new()).await?;
    cluster.put_consumer_group(GROUP, true, Some(1_000_000)).await?;
    let in_group = |message: &mut pb::Message, group: usize| {
        let system = message.system_properties.get_or_insert_default();
        system.message_type = pb::MessageType::Fifo.into();
        system.message_group = Some(format!("group-{group:05}"));
    };
    let topics = [TOPIC.to_owned()];
    let ahead = async |group: &dyn Fn(usize) -> usize| {
        let pool = Pool::made(&topics, options.body, PER_CALL, groups, |number, it| in_group(it, group(number)));
        load::send_all(&target, pool.requests(groups), PER_CALL, IN_FLIGHT).await
    };
    let made = |number: usize, message: &mut pb::Message| {
        let others = 1 + number % (groups - 1);
        in_group(message, if number.is_multiple_of(POISONED_ONE_IN) { 0 } else { others });
    };
    let given_back = Cell::new(0_u64);
    let run = async |fate: Fate, duration: Duration| {
        let end = Instant::now() + duration;
        let apart = |message: &pb::Message| {
            let group = message.system_properties.as_ref().and_then(|system| system.message_group.as_deref());
            let fate = (group == Some(POISONED)).then_some(fate);
            given_back.set(given_back.get() + u64::from(matches!(fate, Some(Fate::Again(_)))));
            fate
        };
        load::latency_while(&target, GROUP, RATE, || Instant::now() < end, made, apart).await
    };
    let duration = Duration::from_secs(options.seconds);
    // Every message group is one that is known.
    ahead(&|number| number).await?;
    run(Fate::Done, WARM).await?;
    bounded::rest().await;
    run(Fate::Done, WARM).await?;
    let without = run(Fate::Done, duration).await?;
    ahead(&|_| 0).await?;
    bounded::rest().await;
    run(Fate::Again(COMES_AGAIN), WARM).await?;
    let with = run(Fate::Again(COMES_AGAIN), duration).await?;
    let text = format!("{}: {}", thousands(groups as f64), bounded::beside(&without, &with, RATIO_MAX));
    ensure!(given_back.get() > 0, "the poisoned message never came");
    column.put("message groups, one of them poisoned: send → receive of the others at 1,000 messages/s", text);
    Ok(())
}

/// Consumer groups with a filter that takes few go through very many messages beside one that takes all new ones.
pub async fn filter(options: &Run, column: &mut Column) -> Result<()> {
    const OTHERS: &str = "bench-others";
    column.name = "RaftMQ ×3, SYNC_FLUSH, filters".into();
    let messages = options.sizes.filtered / TAKEN_ONE_IN * TAKEN_ONE_IN;
    let taken = messages / TAKEN_ONE_IN;
    ensure!(taken > 0, "there are {TAKEN_ONE_IN} messages at least");
    let (mut cluster, target) = bounded::start(None, Vec::new()).await?;
    let few = |number: usize, message: &mut pb::Message| {
        let kind = if (number + 1).is_multiple_of(TAKEN_ONE_IN) { "few" } else { "many" };
        message.system_properties.get_or_insert_default().tag = Some(kind.into());
        message.user_properties.insert("kind".into(), kind.into());
    };
    let pool = Pool::made(&[TOPIC.to_owned()], options.body, PER_CALL, TAKEN_ONE_IN, few);
    load::send_all(&target, pool.requests(messages), PER_CALL, IN_FLIGHT).await?;
    let group = admin::PutConsumerGroupRequest {
        name: OTHERS.into(),
        ordered: Some(false),
        attributes: [("consume.from".into(), "last".into())].into(),
        ..Default::default()
    };
    scale::administration(&mut cluster).await?[0].put_consumer_group(group).await?;
    load::join_group(&target, OTHERS).await?;
    bounded::rest().await;
    load::latency(&target, OTHERS, RATE, WARM).await?;
    let without = load::latency(&target, OTHERS, RATE, Duration::from_secs(options.seconds)).await?;
    let filters = [
        (
            "send → receive of another consumer group at 1,000 messages/s, beside a tag filter",
            "bench-tag",
            pb::FilterExpression { r#type: pb::FilterType::Tag.into(), expression: "few".into() },
        ),
        (
            "the same beside an SQL filter",
            "bench-sql",
            pb::FilterExpression { r#type: pb::FilterType::Sql.into(), expression: "kind = 'few'".into() },
        ),
    ];
    for (row, group, filter) in filters {
        // Another client: a subscription is that of a client and its consumer group.
        let selective = Target::connect(cluster.nodes[1].grpc, TOPIC, CONNECTIONS).await?;
        let through = Through { group, filter, taken };
        let (with, found) = through.beside(&selective, &target, OTHERS).await?;
        let text = format!("{} messages, {found}: ", thousands(messages as f64));
        column.put(row, text + &bounded::beside(&without, &with, RATIO_MAX));
    }
    Ok(())
}

/// A consumer group that goes through a topic.
struct Through {
    group: &'static str,
    filter: pb::FilterExpression,
    /// So many messages are for it.
    taken: usize,
}

impl Through {
    /// What another consumer group's messages take until this one has found all of its own, and how long that took.
    async fn beside(&self, target: &Target, other: &Target, others: &str) -> Result<(Figures, String)> {
        let started = Instant::now();
        let (found, last) = (Cell::new(0), Cell::new(Duration::ZERO));
        let over = || found.get() >= self.taken || started.elapsed() > THROUGH_WITHIN;
        let seen = |_: &pb::Message| {
            found.set(found.get() + 1);
            last.set(started.elapsed());
            Fate::Done
        };
        let receivers = Receivers { group: self.group.into(), consumers: 4, batch: 32 };
        let (settled, with) = futures::join!(
            load::consume(target, &receivers, Some(&self.filter), over, seen),
            load::latency_while(other, others, RATE, || !over(), |_, _| {}, |_| None),
        );
        if let Some(failure) = settled.first_failure {
            eprintln!("{} calls failed: {failure}", settled.failures);
        }
        let seconds = last.get().as_secs_f64();
        Ok((with?, format!("{} of {} found in {seconds:.1} s", found.get(), self.taken)))
    }
}
