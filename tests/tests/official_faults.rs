//! Official clients while brokers die, hang and restart, and while there is no name server: none has to be restarted,
//! what was answered OK comes, and how long each went without an answer or a message is printed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use raftmq_tests::cluster::LEADER_WITHIN;
use raftmq_tests::official::{Bench, Client, Needs, PATIENCE, Program, Transport, judge::number};
use serde_json::Value;

/// Messages that a client sends and gets before a fault, and again after it.
const MESSAGES: u64 = 200;

/// How soon a program says how far it is.
const SAYS_WITHIN: Duration = Duration::from_secs(20);

/// A client is back at work after a fault within this.
const BACK_WITHIN: Duration = Duration::from_secs(90);

/// How long a node hangs when a client does not go on without it.
const HANGS_FOR: Duration = Duration::from_secs(20);

/// No client is without an answer to a send for longer when a node dies: an election, the client's own timeout of a
/// request, and a busy machine of two cores.
const SEND_GAP_MS: u64 = 10_000;

/// What a fault did to a client.
struct Gaps {
    fault: String,
    client: Client,
    send_ms: u64,
    read_ms: u64,
    failed: u64,
}

/// Clients that send and receive without a pause.
struct Carriers {
    bench: Bench,
    programs: Vec<Program>,
    gaps: Vec<Gaps>,
}

impl Carriers {
    /// Starts a program for each of `clients`, whose access point is the leader, and waits until all are under load.
    async fn start(clients: &[Client]) -> Result<Self> {
        let bench = Bench::start().await?;
        let mut programs = Vec::new();
        for client in clients {
            // Over TLS Go's client cannot be given more than one address of a queue.
            let transport = match client {
                Client::Java | Client::Node => Transport::Tls,
                _ => Transport::Plain,
            };
            let needs = Needs { queues: Some(8), ..Needs::default() };
            programs.push(bench.run(*client, "carry", 0, transport, MESSAGES, needs).await?);
        }
        for program in &mut programs {
            program.line("UNDER_LOAD", PATIENCE).await?;
        }
        Ok(Self { bench, programs, gaps: Vec::new() })
    }

    /// What a program says of itself; from "mark" on its gaps count anew.
    async fn look(program: &mut Program, word: &str) -> Result<Value> {
        program.tell(word).await?;
        program.object("SO_FAR", SAYS_WITHIN).await
    }

    /// Marks the beginning of a fault: how far each program is.
    async fn mark(&mut self) -> Result<Vec<Value>> {
        let mut marks = Vec::new();
        for program in &mut self.programs {
            marks.push(Self::look(program, "mark").await?);
        }
        Ok(marks)
    }

