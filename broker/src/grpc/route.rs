//! QueryRoute and QueryAssignment: where a topic's queues are, by addresses that this client can reach.
//!
//! Any member of a broker group serves any client, so a queue's endpoints are all members, in an order of their own:
//! queue `i` has the list rotated by `i`. Clients that use the first address only spread over the members, and a
//! client whose node hangs has another channel to turn to. Leader changes and deaths change nothing in a route,
//! because clients compare endpoints by value and start over when they differ.

use super::Front;
use super::caller::Caller;
use super::convert;
use super::dialect::Dialect;
use super::status::{self, ApiError};
use crate::namesrv::ForeignRoute;
use crate::store::consumer_group::consumer_group;
use crate::store::machine::is_writable;
use crate::store::topic::{READABLE, WRITABLE, shown_permission};
use raftmq_proto::name::TopicName;
use raftmq_proto::rocketmq as v2;
use std::net::{IpAddr, SocketAddr};
use tonic::Request;
use v2::{AddressScheme, MessageType, Permission};

/// What a topic that is made on its first use takes: the types that RocketMQ mixes in one topic, of which every client
/// knows all. PRIORITY and LITE have topics of their own, see [`ADVERTISED`].
pub(super) const EVERY_TYPE: [MessageType; 4] =
    [MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction];

/// Types that a topic may be advertised with: clients fail on a route that names any other. Older clients know neither
/// PRIORITY nor LITE, which are the types of topics that were made for them and of no others.
const ADVERTISED: [MessageType; 6] = [
    MessageType::Normal,
    MessageType::Fifo,
    MessageType::Delay,
    MessageType::Transaction,
    MessageType::Priority,
    MessageType::Lite,
];

pub(super) async fn query(
    front: &Front,
    request: Request<v2::QueryRouteRequest>,
) -> Result<v2::QueryRouteResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    let client_id = front.admit(&caller, &request)?;
    let resource = request.topic.clone().unwrap_or_default();
    let topic = convert::topic(request.topic)?;
    // A consumer that asks again and again would bring a deleted topic back; one that starts is not told apart.
    let consumes = front.settings.get(client_id).is_some_and(|known| known.consumer.is_some());
    let mut hosts = hosts(front, &topic).await?;
    if hosts.is_empty() && !consumes && front.create_topic(&topic, &caller).await? {
        hosts = self::hosts(front, &topic).await?;
    }
    if hosts.is_empty() {
        return Err(ApiError::TopicNotFound(topic.into_string()));
    }
    let dialled = Dialled { endpoints: request.endpoints.as_ref(), reached: caller.reached() };
    let own_port = front.node.settings().grpc.use_endpoint_port_from_request;
    let dialect = Dialect::of(&caller);
    let of_host = |host: &Host| {
        let lists = dialect.spell(host.endpoints(&dialled, own_port));
        if dialect.first_queue_only() { firsts(&resource, host, &lists) } else { queues(&resource, host, &lists) }
    };
    let message_queues = hosts.iter().flat_map(of_host).collect();
    Ok(v2::QueryRouteResponse { status: Some(status::ok()), message_queues })
}

pub(super) async fn assignment(
    front: &Front,
    request: Request<v2::QueryAssignmentRequest>,
) -> Result<v2::QueryAssignmentResponse, ApiError> {
    let (caller, request) = Caller::split(request);
    front.admit(&caller, &request)?;
    let resource = request.topic.clone().unwrap_or_default();
    let topic = convert::topic(request.topic)?;
    let group = convert::consumer_group(request.group)?;
    let ordered = consumer_group(&front.state(), group.as_str())?.is_some_and(|row| row.ordered);
    let hosts = hosts(front, &topic).await?;
    if hosts.is_empty() {
        return Err(ApiError::TopicNotFound(topic.into_string()));
    }
    let dialled = Dialled { endpoints: request.endpoints.as_ref(), reached: caller.reached() };
    let own_port = front.node.settings().grpc.use_endpoint_port_from_request;
    let dialect = Dialect::of(&caller);
    let of_host = |host: &Host| assigned(&resource, host, &dialect.spell(host.endpoints(&dialled, own_port)), ordered);
    let assignments: Vec<_> = hosts.iter().flat_map(of_host).collect();
    if assignments.is_empty() {
        // An empty list would make clients drop what they have.
        return Err(ApiError::NoReadableQueue(topic.into_string()));
    }
    Ok(v2::QueryAssignmentResponse { status: Some(status::ok()), assignments })
}

