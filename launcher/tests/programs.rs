//! The programs as a user starts them: the demonstration, and `mqbroker --dev`.

use std::{net::TcpListener, path::Path, process::Stdio, time::Duration};

use raftmq_launcher::client::{Client, create_topic};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
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
