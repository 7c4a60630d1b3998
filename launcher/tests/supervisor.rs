//! The supervisor with programs that only wait: what it starts, starts again, ends and refuses.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use raftmq_launcher::{
    layout::Layout,
    supervisor::{Event, Programs, Supervisor, kill},
};
use tokio::{sync::mpsc, time::timeout};

const SOON: Duration = Duration::from_secs(20);

fn waiting_programs(folder: &Path) -> Programs {
    for name in ["mqnamesrv", "mqbroker", "raftmq-dashboard"] {
        let path = folder.join(name);
        std::fs::write(&path, "#!/bin/sh\nwhile :; do sleep 0.1; done\n").expect("the folder is ours");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("the file is ours");
    }
    Programs::in_folder(folder).expect("all are there")
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    timeout(SOON, events.recv()).await.expect("something happens in time").expect("the supervisor runs")
}

async fn all_started(events: &mut mpsc::Receiver<Event>) {
    for _ in 0..6 {
        assert!(matches!(next(events).await, Event::Started { again: false, .. }));
    }
}

fn is_running(pid: u32) -> bool {
    // A process that ended and was not waited for yet is a zombie, state Z.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

#[tokio::test]
async fn a_dead_process_is_started_again_and_all_end_together() {
    let (bin, data) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let programs = waiting_programs(bin.path());
    let layout = Layout::on_free_ports(data.path()).expect("ports are free");
    let (sender, mut events) = mpsc::channel(64);
    let supervisor = Supervisor::start(&layout, &programs, sender).expect("it starts");
    all_started(&mut events).await;

    let (other, _events) = mpsc::channel(64);
    let refused = Supervisor::start(&layout, &programs, other).err().expect("the folder is in use");
    assert!(refused.to_string().contains("a cluster runs already"), "{refused}");

    let killed = kill(&layout, "n1").expect("it runs");
    match next(&mut events).await {
        Event::Died { label, how, .. } => assert_eq!((label.as_str(), how.as_str()), ("n1", "was ended by signal 9")),
        other => assert!(matches!(other, Event::Died { .. }), "{other:?}"),
    }
    let again = match next(&mut events).await {
        Event::Started { label, pid, again: true } if label == "n1" => pid,
        other => {
            assert!(matches!(other, Event::Started { again: true, .. }), "{other:?}");
            0
        }
    };
    assert_ne!(again, killed);
    assert_eq!(layout.pid("n1"), Some(again));

    let pids: Vec<u32> =
        ["n0", "n1", "n2", "namesrv-0", "namesrv-1", "dashboard"].iter().filter_map(|l| layout.pid(l)).collect();
    assert_eq!(pids.len(), 6);
    timeout(SOON, supervisor.stop()).await.expect("everything ends in time");
    assert!(pids.iter().all(|pid| !is_running(*pid)));
    assert!(kill(&layout, "n1").is_err());
}

#[tokio::test]
async fn what_an_earlier_run_left_behind_is_ended_first() {
    let (bin, data) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let programs = waiting_programs(bin.path());
    let layout = Layout::on_free_ports(data.path()).expect("ports are free");
    layout.write().expect("the folder is ours");
    let process = layout.processes().into_iter().find(|process| process.label == "n2").expect("there is an n2");
    let mut left = std::process::Command::new(programs.path("mqbroker"))
        .arg("-c")
        .arg(&process.config)
        .spawn()
        .expect("it can be run");
    std::fs::write(&process.pid_file, left.id().to_string()).expect("the folder is ours");
    let waiter = tokio::task::spawn_blocking(move || left.wait());

    let (sender, mut events) = mpsc::channel(64);
    let supervisor = Supervisor::start(&layout, &programs, sender).expect("it starts");
    let ended = timeout(SOON, waiter).await.expect("the process of the earlier run has ended");
    ended.expect("no panic").expect("it was our child");
    all_started(&mut events).await;
    timeout(SOON, supervisor.stop()).await.expect("everything ends in time");
}

#[tokio::test]
async fn a_taken_port_is_said_before_anything_starts() {
    let (bin, data) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let programs = waiting_programs(bin.path());
    let layout = Layout::on_free_ports(data.path()).expect("ports are free");
    let _taken = std::net::TcpListener::bind(("127.0.0.1", layout.brokers[2].grpc)).expect("the port is free");
    let (sender, _events) = mpsc::channel(64);
    let refused = Supervisor::start(&layout, &programs, sender).err().expect("a port is taken");
    let text = refused.to_string();
    assert!(text.contains(&format!("port {} of n2 (clients) is taken", layout.brokers[2].grpc)), "{text}");
    assert_eq!(layout.pid("namesrv-0"), None);
}
