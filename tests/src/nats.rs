//! NATS JetStream beside us: three servers, three replicas, each message synced before it is acknowledged.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::{self, stream};
use futures::{StreamExt, stream::FuturesUnordered};
use tempfile::TempDir;

use crate::{
    cluster::{Place, Process, free_port},
    load::Figures,
};

/// Three servers that form a cluster.
pub struct Servers {
    /// As the program says it.
    pub version: String,
    processes: Vec<Process>,
    // One connection to each server, as an SDK of ours has it to each node.
    contexts: Vec<jetstream::Context>,
    _dir: TempDir,
}

/// The server's program, built from its Go module when it is not in the cache yet.
fn program() -> Result<PathBuf> {
    let cache = std::env::var_os("RAFTMQ_CACHE")
        .map_or_else(|| Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/raftmq"), PathBuf::from);
    let bin = cache.join("bin");
    let program = bin.join("nats-server");
    if !program.exists() {
        eprintln!("nats: building nats-server with go install into {}, to measure beside it", bin.display());
        let status = Command::new("go")
            .args(["install", "github.com/nats-io/nats-server/v2@latest"])
            .env("GOBIN", &bin)
            .status()
            .context("running go: install Go, or leave nats out with --only")?;
        ensure!(status.success(), "go install ended with {status}");
    }
    Ok(program)
}

impl Servers {
    /// Starts the servers and creates the stream.
    ///
    /// # Errors
    ///
    /// There is no nats-server and it cannot be built, or the cluster does not form within 30 s.
    pub async fn start() -> Result<Self> {
        let program = program()?;
        let version = String::from_utf8(Command::new(&program).arg("--version").output()?.stdout)?;
        let version = version.trim().rsplit(' ').next().unwrap_or_default().to_string();
        let dir = tempfile::tempdir()?;
        let ports: Vec<(u16, u16)> = (0..3).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<_>>()?;
        let routes: Vec<String> = ports.iter().map(|(_, route)| format!("\"nats://127.0.0.1:{route}\"")).collect();
        let mut processes = Vec::new();
        for (number, (port, route)) in ports.iter().enumerate() {
            let config = dir.path().join(format!("nats-{number}.conf"));
            let text = format!(
                "server_name: n{number}\nlisten: \"127.0.0.1:{port}\"\n\
                 jetstream {{ store_dir: \"{}\", sync_interval: always }}\n\
                 cluster {{ name: c, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n",
                dir.path().join(format!("data-{number}")).display(),
                routes.join(", ")
            );
            std::fs::write(&config, text)?;
            let arguments = ["-c", config.to_str().context("a path of ours is text")?];
            let log = dir.path().join(format!("nats-{number}.log"));
            processes.push(Process::start(&program, &arguments, &log, &Place::default())?);
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut contexts = Vec::new();
        for (port, _) in &ports {
            contexts.push(loop {
                match async_nats::connect(format!("nats://127.0.0.1:{port}")).await {
                    Ok(client) => break jetstream::new(client),
                    Err(failure) if Instant::now() > deadline => return Err(failure.into()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            });
        }
        let config = stream::Config {
            name: "bench".into(),
            subjects: vec!["bench".into()],
            num_replicas: 3,
            storage: stream::StorageType::File,
            ..Default::default()
        };
        loop {
            match contexts[0].create_stream(config.clone()).await {
                Ok(_) => break,
                Err(failure) if Instant::now() > deadline => return Err(failure.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
        Ok(Self { version, processes, contexts, _dir: dir })
    }

    /// Of the servers.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().map(Process::pid).collect()
    }

    /// Publishes as fast as acknowledgements come with `in_flight` messages under way, for `duration`.
    ///
    /// # Errors
    ///
    /// Nothing was acknowledged.
    pub async fn publish(&self, body_bytes: usize, in_flight: usize, duration: Duration) -> Result<Figures> {
        let bodies: Vec<bytes::Bytes> = (0..1024)
            .map(|_| {
                let mut body = vec![0; body_bytes];
                rand::RngExt::fill(&mut rand::rng(), &mut body[..]);
                body.into()
            })
            .collect();
        let started = Instant::now();
        let end = started + duration;
        let workers: FuturesUnordered<_> = (0..in_flight)
            .map(|worker| {
                let (context, bodies) = (&self.contexts[worker % self.contexts.len()], &bodies);
                async move {
                    let mut figures = Figures::new();
                    let mut number = worker;
                    loop {
                        let called = Instant::now();
                        if called >= end {
                            return figures;
                        }
                        number += in_flight;
                        let body = bodies[number % bodies.len()].clone();
                        let publish = async { Ok::<_, anyhow::Error>(context.publish("bench", body).await?.await?) };
                        figures.record(called, publish.await.map(|_| 1));
                    }
                }
            })
            .collect();
        let mut figures = Figures::new();
        for worker in workers.collect::<Vec<_>>().await {
            figures.merge(worker);
        }
        figures.elapsed = started.elapsed();
        ensure!(figures.messages > 0, "nothing was acknowledged: {}", figures.first_failure.unwrap_or_default());
        Ok(figures)
    }
}
