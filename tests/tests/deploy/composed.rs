//! The composed cluster from its image: three nodes, two name servers and the dashboard, each on an address of its own,
//! behind ports that are published on a machine's. And the chart's pods, by the names that they would have.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use raftmq_tests::client::{Consumer, Producer, eventually};
use raftmq_tests::cluster::{Host, LEADER_WITHIN};
use raftmq_tests::deploy_tools::compose;
use raftmq_tests::netns::{self, Network};
use raftmq_tests::relay::Relay;
use raftmq_tests::root;
use rustix::process::Signal;
use serde_json::Value;

use super::container::{Container, Image, Wanted, listen_at};
use super::{chart, said};

const TOPIC: &str = "orders";
const TOKEN: &str = "a-token-of-the-test";
/// Files of the log that are smaller than anybody's, so that three nodes fit onto the test's disk.
const SMALL: (&str, &str) = ("RAFTMQ_MAPPED_FILE_SIZE_COMMIT_LOG", "16777216");

/// One set of containers at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Ports of a service, as the machine and as the container has them.
fn published(service: &Value) -> Result<Vec<(u16, u16)>> {
    let port = |port: &Value| {
        let outside = port["published"].as_str().context("a port is published")?.parse()?;
        Ok((outside, u16::try_from(port["target"].as_u64().context("a port")?)?))
    };
    service["ports"].as_array().into_iter().flatten().map(port).collect()
}

