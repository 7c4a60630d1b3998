//! What the chart says once helm has rendered it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use raftmq_tests::deploy_tools::{chart, tool};
use raftmq_tests::root;
use serde_json::Value;

use super::{keys, known, read, said};

/// Everything that can be switched on.
const ALL: [&str; 8] = [
    "tls.secretName=clients",
    "clusterTls.mode=enforcing",
    "clusterTls.secretName=inside",
    "dashboard.enabled=true",
    "metrics.serviceMonitor=true",
    "metrics.prometheusRule=true",
    "metrics.grafanaDashboard=true",
    "broker.replicaCount=5",
];

/// The manifests of a release `r` in the namespace `mq`.
pub struct Manifests(Vec<Value>);

pub fn rendered(values: &[&str]) -> Result<Manifests> {
    Ok(Manifests(chart(values)?))
}

impl Manifests {
    /// The one of that kind and name.
    pub fn one(&self, kind: &str, name: &str) -> Result<&Value> {
        let mut found = self.0.iter().filter(|one| one["kind"] == kind && one["metadata"]["name"] == name);
        let one = found.next().with_context(|| format!("there is no {kind} {name}"))?;
        ensure!(found.next().is_none(), "there are several {kind} {name}");
        Ok(one)
    }

    fn has(&self, kind: &str) -> bool {
        self.0.iter().any(|one| one["kind"] == kind)
    }

    /// What makes pods.
    fn makers(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(|one| one["kind"] == "StatefulSet" || one["kind"] == "Deployment")
    }
}

/// Whether all labels of a selector are among those of what it is to find.
fn finds(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object();
    wanted.is_some_and(|wanted| !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn named<'a>(value: &'a Value, name: &str) -> Result<&'a Value> {
    items(value).find(|one| one["name"] == name).with_context(|| format!("no {name} in {value}"))
}

fn config(manifests: &Manifests, map: &str, file: &str) -> Result<String> {
    let text = manifests.one("ConfigMap", map)?["data"][file].as_str().map(str::to_owned);
    text.with_context(|| format!("no {file} in {map}"))
}

#[test]
fn the_chart_passes_helms_lints() -> Result<()> {
    for values in [&[][..], &ALL] {
        let mut command = Command::new(tool("helm")?);
        command.args(["lint", "--strict", "deploy/helm/raftmq"]).current_dir(root());
        let output = command.args(values.iter().flat_map(|value| ["--set", value])).output()?;
        ensure!(output.status.success(), "{}", said(&output));
    }
    let refused = rendered(&["clusterTls.mode=enforcing"]).err().context("TLS without a secret is rendered")?;
    ensure!(format!("{refused:#}").contains("clusterTls.secretName"), "{refused:#}");
    Ok(())
}

#[test]
fn members_find_each_other_by_the_names_of_their_pods() -> Result<()> {
    for (values, members) in [(&[][..], 3), (&ALL, 5)] {
        let manifests = rendered(values)?;
        let set = &manifests.one("StatefulSet", "r-broker")?["spec"];
        ensure!(set["replicas"] == members && set["podManagementPolicy"] == "Parallel", "{set}");
        let service = &manifests.one("Service", set["serviceName"].as_str().context("a service")?)?["spec"];
        ensure!(service["clusterIP"] == "None" && service["publishNotReadyAddresses"] == true, "{service}");
        ensure!(finds(&service["selector"], &set["template"]["metadata"]["labels"]), "{service}");
        ensure!(finds(&set["selector"]["matchLabels"], &set["template"]["metadata"]["labels"]), "{set}");
        let peer = |number: u64| format!("n{number}-r-broker-{number}.r-broker.mq.svc.cluster.local:40911");
        let peers: Vec<String> = (0..members).map(peer).collect();
        let text = config(&manifests, "r-broker", "broker.conf")?;
        let line = format!("dLegerPeers = {}", peers.join(";"));
        ensure!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        let line = "namesrvAddr = r-namesrv-0.r-namesrv.mq.svc.cluster.local:9876;r-namesrv-1.r-namesrv.mq.svc.cluster.local:9876";
        ensure!(text.lines().any(|one| one == line), "{line} is not in\n{text}");
        let broker = known("mqbroker")?;
        let used = keys(&text);
        ensure!(used.is_subset(&broker), "{:?}", used.difference(&broker));
        if manifests.has("Deployment") {
            let text = config(&manifests, "r-dashboard", "dashboard.conf")?;
            let (used, dashboard) = (keys(&text), known("raftmq-dashboard")?);
            ensure!(used.is_subset(&dashboard), "{:?}", used.difference(&dashboard));
            ensure!(text.contains("readOnly = true\n"), "anybody may change the cluster: {text}");
        }
    }
    Ok(())
}

