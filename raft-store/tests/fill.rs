//! Members that need entries which the log no longer has: they are filled by the leader, whoever dies meanwhile.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod group;

use group::{Cluster, PATIENCE, dump, newcomer, texts, until};
use raft_store::disk::{Disk, HookedDisk, PowerLossDisk, RealDisk};
use raft_store::{LogIndex, MemberChange, RaftConfig, Role, TrimError};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a payload.
const BODY: usize = 16 << 10;

fn small(config: &mut RaftConfig) {
    config.segment_bytes = 1 << 20;
    config.tail_cache_bytes = 256 << 10;
}

fn big(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}-{}", "x".repeat(BODY))).collect()
}

impl Cluster {
    /// Takes what was applied from the logs of the running nodes, but for the last `keep` entries.
    async fn trim(&self, keep: u64) {
        self.level().await;
        let (_, any) = self.running().next().expect("a node runs");
        let upto = LogIndex(any.status().applied.expect("applied").index - keep);
        for (_, node) in self.running() {
            let deadline = Instant::now() + PATIENCE;
            // A leader that has only just lost a follower may still be about to send it these.
            while node.group().trim(upto).await.is_err() {
                assert!(Instant::now() < deadline, "the log is not trimmed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert!(node.status().purged.is_some());
        }
    }

    /// A group of which one node has been away for longer than the log reaches back. Gives that node and all texts.
    async fn with_one_away(&mut self) -> (usize, Vec<String>) {
        let mut all = texts("before", 50);
        self.propose(&all).await;
        self.has(&all).await;
        let away = (self.leader().await + 1) % 3;
        self.nodes[away].crash().await;
        for round in 0..2 {
            let more = big(&format!("round-{round}"), 300);
            self.propose(&more).await;
            all.extend(more);
            self.has(&all).await;
            if round == 0 {
                self.trim(5).await;
            }
        }
        (away, all)
    }

    /// Every entry that any node can read is the same on all, and the log of `filled` reaches back as far as the leader's.
    async fn same_entries(&self, filled: usize) {
        let leader = self.leader().await;
        let (ours, theirs) = (self.nodes[leader].group(), self.nodes[filled].group());
        let (first, last) = (ours.log_use().first, self.nodes[leader].status().last.expect("entries"));
        assert!(theirs.log_use().first <= first, "{:?} {:?}", theirs.log_use().first, first);
        for index in first.0..=last.0 {
            let expected = ours.payload(LogIndex(index)).await.expect("legible");
            assert!(
                expected.is_some() && theirs.payload(LogIndex(index)).await.expect("legible") == expected,
                "{index}"
            );
        }
    }

    async fn filled(&self, away: usize, all: &[String]) {
        self.has(all).await;
        self.same_entries(away).await;
        assert!(!self.nodes[away].config.data_dir.join("incoming").exists(), "something was left");
    }
}

/// The group has gone on to a version that the build of a member does not know: neither the leader's rows nor its
/// entries come into use there, and with another build all is as it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_version_that_is_not_known_never_come_into_use() {
    let mut cluster = Cluster::new(3, small);
    cluster.start().await;
    let (away, mut all) = cluster.with_one_away().await;
    all.push("version 7".to_owned());
    cluster.propose(&all[all.len() - 1..]).await;
    cluster.has(&all).await;
    cluster.trim(0).await;
    let node = &mut cluster.nodes[away];
    node.knows = 6;
    node.start().await;
    let before = dump(&node.group().state());
    let reason = tokio::time::timeout(PATIENCE, node.group().halted()).await.expect("it stops");
    assert!(reason.contains("of version 7") && reason.contains("up to 6"), "{reason}");
    assert!(dump(&node.group().state()) == before, "its rows have changed");
    node.crash().await;
    node.start().await;
    tokio::time::timeout(PATIENCE, node.group().halted()).await.expect("it stops each time");
    node.crash().await;
    node.knows = 7;
    node.start().await;
    cluster.filled(away, &all).await;

    // With the rows there, a build that is too old does not even start.
    let node = &mut cluster.nodes[away];
    node.stop().await;
    node.knows = 6;
    let refused = node.try_start().await.expect_err("it does not start").to_string();
    assert!(refused.contains("of version 7") && refused.contains("upgrade this node"), "{refused}");
    node.knows = 8;
    node.start().await;
    cluster.has(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_for_longer_than_the_log_reaches_back_is_filled() {
    let mut cluster = Cluster::new(3, small);
    cluster.start().await;
    let (away, mut all) = cluster.with_one_away().await;
    let boot = {
        cluster.nodes[away].start().await;
        cluster.nodes[away].group().boot()
    };
    let since = Instant::now();
    cluster.filled(away, &all).await;
    let taken = cluster.nodes[away].group().fill_figures().taken_bytes;
    eprintln!("filled with {} KiB in {:?}", taken >> 10, since.elapsed());
    assert!(taken > 300 * BODY as u64, "{taken}");
    assert!(cluster.nodes[away].status().purged.is_some());

    // It goes on like any other: it restarts, whichever way it ended, leads, is trimmed, and can be needed.
    for round in 0..2 {
        if round == 0 {
            cluster.nodes[away].crash().await;
        } else {
            cluster.nodes[away].stop().await;
        }
        cluster.nodes[away].start().await;
        assert!(cluster.nodes[away].group().boot() > boot, "a boot number came again");
        let more = texts(&format!("again-{round}"), 20);
        cluster.propose(&more).await;
        all.extend(more);
        cluster.has(&all).await;
    }
    let to = cluster.nodes[away].group().node();
    let leader = cluster.leader().await;
    if leader != away {
        cluster.nodes[leader].group().transfer_leadership(Some(to)).await.expect("it takes over");
    }
    until("it to lead", || cluster.nodes[away].group().leadership().leads).await;
    let more = big("led", 200);
    cluster.propose(&more).await;
    all.extend(more);
    cluster.has(&all).await;
    cluster.trim(5).await;
    let other = (away + 1) % 3;
    cluster.nodes[other].crash().await;
    let more = texts("needed", 20);
    cluster.propose(&more).await;
    all.extend(more);
    cluster.nodes[other].start().await;
    cluster.has(&all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_comes_after_a_trim() {
    let mut cluster = Cluster::new(4, |config| {
        small(config);
        if config.label != "n3" {
            config.peers.truncate(3);
        }
    });
    cluster.start().await;
    let mut all = big("text", 300);
    cluster.propose(&all).await;
    let running: Vec<_> = (0..3).collect();
    until("three to be level", || {
        let applied = |node: &usize| cluster.nodes[*node].status().applied;
        running.iter().all(|node| applied(node).is_some_and(|id| id.index >= 300) && applied(node) == applied(&0))
    })
    .await;
    let upto = LogIndex(cluster.nodes[0].status().applied.expect("applied").index - 5);
    for node in running {
        assert!(cluster.nodes[node].group().trim(upto).await.expect("trimmed") > 1);
    }
    let change = MemberChange::Add(newcomer(&cluster.nodes[3]));
    assert!(cluster.change(&change).await.changed);
    assert_eq!(cluster.voters().await, ["n0", "n1", "n2", "n3"]);
    assert!(cluster.nodes[3].group().fill_figures().taken_bytes > 0);
    let more = texts("after", 50);
    cluster.propose(&more).await;
    all.extend(more);
    cluster.filled(3, &all).await;
    assert_eq!(cluster.nodes[3].status().role, Role::Follower);
}

/// The member dies half way, and then the leader: what was kept is not sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_is_gone_on_with_after_a_death_on_either_side() {
    let mut cluster = Cluster::new(3, |config| {
        small(config);
        config.fill_bytes_per_second = 2 << 20;
    });
    cluster.start().await;
    let (away, mut all) = cluster.with_one_away().await;
    let mut taken = 0;
    for part in 1..3 {
        cluster.nodes[away].start().await;
        let figures = || cluster.nodes[away].group().fill_figures().taken_bytes;
        until("a part to be there", || figures() > 1_300_000).await;
        if part == 1 {
            let leader = &cluster.nodes[cluster.leader().await];
            let upto = LogIndex(leader.status().applied.expect("applied").index - 5);
            assert_eq!(leader.group().trim(upto).await, Err(TrimError::Held), "what is being sent was removed");
            taken += figures();
            cluster.nodes[away].crash().await;
        } else {
            let leader = cluster.leader().await;
            cluster.nodes[leader].crash().await;
            let more = texts("meanwhile", 5);
            // With one of three away and one being filled nobody can decide: the leader comes back.
            cluster.nodes[leader].start().await;
            cluster.propose(&more).await;
            all.extend(more);
        }
    }
    cluster.filled(away, &all).await;
    taken += cluster.nodes[away].group().fill_figures().taken_bytes;
    let leader = cluster.leader().await;
    let first = cluster.nodes[leader].group().log_use().first.0;
    let entries = cluster.nodes[leader].status().last.expect("entries").0 - first;
    let all_of_it = entries * BODY as u64;
    eprintln!("took {} KiB, entries have {} KiB", taken >> 10, all_of_it >> 10);
    // Rows are sent again by another leader, or by one that died; these are all alike, and take no room.
    assert!(taken < all_of_it + (1 << 20), "what was kept was sent again");
}

/// A call that changes something fails.
#[derive(Debug, Clone)]
struct Failure {
    /// Calls until it fails; below zero it has.
    left: Arc<AtomicI64>,
    /// Only that call fails.
    once: bool,
}

impl Failure {
    fn disk(&self, inner: Arc<dyn Disk>) -> HookedDisk {
        let failure = self.clone();
        HookedDisk::new(inner, move |_| {
            let left = failure.left.fetch_sub(1, Ordering::SeqCst);
            if left == 0 || (left < 0 && !failure.once) {
                return Err(io::Error::other("the call fails"));
            }
            Ok(())
        })
    }

    /// The disk fails for ever, since some time ago.
    fn is_for_ever(&self) -> bool {
        !self.once && self.left.load(Ordering::SeqCst) < -3
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("listed");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("known").is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// A call of the member's disk fails at any moment of a transfer or of the installation: once, or for ever and the
/// power goes. When it is started again it is filled all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_filled_whatever_its_disk_does_meanwhile() {
    let mut cluster = Cluster::new(3, small);
    cluster.start().await;
    let (away, all) = cluster.with_one_away().await;
    let folder = cluster.nodes[away].config.data_dir.clone();
    let aside: PathBuf = cluster.folder.path().join("aside");
    copy_folder(&folder, &aside);
    let step = if std::env::var_os("RAFTMQ_LONG").is_some() { 1 } else { 9 };
    let (mut undisturbed, mut halts) = (0, 0);
    for call in (0..2_000).step_by(step) {
        fs::remove_dir_all(&folder).expect("removed");
        copy_folder(&aside, &folder);
        let once = call / step as i64 % 2 == 1;
        let inner: Arc<dyn Disk> = if once { Arc::new(RealDisk) } else { Arc::new(PowerLossDisk::new(Duration::ZERO)) };
        let failure = Failure { left: Arc::new(AtomicI64::new(i64::MAX)), once };
        // A leader that knows what the member had would not send it again.
        let leader = cluster.leader().await;
        let other = cluster.nodes[3 - leader - away].group().node();
        until("the other one to be level", || {
            let members = cluster.nodes[leader].group().members();
            members.iter().any(|member| member.id == other && member.lag == Some(0))
        })
        .await;
        let handed = cluster.nodes[leader].group().transfer_leadership(Some(other)).await;
        assert_eq!(handed, Ok(other));
        cluster.nodes[away].disk = Arc::new(failure.disk(inner));
        cluster.nodes[away].start().await;
        failure.left.store(call, Ordering::SeqCst);
        let node = &cluster.nodes[away];
        let leader = cluster.leader().await;
        let last = cluster.nodes[leader].status().last.expect("entries");
        let level = || node.status().applied.is_some_and(|applied| applied.index >= last.0);
        until("the member to be level, or to stop", || {
            level() || node.status().halted.is_some() || failure.is_for_ever()
        })
        .await;
        let halted = node.status().halted.is_some();
        halts += u32::from(halted);
        if once && !halted {
            // What was received so far was given up, and is sent again.
            until("the member to be level", || level() || node.status().halted.is_some()).await;
        }
        undisturbed = if failure.left.load(Ordering::SeqCst) > 0 { undisturbed + 1 } else { 0 };
        if !level() {
            cluster.nodes[away].crash().await;
            cluster.nodes[away].disk = Arc::new(RealDisk);
            cluster.nodes[away].start().await;
        }
        let node = &cluster.nodes[away];
        until("the member to be level after all", || {
            node.status().applied.is_some_and(|applied| applied.index >= last.0)
        })
        .await;
        cluster.has(&all).await;
        cluster.nodes[away].crash().await;
        if undisturbed == 4 {
            eprintln!("{call} calls, {halts} stopped the node");
            assert!(call > 50 && halts > 0, "the faults were never met");
            return;
        }
    }
    panic!("it never went undisturbed");
}
