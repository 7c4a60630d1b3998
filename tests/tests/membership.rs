//! The members of a broker group change while clients are at work: a wiped node is replaced, a group grows from one
//! member to five and shrinks to three, what is unsafe is refused, and a removed node disturbs nobody. Real processes,
//! and `mqadmin` with the lines that the nodes themselves print.

use std::fs;
use std::net::TcpStream;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use raftmq_proto::admin::{ChangeMembersRequest, GroupStatusResponse};
use raftmq_proto::rocketmq::telemetry_command::Command;
use raftmq_tests::client::{Producer, eventually};
use raftmq_tests::cluster::{Cluster, LEADER_WITHIN, Options};
use raftmq_tests::invariant::{self, Verdict};
use raftmq_tests::session::Session;
use raftmq_tests::workload::{self, Workload};

/// A node that lost its disk, or was removed, says so within this time.
const SAID_WITHIN: Duration = Duration::from_secs(15);

async fn run(cluster: &Cluster, line: &[String], more: &[&str]) -> Result<Output> {
    let words: Vec<&str> = line.iter().map(String::as_str).chain(more.iter().copied()).collect();
    cluster.mqadmin(&words).await
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn done(output: &Output, part: &str) -> Result<()> {
    ensure!(output.status.success() && text(output).contains(part), "{part:?} is not what came: {}", text(output));
    Ok(())
}

fn refused(output: &Output, part: &str) -> Result<()> {
    ensure!(!output.status.success() && text(output).contains(part), "{part:?} is not what came: {}", text(output));
    Ok(())
}

/// Labels of the voters, and whether nobody else is a member, as the leader says.
async fn voters(cluster: &mut Cluster) -> Result<(Vec<String>, bool)> {
    let status = leader_status(cluster).await?;
    let voters = status.members.iter().filter(|member| member.voter).map(|member| member.label.clone()).collect();
    Ok((voters, status.members.iter().all(|member| member.voter)))
}

async fn leader_status(cluster: &mut Cluster) -> Result<GroupStatusResponse> {
    let leader = cluster.leader(0).await?;
    cluster.status(leader).await
}

async fn has_voters(cluster: &mut Cluster, labels: &[&str]) -> Result<()> {
    let (voters, alone) = voters(cluster).await?;
    ensure!(voters == labels && alone, "the voters are {voters:?}, and nobody else is a member: {alone}");
    Ok(())
}

/// Rewrites the list of peers of a node that does not run.
fn set_peers(cluster: &Cluster, number: usize, peers: &[usize]) -> Result<()> {
    let peers: Vec<String> = peers
        .iter()
        .map(|peer| {
            let node = &cluster.nodes[*peer];
            format!("{}-{}", node.label, node.peer)
        })
        .collect();
    let config = &cluster.nodes[number].config;
    let lines: Vec<String> = fs::read_to_string(config)?
        .lines()
        .map(|line| match line.starts_with("dLegerPeers") {
            true => format!("dLegerPeers = {}", peers.join(";")),
            false => line.to_owned(),
        })
        .collect();
    Ok(fs::write(config, lines.join("\n"))?)
}

/// A node loses its disk under load and is replaced; afterwards the group needs it, and it is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_replaced_under_load() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    let leader = cluster.leader(0).await?;
    let wiped = (leader + 1) % 3;
    let before = cluster.status(wiped).await?.node;
    let since = workload
        .fault(async || {
            cluster.kill(wiped);
            cluster.wipe(wiped)?;
            cluster.start_node(wiped)?;
            let line = cluster.admission(wiped, "replacePeer").await?;
            let since = Instant::now();
            done(&run(&cluster, &line, &["-y"]).await?, "is node")?;
            Ok(since.elapsed())
        })
        .await?;
    println!("replaced in {since:?}");
    has_voters(&mut cluster, &["n0", "n1", "n2"]).await?;
    let after = cluster.status(wiped).await?;
    ensure!(after.node != before && after.role == "follower", "it is node {:x} as {}", after.node, after.role);
    // Without it the two that are left would be no majority.
    cluster.kill(leader);
    cluster.leader_other_than(0, Some(leader), LEADER_WITHIN).await?;
    workload.acknowledged(invariant::ACKNOWLEDGED_MIN, LEADER_WITHIN).await?;
    cluster.start_node(leader)?;
    workload.finish().await?.judge("a wiped node replaced", &cluster).await
}

