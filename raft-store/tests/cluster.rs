//! Three nodes in one process, over real sockets: they form a group, replicate, lose a leader, come back, change places.

#![allow(clippy::panic, reason = "a test fails by panicking")]

mod group;

use bytes::Bytes;
use group::{Cluster, PATIENCE, newcomer, payloads, texts, until};
use raft_store::disk::{Call, HookedDisk, MemoryDisk};
use raft_store::{
    ChangePhase, FlushMode, LogIndex, MemberChange, MemberError, Newcomer, Peer, ProposeError, RaftConfig, Role,
    StartError,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_group_and_apply_the_same() {
    let cluster = Cluster::started(3).await;
    let texts = texts("first", 500);
    cluster.propose(&texts).await;
    cluster.has(&texts).await;

    let leader = cluster.leader().await;
    let status = cluster.nodes[leader].status();
    assert_eq!(status.role, Role::Leader);
    assert_eq!(status.members.len(), 3);
    assert!(status.members.iter().all(|member| member.voter && member.matched.is_some()), "{:?}", status.members);
    assert_eq!(status.waiting, None);
    let follower = (leader + 1) % 3;
    let refused = cluster.nodes[follower].group().propose(Bytes::from_static(b"no")).await;
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: Some(cluster.nodes[leader].group().node()) }));
    assert!(cluster.nodes[follower].group().read_barrier().await.is_err());
    // The body of an entry is read from the log of any node.
    let last = status.last.expect("entries");
    let payload = cluster.nodes[follower].group().payload(last).await.expect("readable");
    assert_eq!(payload.as_deref(), Some(&b"first-499"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_leads_at_once_and_keeps_its_rows() {
    let mut cluster = Cluster::new(1, |config| config.peers = Vec::new());
    cluster.start().await;
    let texts = texts("alone", 50);
    cluster.propose(&texts).await;
    cluster.has(&texts).await;
    let boot = cluster.nodes[0].group().boot();
    cluster.nodes[0].crash().await;
    cluster.nodes[0].start().await;
    cluster.has(&texts).await;
    assert!(cluster.nodes[0].group().boot() > boot);
    cluster.nodes[0].stop().await;
    cluster.nodes[0].start().await;
    cluster.has(&texts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_followed_by_another_and_catches_up_later() {
    let mut cluster = Cluster::started(3).await;
    let mut all = texts("before", 100);
    cluster.propose(&all).await;
    cluster.has(&all).await;
    let mut gaps = Vec::new();
    for round in 0..3 {
        let leader = cluster.leader().await;
        let term = cluster.nodes[leader].group().leadership().term;
        let since = Instant::now();
        cluster.nodes[leader].crash().await;
        let next = cluster.leader().await;
        gaps.push(since.elapsed());
        assert_ne!(next, leader);
        assert!(cluster.nodes[next].group().leadership().term > term);
        let more = texts(&format!("round-{round}"), 50);
        cluster.propose(&more).await;
        all.extend(more);
        cluster.has(&all).await;
        cluster.nodes[leader].start().await;
        cluster.has(&all).await;
    }
    eprintln!("leaderless for {gaps:?}");
    // Typical is the longest election wait and a little; the bound leaves room for a busy machine.
    gaps.sort();
    assert!(gaps[1] < Duration::from_millis(1500), "leaderless for {gaps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request_and_at_a_clean_stop() {
    let mut cluster = Cluster::started(3).await;
    let texts = texts("text", 20);
    cluster.propose(&texts).await;
    let leader = cluster.leader().await;
    let target = (leader + 1) % 3;
    let target_id = cluster.nodes[target].group().node();
    let since = Instant::now();
    let taken = cluster.nodes[leader].group().transfer_leadership(Some(target_id)).await;
    assert_eq!(taken, Ok(target_id));
    until("the target to lead", || cluster.nodes[target].group().leadership().leads).await;
    eprintln!("transfer took {:?}", since.elapsed());
    cluster.has(&texts).await;

    let since = Instant::now();
    cluster.nodes[target].stop().await;
    let stopped = since.elapsed();
    cluster.leader().await;
    eprintln!("clean stop took {stopped:?}, the next leader was there after {:?}", since.elapsed());
    cluster.has(&texts).await;
    cluster.nodes[target].start().await;
    cluster.has(&texts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_applied_is_there_after_all_nodes_crashed() {
    for flush in [FlushMode::Sync, FlushMode::Async] {
        let mut cluster = Cluster::new(3, |config| {
            config.flush = flush;
            config.state_flush_bytes = 16 << 10;
            config.state_flush_ms = 50;
        });
        cluster.start().await;
        let texts = texts("kept", 2000);
        cluster.propose(&texts).await;
        cluster.has(&texts).await;
        let rows = cluster.level().await;
        for node in &mut cluster.nodes {
            node.crash().await;
        }
        cluster.start().await;
        cluster.has(&texts).await;
        let ledger = |rows: Vec<(usize, Vec<u8>, Vec<u8>)>| -> Vec<_> {
            rows.into_iter().filter(|(table, ..)| *table < 2).collect()
        };
        assert!(ledger(cluster.level().await) == ledger(rows), "replay gives other rows ({flush:?})");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_stays_out_of_its_group() {
    let mut cluster = Cluster::started(3).await;
    let texts = texts("text", 20);
    cluster.propose(&texts).await;
    cluster.has(&texts).await;
    // The first label is the one that would form a group.
    cluster.nodes[0].crash().await;
    let folder = cluster.folder.path().join("n0");
    let aside = cluster.folder.path().join("aside");
    std::fs::rename(&folder, &aside).expect("put aside");
    cluster.nodes[0].start().await;
    until("the wiped node to see why", || {
        cluster.nodes[0].status().waiting.is_some_and(|why| why.contains("mqadmin replacePeer"))
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let status = cluster.nodes[0].status();
    assert_eq!((status.last, status.leader, status.role), (None, None, Role::Learner), "{status:?}");
    let waiting = status.waiting.expect("it waits");
    assert!(waiting.contains(&format!("--node {:x}", status.node)), "{waiting}");
    eprintln!("{waiting}");
    let leader = cluster.leader().await;
    assert_ne!(leader, 0);

    // With its own folder it is a member again.
    cluster.nodes[0].crash().await;
    std::fs::remove_dir_all(&folder).expect("removed");
    std::fs::rename(&aside, &folder).expect("put back");
    cluster.nodes[0].start().await;
    cluster.has(&texts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_and_peers_of_others_are_refused() {
    let mut cluster = Cluster::new(1, |config| config.peers = Vec::new());
    cluster.start().await;
    until("a leader", || cluster.nodes[0].group().leadership().leads).await;
    let Err(error) = cluster.nodes[0].try_start().await else { panic!("two processes in one folder") };
    assert!(matches!(error, StartError::Locked { .. }), "{error}");
    cluster.nodes[0].stop().await;
    let own = cluster.nodes[0].config.clone();
    for (change, what) in [
        (RaftConfig { cluster: "other".to_owned(), ..own.clone() }, "brokerClusterName"),
        (RaftConfig { group: "other".to_owned(), ..own.clone() }, "brokerName"),
        (RaftConfig { label: "other".to_owned(), ..own.clone() }, "label"),
    ] {
        cluster.nodes[0].config = change;
        let error = cluster.nodes[0].try_start().await.expect_err("a foreign folder");
        assert!(matches!(&error, StartError::Foreign { .. }) && error.to_string().contains(what), "{error}");
    }
    cluster.nodes[0].config = own;
    cluster.start().await;

    // Two nodes whose lists differ do not form a group, and say so.
    let mut cluster = Cluster::new(2, |_| {});
    let list = &mut cluster.nodes[1].config.peers;
    list.push(Peer { label: "n2".to_owned(), address: "127.0.0.1:1".to_owned() });
    cluster.start().await;
    until("n0 to see the other list", || {
        cluster.nodes[0].status().waiting.is_some_and(|why| why.contains("another list of peers"))
    })
    .await;
    assert_eq!(cluster.nodes[0].status().last, None);
}

/// Syncs of a disk that can be held up, and fail once they are given up.
#[derive(Debug, Clone, Default)]
struct Syncs {
    stalled: Arc<AtomicBool>,
    given_up: Arc<AtomicBool>,
}

impl Syncs {
    fn of(&self, disk: &MemoryDisk) -> HookedDisk {
        let syncs = self.clone();
        HookedDisk::new(Arc::new(disk.clone()), move |call| {
            while call == Call::SyncData && syncs.stalled.load(Ordering::SeqCst) {
                if syncs.given_up.load(Ordering::SeqCst) {
                    return Err(io::Error::other("the power is gone"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        })
    }

    fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::SeqCst);
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
    }
}

/// Rule I1: two peers commit while the third cannot sync; its rows must not get ahead of its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_never_ahead_of_the_local_log() {
    let mut cluster = Cluster::new(3, |config| {
        config.segment_bytes = 1 << 20;
        // Flushed at every chance, so that rows that should not be there would be on disk.
        config.state_flush_bytes = 1;
        config.state_flush_ms = 10;
    });
    let (disk, syncs) = (MemoryDisk::new(), Syncs::default());
    cluster.nodes[2].disk = Arc::new(syncs.of(&disk));
    cluster.start().await;
    if cluster.leader().await == 2 {
        let to = cluster.nodes[0].group().node();
        cluster.nodes[2].group().transfer_leadership(Some(to)).await.expect("hands over");
    }
    let mut all = texts("synced", 50);
    cluster.propose(&all).await;
    cluster.has(&all).await;

    syncs.stall(true);
    let before = cluster.nodes[2].applied.load(Ordering::SeqCst);
    let more = texts("unsynced", 50);
    cluster.propose(&more).await;
    all.extend(more);
    let leader = cluster.leader().await;
    let state = cluster.nodes[leader].group().state();
    until("two of three to commit", || payloads(&state).len() == all.len()).await;
    let last = cluster.nodes[leader].status().last;
    until("the stalled node to have all entries", || cluster.nodes[2].status().last == last).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(cluster.nodes[2].applied.load(Ordering::SeqCst) <= before + 1, "applied what it had not synced");

    // The power goes: nothing that was not synced is left of the log, and of the rows all that was written.
    let survived = disk.after_power_loss(&|_| false);
    syncs.give_up();
    cluster.nodes[2].crash().await;
    cluster.nodes[2].disk = Arc::new(survived);
    cluster.nodes[2].start().await;
    let status = cluster.nodes[2].status();
    assert_eq!(status.purged, None);
    cluster.has(&all).await;
    assert_eq!(cluster.nodes[2].status().purged, None);
}

/// The test above would notice if the rows did not wait.
#[cfg(feature = "test-faults")]
#[test]
fn without_the_gate_rows_get_ahead() {
    let output = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "rows_are_never_ahead_of_the_local_log"])
        .env(raft_store::log::faults::BREAK_VARIABLE, "apply_unsynced")
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("applied what it had not synced"), "{said}");
}

/// A node whose log cannot be written stops, and says so; the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_node() {
    let mut cluster = Cluster::new(3, |config| config.segment_bytes = 1 << 20);
    let syncs = Syncs::default();
    cluster.nodes[1].disk = Arc::new(syncs.of(&MemoryDisk::new()));
    cluster.start().await;
    let mut all = texts("good", 20);
    cluster.propose(&all).await;
    cluster.has(&all).await;
    syncs.give_up();
    syncs.stall(true);
    let victim = cluster.nodes[1].group().clone();
    // Whatever it is that is written next fails.
    let halted = tokio::spawn(async move { victim.halted().await });
    let more = texts("after", 20);
    let since = Instant::now();
    while !halted.is_finished() {
        assert!(since.elapsed() < PATIENCE, "the node does not stop");
        if let Some((_, node)) =
            cluster.running().find(|(number, node)| *number != 1 && node.group().leadership().leads)
        {
            let _ = node.group().propose(Bytes::from_static(b"poke")).await;
        } else {
            let _ = cluster.nodes[1].group().propose(Bytes::from_static(b"poke")).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reason = halted.await.expect("resolves");
    assert!(reason.contains("power is gone"), "{reason}");
    assert_eq!(cluster.nodes[1].group().propose(Bytes::from_static(b"no")).await, Err(ProposeError::Closed));
    cluster.nodes[1].crash().await;
    cluster.propose(&more).await;
    all.extend(more);
    let all: Vec<_> = all.into_iter().map(String::into_bytes).collect();
    let leader = cluster.leader().await;
    let state = cluster.nodes[leader].group().state();
    let kept = || payloads(&state).into_iter().filter(|payload| payload != b"poke").collect::<Vec<_>>();
    until("the texts", || kept().len() >= all.len()).await;
    assert!(kept() == all);
    cluster.level().await;
}

/// A node whose machine panics stops, instead of leading on without applying anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_panics_stops_the_node() {
    let mut cluster = Cluster::new(1, |config| config.peers = Vec::new());
    cluster.start().await;
    cluster.propose(&["panic".to_owned()]).await;
    let reason = tokio::time::timeout(PATIENCE, cluster.nodes[0].group().halted()).await.expect("it stops");
    assert!(reason.contains("panicked"), "{reason}");
    cluster.nodes[0].crash().await;
    // The entry is still there. Whether it is carried out before the start is over or, once a leader finds it
    // committed, after it, depends on whether the commit point had been written down.
    let reason = match cluster.nodes[0].try_start().await {
        Ok(()) => {
            let halted = tokio::time::timeout(PATIENCE, cluster.nodes[0].group().halted()).await;
            halted.expect("it stops again").to_string()
        }
        Err(error) => error.to_string(),
    };
    assert!(reason.contains("panicked"), "{reason}");
}

/// What is applied everywhere is trimmed everywhere: its files go, and nodes that crash afterwards go on from the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimmed_nodes_restart_replicate_and_elect() {
    for flush in [FlushMode::Sync, FlushMode::Async] {
        let mut cluster = Cluster::new(3, |config| {
            config.flush = flush;
            config.segment_bytes = 1 << 20;
            config.tail_cache_bytes = 256 << 10;
        });
        cluster.start().await;
        let mut all = Vec::new();
        for round in 0..3 {
            let big: Vec<String> =
                (0..200).map(|number| format!("{round}-{number}-{}", "x".repeat(16 << 10))).collect();
            cluster.propose(&big).await;
            all.extend(big);
            cluster.has(&all).await;
            let upto = LogIndex(cluster.nodes[0].status().applied.expect("applied").index - 20);
            for node in &cluster.nodes {
                let group = node.group();
                let before = group.log_use();
                assert!(group.trim(LogIndex(0)).await.expect("nothing to do") == 0);
                assert!(group.trim(LogIndex(u64::MAX)).await.is_err(), "what was not applied stays");
                assert!(group.trim(upto).await.expect("trimmed") > 1, "round {round}");
                let after = group.log_use();
                assert!(after.bytes < before.bytes && after.first > before.first, "{before:?} {after:?}");
                assert!(after.sealed.first().is_none_or(|file| file.end > upto), "{after:?}");
                assert!(group.payload(upto).await.expect("readable").is_some());
                assert_eq!(group.payload(LogIndex(2)).await.expect("readable"), None);
            }
            if round == 1 {
                for node in &mut cluster.nodes {
                    node.crash().await;
                }
                cluster.start().await;
            } else {
                let leader = cluster.leader().await;
                cluster.nodes[leader].crash().await;
                let more = texts(&format!("without-{round}"), 20);
                cluster.propose(&more).await;
                all.extend(more);
                cluster.nodes[leader].start().await;
            }
            cluster.has(&all).await;
        }
        for node in &mut cluster.nodes {
            node.stop().await;
        }
        cluster.start().await;
        cluster.has(&all).await;
    }
}

/// A follower that was away for more than what is kept in memory gets the entries from the leader's files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_catches_up_from_the_log_on_disk() {
    let mut cluster = Cluster::new(3, |config| {
        config.tail_cache_bytes = 256 << 10;
        config.segment_bytes = 2 << 20;
    });
    cluster.start().await;
    let leader = cluster.leader().await;
    let away = (leader + 1) % 3;
    cluster.nodes[away].crash().await;
    let big: Vec<String> = (0..400).map(|number| format!("{number}-{}", "x".repeat(32 << 10))).collect();
    cluster.propose(&big).await;
    cluster.has(&big).await;
    let since = Instant::now();
    cluster.nodes[away].start().await;
    cluster.has(&big).await;
    eprintln!("caught up {} MiB in {:?}", (400 * 32) >> 10, since.elapsed());
}

/// A wiped node gets the whole log, most of it from the leader's files, and its old place; the old disk has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_filled_and_takes_its_place() {
    let mut cluster = Cluster::new(3, |config| {
        config.tail_cache_bytes = 256 << 10;
        config.segment_bytes = 2 << 20;
    });
    cluster.start().await;
    let mut all: Vec<String> = (0..300).map(|number| format!("{number}-{}", "x".repeat(32 << 10))).collect();
    cluster.propose(&all).await;
    cluster.has(&all).await;
    let leader = cluster.leader().await;
    let wiped = (leader + 1) % 3;
    cluster.nodes[wiped].crash().await;
    let folder = cluster.nodes[wiped].config.data_dir.clone();
    let aside = cluster.folder.path().join("aside");
    std::fs::rename(&folder, &aside).expect("put aside");
    cluster.nodes[wiped].start().await;
    let newcomer = newcomer(&cluster.nodes[wiped]);

    let group = cluster.nodes[leader].group().clone();
    let mut told = Vec::new();
    let replace = MemberChange::Replace(newcomer.clone());
    let (one, two) = tokio::join!(
        group.change_members(replace.clone(), |progress| told.push(progress)),
        group.change_members(replace.clone(), |_| {})
    );
    assert!(one.is_ok_and(|done| done.changed));
    assert_eq!(two, Err(MemberError::Busy));
    assert!(told.first().is_some_and(|first| first.phase == ChangePhase::Checking));
    let filled = told.iter().rfind(|progress| progress.phase == ChangePhase::Filling).expect("it was filled");
    assert!(filled.delivered_bytes > 300 * (32 << 10), "{filled:?}");
    assert_eq!(cluster.voters().await, ["n0", "n1", "n2"]);
    assert!(!cluster.change(&replace).await.changed, "done already");
    let wrong = MemberChange::Add(Newcomer { node: 77, ..newcomer });
    let refused = group.change_members(wrong, |_| {}).await;
    assert!(matches!(&refused, Err(MemberError::Refused(why)) if why.contains("is a member already")), "{refused:?}");

    // With the other follower gone the new one is needed, and enough.
    cluster.nodes[(leader + 2) % 3].crash().await;
    let more = texts("after", 50);
    cluster.propose(&more).await;
    all.extend(more);
    cluster.has(&all).await;

    // The old disk comes back in the place of the new one: nobody calls it, it calls in vain, and learns why.
    cluster.nodes[(leader + 2) % 3].start().await;
    cluster.has(&all).await;
    let term = cluster.nodes[leader].group().leadership().term;
    cluster.nodes[wiped].crash().await;
    std::fs::remove_dir_all(&folder).expect("removed");
    std::fs::rename(&aside, &folder).expect("put back");
    cluster.nodes[wiped].start().await;
    until("the old disk to learn that it is none", || cluster.nodes[wiped].status().role == Role::Removed).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(cluster.nodes[wiped].status().waiting.is_some_and(|why| why.contains("has its place")));
    assert_eq!(cluster.nodes[leader].group().leadership().term, term, "the old disk disturbed the group");
}

/// A leader dies at any moment of a change: whoever leads next finishes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_cut_short_is_finished_by_the_next_leader() {
    let mut cluster = Cluster::new(4, |config| {
        if config.label != "n3" {
            config.peers.truncate(3);
        }
    });
    cluster.start().await;
    let mut all = texts("before", 50);
    cluster.propose(&all).await;
    let newcomer = newcomer(&cluster.nodes[3]);
    for (round, delay_ms) in [4, 12, 40, 250, 1_020].into_iter().enumerate() {
        for change in [MemberChange::Add(newcomer.clone()), MemberChange::Remove { label: "n3".to_owned(), node: None }]
        {
            let leader = cluster.leader().await;
            let group = cluster.nodes[leader].group().clone();
            let begun = change.clone();
            let changing = tokio::spawn(async move { group.change_members(begun, |_| {}).await });
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            cluster.nodes[leader].crash().await;
            changing.abort();
            let more = texts(&format!("round-{round}"), 10);
            cluster.propose(&more).await;
            all.extend(more);
            cluster.change(&change).await;
            let expected: &[&str] =
                if matches!(change, MemberChange::Add(_)) { &["n0", "n1", "n2", "n3"] } else { &["n0", "n1", "n2"] };
            assert_eq!(cluster.voters().await, expected);
            // The change's task had a handle, which must be gone before the folder is opened again.
            let _ = changing.await;
            cluster.nodes[leader].start().await;
            if expected.len() == 4 {
                cluster.has(&all).await;
            } else {
                until("the removed node to know", || cluster.nodes[3].status().role == Role::Removed).await;
            }
        }
    }
    cluster.nodes[3].crash().await;
    cluster.has(&all).await;
}

/// The leader dies when the others have the first of the two entries that a change of voters takes, and not the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_voters_that_is_half_done_is_finished() {
    let mut cluster = Cluster::new(4, |config| {
        config.segment_bytes = 1 << 20;
        if config.label != "n3" {
            config.peers.truncate(3);
        }
    });
    let syncs: Vec<Syncs> = (0..3).map(|_| Syncs::default()).collect();
    for (node, syncs) in cluster.nodes.iter_mut().zip(&syncs) {
        node.disk = Arc::new(syncs.of(&MemoryDisk::new()));
    }
    cluster.start().await;
    let mut all = texts("before", 50);
    cluster.propose(&all).await;
    let leader = cluster.leader().await;
    let followers: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    let change = MemberChange::Add(newcomer(&cluster.nodes[3]));

    // Nothing is durable on them from the moment that the voters are about to change: no majority confirms it.
    let stalled: Vec<Syncs> = followers.iter().map(|number| syncs[*number].clone()).collect();
    let (group, begun, stalls) = (cluster.nodes[leader].group().clone(), change.clone(), stalled.clone());
    let changing = tokio::spawn(async move {
        let stall = |progress: raft_store::ChangeProgress| {
            if progress.phase == ChangePhase::Voting {
                stalls.iter().for_each(|syncs| syncs.stall(true));
            }
        };
        group.change_members(begun, stall).await
    });
    let has_it = |number: usize| {
        cluster.nodes[number].group().members().iter().any(|member| member.label == "n3" && member.voter)
    };
    until("the followers to have the change", || followers.iter().all(|number| has_it(*number))).await;
    cluster.nodes[leader].crash().await;
    changing.abort();
    stalled.iter().for_each(|syncs| syncs.stall(false));

    assert!(cluster.change(&change).await.changed, "there was something to finish");
    assert!(!cluster.change(&change).await.changed);
    assert_eq!(cluster.voters().await, ["n0", "n1", "n2", "n3"]);
    let _ = changing.await;
    cluster.nodes[leader].start().await;
    let more = texts("after", 50);
    cluster.propose(&more).await;
    all.extend(more);
    cluster.has(&all).await;
}