/// A broker group that hosts a topic.
#[derive(Debug, Clone)]
pub(super) struct Host {
    broker_group: String,
    read_queues: u32,
    write_queues: u32,
    permission: u32,
    message_types: Vec<i32>,
    /// `host:port` of each member, in an order that never changes while the members are the same.
    members: Vec<String>,
    /// It is the group of the node that the client called.
    own: bool,
}

/// The broker groups that host a topic, by name.
pub(super) async fn hosts(front: &Front, topic: &TopicName) -> Result<Vec<Host>, ApiError> {
    let foreign = front.node.reporter.routes().of(topic.as_str()).await;
    let row = match foreign.is_empty() {
        true => front.topic(topic).await?,
        // Others host it, so that a topic which is missing here need not be a mistake.
        false => crate::store::topic::topic(&front.state(), topic.as_str())?,
    };
    let mut hosts: Vec<Host> = foreign.into_iter().map(Host::from).collect();
    if let Some(row) = row {
        let writable = is_writable(&front.state())?;
        let mut members = front.node.group.members();
        members.sort_by(|a, b| (&a.label, a.id).cmp(&(&b.label, b.id)));
        hosts.push(Host {
            broker_group: front.node.config.broker_group.clone(),
            read_queues: row.read_queues,
            write_queues: row.write_queues,
            permission: shown_permission(row.permission, writable),
            message_types: row.message_types,
            members: members.into_iter().filter(|member| member.voter).map(|member| member.addresses.grpc).collect(),
            own: true,
        });
    }
    hosts.sort_by(|a, b| a.broker_group.cmp(&b.broker_group));
    Ok(hosts)
}

/// A route as RocketMQ's remoting protocol writes it. Names and addresses have no sign that JSON would quote.
pub(super) fn document(hosts: &[Host], cluster: &str) -> String {
    let queues = hosts.iter().map(|host| {
        format!(
            r#"{{"brokerName":"{}","perm":{},"readQueueNums":{},"topicSysFlag":0,"writeQueueNums":{}}}"#,
            host.broker_group, host.permission, host.read_queues, host.write_queues
        )
    });
    let brokers = hosts.iter().map(|host| {
        let members = host.members.iter().enumerate().map(|(id, address)| format!(r#""{id}":"{address}""#));
        format!(
            r#"{{"brokerAddrs":{{{}}},"brokerName":"{}","cluster":"{cluster}"}}"#,
            members.collect::<Vec<_>>().join(","),
            host.broker_group
        )
    });
    format!(
        r#"{{"brokerDatas":[{}],"filterServerTable":{{}},"queueDatas":[{}]}}"#,
        brokers.collect::<Vec<_>>().join(","),
        queues.collect::<Vec<_>>().join(",")
    )
}

/// Where the client says it called, and where its call came in.
struct Dialled<'d> {
    endpoints: Option<&'d v2::Endpoints>,
    /// The address of this node at the end of the client's connection; `None` when a proxy stands between.
    reached: Option<SocketAddr>,
}

impl Dialled<'_> {
    /// What the client dialled, where only that is known to lead to the broker group: a domain name, or an address
    /// that is translated on its way here. `None` when the client reaches the members' own addresses.
    fn only_way(&self) -> Option<v2::Endpoints> {
        let endpoints = self.endpoints.filter(|endpoints| !endpoints.addresses.is_empty())?;
        let addresses = &endpoints.addresses;
        let hosts: Vec<Option<IpAddr>> = addresses.iter().map(|address| ip(&address.host)).collect();
        let translated = match self.reached {
            Some(reached) => !hosts.contains(&Some(reached.ip().to_canonical())),
            // Tests and in-process servers have no connection to ask.
            None => false,
        };
        match hosts.first() {
            Some(Some(_)) => translated.then(|| endpoints.clone()),
            Some(None) if addresses.len() == 1 => {
                Some(v2::Endpoints { scheme: AddressScheme::DomainName.into(), addresses: addresses.clone() })
            }
            _ => None,
        }
    }

    fn port(&self) -> Option<i32> {
        self.endpoints.and_then(|endpoints| endpoints.addresses.first()).map(|address| address.port)
    }
}