/// The same once retention took the beginning of the log: the node is filled with rows and entries by the leader, and
/// the leader that does it dies on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_replaced_after_a_trim() -> Result<()> {
    const FLOOD: &str = "flood";
    let settings = vec![
        ("fileReservedSize".into(), (96 << 20).to_string()),
        ("fillBytesPerSecondMax".into(), (8 << 20).to_string()),
    ];
    let mut cluster = Cluster::start(Options { segment_bytes: Some(8 << 20), settings, ..Options::default() }).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    cluster.create_topic(FLOOD, 4).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    // More than is kept. What goes from now on is of these messages, and none that the consumers below wait for.
    let producer = Producer::new(&cluster.access(0), &[FLOOD])?;
    let body = bytes::Bytes::from(vec![b'x'; 64 << 10]);
    for batch in 0..140 {
        let ids: Vec<String> = (0..16).map(|at| format!("{batch}-{at}")).collect();
        let sends = ids.iter().map(|id| producer.send(FLOOD, id, None, body.clone()));
        futures::future::join_all(sends).await;
    }
    let trimmed = async || (0..3).all(|node| cluster.log(node).contains("segments of the log were removed"));
    eventually("every node removes what the log may not keep", Duration::from_secs(45), trimmed).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    let leader = cluster.leader(0).await?;
    let wiped = (leader + 1) % 3;
    let before = cluster.status(wiped).await?.node;
    let since = workload
        .fault(async || {
            cluster.kill(wiped);
            cluster.wipe(wiped)?;
            cluster.start_node(wiped)?;
            let line = cluster.admission(wiped, "replacePeer").await?;
            let since = Instant::now();
            let replaced = {
                let command = run(&cluster, &line, &["-y"]);
                let dies = async {
                    let begun = async || cluster.log(wiped).contains("a leader fills this node");
                    eventually("the node is filled", SAID_WITHIN, begun).await?;
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                    cluster.begin_to_kill(leader)
                };
                let (replaced, killed) = tokio::join!(command, dies);
                killed?;
                replaced?
            };
            cluster.kill(leader);
            cluster.start_node(leader)?;
            if !replaced.status.success() {
                // With two of three there was no majority for a while; the same line finishes it.
                cluster.leader(0).await?;
                cluster.caught_up(0, LEADER_WITHIN).await.ok();
                done(&run(&cluster, &line, &["-y"]).await?, "is node")?;
            }
            Ok(since.elapsed())
        })
        .await?;
    println!("replaced in {since:?}");
    has_voters(&mut cluster, &["n0", "n1", "n2"]).await?;
    let after = cluster.status(wiped).await?;
    ensure!(after.node != before, "it is node {:x} as {}", after.node, after.role);
    let leader = cluster.leader(0).await?;
    let needless = if leader == wiped { (wiped + 1) % 3 } else { leader };
    cluster.kill(needless);
    cluster.leader_other_than(0, Some(needless), LEADER_WITHIN).await?;
    workload.acknowledged(invariant::ACKNOWLEDGED_MIN, LEADER_WITHIN).await?;
    cluster.start_node(needless)?;
    workload.finish().await?.judge("a wiped node replaced after a trim", &cluster).await
}

/// Adds a node that was started for the purpose.
async fn add(cluster: &mut Cluster, number: usize) -> Result<()> {
    cluster.start_node(number)?;
    let line = cluster.admission(number, "addPeer").await?;
    done(&run(cluster, &line, &[]).await?, "is a member")
}

