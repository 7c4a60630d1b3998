//! A network of namespaces, one a host, on a bridge: links between hosts can be cut and healed.
//!
//! Needs root and iproute2.

use std::{net::Ipv4Addr, process::Command};

use anyhow::{Context, Result, ensure};
use rand::RngExt;

use crate::cluster::Host;

/// Namespaces, their bridge, and nothing else; all of it goes when this does.
pub struct Network {
    /// In order.
    pub hosts: Vec<Host>,
    bridge: String,
}

/// Why there can be no network here, or none.
pub fn unavailable() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    match Command::new("ip").args(["netns", "list"]).output() {
        Err(failure) => Some(format!("the program `ip` (package iproute2) cannot be run: {failure}")),
        Ok(output) if !output.status.success() => Some(String::from_utf8_lossy(&output.stderr).into_owned()),
        Ok(_) => None,
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().context("running ip")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Network {
    /// `hosts` namespaces, all connected with each other and with this process.
    ///
    /// # Errors
    ///
    /// Not root, no iproute2, or a kernel without namespaces.
    pub fn new(hosts: usize) -> Result<Self> {
        let id: u16 = rand::rng().random_range(0x1000..=0xFFFF);
        let subnet: u8 = rand::rng().random_range(1..=250);
        let address = |host: usize| Ipv4Addr::new(10, 213, subnet, u8::try_from(host).expect("a handful of hosts"));
        let bridge = format!("rmqb{id:x}");
        let mut network = Self { hosts: Vec::new(), bridge: bridge.clone() };
        ip(&format!("link add {bridge} type bridge"))?;
        ip(&format!("addr add {}/24 dev {bridge}", address(1)))?;
        ip(&format!("link set {bridge} up"))?;
        for number in 0..hosts {
            let namespace = format!("rmq{id:x}-n{number}");
            let (outer, inner) = (format!("rmqo{id:x}{number}"), format!("rmqi{id:x}{number}"));
            let host = Host { namespace: namespace.clone(), address: address(10 + number) };
            ip(&format!("netns add {namespace}"))?;
            network.hosts.push(host.clone());
            ip(&format!("link add {outer} type veth peer name {inner}"))?;
            ip(&format!("link set {inner} netns {namespace}"))?;
            ip(&format!("link set {outer} master {bridge} up"))?;
            ip(&format!("-n {namespace} addr add {}/24 dev {inner}", host.address))?;
            ip(&format!("-n {namespace} link set {inner} up"))?;
            ip(&format!("-n {namespace} link set lo up"))?;
        }
        Ok(network)
    }

    /// Drops every packet between two hosts.
    ///
    /// # Errors
    ///
    /// They are cut off already.
    pub fn cut(&self, one: usize, two: usize) -> Result<()> {
        self.route("add", one, two)?;
        self.route("add", two, one)
    }

    /// Undoes [`Network::cut`].
    ///
    /// # Errors
    ///
    /// They are not cut off.
    pub fn heal(&self, one: usize, two: usize) -> Result<()> {
        self.route("del", one, two)?;
        self.route("del", two, one)
    }

    /// Drops every packet of host `from` to host `to`, and none of the other way. Over a connection that is open, what
    /// `to` sends arrives until it waits for an acknowledgement; none can be opened.
    ///
    /// # Errors
    ///
    /// They are dropped already.
    pub fn silence(&self, from: usize, to: usize) -> Result<()> {
        self.route("add", from, to)
    }

    /// Undoes [`Network::silence`].
    ///
    /// # Errors
    ///
    /// They are not dropped.
    pub fn hear(&self, from: usize, to: usize) -> Result<()> {
        self.route("del", from, to)
    }

    fn route(&self, verb: &str, from: usize, to: usize) -> Result<()> {
        ip(&format!("-n {} route {verb} blackhole {}/32", self.hosts[from].namespace, self.hosts[to].address))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in &self.hosts {
            let _ = ip(&format!("netns del {}", host.namespace));
        }
        let _ = ip(&format!("link del {}", self.bridge));
    }
}
