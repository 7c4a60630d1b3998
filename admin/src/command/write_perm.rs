//! `wipeWritePerm`, `addWritePerm`: lead producers past a broker group, and back to it.

use super::groups_named;
use crate::confirm::Consent;
use crate::connect::{self, at};
use crate::directory::{Directory, Group};
use crate::error::AdminError;
use crate::output::{Outcome, ShortOutput};
use clap::Args;
use raftmq_proto::admin::{SetWritableRequest, SetWritableResponse};
use raftmq_proto::namesrv::ListTopicsRequest;
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;
use tonic::Status;

/// A name server hears of a change within this: brokers report it at once.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// Permission to write.
const WRITE: u32 = 2;

/// Take every topic of a broker group out of what producers write to, so that it can be drained.
///
/// Routes show its topics without permission to write, those that are made later too, until addWritePerm: through
/// restarts of brokers and name servers. Producers follow at their next look at the route, 30 s at most, and nothing that
/// they send until then is refused; consumers go on. What the broker group keeps for others still comes to it: message
/// groups of FIFO topics whose order it keeps. Where it is the only broker group of a topic, nobody can send to the topic.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin wipeWritePerm -n localhost:9876 -b RaftNode00")]
pub(crate) struct Wipe {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    pub output: ShortOutput,
}

/// Put the topics of a broker group back into what producers write to, each with the permission that it has.
#[derive(Debug, Args)]
#[command(after_help = "Example: mqadmin addWritePerm -n localhost:9876 -b RaftNode00")]
pub(crate) struct Add {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    pub output: ShortOutput,
}

#[derive(Debug, Args)]
struct Place {
    /// The broker group.
    #[arg(short = 'b', long = "brokerName", value_name = "NAME")]
    broker_group: String,
    /// Its cluster; needless where the name is in one.
    #[arg(short = 'c', long = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
}

pub(crate) async fn wipe(directory: &Directory, arguments: &Wipe) -> Result<Outcome, AdminError> {
    let name = &arguments.place.broker_group;
    let group = arguments.place.group(directory).await?;
    arguments.consent.ask(&format!("Producers are led past broker group {name}, with all its topics."))?;
    set(directory, &group, false).await
}

pub(crate) async fn add(directory: &Directory, arguments: &Add) -> Result<Outcome, AdminError> {
    let group = arguments.place.group(directory).await?;
    set(directory, &group, true).await
}

impl Place {
    async fn group(&self, directory: &Directory) -> Result<Group, AdminError> {
        let mut groups = groups_named(directory, self.cluster.as_deref(), Some(&self.broker_group)).await?;
        Ok(groups.swap_remove(0))
    }
}

async fn set(directory: &Directory, group: &Group, writable: bool) -> Result<Outcome, AdminError> {
    let (verb, did) = if writable { ("add", "addWritePerm") } else { ("wipe", "wipeWritePerm") };
    let changed = directory.on_group(group, |mut node| async move {
        Ok(node.set_writable(SetWritableRequest { writable }).await?.into_inner())
    });
    let (address, SetWritableResponse { changed, topics, .. }) = changed.await?;
    // How many are to be written to: topics have a permission of their own.
    let open = super::export::topics(directory, group).await?.iter().filter(|row| row.permission & WRITE != 0).count();
    let wanted = if writable { open } else { 0 };
    let (mut text, mut servers, mut failures) = (String::new(), Vec::new(), Vec::new());
    for server in &directory.name_servers {
        let heard = heard(directory, server, group, wanted).await;
        if heard.is_ok() {
            let _ = writeln!(text, "{verb} write perm of broker[{}] in name server[{server}] OK, {topics}", group.name);
        }
        servers.push(json!({ "addr": server, "ok": heard.is_ok() }));
        failures.extend(heard.err());
    }
    if !changed {
        let _ = writeln!(text, "It was so before.");
    }
    let json = json!({
        "brokerName": group.name,
        "addr": address,
        "did": did,
        "changed": changed,
        "topics": topics,
        "writableTopics": wanted,
        "nameServers": servers,
    });
    Ok(Outcome { text, json, failures })
}

/// Waits until a name server shows so many topics of the group to be written to; else why not.
async fn heard(directory: &Directory, server: &str, group: &Group, wanted: usize) -> Result<(), String> {
    let until = Instant::now() + HEARD_WITHIN;
    loop {
        let shown = shown(directory, server, group).await.map_err(|status| match status {
            Ok(status) => at(server, &status),
            Err(error) => error.to_string(),
        })?;
        // A table is taken as a whole; topics may be made and changed meanwhile.
        if (shown == 0) == (wanted == 0) {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(format!(
                "name server {server} shows {shown} topics of {} to producers, {wanted} are to be; it has not heard of the \
                 change within {} s, and brokers go on telling it",
                group.name,
                HEARD_WITHIN.as_secs()
            ));
        }
        sleep(PAUSE).await;
    }
}

/// Topics of the group that a name server shows as to be written to.
async fn shown(directory: &Directory, server: &str, group: &Group) -> Result<usize, Result<Status, AdminError>> {
    let mut client = connect::name_server(server, &directory.token).map_err(Err)?;
    let request = ListTopicsRequest { cluster: group.cluster.clone() };
    let mut parts = client.list_topics(request).await.map_err(Ok)?.into_inner();
    let mut count = 0;
    while let Some(part) = parts.next().await {
        let hosts = part.map_err(Ok)?.topics.into_iter().flat_map(|route| route.broker_groups);
        let open = hosts.filter(|host| host.broker_group == group.name && host.cluster == group.cluster);
        count += open.filter_map(|host| host.topic).filter(|topic| topic.permission & WRITE != 0).count();
    }
    Ok(count)
}