/// One member, three, five, three: under load, and with a leader that is killed in the middle of a change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_grows_and_shrinks_under_load() -> Result<()> {
    let mut cluster = Cluster::prepare(Options { nodes: 5, slow_disks: true, ..Options::default() }).await?;
    for number in 0..5 {
        let peers: Vec<usize> = (0..=number).collect();
        set_peers(&cluster, number, &peers)?;
    }
    cluster.options.nodes = 1;
    for number in 0..2 {
        cluster.start_namesrv(number)?;
    }
    cluster.start_node(0)?;
    cluster.leader(0).await?;
    let options = workload::Options::default();
    cluster.create_topic(&options.topic, 8).await?;
    let workload = Workload::start(&cluster.access(0), options).await?;
    workload
        .fault(async || {
            add(&mut cluster, 1).await?;
            add(&mut cluster, 2).await?;
            cluster.options.nodes = 3;
            has_voters(&mut cluster, &["n0", "n1", "n2"]).await?;

            // What the fourth gets is not on its disk soon: the leader dies while it is filled.
            cluster.delay_syncs(3, Duration::from_millis(400))?;
            cluster.start_node(3)?;
            let line = cluster.admission(3, "addPeer").await?;
            let leader = cluster.leader(0).await?;
            let (added, killed) = {
                let command = run(&cluster, &line, &[]);
                let learns = async {
                    let begun = async || {
                        let status = cluster.status(leader).await;
                        status.is_ok_and(|status| status.members.iter().any(|member| member.label == "n3"))
                    };
                    eventually("the fourth learns", SAID_WITHIN, begun).await?;
                    cluster.begin_to_kill(leader)?;
                    // It may have its vote already. The two others then need it, and whoever takes longer for a sync
                    // than a candidate waits for an answer cannot give it.
                    cluster.delay_syncs(3, Duration::ZERO)
                };
                tokio::join!(command, learns)
            };
            killed?;
            cluster.kill(leader);
            done(&added?, "n3 is a member")?;
            cluster.start_node(leader)?;
            has_voters(&mut cluster, &["n0", "n1", "n2", "n3"]).await?;
            // Run again, it finds everything done.
            done(&run(&cluster, &line, &["-o", "json"]).await?, "\"changed\": false")?;
            add(&mut cluster, 4).await?;
            cluster.options.nodes = 5;
            has_voters(&mut cluster, &["n0", "n1", "n2", "n3", "n4"]).await?;

            // A follower goes, and then whoever leads.
            let follower = (cluster.leader(0).await? + 1) % 5;
            for leaves in [Some(follower), None] {
                let leaves = match leaves {
                    Some(follower) => follower,
                    None => cluster.leader(0).await?,
                };
                let label = format!("n{leaves}");
                let stays = cluster.running(0).into_iter().find(|number| *number != leaves).context("others stay")?;
                let mut sessions = Vec::new();
                for number in [leaves, stays] {
                    sessions.push(Session::producer(cluster.nodes[number].grpc, &[]).await?);
                }
                let remove = ["removePeer", "-c", "RaftCluster", "-b", "RaftNode00", "-l", &label, "-y"];
                done(&cluster.mqadmin(&remove).await?, "is no member")?;
                let removed = async || cluster.status(leaves).await.is_ok_and(|status| status.role == "removed");
                eventually("the removed node knows", SAID_WITHIN, removed).await?;
                ensure!(TcpStream::connect(cluster.nodes[leaves].grpc).is_err(), "a removed node takes clients' calls");
                ensure!(cluster.process(leaves).is_some_and(|process| process.runs()), "a removed node ended");
                for session in &mut sessions {
                    let told = session.told(SAID_WITHIN).await?;
                    ensure!(matches!(told, Some(Command::ReconnectEndpointsCommand(_))), "told {told:?}");
                }
                done(&cluster.mqadmin(&remove).await?, "Nothing had to be done")?;
                cluster.kill(leaves);
            }
            cluster.options.nodes = 3;
            let left = cluster.running(0).iter().map(|number| format!("n{number}")).collect::<Vec<_>>();
            let labels: Vec<&str> = left.iter().map(String::as_str).collect();
            has_voters(&mut cluster, &labels).await
        })
        .await?;
    workload.finish().await?.judge("one, three, five, three", &cluster).await
}

