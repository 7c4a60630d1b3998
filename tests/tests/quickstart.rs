//! The programs of `docs/quickstart.md`: the page shows the files as they are, and each gets its message back from the
//! cluster that `make cluster` starts. Real processes.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use raftmq_tests::local_cluster::LocalCluster;
use raftmq_tests::official::Client;
use raftmq_tests::root;
use tokio::time::timeout;

/// Each program: whose it is, its file, how the page marks it, and what it sends.
const PROGRAMS: [(Client, &str, &str, &str); 5] = [
    (Client::Java, "java/Quickstart.java", "java", "hello from Java"),
    (Client::Python, "python/quickstart.py", "python", "hello from Python"),
    (Client::Node, "node/quickstart.js", "js", "hello from Node.js"),
    (Client::Go, "go/quickstart.go", "go", "hello from Go"),
    (Client::Rust, "rust/quickstart.rs", "rust", "hello from Rust"),
];

/// No program takes longer for its one message, on two cores with other work.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_page_shows_the_files() -> Result<()> {
    let page = std::fs::read_to_string(root().join("docs/quickstart.md"))?;
    for (_, file, mark, sent) in PROGRAMS {
        let path = format!("quickstart/{file}");
        let text = std::fs::read_to_string(root().join(&path))?;
        ensure!(text.contains(sent), "{path} does not send {sent}");
        let shown = format!("\n`{path}`:\n\n```{mark}\n{text}```\n");
        ensure!(page.contains(&shown), "docs/quickstart.md does not show {path} as it is");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_program_gets_its_message_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let local = LocalCluster::start(dir.path()).await?;
    let addresses = &local.clients;
    ensure!(addresses.len() == 3, "{addresses:?}");
    for (number, (client, file, _, sent)) in PROGRAMS.into_iter().enumerate() {
        let mut command = client.quickstart().await?.with_context(|| format!("{file} has a client"))?;
        // Its first steps may go to any member.
        command.arg(&addresses[number % addresses.len()]).env("HOME", dir.path());
        let began = Instant::now();
        let run = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(PATIENCE, run).await.with_context(|| format!("{file} takes too long"))??;
        let said = String::from_utf8_lossy(&output.stdout);
        let wrong = || format!("{file}: {}\n{said}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}", wrong());
        let received = said.lines().filter(|line| *line == format!("received {sent}")).count();
        ensure!(received == 1 && said.contains("sent "), "{}", wrong());
        println!("{file}: {:?}", began.elapsed());
    }
    Ok(())
}