#[test]
fn an_update_waits_for_each_member_and_moves_leadership_first() -> Result<()> {
    let manifests = rendered(&[])?;
    let set = &manifests.one("StatefulSet", "r-broker")?["spec"];
    ensure!(set["updateStrategy"]["type"] == "RollingUpdate", "{set}");
    let pod = &set["template"]["spec"];
    let broker = named(&pod["containers"], "broker")?;
    ensure!(broker["readinessProbe"]["httpGet"]["path"] == "/readyz", "{broker}");
    for probe in ["startupProbe", "livenessProbe"] {
        ensure!(broker[probe]["httpGet"]["path"] == "/healthz", "{broker}");
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        ensure!(broker[probe]["httpGet"]["port"] == "metrics", "{broker}");
    }
    named(&broker["ports"], "metrics")?;
    // SIGTERM, which has a leader hand over, goes to the broker itself, after the pod was taken out of the service.
    let start = items(&broker["args"]).filter_map(Value::as_str).last().context("arguments")?;
    let last = start.trim_end().lines().next_back().unwrap_or_default();
    ensure!(last.starts_with("exec mqbroker "), "the shell gets the signals: {last}");
    ensure!(broker["lifecycle"]["preStop"]["exec"]["command"].is_array(), "{broker}");
    ensure!(pod["terminationGracePeriodSeconds"].as_u64() >= Some(30), "{pod}");

    let budget = &manifests.one("PodDisruptionBudget", "r-broker")?["spec"];
    ensure!(budget["maxUnavailable"] == 1, "{budget}");
    ensure!(finds(&budget["selector"]["matchLabels"], &set["template"]["metadata"]["labels"]), "{budget}");
    let labels = &set["template"]["metadata"]["labels"];
    let apart = &pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0];
    ensure!(apart["topologyKey"] == "kubernetes.io/hostname", "{apart}");
    ensure!(finds(&apart["labelSelector"]["matchLabels"], labels), "{apart}");
    let manifests = rendered(&["broker.antiAffinity=preferred"])?;
    let affinity = &manifests.one("StatefulSet", "r-broker")?["spec"]["template"]["spec"]["affinity"];
    let apart = &affinity["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]["podAffinityTerm"];
    ensure!(apart["topologyKey"] == "kubernetes.io/hostname", "{affinity}");
    ensure!(finds(&apart["labelSelector"]["matchLabels"], labels), "{apart}");
    Ok(())
}

