//! What `deploy/` holds is what the programs understand: every key and variable of the composed cluster and the chart is
//! one of theirs, the units are sound, helm and Compose take what is theirs, and clusters run from what the image has.

#[path = "deploy/chart.rs"]
mod chart;
#[path = "deploy/composed.rs"]
mod composed;
#[path = "deploy/container.rs"]
mod container;

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use raftmq_tests::{
    client::eventually,
    cluster::{LEADER_WITHIN, program},
    root,
};

fn deploy() -> PathBuf {
    root().join("deploy")
}

fn read(path: &str) -> Result<String> {
    let path = deploy().join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Keys of a properties text, those of templates included.
fn keys(text: &str) -> BTreeSet<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#') && !line.starts_with("{{"));
    let named = lines.filter_map(|line| line.split_once('=').map(|(key, _)| key.trim().to_owned()));
    named.filter(|key| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '.')).collect()
}

/// Every key that a program knows.
fn known(name: &str) -> Result<BTreeSet<String>> {
    let output = Command::new(program(name)?).arg("--print-config").env_remove("NAMESRV_ADDR").output()?;
    ensure!(output.status.success(), "{}", said(&output));
    // What has no value unless it is set stands there as a comment that says so.
    let printed = String::from_utf8_lossy(&output.stdout).replace("# ", "").replace(" is not set", "=");
    Ok(keys(&printed))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `grpcServerPort` of `RAFTMQ_GRPC_SERVER_PORT`, without regard to case.
fn folded(name: &str) -> String {
    name.replace('_', "").to_lowercase()
}

#[test]
fn every_key_is_known() -> Result<()> {
    let broker = known("mqbroker")?;
    let folded_keys: BTreeSet<String> = broker.iter().map(|key| folded(key)).collect();
    for file in ["container/compose.yaml", "helm/raftmq/templates/broker.yaml", "container/Dockerfile"] {
        let text = read(file)?;
        let words = text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
        let variables: BTreeSet<&str> = words.filter_map(|word| word.strip_prefix("RAFTMQ_")).collect();
        // TLS_CLIENT is mqadmin's.
        let ours = |name: &&str| !["HOST", "IMAGE"].contains(name) && !name.starts_with("TLS_CLIENT_");
        for variable in variables.into_iter().filter(ours) {
            ensure!(folded_keys.contains(&folded(variable)), "{file}: no key of RAFTMQ_{variable}");
        }
    }
    Ok(())
}

#[test]
fn the_units_are_sound() -> Result<()> {
    if Command::new("systemd-analyze").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: there is no systemd-analyze here, and nothing was proved");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let bin = program("mqbroker")?;
    let bin = bin.parent().context("programs are in a folder")?;
    let mut units = Vec::new();
    for (file, instance) in [
        ("raftmq-namesrv.service", "raftmq-namesrv.service"),
        ("raftmq-dashboard.service", "raftmq-dashboard.service"),
        ("raftmq-broker@.service", "raftmq-broker@n0.service"),
    ] {
        // Hardened, whoever edits it.
        let written = read(&format!("systemd/{file}"))?;
        for line in [
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "CapabilityBoundingSet=",
            "SystemCallFilter=@system-service",
        ] {
            ensure!(written.lines().any(|one| one == line), "{file}: {line} is gone");
        }
        let text = read(&format!("systemd/{file}"))?.replace("/usr/local/bin", &bin.display().to_string());
        fs::write(dir.path().join(file), text)?;
        units.push(dir.path().join(instance));
    }
    let output = Command::new("systemd-analyze").arg("verify").args(&units).output()?;
    let text = said(&output);
    // Of our units only: it also reads what the machine has.
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("raftmq")).collect();
    ensure!(ours.is_empty(), "{ours:?}");
    Ok(())
}

#[tokio::test]
async fn an_installed_node_serves() -> Result<()> {
    let root = tempfile::tempdir()?;
    let bin = program("mqbroker")?;
    let bin = bin.parent().context("programs are in a folder")?;
    let install = deploy().join("container/install.sh");
    let output = Command::new(&install).arg(root.path()).arg(bin).output()?;
    ensure!(output.status.success(), "{}", said(&output));
    let installed = |name: &str| root.path().join("usr/local/bin").join(name);
    let missing = Command::new(&install).arg(root.path()).arg("/nowhere").output()?;
    ensure!(!missing.status.success() && said(&missing).contains("run make build first"), "{}", said(&missing));

    let held = [(); 5].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port is free"));
    let [namesrv, grpc, admin, peer, metrics] = held.map(|held| held.local_addr().expect("it is bound").port());
    let log = fs::File::create(root.path().join("log"))?;
    let start = |command: &mut Command| -> Result<Ended> {
        Ok(Ended(command.stdout(log.try_clone()?).stderr(log.try_clone()?).spawn()?))
    };
    let listen = format!("listenPort={namesrv}");
    let _namesrv = start(Command::new(installed("mqnamesrv")).args(["-D", &listen, "-D", "bindAddress=127.0.0.1"]))?;
    // As the composed cluster names a node, with other numbers.
    let _broker = start(
        Command::new(installed("mqbroker"))
            .env("NAMESRV_ADDR", format!("127.0.0.1:{namesrv}"))
            .env("RAFTMQ_BROKER_CLUSTER_NAME", "RaftCluster")
            .env("RAFTMQ_BROKER_NAME", "RaftNode00")
            .env("RAFTMQ_BROKER_IP1", "127.0.0.1")
            .env("RAFTMQ_BIND_ADDRESS", "127.0.0.1")
            .env("RAFTMQ_D_LEGER_PEERS", format!("n0-127.0.0.1:{peer}"))
            .env("RAFTMQ_D_LEGER_SELF_ID", "n0")
            .env("RAFTMQ_GRPC_SERVER_PORT", grpc.to_string())
            .env("RAFTMQ_LISTEN_PORT", admin.to_string())
            .env("RAFTMQ_METRICS_PROM_EXPORTER_PORT", metrics.to_string())
            .env("RAFTMQ_STORE_PATH_ROOT_DIR", root.path().join("var/lib/raftmq")),
    )?;
    let health = deploy().join("container/health.sh");
    let healthy = async || {
        let asked = Command::new(&health).env("RAFTMQ_METRICS_PROM_EXPORTER_PORT", metrics.to_string()).status();
        asked.is_ok_and(|status| status.success())
    };
    let words = |name: &str| fs::read_to_string(root.path().join(name)).unwrap_or_default();
    eventually("the node is healthy", LEADER_WITHIN, healthy).await.with_context(|| words("log"))?;
    let listed = async || {
        let output = Command::new(installed("mqadmin"))
            .args(["clusterList", "-n", &format!("127.0.0.1:{namesrv}")])
            .env_remove("NAMESRV_ADDR")
            .output();
        output.is_ok_and(|output| said(&output).contains("RaftNode00"))
    };
    eventually("the name server lists it", Duration::from_secs(15), listed).await.with_context(|| words("log"))?;
    let asked = Command::new(&health).env("RAFTMQ_METRICS_PROM_EXPORTER_PORT", "1").stderr(Stdio::null()).status()?;
    ensure!(!asked.success(), "a node that is not there is healthy");
    Ok(())
}

/// A process that ends with its test.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
