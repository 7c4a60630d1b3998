//! A real name server on a real port: what a broker tells it, others can ask for; it stops when asked to.

use raftmq_namesrv::{Config, NameServer};
use raftmq_proto::digest::TopicDigest;
use raftmq_proto::namesrv::name_server_client::NameServerClient;
use raftmq_proto::namesrv::{
    Addresses, ListNodesRequest, ListTopicsRequest, Member, ReportRequest, ReportTopicsRequest, Role, RouteRequest,
    Topic,
};
use raftmq_server::shutdown::Shutdown;
use std::net::{IpAddr, Ipv4Addr};
use tokio_stream::StreamExt as _;
use tonic::Code;

fn topic(number: usize) -> Topic {
    let name = format!("topic-{number:05}");
    Topic { name, read_queues: 8, write_queues: 8, permission: 6, version: 1, ..Topic::default() }
}

fn report(topics: &[Topic]) -> ReportRequest {
    let mut digest = TopicDigest::default();
    topics.iter().for_each(|topic| digest.add(topic));
    let addresses = Addresses { grpc: "h:8081".to_owned(), admin: "h:10911".to_owned(), peer: "h:40911".to_owned() };
    let member =
        Member { node: 7, label: "n0".to_owned(), addresses: Some(addresses.clone()), voter: true, serves: true };
    ReportRequest {
        cluster: "C".to_owned(),
        broker_group: "G".to_owned(),
        label: "n0".to_owned(),
        node: 7,
        boot: 1,
        sequence: 1,
        addresses: Some(addresses),
        role: Role::Leader.into(),
        term: 2,
        leader: 7,
        members: vec![member],
        version: 9,
        digest: digest.0,
        topic_count: topics.len() as u64,
        ..ReportRequest::default()
    }
}

#[tokio::test]
async fn what_a_broker_reports_can_be_asked_for() {
    let config = Config { bind: IpAddr::V4(Ipv4Addr::LOCALHOST), listen_port: 0, ..Config::default() };
    let server = NameServer::bind(config).expect("port 0 is free");
    let address = format!("http://{}", server.address());
    let shutdown = Shutdown::new();
    let serving = tokio::spawn(server.run(shutdown.clone()));

    let mut client = NameServerClient::connect(address).await.expect("it listens");
    let topics: Vec<Topic> = (0..2_500).map(topic).collect();
    let report = report(&topics);
    let answer = client.report(report.clone()).await.expect("a valid report").into_inner();
    assert!(answer.want_topics);

    let parts: Vec<_> = topics
        .chunks(1_000)
        .map(|part| ReportTopicsRequest {
            cluster: "C".to_owned(),
            broker_group: "G".to_owned(),
            node: 7,
            version: 9,
            digest: report.digest,
            put: part.to_vec(),
            ..ReportTopicsRequest::default()
        })
        .collect();
    let taken = client.report_topics(tokio_stream::iter(parts)).await.expect("a valid table").into_inner();
    assert!(taken.taken);

    let request = RouteRequest { topics: vec!["topic-00001".to_owned(), "none".to_owned()], ..RouteRequest::default() };
    let route = client.route(request.clone()).await.expect("a valid request").into_inner();
    assert_eq!(route.topics.len(), 1);
    assert_eq!(route.topics[0].broker_groups[0].broker_group, "G");
    assert_eq!(route.broker_groups[0].leader, 7);
    assert_eq!(route.broker_groups[0].topic_count, 2_500);
    let again = RouteRequest { known_stamp: route.stamp, ..request.clone() };
    assert!(client.route(again).await.expect("a valid request").into_inner().unchanged);
    let elsewhere = RouteRequest { except_broker_group: "G".to_owned(), ..request };
    assert!(client.route(elsewhere).await.expect("a valid request").into_inner().topics.is_empty());
    let many = RouteRequest { topics: vec!["t".to_owned(); 1_001], ..RouteRequest::default() };
    assert_eq!(client.route(many).await.expect_err("too many").code(), Code::InvalidArgument);

    let mut listed = Vec::new();
    let mut parts = client.list_topics(ListTopicsRequest::default()).await.expect("a valid request").into_inner();
    while let Some(part) = parts.next().await {
        listed.extend(part.expect("a part").topics.into_iter().map(|route| route.topic));
    }
    assert_eq!(listed, topics.iter().map(|topic| topic.name.clone()).collect::<Vec<_>>());

    let nodes = client.list_nodes(ListNodesRequest::default()).await.expect("a valid request").into_inner();
    assert_eq!(nodes.nodes.len(), 1);
    assert!(nodes.nodes[0].alive);
    assert_eq!(nodes.nodes[0].role(), Role::Leader);

    shutdown.request();
    serving.await.expect("it does not panic").expect("it stops cleanly");
}
