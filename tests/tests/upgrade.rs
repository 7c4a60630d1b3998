//! A broker group is upgraded node by node under load: what is new begins when the last node knows it and not before,
//! a node can go back until then, and afterwards a node of the old build says what to do instead of going on. Real
//! processes: `mqbroker`, and `mqbroker-next`, which knows one version of commands more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use raft_store::{State, StateOptions};
use raftmq_broker::machine::{TRIAL, TRIAL_COMMANDS, VERSION};
use raftmq_broker::store::{TABLES, machine};
use raftmq_tests::client::eventually;
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::workload::{self, Workload};

/// The builds, by the programs that run them.
const OLD: &str = "mqbroker";
const NEXT: &str = "mqbroker-next";

/// What each node must tell whoever starts a build on it that is too old.
fn too_old() -> [String; 2] {
    [format!("of version {TRIAL}, and this build knows versions up to {VERSION}"), "upgrade this node".to_owned()]
}

/// Sends that a group takes after each step.
const SENDS: usize = 500;

/// A leader looks each second, after as many seconds as reports take: what it wrongly activates shows within this.
const ACTIVATES_WITHIN: Duration = Duration::from_secs(3);

/// Stops a node well, and starts it with another build.
async fn change_build(cluster: &mut Cluster, number: usize, program: &'static str) -> Result<()> {
    let status = cluster.stop(number, LEADER_WITHIN)?;
    ensure!(status.success(), "node {number} did not stop well: {status}\n{}", cluster.log_tails(0));
    start(cluster, number, program).await
}

/// Starts a node with a build, and waits until it has what the others have.
async fn start(cluster: &mut Cluster, number: usize, program: &'static str) -> Result<()> {
    cluster.nodes[number].program = program;
    cluster.start_node(number)?;
    cluster.has_all_so_far(0, LEADER_WITHIN).await
}

/// Has a node lead.
async fn lead(cluster: &mut Cluster, number: usize) -> Result<()> {
    let label = cluster.nodes[number].label.clone();
    eventually("the node leads", LEADER_WITHIN, async || {
        let _ = cluster.mqadmin(&["electMaster", "-c", "RaftCluster", "-b", &label]).await;
        cluster.status(number).await.is_ok_and(|status| status.role == "leader")
    })
    .await
}

/// With a leader of the next build, which knows every member's version, nothing newer than `VERSION` begins while `next`
/// nodes of three have that build.
async fn stays(cluster: &mut Cluster, leader: usize, next: usize) -> Result<()> {
    lead(cluster, leader).await?;
    eventually("the leader knows what each member knows", LEADER_WITHIN, async || {
        cluster.status(leader).await.is_ok_and(|status| {
            let known: Vec<_> = status.members.iter().filter_map(|member| member.command_version_known).collect();
            known.len() == 3 && known.iter().filter(|known| **known == TRIAL).count() == next
        })
    })
    .await
    .with_context(|| cluster.log_tails(0))?;
    // What must not happen has time to.
    tokio::time::sleep(ACTIVATES_WITHIN).await;
    cluster.leader(0).await?;
    for number in 0..3 {
        let status = cluster.status(number).await?;
        ensure!(
            status.command_version == VERSION,
            "version {} began while {next} of 3 nodes know it\n{}",
            status.command_version,
            cluster.log_tails(0)
        );
    }
    Ok(())
}

/// A node that was started with a build that is too old ends, and says what to do.
fn refuses(cluster: &mut Cluster, number: usize, already_said: usize) -> Result<()> {
    let ended = cluster.process(number).context("it was started")?.ended(LEADER_WITHIN);
    let status = ended.with_context(|| cluster.log_tails(0))?;
    let log = cluster.log(number);
    let said = log.get(already_said..).unwrap_or_default();
    ensure!(!status.success(), "a node that cannot go on says so by its exit status");
    for part in too_old() {
        ensure!(said.contains(&part), "the log does not say {part:?}:\n{said}");
    }
    ensure!(!said.contains("panicked"), "it panicked:\n{said}");
    cluster.kill(number);
    Ok(())
}

