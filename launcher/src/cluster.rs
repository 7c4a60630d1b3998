//! `up`, `status`, `kill-leader` and `wipe`: the commands around a running local cluster.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use raftmq_server::shutdown::Shutdown;
use tokio::{
    sync::mpsc,
    time::{interval, sleep},
};

use crate::{
    layout::Layout,
    status::{self, LeaderView, align},
    supervisor::{self, Event, Programs, Supervisor},
};

/// How often the supervisor looks whether the leader has changed.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Until the next leader.
const ELECTION_MAX: Duration = Duration::from_secs(30);

/// Until a wiped node is started again and has asked the others.
const ADMISSION_MAX: Duration = Duration::from_secs(60);

/// Starts the cluster and stays with it until a signal comes.
pub async fn up(data: &Path, free_ports: bool) -> anyhow::Result<()> {
    let programs = Programs::beside_this_one()?;
    let layout = match Layout::read(data) {
        // Members are known by their addresses: a group that exists keeps them.
        Ok(before) => {
            let dashboard = before.dashboard.or_else(|| Layout::standard(data).dashboard);
            Layout { data: data.to_owned(), dashboard, ..before }
        }
        Err(_) if free_ports => Layout::on_free_ports(data)?,
        Err(_) => Layout::standard(data),
    };
    let all = layout.clone();
    let shutdown = Shutdown::on_signals_or_else(move || supervisor::kill_all(&all))?;
    let started = Instant::now();
    let (events, mut heard) = mpsc::channel(64);
    let supervisor = Supervisor::start(&layout, &programs, events)?;
    println!("{}", overview(&layout));

    let mut watch = interval(WATCH_EVERY);
    let mut leader: Option<LeaderView> = None;
    let mut ready = false;
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            Some(event) = heard.recv() => tell(&layout, event),
            _ = watch.tick() => {
                let now = status::look(&layout).await.leader();
                if now == leader {
                    continue;
                }
                leader = now;
                match now {
                    Some(now) => println!("{} leads term {}", layout.brokers[now.member].label, now.term),
                    None => println!("no leader"),
                }
                if !ready && now.is_some() {
                    ready = true;
                    println!("ready after {:.1} s\n\n{}", started.elapsed().as_secs_f64(), endpoints(&layout, &programs));
                }
            }
        }
    }
    println!("stopping brokers, then name servers");
    // Their last events have no reader any more and must not hold them up.
    drop(heard);
    supervisor.stop().await;
    println!("stopped; data stays in {}", layout.data.display());
    Ok(())
}

/// Prints what each node says of itself.
pub async fn status(data: &Path) -> anyhow::Result<()> {
    let layout = Layout::read(data)?;
    print!("{}", status::look(&layout).await.table(&layout));
    Ok(())
}

/// Kills the leader, as a power switch would, and waits for the next one.
pub async fn kill_leader(data: &Path) -> anyhow::Result<()> {
    let layout = Layout::read(data)?;
    let leader = status::look(&layout).await.leader().context("no node leads: is the cluster running?")?;
    let label = &layout.brokers[leader.member].label;
    let killed_at = Instant::now();
    let pid = supervisor::kill(&layout, label)?;
    println!("kill -9 {label} (process {pid}), which led term {}", leader.term);
    let next = status::leader_after(&layout, leader.term, ELECTION_MAX).await?;
    println!(
        "{} leads term {} since {} ms after the kill; the supervisor starts {label} again\n",
        layout.brokers[next.member].label,
        next.term,
        killed_at.elapsed().as_millis()
    );
    print!("{}", status::look(&layout).await.table(&layout));
    Ok(())
}

/// Kills a node and deletes what it has on disk, as a broken disk would, and says how to replace it.
pub async fn wipe(data: &Path, label: &str) -> anyhow::Result<()> {
    let layout = Layout::read(data)?;
    let broker = layout.brokers.iter().find(|broker| broker.label == label);
    let broker = broker.with_context(|| format!("the cluster has no broker node {label}"))?;
    let programs = Programs::beside_this_one()?;
    let pid = supervisor::kill(&layout, label)?;
    let folder = layout.data.join(&broker.label);
    // The supervisor pauses before it starts the node again, for longer than this takes.
    fs::remove_dir_all(&folder).with_context(|| format!("cannot delete {}", folder.display()))?;
    println!("kill -9 {label} (process {pid}), and its folder {} is gone", folder.display());
    let deadline = Instant::now() + ADMISSION_MAX;
    let line = loop {
        if let Some(line) = status::look(&layout).await.admission(label) {
            break line;
        }
        if Instant::now() > deadline {
            bail!("{label} does not ask to be admitted; see its log in {}", layout.data.join("logs").display());
        }
        sleep(WATCH_EVERY).await;
    };
    println!("it is back, empty, and stays out of its group until it is admitted; the others go on. Admit it by:\n");
    let first = layout.name_server_addresses().split(';').next().unwrap_or_default().to_owned();
    println!("{}{} -n {first}", programs.path("mqadmin").display(), line.trim_start_matches("mqadmin"));
    Ok(())
}

fn overview(layout: &Layout) -> String {
    let mut rows = vec![["process", "listens on 127.0.0.1", "log"].map(str::to_owned)];
    for process in layout.processes() {
        let ports = process.ports.iter().map(|(what, port)| format!("{port} {what}").trim_end().to_owned());
        rows.push([process.label.clone(), ports.collect::<Vec<_>>().join(", "), process.log.display().to_string()]);
    }
    format!("local RaftMQ cluster, data in {}\n\n{}", layout.data.display(), align(&rows))
}

fn endpoints(layout: &Layout, programs: &Programs) -> String {
    let first = layout.name_server_addresses().split(';').next().unwrap_or_default().to_owned();
    let dashboard = layout.dashboard_url().unwrap_or_default();
    let rows = [
        ["  dashboard", &dashboard],
        ["  clients", &layout.endpoints()],
        ["  name servers", &layout.name_server_addresses()],
        ["  mqadmin", &format!("{} clusterList -n {first}", programs.path("mqadmin").display())],
        ["  who leads", "make status"],
        ["  kill the leader", "make kill-leader"],
        ["  stop", "Ctrl-C"],
    ];
    align(&rows.map(|row| row.map(str::to_owned)))
}

fn tell(layout: &Layout, event: Event) {
    match event {
        Event::Started { label, pid, again } => {
            println!("{label} runs{}, process {pid}", if again { " again" } else { "" });
        }
        Event::Died { label, how, restart_in, last_words } => {
            println!("{label} {how}; it is started again in {} s", restart_in.as_secs());
            for line in last_words {
                println!("    {line}");
            }
        }
        Event::CannotStart { label, error } => {
            println!("{label} cannot start: {error}; see {}", layout.data.join("logs").display());
        }
    }
}