/// Every mount has its volume, every volume its map or secret, and no pod is root or may become it.
#[test]
fn pods_have_what_they_mount_and_no_rights() -> Result<()> {
    for values in [&[][..], &ALL] {
        let manifests = rendered(values)?;
        for maker in manifests.makers() {
            let pod = &maker["spec"]["template"]["spec"];
            let name = &maker["metadata"]["name"];
            ensure!(pod["securityContext"]["runAsNonRoot"] == true, "{name}");
            ensure!(pod["automountServiceAccountToken"] == false && pod["enableServiceLinks"] == false, "{name}");
            let of_claims = items(&maker["spec"]["volumeClaimTemplates"]).map(|claim| &claim["metadata"]["name"]);
            let volumes: BTreeSet<&str> = items(&pod["volumes"])
                .map(|volume| &volume["name"])
                .chain(of_claims)
                .filter_map(Value::as_str)
                .collect();
            for container in items(&pod["containers"]) {
                let rights = &container["securityContext"];
                ensure!(
                    rights["allowPrivilegeEscalation"] == false && rights["readOnlyRootFilesystem"] == true,
                    "{name}"
                );
                ensure!(rights["capabilities"]["drop"][0] == "ALL", "{name}");
                let mounts = items(&container["volumeMounts"]).filter_map(|mount| mount["name"].as_str());
                let mounts: BTreeSet<&str> = mounts.collect();
                ensure!(mounts == volumes, "{name} mounts {mounts:?} and has {volumes:?}");
                for variable in items(&container["env"]) {
                    if let Some(secret) = variable["valueFrom"]["secretKeyRef"]["name"].as_str() {
                        manifests.one("Secret", secret)?;
                    }
                }
            }
            for volume in items(&pod["volumes"]) {
                if let Some(map) = volume["configMap"]["name"].as_str() {
                    manifests.one("ConfigMap", map)?;
                }
                if let Some(secret) = volume["secret"]["secretName"].as_str() {
                    ensure!(["clients", "inside"].contains(&secret), "{name}: nobody was told of the secret {secret}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn certificates_are_those_of_the_secrets() -> Result<()> {
    let manifests = rendered(&ALL)?;
    let text = config(&manifests, "r-broker", "broker.conf")?;
    let pod = &manifests.one("StatefulSet", "r-broker")?["spec"]["template"]["spec"];
    let mounts = &named(&pod["containers"], "broker")?["volumeMounts"];
    for (volume, secret, keys) in [
        ("tls", "clients", &["tlsCertPath", "tlsKeyPath"][..]),
        ("cluster-tls", "inside", &["tls.server.certPath", "tls.server.keyPath", "tls.server.trustCertPath"]),
    ] {
        ensure!(named(&pod["volumes"], volume)?["secret"]["secretName"] == secret, "{pod}");
        let at = named(mounts, volume)?["mountPath"].as_str().context("a path")?;
        for key in keys {
            let path = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).context(*key)?;
            // The names of Kubernetes's own type of secret, and of cert-manager's.
            let file = path.strip_prefix(&format!("{at}/")).with_context(|| format!("{path} is not below {at}"))?;
            ensure!(["tls.crt", "tls.key", "ca.crt"].contains(&file), "{path}");
        }
    }
    let text = config(&rendered(&[])?, "r-broker", "broker.conf")?;
    ensure!(!text.contains("tls"), "there is TLS without a secret: {text}");
    Ok(())
}

#[test]
fn monitoring_finds_every_broker() -> Result<()> {
    let manifests = rendered(&ALL)?;
    let monitor = &manifests.one("ServiceMonitor", "r")?["spec"];
    let endpoint = &monitor["endpoints"][0];
    ensure!(endpoint["path"] == "/metrics", "{monitor}");
    let service = manifests.one("Service", "r-broker")?;
    ensure!(finds(&monitor["selector"]["matchLabels"], &service["metadata"]["labels"]), "{monitor}");
    let port = named(&service["spec"]["ports"], endpoint["port"].as_str().context("a port")?)?;
    let pod = &manifests.one("StatefulSet", "r-broker")?["spec"]["template"]["spec"];
    named(&named(&pod["containers"], "broker")?["ports"], port["targetPort"].as_str().context("a port")?)?;

    let rule = &manifests.one("PrometheusRule", "r")?["spec"];
    let alerts: Vec<&str> = items(&rule["groups"][0]["rules"]).filter_map(|rule| rule["alert"].as_str()).collect();
    let written = read("helm/raftmq/prometheus/raftmq.rules.yaml")?;
    let written: Vec<&str> = written.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    ensure!(!alerts.is_empty() && alerts == written, "{alerts:?}");
    let shown: Value = serde_json::from_str(&config(&manifests, "r-grafana", "raftmq.json")?)?;
    let written: Value =
        serde_json::from_str(&fs::read_to_string(super::deploy().join("helm/raftmq/grafana/raftmq.json"))?)?;
    ensure!(shown == written, "the chart's dashboard is another one");
    let manifests = rendered(&[])?;
    for kind in ["ServiceMonitor", "PrometheusRule", "Deployment"] {
        ensure!(!manifests.has(kind), "{kind} is there without being asked for");
    }
    Ok(())
}
