//! The programs as a user starts them: the demonstration, `mqbroker --dev`, and the commands around a running cluster.

use std::{net::TcpListener, path::Path, process::Stdio, time::Duration};

use raftmq_launcher::client::{Client, create_topic};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{sleep, timeout},
};

const SOON: Duration = Duration::from_secs(60);

/// Ports that were free a moment ago.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let held = [(); COUNT].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    held.map(|listener| listener.local_addr().expect("it is bound").port())
}

struct Dev {
    process: Child,
    grpc: String,
    admin: String,
}

/// Starts `mqbroker --dev` and waits for its word that it is ready.
async fn start_dev(data: &Path) -> Dev {
    let [name_server, grpc, admin, peer] = free_ports();
    let mut process = Command::new(env!("CARGO_BIN_EXE_mqbroker"))
        .arg("--dev")
        .arg(format!("-DnamesrvAddr=127.0.0.1:{name_server}"))
        .arg(format!("-DgrpcServerPort={grpc}"))
        .arg(format!("-DlistenPort={admin}"))
        .arg(format!("-DdLegerPeers=n0-127.0.0.1:{peer}"))
        .arg(format!("-DstorePathRootDir={}", data.display()))
        .env_remove("NAMESRV_ADDR")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it can be run");
    let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
    let ready = async {
        while let Some(line) = lines.next_line().await.expect("it prints text") {
            if line.starts_with("ready after ") {
                return true;
            }
        }
        false
    };
    assert!(timeout(SOON, ready).await.expect("it is ready in time"), "it ended before it was ready");
    // Whatever it prints later must not block it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Dev { process, grpc: format!("127.0.0.1:{grpc}"), admin: format!("127.0.0.1:{admin}") }
}

impl Dev {
    fn client(&self, id: &str) -> Client {
        Client::new(&self.grpc, id, "broker-dev").expect("the address is good")
    }

    async fn stop(mut self) {
        let pid = self.process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("it runs");
        kill_process(pid, Signal::TERM).expect("it runs");
        let status = timeout(SOON, self.process.wait()).await.expect("it stops in time").expect("it is our child");
        assert!(status.success(), "{status}");
    }
}

#[tokio::test]
async fn dev_needs_no_configuration_and_keeps_its_messages() {
    let data = tempfile::tempdir().expect("a folder");
    let dev = start_dev(data.path()).await;
    create_topic(&dev.admin, "TestTopic").await.expect("the node is ready");
    let born = prost_types::Timestamp::default();
    dev.client("producer").send("TestTopic", "01FF", b"kept".to_vec(), born).await.expect("it is stored");
    dev.stop().await;

    let dev = start_dev(data.path()).await;
    let consumer = dev.client("consumer");
    let received = consumer.receive("TestTopic", "TestGroup").await.expect("it answers");
    assert_eq!(received.iter().map(|message| message.body.as_slice()).collect::<Vec<_>>(), [b"kept"]);
    assert_eq!(consumer.ack("TestTopic", "TestGroup", &received).await.expect("it answers"), 0);
    dev.stop().await;
}

#[test]
fn the_demonstration_loses_nothing() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_raftmq-cluster")).arg("demo").output().expect("it can be run");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("kill -9 "), "{printed}");
    assert!(printed.contains("\n  lost          0\n"), "{printed}");
}

/// `make` as a user of the local cluster calls it, with the programs of this build.
async fn make(target: &str, data: &Path, more: &[&str]) -> (bool, String) {
    let target_folder = Path::new(env!("CARGO_BIN_EXE_raftmq-cluster")).ancestors().nth(2).expect("a target folder");
    let output = Command::new("make")
        .arg("-C")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .arg(target)
        .arg(format!("DATA={}", data.display()))
        .args(more)
        .env("CARGO_TARGET_DIR", target_folder)
        .env_remove("NAMESRV_ADDR")
        .output()
        .await
        .expect("make is there");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

/// The supervised cluster, with the lines that it prints.
struct Up {
    process: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Up {
    fn start(data: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_raftmq-cluster"))
            .args(["up", "--free-ports", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it can be run");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        Self { process, lines }
    }

    /// The next line that `fits`.
    async fn line(&mut self, fits: impl Fn(&str) -> bool) -> String {
        let found = async {
            loop {
                let line = self.lines.next_line().await.expect("it prints text").expect("it goes on");
                if fits(&line) {
                    return line;
                }
            }
        };
        timeout(SOON, found).await.expect("the line comes")
    }

    async fn stop(mut self) {
        let pid = self.process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).expect("it runs");
        kill_process(pid, Signal::INT).expect("it runs");
        self.line(|line| line.starts_with("stopped; data stays in ")).await;
        let status = timeout(SOON, self.process.wait()).await.expect("it stops in time").expect("it is our child");
        assert!(status.success(), "{status}");
    }
}

/// Waits until the dashboard shows the first page.
async fn page(address: &str) {
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    loop {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(address).await
            && stream.write_all(request.as_bytes()).await.is_ok()
            && stream.read_to_string(&mut answer).await.is_ok()
            && answer.contains("RaftNode00")
        {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Label of the one node that a table of `status` says leads.
fn leads(table: &str) -> String {
    let rows: Vec<&str> = table.lines().filter(|line| line.contains("leader")).collect();
    assert_eq!(rows.len(), 1, "{table}");
    rows[0].split_whitespace().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn the_commands_around_a_running_cluster_do_what_they_say() {
    let data = tempfile::tempdir().expect("a folder");
    let data = data.path();
    let (fine, text) = make("status", data, &[]).await;
    assert!(!fine && text.contains("no cluster was started with this data folder"), "{text}");

    let mut up = Up::start(data);
    up.line(|line| line.starts_with("ready after ")).await;
    let pages = up.line(|line| line.starts_with("  dashboard ")).await;
    let pages = pages.split("http://").nth(1).expect("it says where").trim().to_owned();
    timeout(SOON, page(&pages)).await.expect("the dashboard answers");
    let (fine, table) = make("status", data, &[]).await;
    assert!(fine, "{table}");
    let first = leads(&table);

    let (fine, text) = make("kill-leader", data, &[]).await;
    assert!(fine && text.contains(&format!("kill -9 {first} (process ")), "{text}");
    let after = text.lines().find(|line| line.contains(" ms after the kill")).expect("it shows the new one");
    let second = after.split_whitespace().next().unwrap_or_default().to_owned();
    assert_ne!(first, second, "{text}");
    up.line(|line| line.starts_with(&format!("{first} runs again"))).await;

    // The line that `wipe` prints admits the node again, and then all three are members and none is behind.
    let (fine, text) = make("wipe", data, &[&format!("NODE={first}")]).await;
    assert!(fine && text.contains("its folder "), "{text}");
    let line = text.lines().rev().find(|line| line.contains("mqadmin replacePeer")).expect("it says how to admit it");
    let mut words = line.split_whitespace();
    let replaced = Command::new(words.next().expect("a program")).args(words).arg("-y").output().await;
    let replaced = replaced.expect("mqadmin is beside the others");
    let said = String::from_utf8_lossy(&replaced.stdout);
    assert!(replaced.status.success(), "{said}{}", String::from_utf8_lossy(&replaced.stderr));
    let (fine, table) = make("status", data, &[]).await;
    assert!(fine && table.matches("follower").count() == 2, "{table}");
    leads(&table);

    up.stop().await;
    // What ran before has its ports and its members again.
    let mut up = Up::start(data);
    up.line(|line| line.starts_with("ready after ")).await;
    up.stop().await;
}