/// An address that a host stands for by itself. `localhost` is this machine and no balanced name.
fn ip(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

impl From<ForeignRoute> for Host {
    fn from(route: ForeignRoute) -> Host {
        let addresses = route.members.into_iter().filter(|member| member.serves).filter_map(|member| member.addresses);
        Host {
            broker_group: route.broker_group,
            read_queues: route.topic.read_queues,
            write_queues: route.topic.write_queues,
            permission: route.topic.permission,
            message_types: route.topic.message_types,
            members: addresses.map(|addresses| addresses.grpc).collect(),
            own: false,
        }
    }
}

impl Host {
    /// The different lists of endpoints of this group's queues; queue `i` has list `i` modulo their number.
    fn endpoints(&self, dialled: &Dialled<'_>, port_from_request: bool) -> Vec<v2::Endpoints> {
        if self.own
            && let Some(endpoints) = dialled.only_way()
        {
            return rotations(&endpoints);
        }
        let port = if port_from_request { dialled.port() } else { None };
        let address = |member: &String| {
            let (host, own_port) = member.rsplit_once(':')?;
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Some(v2::Address { host, port: port.unwrap_or(own_port.parse().ok()?) })
        };
        let addresses: Vec<v2::Address> = self.members.iter().filter_map(address).collect();
        // One list has addresses of one kind.
        for scheme in [AddressScheme::IPv4, AddressScheme::IPv6, AddressScheme::DomainName] {
            let of_kind: Vec<_> = addresses.iter().filter(|address| kind(&address.host) == scheme).cloned().collect();
            if !of_kind.is_empty() {
                return rotations(&v2::Endpoints { scheme: scheme.into(), addresses: of_kind });
            }
        }
        Vec::new()
    }

    fn permission(&self) -> (bool, bool) {
        (self.permission & READABLE != 0, self.permission & WRITABLE != 0)
    }
}

fn kind(host: &str) -> AddressScheme {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => AddressScheme::IPv4,
        Ok(IpAddr::V6(_)) => AddressScheme::IPv6,
        Err(_) => AddressScheme::DomainName,
    }
}

/// Every rotation of a list; lists of domain names have one name each, as clients take no more.
fn rotations(endpoints: &v2::Endpoints) -> Vec<v2::Endpoints> {
    let count = endpoints.addresses.len();
    let single = endpoints.scheme == i32::from(AddressScheme::DomainName);
    let rotated = |by: usize| {
        let mut addresses = endpoints.addresses.clone();
        addresses.rotate_left(by);
        addresses.truncate(if single { 1 } else { count });
        v2::Endpoints { scheme: endpoints.scheme, addresses }
    };
    (0..count).map(rotated).collect()
}

fn queue(
    resource: &v2::Resource,
    host: &Host,
    lists: &[v2::Endpoints],
    id: usize,
    permission: Permission,
) -> v2::MessageQueue {
    v2::MessageQueue {
        topic: Some(resource.clone()),
        id: i32::try_from(id).unwrap_or(i32::MAX),
        permission: permission.into(),
        broker: Some(v2::Broker {
            name: host.broker_group.clone(),
            // All members are the same to a client, and clients skip brokers with another id.
            id: 0,
            endpoints: lists.get(id % lists.len().max(1)).cloned(),
        }),
        accept_message_types: Vec::new(),
    }
}

fn types(host: &Host) -> Vec<i32> {
    let mut types: Vec<i32> = ADVERTISED.iter().map(|kind| i32::from(*kind)).collect();
    types.retain(|kind| host.message_types.contains(kind));
    if types.is_empty() {
        types.push(MessageType::Normal.into());
    }
    types
}

/// A group in a route for clients that know no queue but the first of a broker, and that send again to another broker
/// only: every list of endpoints is a broker of one queue to them. Whatever the queue, the server places messages
/// itself and serves receives from all.
fn firsts(resource: &v2::Resource, host: &Host, lists: &[v2::Endpoints]) -> Vec<v2::MessageQueue> {
    let (readable, writable) = host.permission();
    let permission = match (readable && host.read_queues > 0, writable && host.write_queues > 0) {
        (true, true) => Permission::ReadWrite,
        (true, false) => Permission::Read,
        (false, true) => Permission::Write,
        (false, false) => Permission::None,
    };
    (0..lists.len().max(1))
        .map(|number| {
            let mut first = queue(resource, host, lists, number, permission);
            first.id = 0;
            first.accept_message_types = types(host);
            if let Some(broker) = first.broker.as_mut().filter(|_| number > 0) {
                // No broker group's own name has this character.
                broker.name = format!("{}#{number}", broker.name);
            }
            first
        })
        .collect()
}

