//! `mqbroker --dev` as a developer meets it: from nothing to the first message.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::net::TcpStream;

use crate::{
    client::Producer,
    cluster::{Place, Process, free_port, program},
};

/// A start that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(30);

/// How often is tried again.
const AGAIN: Duration = Duration::from_millis(1);

/// Time from the start of a new process on an empty folder to the answer to the first send, its topic not being there
/// yet.
///
/// # Errors
///
/// The program cannot be started, or acknowledges nothing within 30 s.
pub async fn first_acknowledged_send() -> Result<Duration> {
    let dir = tempfile::tempdir()?;
    let grpc = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let settings = [
        format!("grpcServerPort={}", grpc.port()),
        format!("listenPort={}", free_port()?),
        format!("namesrvAddr=127.0.0.1:{}", free_port()?),
        format!("dLegerPeers=n0-127.0.0.1:{}", free_port()?),
        format!("storePathRootDir={}", dir.path().join("data").display()),
    ];
    let mut arguments = vec!["--dev"];
    arguments.extend(settings.iter().flat_map(|setting| ["-D", setting]));
    let program = program("mqbroker")?;
    let started = Instant::now();
    let process = Process::start(&program, &arguments, &dir.path().join("log"), &Place::default())?;
    let mut failure = String::from("nobody listens");
    while started.elapsed() < LIMIT {
        if TcpStream::connect(grpc).await.is_ok() {
            let producer = Producer::new(&[grpc], &["first"])?;
            match producer.send("first", "first", None, "first".into()).await {
                Ok(_) => return Ok(started.elapsed()),
                Err(not_sent) => failure = not_sent.to_string(),
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
    bail!("nothing was acknowledged within {LIMIT:?}: {failure}\n{}", process.output())
}
