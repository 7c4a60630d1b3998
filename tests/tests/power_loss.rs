//! The power of all three nodes goes at once, under load: what no fdatasync had reached is gone from every disk,
//! RocksDB's files included, and nothing that was acknowledged is. And calls of RocksDB that fail: the node stops, or goes
//! on, and nothing acknowledged is lost.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use raftmq_tests::{
    client::eventually,
    cluster::{Cluster, LEADER_WITHIN},
    disk_journal::{DiskJournal, Loss},
    power::{self, Build},
    workload::{self, Workload},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost() -> Result<()> {
    let seeds = match std::env::var("RAFTMQ_SEED") {
        Ok(seed) => vec![seed.parse()?],
        Err(_) if std::env::var_os("RAFTMQ_LONG").is_some() => (0..20).collect(),
        Err(_) => power::SEEDS.to_vec(),
    };
    power::at_any_moment(Build::Shipped, &seeds).await
}

/// A call on RocksDB's files fails, one in each run of a node: while its state is opened, and while rows are flushed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_call_of_rocksdb_loses_nothing() -> Result<()> {
    let calls: Vec<u64> = match std::env::var_os("RAFTMQ_LONG") {
        Some(_) => (1..40).step_by(3).chain((40..500).step_by(23)).collect(),
        None => vec![4, 17, 60, 120, 200],
    };
    let mut cluster = Cluster::start(power::trimming()).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    let victim = cluster.leader(0).await?;
    power::next_flush(&cluster).await?;
    workload.fault(async || workload.strike(|| cluster.kill_at_once(&[victim]))).await?;
    for call in calls {
        fail_call(&mut cluster, victim, Some(call));
        let said = cluster.log(victim).len();
        cluster.start_node(victim)?;
        let journal = cluster.journal(victim);
        let failed = async || journal.failed().is_some();
        let waited = eventually("the call is made", Duration::from_secs(90), failed).await;
        waited.with_context(|| format!("UNKNOWN: call {call}\n{}", cluster.log_tails(0)))?;
        let outcome = after_a_failure(&mut cluster, victim, said).await.with_context(|| format!("call {call}"))?;
        println!("call {call}, {}: {outcome}", journal.failed().unwrap_or_default());
        cluster.kill(victim);
    }
    fail_call(&mut cluster, victim, None);
    cluster.start_node(victim)?;
    cluster.has_all_so_far(0, LEADER_WITHIN).await?;
    workload.finish().await?.judge("failing calls of RocksDB", &cluster).await
}

fn fail_call(cluster: &mut Cluster, number: usize, call: Option<u64>) {
    let environment = &mut cluster.nodes[number].environment;
    environment.retain(|(key, _)| key != "RAFTMQ_TEST_JOURNAL_FAIL");
    environment.extend(call.map(|call| ("RAFTMQ_TEST_JOURNAL_FAIL".to_owned(), call.to_string())));
}

/// A node whose disk has failed ends by itself and says why, behind the first `said` bytes of its log, or is as good as
/// before.
async fn after_a_failure(cluster: &mut Cluster, victim: usize, said: usize) -> Result<String> {
    let ended = async || !cluster.process(victim).is_some_and(|process| process.runs());
    if eventually("it ends", Duration::from_secs(5), ended).await.is_err() {
        cluster.has_all_so_far(0, LEADER_WITHIN).await?;
        return Ok("the node goes on".into());
    }
    let log = cluster.log(victim);
    let last = log[said..].lines().rev().find(|line| line.contains("Input/output error"));
    let last = last.with_context(|| format!("the node does not say why it ended\n{}", cluster.log_tails(0)))?;
    Ok(format!("the node ended: {last}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn what_left_the_log_outlasts_a_power_loss() -> Result<()> {
    power::after_a_trim(Build::Shipped).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn nothing_acknowledged_is_lost_on_slow_disks() -> Result<()> {
    power::all_at_once(Build::Shipped).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn a_vote_outlasts_a_power_loss() -> Result<()> {
    power::after_a_vote(Build::Shipped).await
}

/// Runs `script` in a folder with the library loaded, then cuts the power. What is left, and what was lost.
fn cut_after(script: &str) -> Result<(Vec<(String, String)>, Loss)> {
    let dir = tempfile::tempdir()?;
    let root = dir.path().join("node");
    let journal = DiskJournal::new(&root, &dir.path().join("journal"));
    journal.begin()?;
    let output = Command::new("bash")
        .args(["-euc", script])
        .env("N", &root)
        .envs(journal.environment()?)
        .output()
        .context("running bash")?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    let loss = journal.cut(None)?;
    let mut left = Vec::new();
    list(&root, &root, &mut left)?;
    left.sort();
    Ok((left, loss))
}

fn list(root: &Path, folder: &Path, left: &mut Vec<(String, String)>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            list(root, &path, left)?;
        } else {
            let name = path.strip_prefix(root)?.display().to_string();
            left.push((name, fs::read_to_string(path)?));
        }
    }
    Ok(())
}

/// The library sees what ordinary programs do to files, and the cut takes back what they did not sync.
#[test]
fn a_cut_takes_what_was_not_synced() -> Result<()> {
    let begin = "mkdir $N/state-1; sync $N; cd $N/state-1; S=$N/state-1; ";
    let check = |script: &str, expected: &[(&str, &str)]| {
        let (left, _) = cut_after(&format!("{begin}{script}"))?;
        let left: Vec<_> = left.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        ensure!(left == expected, "{script}: {left:?} is left, not {expected:?}");
        Ok(())
    };
    check("echo -n a >$S/a; sync -d $S/a", &[])?;
    check("echo -n a >$S/a; sync $S", &[("state-1/a", "")])?;
    check("echo -n a >$S/a; sync -d $S/a; sync $S; echo -n bc >>$S/a", &[("state-1/a", "a")])?;
    check("echo -n a >$S/a; sync $S/a $S; rm $S/a", &[("state-1/a", "a")])?;
    check("echo -n a >$S/a; sync $S/a $S; rm $S/a; sync $S", &[])?;
    check("echo -n a >$S/a; sync $S/a $S; echo -n b >$S/b; mv $S/b $S/a", &[("state-1/a", "a")])?;
    check(
        "echo -n a >$S/a; sync $S/a; mkdir $S/t; ln $S/a $S/t/b; sync $S/t $S",
        &[("state-1/a", "a"), ("state-1/t/b", "a")],
    )?;
    check("mkdir $N/state-2; echo -n a >$N/state-2/a; sync $N/state-2/a $N/state-2", &[])?;
    check("echo -n a >$S/a; sync $S/a $S; rm -r $S; sync $N", &[])?;
    // What has a layer of its own is let alone.
    check("echo -n a >$N/IDENTITY; mkdir $N/log-1; echo -n b >$N/log-1/b", &[("IDENTITY", "a"), ("log-1/b", "b")])?;
    let (_, loss) = cut_after("mkdir $N/pins; sync $N; echo -n abc >$N/pins/a; sync $N/pins; echo -n d >$N/pins/d")?;
    ensure!(loss == Loss { bytes: 3, gone: 1, back: 0, kept: 1 }, "{loss}");
    Ok(())
}