/// A group's queues in a route. Ids count from 0 through queues to read, to write, and for both.
fn queues(resource: &v2::Resource, host: &Host, lists: &[v2::Endpoints]) -> Vec<v2::MessageQueue> {
    let (read, write) = (host.read_queues as usize, host.write_queues as usize);
    let both = read.min(write);
    let permissions: Vec<(Permission, usize)> = match host.permission() {
        (true, true) => {
            vec![(Permission::Read, read - both), (Permission::Write, write - both), (Permission::ReadWrite, both)]
        }
        (true, false) => vec![(Permission::Read, read)],
        (false, true) => vec![(Permission::Write, write)],
        (false, false) => vec![(Permission::None, read.max(write).max(1))],
    };
    let types = types(host);
    let permissions = permissions.into_iter().flat_map(|(permission, count)| std::iter::repeat_n(permission, count));
    permissions
        .enumerate()
        .map(|(id, permission)| v2::MessageQueue {
            accept_message_types: types.clone(),
            ..queue(resource, host, lists, id, permission)
        })
        .collect()
}

/// What a group's consumers poll: all of them poll all of it. A receive is served from every queue of the group, so
/// that a poll at each member is enough, and a member that hangs leaves the others; ordered groups poll each queue.
fn assigned(resource: &v2::Resource, host: &Host, lists: &[v2::Endpoints], ordered: bool) -> Vec<v2::Assignment> {
    let (readable, writable) = host.permission();
    if !readable {
        return Vec::new();
    }
    let permission = if writable { Permission::ReadWrite } else { Permission::Read };
    let read = host.read_queues as usize;
    let count = if ordered { read } else { read.min(lists.len().max(1)) };
    (0..count).map(|id| v2::Assignment { message_queue: Some(queue(resource, host, lists, id, permission)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::{Dialled, Host, assigned, document, firsts, queues};
    use raftmq_proto::rocketmq as v2;
    use v2::{AddressScheme, MessageType};

    fn host() -> Host {
        Host {
            broker_group: "RaftNode00".to_owned(),
            read_queues: 4,
            write_queues: 4,
            permission: 6,
            message_types: vec![MessageType::Normal.into()],
            members: ["10.0.0.1:8081", "10.0.0.2:8181", "10.0.0.3:8281"].map(str::to_owned).to_vec(),
            own: true,
        }
    }

    /// `scheme host:port host:port`.
    fn endpoints(scheme: AddressScheme, text: &str) -> v2::Endpoints {
        let address = |text: &str| {
            let (host, port) = text.rsplit_once(':').expect("host:port");
            v2::Address { host: host.to_owned(), port: port.parse().expect("a port") }
        };
        v2::Endpoints { scheme: scheme.into(), addresses: text.split(' ').map(address).collect() }
    }

    fn shown(endpoints: &v2::Endpoints) -> String {
        let addresses: Vec<_> =
            endpoints.addresses.iter().map(|address| format!("{}:{}", address.host, address.port)).collect();
        format!("{} {}", endpoints.scheme().as_str_name(), addresses.join(" "))
    }

    fn check(host: &Host, dialled: Option<(AddressScheme, &str)>, reached: Option<&str>, expected: &[&str]) {
        let dialled = dialled.map(|(scheme, text)| endpoints(scheme, text));
        let reached = reached.map(|text| text.parse().expect("an address"));
        let lists = host.endpoints(&Dialled { endpoints: dialled.as_ref(), reached }, false);
        let lists: Vec<_> = lists.iter().map(shown).collect();
        assert_eq!(lists, expected, "dialled {dialled:?}, reached {reached:?}");
    }

    const MEMBERS: [&str; 3] = [
        "IPv4 10.0.0.1:8081 10.0.0.2:8181 10.0.0.3:8281",
        "IPv4 10.0.0.2:8181 10.0.0.3:8281 10.0.0.1:8081",
        "IPv4 10.0.0.3:8281 10.0.0.1:8081 10.0.0.2:8181",
    ];

    #[test]
    fn all_members_rotated() {
        check(&host(), None, None, &MEMBERS);
        check(&host(), Some((AddressScheme::IPv4, "10.0.0.2:8181")), Some("10.0.0.2:8181"), &MEMBERS);
        check(&host(), Some((AddressScheme::IPv4, "10.0.0.2:8181 10.0.0.1:8081")), Some("10.0.0.1:8081"), &MEMBERS);
    }

    #[test]
    fn the_one_name_that_was_dialled() {
        let name = (AddressScheme::DomainName, "mq.example.com:443");
        check(&host(), Some(name), Some("10.0.0.2:8181"), &["DOMAIN_NAME mq.example.com:443"]);
        check(&host(), Some(name), None, &["DOMAIN_NAME mq.example.com:443"]);
        let other = Host { own: false, ..host() };
        check(&other, Some(name), None, &MEMBERS);
    }

    #[test]
    fn localhost_is_no_balanced_name() {
        let name = (AddressScheme::DomainName, "localhost:8081");
        check(&host(), Some(name), Some("127.0.0.1:8081"), &MEMBERS);
        // From outside a container, through a mapped port.
        check(&host(), Some(name), Some("172.17.0.2:8081"), &["DOMAIN_NAME localhost:8081"]);
    }

    #[test]
    fn an_address_that_is_translated_on_its_way() {
        let dialled = (AddressScheme::IPv4, "203.0.113.7:18081");
        check(&host(), Some(dialled), Some("172.17.0.2:8081"), &["IPv4 203.0.113.7:18081"]);
        let two = (AddressScheme::IPv4, "203.0.113.7:1 203.0.113.8:2");
        let expected = ["IPv4 203.0.113.7:1 203.0.113.8:2", "IPv4 203.0.113.8:2 203.0.113.7:1"];
        check(&host(), Some(two), Some("172.17.0.2:8081"), &expected);
    }

    #[test]
    fn one_list_has_addresses_of_one_kind() {
        let with = |members: &[&str]| Host { members: members.iter().map(|m| (*m).to_owned()).collect(), ..host() };
        check(
            &with(&["[2001:db8::1]:8081", "[::1]:8082"]),
            None,
            None,
            &["IPv6 2001:db8::1:8081 ::1:8082", "IPv6 ::1:8082 2001:db8::1:8081"],
        );
        check(
            &with(&["a.example:8081", "b.example:8081"]),
            None,
            None,
            &["DOMAIN_NAME a.example:8081", "DOMAIN_NAME b.example:8081"],
        );
        check(&with(&["a.example:8081", "10.0.0.1:8081"]), None, None, &["IPv4 10.0.0.1:8081"]);
    }

    #[test]
    fn the_port_may_be_the_dialled_one() {
        let dialled = endpoints(AddressScheme::IPv4, "10.0.0.1:30081");
        let dialled = Dialled { endpoints: Some(&dialled), reached: "10.0.0.1:8081".parse().ok() };
        assert_eq!(shown(&host().endpoints(&dialled, true)[0]), "IPv4 10.0.0.1:30081 10.0.0.2:30081 10.0.0.3:30081");
    }

    /// Queues as `id permission first-port`, and the types of the first.
    fn route(host: &Host) -> (String, Vec<i32>) {
        let resource = v2::Resource { name: "orders".to_owned(), ..v2::Resource::default() };
        let lists = host.endpoints(&Dialled { endpoints: None, reached: None }, false);
        let queues = queues(&resource, host, &lists);
        let first_port = |queue: &v2::MessageQueue| {
            let broker = queue.broker.as_ref().expect("always there");
            assert_eq!((broker.id, broker.name.as_str()), (0, "RaftNode00"));
            broker.endpoints.as_ref().expect("always there").addresses[0].port
        };
        let shown: Vec<_> = queues
            .iter()
            .map(|queue| format!("{} {} {}", queue.id, queue.permission().as_str_name(), first_port(queue)))
            .collect();
        (shown.join(", "), queues[0].accept_message_types.clone())
    }

    #[test]
    fn queues_and_permissions() {
        let check = |read_queues: u32, write_queues: u32, permission: u32, expected: &str| {
            assert_eq!(route(&Host { read_queues, write_queues, permission, ..host() }).0, expected);
        };
        check(4, 4, 6, "0 READ_WRITE 8081, 1 READ_WRITE 8181, 2 READ_WRITE 8281, 3 READ_WRITE 8081");
        check(2, 1, 6, "0 READ 8081, 1 READ_WRITE 8181");
        check(1, 2, 6, "0 WRITE 8081, 1 READ_WRITE 8181");
        check(1, 2, 4, "0 READ 8081");
        check(1, 2, 2, "0 WRITE 8081, 1 WRITE 8181");
        check(1, 2, 0, "0 NONE 8081, 1 NONE 8181");
    }

    #[test]
    fn a_route_as_a_document() {
        let host = Host { read_queues: 4, write_queues: 8, permission: 6, ..host() };
        let parsed = document(&[host.clone(), host], "RaftCluster");
        let one = r#"{"brokerName":"RaftNode00","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":8}"#;
        assert!(parsed.ends_with(&format!(r#""queueDatas":[{one},{one}]}}"#)), "{parsed}");
        assert!(parsed.starts_with(r#"{"brokerDatas":[{"brokerAddrs":{"0":""#), "{parsed}");
        assert_eq!(parsed.matches('{').count(), parsed.matches('}').count());
    }

    #[test]
    fn types_are_those_that_clients_know() {
        let check = |types: &[MessageType], expected: &[MessageType]| {
            let message_types = types.iter().map(|kind| i32::from(*kind)).collect();
            let expected: Vec<_> = expected.iter().map(|kind| i32::from(*kind)).collect();
            assert_eq!(route(&Host { message_types, ..host() }).1, expected);
        };
        check(&[MessageType::Fifo], &[MessageType::Fifo]);
        check(&[], &[MessageType::Normal]);
        check(&[MessageType::Unspecified], &[MessageType::Normal]);
        check(&[MessageType::Unspecified, MessageType::Delay], &[MessageType::Delay]);
        check(&[MessageType::Lite], &[MessageType::Lite]);
        check(&[MessageType::Priority], &[MessageType::Priority]);
        check(&super::EVERY_TYPE, &super::EVERY_TYPE);
    }

    #[test]
    fn assignments_are_one_poll_per_member() {
        let check = |host: &Host, ordered: bool, expected: &[i32]| {
            let resource = v2::Resource { name: "orders".to_owned(), ..v2::Resource::default() };
            let lists = host.endpoints(&Dialled { endpoints: None, reached: None }, false);
            let queues = assigned(&resource, host, &lists, ordered);
            let ids: Vec<_> = queues.iter().filter_map(|assigned| Some(assigned.message_queue.as_ref()?.id)).collect();
            assert_eq!(ids, expected);
        };
        check(&host(), false, &[0, 1, 2]);
        check(&host(), true, &[0, 1, 2, 3]);
        check(&Host { read_queues: 1, ..host() }, false, &[0]);
        check(&Host { permission: 2, ..host() }, false, &[]);
    }

    #[test]
    fn a_broker_with_one_queue_for_each_list() {
        let mut host = host();
        let lists = host.endpoints(&Dialled { endpoints: None, reached: None }, false);
        let check = |host: &Host, permission: v2::Permission| {
            let shown: Vec<_> = firsts(&v2::Resource::default(), host, &lists)
                .into_iter()
                .map(|queue| {
                    let broker = queue.broker.clone().expect("set");
                    assert_eq!((queue.id, broker.id, queue.permission()), (0, 0, permission));
                    assert_eq!(queue.accept_message_types, [i32::from(MessageType::Normal)]);
                    (broker.name, shown(&broker.endpoints.expect("set")))
                })
                .collect();
            let names = ["RaftNode00", "RaftNode00#1", "RaftNode00#2"].map(str::to_owned);
            assert_eq!(shown, std::iter::zip(names, MEMBERS.map(str::to_owned)).collect::<Vec<_>>());
        };
        check(&host, v2::Permission::ReadWrite);
        host.read_queues = 0;
        check(&host, v2::Permission::Write);
        (host.read_queues, host.permission) = (4, 4);
        check(&host, v2::Permission::Read);
        host.permission = 0;
        check(&host, v2::Permission::None);
    }
}