    /// Waits until each program has sent and got [`MESSAGES`] since the mark; the error names all that did not.
    async fn progress(&mut self, fault: &str, marks: &[Value], within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        let mut stuck = Vec::new();
        for (program, mark) in self.programs.iter_mut().zip(marks) {
            loop {
                let now = Self::look(program, "look").await?;
                let more = |field| number(&now, field).saturating_sub(number(mark, field));
                if more("sent") >= MESSAGES && more("came") >= MESSAGES {
                    break;
                }
                if Instant::now() > deadline {
                    stuck.push(format!("{}: {mark}, {now}", program.name));
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        ensure!(stuck.is_empty(), "{fault}: in {within:?} these do not go on:\n{}", stuck.join("\n"));
        Ok(())
    }

    /// Notes what happened to each program since the mark.
    async fn note(&mut self, fault: &str, marks: &[Value]) -> Result<()> {
        for (program, mark) in self.programs.iter_mut().zip(marks) {
            let now = Self::look(program, "look").await?;
            self.gaps.push(Gaps {
                fault: fault.to_string(),
                client: program.client,
                send_ms: number(&now, "send_gap_ms"),
                read_ms: number(&now, "read_gap_ms"),
                failed: number(&now, "failed").saturating_sub(number(mark, "failed")),
            });
        }
        Ok(())
    }

    /// kill -9 of a node; the clients go on without it, and with it again.
    async fn kill(&mut self, node: usize) -> Result<()> {
        let leads = self.bench.cluster.leader(0).await? == node;
        let fault = format!("kill -9 of a {}", if leads { "leader" } else { "follower" });
        let marks = self.mark().await?;
        self.bench.cluster.kill(node);
        self.bench.cluster.leader_other_than(0, Some(node), LEADER_WITHIN).await?;
        self.progress(&fault, &marks, BACK_WITHIN).await?;
        self.note(&fault, &marks).await?;
        self.bench.cluster.start_node(node)?;
        self.bench.cluster.has_all_so_far(0, LEADER_WITHIN).await
    }

    /// SIGSTOP of a node until every client goes on without it, and for [`HANGS_FOR`] at most: nobody closes the
    /// connections of a process that hangs, and a client that has no others notices nothing before its keep-alive, which
    /// takes minutes. Such a client waits, and goes on with the node.
    async fn pause(&mut self, node: usize) -> Result<()> {
        let leads = self.bench.cluster.leader(0).await? == node;
        let fault = format!("SIGSTOP of a {}", if leads { "leader" } else { "follower" });
        let marks = self.mark().await?;
        self.bench.cluster.pause(node)?;
        if let Err(waiting) = self.progress(&fault, &marks, HANGS_FOR).await {
            println!("{waiting:#}");
        }
        self.bench.cluster.resume(node)?;
        let marks_now = self.marks_now().await?;
        self.progress(&fault, &marks_now, BACK_WITHIN).await?;
        self.note(&fault, &marks).await?;
        self.bench.cluster.has_all_so_far(0, LEADER_WITHIN).await
    }

    /// A clean end and a new start of one node after the other.
    async fn rolling_restart(&mut self) -> Result<()> {
        let fault = "rolling restart";
        let marks = self.mark().await?;
        for node in 0..3 {
            self.bench.cluster.stop(node, LEADER_WITHIN)?;
            self.bench.cluster.start_node(node)?;
            self.bench.cluster.has_all_so_far(0, LEADER_WITHIN).await?;
        }
        let now = self.marks_now().await?;
        self.progress(fault, &now, BACK_WITHIN).await?;
        self.note(fault, &marks).await
    }

    async fn marks_now(&mut self) -> Result<Vec<Value>> {
        let mut marks = Vec::new();
        for program in &mut self.programs {
            marks.push(Self::look(program, "look").await?);
        }
        Ok(marks)
    }

    /// Both name servers are gone, and come back knowing nothing.
    async fn name_servers(&mut self) -> Result<()> {
        let fault = "no name server";
        let marks = self.mark().await?;
        for number in 0..self.bench.cluster.namesrvs.len() {
            self.bench.cluster.kill_namesrv(number);
        }
        self.progress(fault, &marks, BACK_WITHIN).await?;
        for number in 0..self.bench.cluster.namesrvs.len() {
            self.bench.cluster.start_namesrv(number)?;
        }
        self.note(fault, &marks).await
    }

    /// Ends the sends; everything that was answered OK must come. Prints the gaps, and holds them to their bound.
    async fn end(mut self) -> Result<()> {
        for program in &mut self.programs {
            program.tell("end").await?;
        }
        for gap in &self.gaps {
            let Gaps { fault, client, send_ms, read_ms, failed } = gap;
            println!(
                "{fault}: {client} without an answer for {send_ms} ms, a message for {read_ms} ms, {failed} failed"
            );
        }
        let judge = |name: &str, result: &Value| {
            println!("{name}: {result}");
            ensure!(number(result, "missing") == 0, "{name}: messages that were answered OK did not come: {result}");
            Ok(())
        };
        self.bench.judge(self.programs, judge).await?;
        for Gaps { fault, client, send_ms, .. } in &self.gaps {
            let bounded = !fault.starts_with("SIGSTOP");
            ensure!(!bounded || *send_ms <= SEND_GAP_MS, "{fault}: {client} waited {send_ms} ms for an answer");
        }
        Ok(())
    }
}

/// The leader is the access point of each client and dies under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_client_carries_on_when_the_leader_dies() -> Result<()> {
    let mut carriers = Carriers::start(&Client::EVERY).await?;
    let leader = carriers.bench.cluster.leader(0).await?;
    let killed = carriers.kill(leader).await;
    killed.with_context(|| carriers.bench.cluster.log_tails(0))?;
    carriers.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn each_client_carries_on_when_one_node_after_the_other_dies() -> Result<()> {
    let mut carriers = Carriers::start(&Client::EVERY).await?;
    for node in 0..3 {
        let killed = carriers.kill(node).await;
        killed.with_context(|| carriers.bench.cluster.log_tails(0))?;
    }
    carriers.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn each_client_carries_on_when_one_node_after_the_other_hangs() -> Result<()> {
    let mut carriers = Carriers::start(&Client::EVERY).await?;
    for node in 0..3 {
        let paused = carriers.pause(node).await;
        paused.with_context(|| carriers.bench.cluster.log_tails(0))?;
    }
    carriers.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "real programs for minutes: make chaos runs it"]
async fn each_client_carries_on_through_a_rolling_restart_and_without_name_servers() -> Result<()> {
    let mut carriers = Carriers::start(&Client::EVERY).await?;
    let restarted = carriers.rolling_restart().await;
    restarted.with_context(|| carriers.bench.cluster.log_tails(0))?;
    let alone = carriers.name_servers().await;
    alone.with_context(|| carriers.bench.cluster.log_tails(0))?;
    carriers.end().await
}