/// What would leave the group without a majority, or is not what was meant, is refused with the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsafe_change_is_refused() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic("refusals", 4).await?;
    let leader = cluster.leader(0).await?;
    let (wiped, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let other_label = format!("n{other}");
    cluster.kill(wiped);
    cluster.wipe(wiped)?;
    cluster.start_node(wiped)?;
    let line = cluster.admission(wiped, "replacePeer").await?;

    refused(&run(&cluster, &line, &[]).await?, "-y")?;
    let remove = ["removePeer", "-c", "RaftCluster", "-b", "RaftNode00", "-l", &other_label, "-y"];
    refused(&cluster.mqadmin(&remove).await?, "2 must for the group to go on")?;
    let with = |flag: &str, value: &str| {
        let mut line = line.clone();
        let at = line.iter().position(|word| word == flag).context("the line has the flag")?;
        value.clone_into(&mut line[at + 1]);
        Ok::<_, anyhow::Error>(line)
    };
    refused(&run(&cluster, &with("--disk", "0123456789abcdef0123456789abcdef")?, &["-y"]).await?, "on disk")?;
    refused(&run(&cluster, &with("--node", "77")?, &["-y"]).await?, "not node 77")?;
    refused(&run(&cluster, &with("-c", "Elsewhere")?, &["-y"]).await?, "no cluster is called Elsewhere")?;
    refused(&run(&cluster, &with("-b", "Elsewhere")?, &["-y"]).await?, "no broker group is called Elsewhere")?;
    refused(&run(&cluster, &with("--address", "127.0.0.1:1")?, &["-y"]).await?, "no node answers at 127.0.0.1:1")?;
    refused(&run(&cluster, &with("-l", "n9")?, &["-y"]).await?, "no voter is labelled n9")?;
    let mut add = line.clone();
    "addPeer".clone_into(&mut add[0]);
    refused(&run(&cluster, &add, &[]).await?, "is a member already")?;
    let elsewhere = ChangeMembersRequest { cluster: "Elsewhere".into(), ..ChangeMembersRequest::default() };
    let answer = cluster.admin_client(leader).await?.change_members(elsewhere).await;
    ensure!(answer.is_err_and(|status| status.message().contains("nothing was changed")), "another cluster's change");
    has_voters(&mut cluster, &["n0", "n1", "n2"]).await?;

    // With the other voter down too there is no majority to decide anything: the leader says so, or has noticed already
    // and leads no more.
    cluster.kill(other);
    let output = run(&cluster, &line, &["-y"]).await?;
    let why = if text(&output).contains("had no leader") {
        "a majority of its voters must be up"
    } else {
        "of the voters n0, n1, n2 only"
    };
    refused(&output, why)?;
    cluster.start_node(other)?;
    cluster.leader(0).await?;
    done(&run(&cluster, &line, &["-y"]).await?, "is node")?;
    done(&run(&cluster, &line, &["-y"]).await?, "Nothing had to be done")?;
    has_voters(&mut cluster, &["n0", "n1", "n2"]).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    match invariant::replicas_agree(&cluster, 0, 3).await {
        Verdict::True => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}

/// A node that was removed while it was down comes back with what it had: it disturbs nobody, says what to do, and can
/// be admitted again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_disturbs_nobody() -> Result<()> {
    let mut cluster = Cluster::start(Options::default()).await?;
    cluster.create_topic("removal", 4).await?;
    let leader = cluster.leader(0).await?;
    let removed = (leader + 1) % 3;
    let label = format!("n{removed}");
    cluster.kill(removed);
    let remove = ["removePeer", "-c", "RaftCluster", "-b", "RaftNode00", "-l", &label, "-y"];
    done(&cluster.mqadmin(&remove).await?, "(0 may be down)")?;
    let term = cluster.status(leader).await?.term;

    cluster.start_node(removed)?;
    let knows = async || cluster.status(removed).await.is_ok_and(|status| status.role == "removed");
    eventually("the removed node knows", SAID_WITHIN, knows).await?;
    let line = cluster.admission(removed, "addPeer").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = cluster.status(leader).await?;
    ensure!((status.term, status.role.as_str()) == (term, "leader"), "term {term} became {}", status.term);
    ensure!(TcpStream::connect(cluster.nodes[removed].grpc).is_err(), "a removed node takes clients' calls");
    ensure!(cluster.process(removed).is_some_and(|process| process.runs()), "a removed node ended");
    ensure!(cluster.status(removed).await?.trouble.contains("has no vote"), "its status does not say what is wrong");
    cluster.create_topic_at(leader, "without-it", 4).await?;

    done(&run(&cluster, &line, &[]).await?, "is a member")?;
    let serves = async || TcpStream::connect(cluster.nodes[removed].grpc).is_ok();
    eventually("the node serves clients again", SAID_WITHIN, serves).await?;
    cluster.caught_up(0, LEADER_WITHIN).await?;
    match invariant::replicas_agree(&cluster, 0, 3).await {
        Verdict::True => Ok(()),
        other => anyhow::bail!("{other:?}"),
    }
}