/// A page of a node.
fn page(at: SocketAddr, path: &str) -> Option<String> {
    let output = Command::new("curl").args(["-s", "--max-time", "2", &format!("http://{at}{path}")]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn leads(at: SocketAddr) -> bool {
    let page = page(at, "/metrics").unwrap_or_default();
    page.lines().any(|line| line.starts_with("rocketmq_raft_is_leader") && line.trim_end_matches(".0").ends_with(" 1"))
}

/// The image, `mqadmin` in it, and the names of those who run from it.
struct Stand {
    dir: tempfile::TempDir,
    image: Image,
}

impl Stand {
    fn make() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("raftmq-image-").tempdir()?;
        let image = Image::make(&dir.path().join("image"))?;
        Ok(Self { dir, image })
    }

    fn mqadmin(&self, words: &[&str]) -> Result<Output> {
        let program = self.image.root.join("usr/local/bin/mqadmin");
        let mut command = Command::new(program);
        Ok(command.args(words).env("RAFTMQ_ADMIN_TOKEN", TOKEN).env_remove("NAMESRV_ADDR").output()?)
    }
}

/// Sends through each of `access`, by the route that it gets there, and receives all of it.
async fn send_and_receive(access: &[SocketAddr], group: &str, number: &mut u64) -> Result<()> {
    let consumer = Consumer::new(access, group, TOPIC, "*", false)?;
    consumer.join(TOPIC).await;
    let mut sent = Vec::new();
    for first in 0..access.len() {
        let rotated: Vec<SocketAddr> = access.iter().cycle().skip(first).take(access.len()).copied().collect();
        let producer = Producer::new(&rotated, &[TOPIC])?;
        let route = producer.client().route(TOPIC).await?;
        for queue in route.queues() {
            let endpoints = queue.broker.as_ref().and_then(|broker| broker.endpoints.as_ref()).context("endpoints")?;
            let told = endpoints.addresses.iter().map(|address| format!("{}:{}", address.host, address.port));
            let told: Vec<String> = told.collect();
            let known = access.iter().all(|address| told.contains(&address.to_string()));
            ensure!(known && told.len() == access.len(), "clients are sent to {told:?} instead of {access:?}");
        }
        for _ in 0..10 {
            *number += 1;
            let id = format!("M{number:015}");
            producer.send(TOPIC, &id, None, Bytes::from_static(b"body")).await?;
            sent.push(id);
        }
    }
    eventually("all that was sent is received", Duration::from_secs(30), async || {
        for delivery in
            consumer.receive(TOPIC, 16, Duration::from_secs(30), Duration::from_secs(1)).await.unwrap_or_default()
        {
            if consumer.ack(&delivery).await.is_ok() {
                sent.retain(|id| id != delivery.message_id());
            }
        }
        sent.is_empty()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_composed_cluster_runs_from_its_image() -> Result<()> {
    if let Some(reason) = netns::unavailable() {
        eprintln!("SKIPPED: no image was made and nothing was proved: {reason}");
        return Ok(());
    }
    let _turn = TURN.lock().await;
    let stand = Stand::make()?;
    let network = Network::new(6)?;
    let machine = &network.hosts[0];
    let address = machine.address.to_string();
    let file = "deploy/container/compose.yaml";
    let refused = compose(file, &[]).expect_err("it needs a token");
    ensure!(format!("{refused:#}").contains("a token for mqadmin"), "{refused:#}");
    let cluster = compose(file, &[("RAFTMQ_HOST", &address), ("RAFTMQ_ADMIN_TOKEN", TOKEN)])?;
    let services = cluster["services"].as_object().context("it has services")?;
    let names: Vec<&str> = services.keys().map(String::as_str).collect();
    ensure!(names == ["dashboard", "n0", "n1", "n2", "namesrv-0", "namesrv-1"], "{names:?}");

    // The dashboard is on the machine's own network. Of the others Docker's own name server tells.
    let host = |name: &str| names.iter().position(|one| *one == name).unwrap_or_default();
    let inside: Vec<(String, IpAddr)> =
        (1..6).map(|number| (names[number].to_owned(), network.hosts[number].address.into())).collect();
    let mut relays = Vec::new();
    for name in &names {
        for (outside, target) in published(&services[*name])? {
            let listener = listen_at(machine, outside)?;
            relays.push(Relay::on(listener, SocketAddr::new(network.hosts[host(name)].address.into(), target))?);
        }
    }
    let start = |name: &str| {
        let service = &services[name];
        let mut environment: BTreeMap<String, String> = BTreeMap::from([(SMALL.0.to_owned(), SMALL.1.to_owned())]);
        for (key, value) in service["environment"].as_object().into_iter().flatten() {
            environment.insert(key.clone(), value.as_str().context("a variable is a text")?.to_owned());
        }
        let hosts = if service["network_mode"] == "host" { &[][..] } else { &inside[..] };
        let host = &network.hosts[host(name)];
        let folder = stand.dir.path().join(name);
        fs::create_dir_all(&folder)?;
        let command = list(&service["command"]);
        let wanted = Wanted { name, host, command, environment, hosts, read_only: false };
        Container::start(&stand.image, &folder, &wanted)
    };
    let mut running: BTreeMap<&str, Container> = BTreeMap::new();
    for name in ["namesrv-0", "namesrv-1", "n0", "n1", "n2", "dashboard"] {
        let broker = name.starts_with('n') && !name.starts_with("namesrv");
        let service = &services[name];
        if broker {
            // The image's own command, and a volume that outlives the container.
            ensure!(list(&service["command"]) == stand.image.command, "{name}: {}", service["command"]);
            let volume = &service["volumes"][0];
            ensure!(volume["type"] == "volume" && volume["target"] == "/var/lib/raftmq", "{name}: {volume}");
            ensure!(
                cluster["volumes"].get(volume["source"].as_str().unwrap_or_default()).is_some(),
                "{name}: {volume}"
            );
        } else {
            ensure!(service["healthcheck"]["disable"] == true, "{name} has the brokers' health check");
        }
        running.insert(name, start(name)?);
    }
    let metrics = |name: &str| -> Result<SocketAddr> {
        let port = services[name]["environment"]["RAFTMQ_METRICS_PROM_EXPORTER_PORT"].as_str().context("a port")?;
        Ok(SocketAddr::new(machine.address.into(), port.parse()?))
    };
    let nodes = ["n0", "n1", "n2"];
    let health: Vec<&str> = stand.image.health.iter().map(String::as_str).collect();
    for name in nodes {
        let healthy = async || running[name].run(&health).is_ok_and(|output| output.status.success());
        eventually("a node is healthy", LEADER_WITHIN, healthy).await.with_context(|| running[name].output())?;
    }
    ensure!(!running["namesrv-0"].run(&health)?.status.success(), "a name server passes for a broker");
    for name in nodes {
        let at = metrics(name)?;
        let ready = async || page(at, "/readyz").is_some_and(|text| text.starts_with("OK"));
        eventually("a node is ready", LEADER_WITHIN, ready).await.with_context(|| running[name].output())?;
    }
    // As whom it runs, where, and what it may change.
    let whoami = running["n0"].run(&[
        "sh",
        "-c",
        "id -u; pwd; touch /usr/local/bin/x || echo refused; sh mqbroker --version",
    ])?;
    let whoami = said(&whoami);
    ensure!(whoami.starts_with("65532\n/opt/raftmq/bin\n") && whoami.contains("refused\n"), "{whoami}");
    ensure!(whoami.contains("mqbroker "), "RocketMQ's `sh mqbroker` is not there: {whoami}");
    // What the image exposes is what a program listens on that is told nothing.
    let printed =
        said(&running["n0"].run(&["env", "-i", "HOME=/", "PATH=/usr/local/bin", "mqbroker", "--print-config"])?);
    for key in ["grpcServerPort", "listenPort", "metricsPromExporterPort"] {
        let port = printed.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).context(key)?;
        ensure!(stand.image.ports.contains(&port.parse()?), "the image does not expose {key} {port}");
    }

    let namesrvs = format!("{address}:9876;{address}:9877");
    let made = ["updateTopic", "-n", &namesrvs, "-c", "RaftCluster", "-t", TOPIC, "-r", "4", "-w", "4"];
    let made = stand.mqadmin(&made)?;
    ensure!(made.status.success(), "{}", said(&made));
    let access = [8081, 8181, 8281].map(|port| SocketAddr::new(machine.address.into(), port));
    let mut number = 0;
    send_and_receive(&access, "billing", &mut number).await?;

    // The dashboard, on the machine's own network, knows all nodes.
    let dashboard = async || {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &machine.namespace,
            "curl",
            "-s",
            "--max-time",
            "2",
            "http://127.0.0.1:8082/cluster",
        ]);
        let page = command.output().map(|output| said(&output)).unwrap_or_default();
        access.iter().all(|address| page.contains(&address.to_string()))
    };
    eventually("the dashboard shows all nodes", LEADER_WITHIN, dashboard)
        .await
        .with_context(|| running["dashboard"].output())?;

    kill_the_leader(&stand, machine, &mut running, &start, &metrics).await?;
    send_and_receive(&access, "billing", &mut number).await?;

    // mqshutdown, as one would call it by the engine's exec.
    let leader = nodes.into_iter().find(|name| metrics(name).is_ok_and(leads)).context("somebody leads")?;
    for (words, part) in [
        (["mqshutdown", "namesrv"], "No mqnamesrv running."),
        (["mqshutdown", "proxy"], "There is no proxy to stop"),
        (["mqshutdown", "controller"], "There is no controller to stop"),
    ] {
        let output = running[leader].run(&words)?;
        ensure!(output.status.code() == Some(1) && said(&output).contains(part), "{}", said(&output));
    }
    let output = running[leader].run(&["sh", "mqshutdown", "broker"])?;
    ensure!(said(&output) == "Send shutdown request to mqbroker(1) OK\n", "{}", said(&output));
    let grace = services[leader]["stop_grace_period"].as_str().context("a grace period")?;
    ensure!(grace == "30s", "{grace}");
    let mut stopped = running.remove(leader).context("it ran")?;
    let status = stopped.ended(Duration::from_secs(30))?;
    ensure!(status.success(), "{status}: {}", stopped.output());
    let others: Vec<&str> = nodes.into_iter().filter(|name| *name != leader).collect();
    let moved = async || others.iter().any(|name| metrics(name).is_ok_and(leads));
    eventually("another node leads", Duration::from_secs(2), moved).await?;
    ensure!(stopped.output().contains("leadership"), "it handed nothing over: {}", stopped.output());
    // The container's end may end this too, after its line.
    let output = running["namesrv-0"].run(&["mqshutdown", "namesrv"])?;
    ensure!(said(&output) == "Send shutdown request to mqnamesrv(1) OK\n", "{}", said(&output));
    let status = running.remove("namesrv-0").context("it ran")?.ended(Duration::from_secs(10))?;
    ensure!(status.success(), "{status}");
    // Processes go before the network that they are in.
    drop(running);
    drop(relays);
    Ok(())
}

/// `kill-leader.sh`, with an engine's `kill` in the place of the engine.
async fn kill_the_leader(
    stand: &Stand,
    machine: &Host,
    running: &mut BTreeMap<&str, Container>,
    start: &impl Fn(&str) -> Result<Container>,
    metrics: &impl Fn(&str) -> Result<SocketAddr>,
) -> Result<()> {
    let bin = stand.dir.path().join("engine");
    fs::create_dir(&bin)?;
    for (name, container) in running.iter() {
        fs::write(bin.join(name), container.pid().to_string())?;
    }
    let docker = bin.join("docker");
    let text = format!(
        "#!/bin/sh\n[ \"$1 $2 $4 $5 $6\" = 'compose -f kill -s KILL' ] && [ -e \"$3\" ] && [ $# = 7 ] || exit 64\n\
         exec kill -s \"$6\" \"$(cat {}/\"$7\")\"\n",
        bin.display()
    );
    fs::write(&docker, text)?;
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let mut script = Command::new("ip");
    script.args(["netns", "exec", &machine.namespace]).arg(root().join("deploy/container/kill-leader.sh"));
    let output = script.env("PATH", path).output()?;
    let text = said(&output);
    ensure!(output.status.success(), "{text}");
    let killed = text.strip_prefix("killed ").and_then(|rest| rest.split_once(',')).context("it says whom")?.0;
    let (name, mut gone) = running.remove_entry(killed).with_context(|| text.clone())?;
    ensure!(!gone.ended(Duration::from_secs(5))?.success(), "it ended by itself");
    let next = text.lines().nth(1).and_then(|line| line.split_once(" leads, ")).context("it says who leads")?.0;
    ensure!(next != killed && running.contains_key(next) && leads(metrics(next)?), "{text}");
    ensure!(text.trim_end().ends_with(&format!("compose.yaml start {killed}")), "{text}");
    // On its volume.
    running.insert(name, start(name)?);
    let at = metrics(name)?;
    let ready = async || page(at, "/readyz").is_some_and(|text| text == "OK: follower\n");
    eventually("the killed node follows again", LEADER_WITHIN, ready).await.with_context(|| running[name].output())
}

/// The chart's pods, by the names and with the files, variables and commands of the rendered manifests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_charts_pods_form_a_group_by_their_names() -> Result<()> {
    if let Some(reason) = netns::unavailable() {
        eprintln!("SKIPPED: no pod was made and nothing was proved: {reason}");
        return Ok(());
    }
    let _turn = TURN.lock().await;
    let manifests = chart::rendered(&["nameserver.replicaCount=1", "dashboard.enabled=true"])?;
    let stand = Stand::make()?;
    let network = Network::new(5)?;
    let mut pods = Vec::new();
    for (owner, count) in [("r-namesrv", 1), ("r-broker", 3)] {
        let set = manifests.one("StatefulSet", owner)?;
        ensure!(set["spec"]["replicas"] == count, "{}", set["spec"]["replicas"]);
        pods.extend((0..count).map(|number| (format!("{owner}-{number}"), owner)));
    }
    // As the name server of Kubernetes tells of pods of a StatefulSet, by its service.
    let addresses: Vec<IpAddr> = network.hosts.iter().map(|host| host.address.into()).collect();
    let named = pods.iter().zip(&addresses);
    let hosts: Vec<(String, IpAddr)> =
        named.map(|((pod, owner), address)| (format!("{pod}.{owner}.mq.svc.cluster.local"), *address)).collect();
    let start = |pod: &str, kind: &str, owner: &str, host: &Host| {
        let template = &manifests.one(kind, owner)?["spec"]["template"]["spec"];
        let container = &template["containers"][0];
        let folder = stand.dir.path().join(pod);
        let etc = folder.join("etc");
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let volumes = template["volumes"].as_array().into_iter().flatten();
            let volume = volumes.into_iter().find(|volume| volume["name"] == mount["name"]);
            let Some(map) = volume.and_then(|volume| volume["configMap"]["name"].as_str()) else { continue };
            let at =
                mount["mountPath"].as_str().and_then(|path| path.strip_prefix("/etc/raftmq/")).context("a path")?;
            fs::create_dir_all(etc.join(at))?;
            for (name, text) in manifests.one("ConfigMap", map)?["data"].as_object().context("files")? {
                fs::write(etc.join(at).join(name), text.as_str().context("a text")?)?;
            }
        }
        let mut environment = BTreeMap::from([(SMALL.0.to_owned(), SMALL.1.to_owned())]);
        for variable in container["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().context("a name")?;
            // Of the secret.
            environment.insert(name.to_owned(), variable["value"].as_str().unwrap_or(TOKEN).to_owned());
        }
        let command = [list(&container["command"]), list(&container["args"])].concat();
        let read_only = container["securityContext"]["readOnlyRootFilesystem"] == true;
        fs::create_dir_all(&folder)?;
        let wanted = Wanted { name: pod, host, command, environment, hosts: &hosts, read_only };
        Container::start(&stand.image, &folder, &wanted)
    };
    let mut running = Vec::new();
    for ((pod, owner), host) in pods.iter().zip(&network.hosts) {
        running.push(start(pod, "StatefulSet", owner, host)?);
    }
    let metrics: Vec<SocketAddr> = addresses[1..4].iter().map(|address| SocketAddr::new(*address, 5557)).collect();
    for (number, at) in metrics.iter().enumerate() {
        let ready = async || page(*at, "/readyz").is_some_and(|text| text.starts_with("OK"));
        eventually("a pod is ready", LEADER_WITHIN, ready).await.with_context(|| running[number + 1].output())?;
    }
    // From a pod, as NOTES.txt says.
    let namesrv = "r-namesrv-0.r-namesrv.mq.svc.cluster.local:9876";
    let listed = async || {
        let output = running[1].run(&["mqadmin", "clusterList", "-n", namesrv]).map(|output| said(&output));
        let output = output.unwrap_or_default();
        (0..3).all(|number| output.contains(&format!("r-broker-{number}.r-broker.mq.svc.cluster.local")))
    };
    eventually("every pod is listed by its name", LEADER_WITHIN, listed)
        .await
        .with_context(|| said(&running[1].run(&["mqadmin", "clusterList", "-n", namesrv]).expect("it ran before")))?;
    let host = &network.hosts[4];
    let dashboard = start("r-dashboard", "Deployment", "r-dashboard", host)?;
    let probed = manifests.one("Deployment", "r-dashboard")?["spec"]["template"]["spec"]["containers"][0]
        ["readinessProbe"]["httpGet"]["path"]
        .as_str()
        .context("a path")?;
    let healthy = async || page(SocketAddr::new(host.address.into(), 8082), probed).is_some();
    eventually("the dashboard is ready", LEADER_WITHIN, healthy).await.with_context(|| dashboard.output())?;

    // What ends a pod: the command of preStop, and then SIGTERM to its first process, which must be the broker.
    let leader = metrics.iter().position(|at| leads(*at)).context("somebody leads")?;
    let stop = &manifests.one("StatefulSet", "r-broker")?["spec"]["template"]["spec"]["containers"][0]["lifecycle"];
    let stop = list(&stop["preStop"]["exec"]["command"]);
    let output = running[leader + 1].run(&stop.iter().map(String::as_str).collect::<Vec<_>>())?;
    ensure!(output.status.success(), "{stop:?}: {}", said(&output));
    let mut pod = running.remove(leader + 1);
    pod.signal(Signal::TERM)?;
    let status = pod.ended(Duration::from_secs(30))?;
    ensure!(status.success(), "{status}: {}", pod.output());
    let moved = async || metrics.iter().enumerate().any(|(number, at)| number != leader && leads(*at));
    eventually("another pod leads", Duration::from_secs(2), moved).await?;
    drop(dashboard);
    drop(running);
    Ok(())
}