/// The rows of a stopped node.
fn rows(cluster: &Cluster, number: usize) -> Result<State> {
    let folders = std::fs::read_dir(cluster.data(number))?.collect::<Result<Vec<_>, _>>()?;
    let is_state = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("state-");
    let folder = folders.iter().find(|entry| is_state(&entry.file_name())).context("a node has rows")?;
    Ok(State::open(&folder.path(), TABLES, &StateOptions::default())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_upgraded_under_load() -> Result<()> {
    let mut cluster = Cluster::start(Options { broker: OLD, ..Options::default() }).await?;
    let options = workload::Options { pause: Duration::from_millis(150), ..workload::Options::default() };
    cluster.create_topic(&options.topic, 8).await?;
    cluster.activated(0, VERSION).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;

    let first = cluster.leader(0).await?;
    let (second, third) = ((first + 1) % 3, (first + 2) % 3);
    let status = workload.fault(async || workload.strike(|| cluster.stop(first, LEADER_WITHIN))).await?;
    ensure!(status.success(), "node {first} did not stop well: {status}");
    start(&mut cluster, first, NEXT).await?;
    workload.goes_on(SENDS, LEADER_WITHIN).await?;
    change_build(&mut cluster, second, NEXT).await?;
    workload.goes_on(SENDS, LEADER_WITHIN).await?;
    stays(&mut cluster, first, 2).await?;

    // Half-way back: up to now nothing was written that the old build does not know.
    change_build(&mut cluster, second, OLD).await?;
    workload.goes_on(SENDS, LEADER_WITHIN).await?;
    stays(&mut cluster, first, 1).await?;

    change_build(&mut cluster, second, NEXT).await?;
    change_build(&mut cluster, third, NEXT).await?;
    cluster.activated(0, TRIAL).await?;
    workload.goes_on(SENDS, LEADER_WITHIN).await?;

    // There is no way back from here. The node that tries says so, and the others go on.
    let status = cluster.stop(third, LEADER_WITHIN)?;
    ensure!(status.success(), "node {third} did not stop well: {status}");
    cluster.nodes[third].program = OLD;
    let already_said = cluster.log(third).len();
    cluster.start_node(third)?;
    refuses(&mut cluster, third, already_said)?;
    workload.goes_on(SENDS, LEADER_WITHIN).await?;
    start(&mut cluster, third, NEXT).await?;

    let outcome = workload.finish().await?;
    ensure!(outcome.unacknowledged == 0, "{} sends failed", outcome.unacknowledged);
    outcome.judge("upgraded node by node", &cluster).await?;
    cluster.stop(second, LEADER_WITHIN)?;
    let rows = rows(&cluster, second)?;
    let counted = machine::number_setting(&rows, TRIAL_COMMANDS, 0)?;
    ensure!(machine::version(&rows)? == TRIAL && counted > 0, "the new version did nothing: {counted} commands");
    Ok(())
}

/// A member that died after the activation and comes back with the old build, and an empty node that is to be admitted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_is_too_old_does_not_come_in() -> Result<()> {
    let mut cluster = Cluster::start(Options { broker: NEXT, ..Options::default() }).await?;
    cluster.activated(0, TRIAL).await?;
    let number = (cluster.leader(0).await? + 1) % 3;
    cluster.kill(number);
    cluster.nodes[number].program = OLD;
    let already_said = cluster.log(number).len();
    cluster.start_node(number)?;
    refuses(&mut cluster, number, already_said)?;

    cluster.wipe(number)?;
    cluster.start_node(number)?;
    eventually("the empty node says how to admit it", LEADER_WITHIN, async || {
        cluster.log(number).contains("mqadmin replacePeer")
    })
    .await?;
    let log = cluster.log(number);
    let line = log.rsplit("mqadmin replacePeer").next().and_then(|rest| rest.lines().next()).context("it was there")?;
    let words: Vec<&str> = ["replacePeer"].into_iter().chain(line.split_whitespace()).chain(["-y"]).collect();
    let refused = cluster.mqadmin(&words).await?;
    let text = String::from_utf8_lossy(&refused.stderr);
    ensure!(refused.status.code() == Some(1), "it was admitted: {refused:?}");
    for part in [format!("of version {TRIAL}"), format!("up to {VERSION}"), "upgrade n".to_owned()] {
        ensure!(text.contains(&part), "mqadmin does not say {part:?}: {text}");
    }
    // The same folder and line, with the build that knows it.
    cluster.kill(number);
    cluster.nodes[number].program = NEXT;
    cluster.start_node(number)?;
    eventually("the node is admitted", LEADER_WITHIN, async || {
        cluster.mqadmin(&words).await.is_ok_and(|output| output.status.success())
    })
    .await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    cluster.activated(0, TRIAL).await
}
