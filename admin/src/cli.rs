//! The command line: RocketMQ's command and flag names. A command's name is understood in any case.

use crate::command::Command;
use clap::{CommandFactory as _, Parser};
use std::ffi::OsString;
use std::path::PathBuf;

/// Manages a cluster: topics, consumer groups, brokers.
///
/// Commands that change something go to every broker group of the cluster, come back when the change is committed
/// there, and report each group. The exit code is 0 when all was done, 1 when something failed, 2 for wrong usage.
#[derive(Debug, Parser)]
#[command(
    name = "mqadmin",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example: mqadmin updateTopic -n localhost:9876 -t TestTopic -c DefaultCluster"
)]
pub(crate) struct Cli {
    /// Name servers, as host:port, separated by `;`.
    #[arg(
        short = 'n',
        long = "namesrvAddr",
        global = true,
        env = "NAMESRV_ADDR",
        default_value = "127.0.0.1:9876",
        value_name = "ADDRESSES"
    )]
    pub namesrv_addr: String,
    /// The brokers' adminToken: needed when this machine is not theirs.
    #[arg(
        long = "adminToken",
        global = true,
        env = "RAFTMQ_ADMIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN"
    )]
    pub admin_token: Option<String>,
    /// PEM file with this tool's certificate, for a cluster with TLS (tls.server.mode).
    #[arg(long = "tlsCert", global = true, env = "RAFTMQ_TLS_CLIENT_CERT_PATH", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file with its key.
    #[arg(long = "tlsKey", global = true, env = "RAFTMQ_TLS_CLIENT_KEY_PATH", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// PEM file with the CA that signed the nodes' certificates.
    #[arg(long = "tlsTrustCert", global = true, env = "RAFTMQ_TLS_CLIENT_TRUST_CERT_PATH", value_name = "FILE")]
    pub tls_trust_cert: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Replaces the name of a command by its spelling here: scripts write `updatetopic` and `UpdateTopic`.
pub(crate) fn with_known_spelling(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let command = Cli::command();
    let spellings: Vec<String> = command
        .get_subcommands()
        .flat_map(|known| std::iter::once(known.get_name()).chain(known.get_all_aliases()))
        .map(str::to_owned)
        .collect();
    // The first argument that is a command's name is the command: before it stand only flags and their values.
    let mut position = 1;
    while position < arguments.len() {
        let text = arguments[position].to_string_lossy().into_owned();
        if let Some(spelling) = spellings.iter().find(|spelling| spelling.eq_ignore_ascii_case(&text)) {
            arguments[position] = spelling.into();
            return arguments;
        }
        let takes_value =
            ["-n", "--namesrvAddr", "--adminToken", "--tlsCert", "--tlsKey", "--tlsTrustCert"].contains(&text.as_str());
        if !text.starts_with('-') && !text.eq_ignore_ascii_case("help") {
            return arguments;
        }
        position += if takes_value { 2 } else { 1 };
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, String> {
        let arguments = line.split(' ').map(OsString::from).collect();
        Cli::try_parse_from(with_known_spelling(arguments)).map_err(|refused| refused.to_string())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("Example: mqadmin {}", command.get_name());
            assert!(help.starts_with(&example), "{} says {help:?}", command.get_name());
            let line = help.trim_start_matches("Example: ").to_owned();
            assert!(parse(&line).is_ok(), "{line}: {:?}", parse(&line).err());
        }
    }

    #[test]
    fn lines_that_users_have_in_scripts() {
        for line in [
            "mqadmin updatetopic -n localhost:9876 -t TestTopic -c DefaultCluster",
            "mqadmin -n a:1;b:2 UPDATETOPIC -t T -b 127.0.0.1:10911 -r 8 -w 8 -p 6 -o false -a +message.type=NORMAL",
            "mqadmin deleteTopic -c C -t T",
            "mqadmin topicList",
            "mqadmin topicList -c",
            "mqadmin --tlsCert c.pem --tlsKey k.pem --tlsTrustCert ca.pem TOPICLIST",
            "mqadmin topicList --tlsCert c.pem --tlsKey k.pem --tlsTrustCert ca.pem",
            "mqadmin topicList -o json",
            "mqadmin topicRoute -t T -o json",
            "mqadmin topicStatus -t T",
            "mqadmin topicClusterList -t T",
            "mqadmin updateSubGroup -c C -g G -s true -m true -r 5 -o true --output json",
            "mqadmin deleteSubGroup -c C -g G -r true",
            "mqadmin getConsumerConfig -g G",
            "mqadmin clusterlist -m -o json",
            "mqadmin consumerProgress -g G",
            "mqadmin consumerProgress",
            "mqadmin haStatus -c C",
            "mqadmin electMaster -c C -b n1",
            "mqadmin addPeer -c C -b G -l n3 --node 7f --disk ff --address h:40911",
            "mqadmin replacepeer -l n1 --node 7f --disk ff --address h:40911 -y -o json",
            "mqadmin removePeer -c C -b G -l n1 -y",
            "mqadmin cleanBrokerMetadata -c C -b G -l n1 --node 7f",
            "mqadmin sendMessage -t T -p body -k key -c tag",
            "mqadmin consumeMessage -t T -g G -c 5 --output json",
            "mqadmin updatetopicperm -c C -t T -p 4",
            "mqadmin consumerConnection -g G -b 127.0.0.1:10911",
            "mqadmin producerConnection -g P -t T",
            "mqadmin statsAll -a -t T",
            "mqadmin brokerStatus -b 127.0.0.1:10911",
            "mqadmin getBrokerConfig -c C -o json",
            "mqadmin skipAccumulatedMessage -g G -t T -f true",
            "mqadmin getSyncStateSet -a 127.0.0.1:9878 -b G",
            "mqadmin raftStatus -c C",
            "mqadmin transferLeader -b n1",
            "mqadmin queryMsgById -t T -i 01AB,01CD -f utf-8",
            "mqadmin queryMsgById -t T -i 01AB -g G -d client@1 -s false",
            "mqadmin queryMsgByUniqueKey -t T -i 01AB -s 1700000000000 -e now -a",
            "mqadmin queryMsgByKey -t T -k key -b 0 -e 2026-11-23#18:00:00:000 -m 10 -c C",
            "mqadmin queryMsgByOffset -t T -b G -i 0 -o 7 -f utf-8 --output json",
            "mqadmin printMsg -t T -s tag -c UTF-8 -b currentTimeMillis -e 2026-11-23#18:00:00:000 -d false",
            "mqadmin dump -o json",
            "mqadmin explainmsg -t T -i 01AB -l chat-7 -o json",
            "mqadmin explainMsg -t T --queueId 0 --offset 7",
            "mqadmin createUser -c C -u alice -p pass -t super",
            "mqadmin updateuser -b 127.0.0.1:10911 -u alice -s disable",
            "mqadmin deleteUser -c C -u alice",
            "mqadmin getUser -c C -u alice",
            "mqadmin listUser -c C -f al -o json",
            "mqadmin createAcl -c C -s User:alice -r Topic:*,Group:* -a Pub,Sub -i 192.168.1.1 -d Allow",
            "mqadmin updateAcl -c C -s User:alice -r Topic:a -a All -d Deny",
            "mqadmin deleteAcl -c C -s User:alice -r Topic:a -t Custom",
            "mqadmin getAcl -c C -s User:alice",
            "mqadmin listAcl -c C -s alice -r Topic",
            "mqadmin updateTopicList -b 127.0.0.1:10911 -f topics.json",
            "mqadmin updateSubGroupList -c C -f groups.json -y",
            "mqadmin cloneGroupOffset -s G -d H -t T -o true",
            "mqadmin consumerStatus -g G -i client@1 -s",
            "mqadmin consumer -g G",
            "mqadmin producer -b 127.0.0.1:10911",
            "mqadmin brokerConsumeStats -b 127.0.0.1:10911 -l 10 -t 5000 -o false",
            "mqadmin clusterRT -a 10 -s 1024 -c C -i 1 -p true",
            "mqadmin sendMsgStatus -b RaftNode00 -s 128 -c 5",
            "mqadmin checkMsgSendRT -t T -a 5 -s 100",
            "mqadmin updatebrokerconfig -b 127.0.0.1:10911 -k fileReservedTime -v 72",
            "mqadmin getnamesrvconfig -o json",
            "mqadmin queryMsgTraceById -i 01AB -t RMQ_SYS_TRACE_TOPIC -c 10",
            "mqadmin printMsgByQueue -t T -a G -i 0 -p true -d true -f true -s tag",
            "mqadmin queryCq -t T -q 0 -i 0 -c 10 -b G",
            "mqadmin exportMetadata -c C -f /tmp/x -t",
            "mqadmin exportConfigs -c C",
            "mqadmin exportMetrics -c C -f /tmp/x --output json",
            "mqadmin listTimers -t T -s now -m 10",
            "mqadmin deleteTopic -c C -t T -y",
            "mqadmin benchmark producer -t T -w 8 -s 64 -q 100 --seconds 5 -o json",
            "mqadmin benchmark consumer -t T -g G -w 4",
            "mqadmin wipewriteperm -b RaftNode00 -n a:1",
            "mqadmin addWritePerm -b RaftNode00 -o json",
            "mqadmin setconsumemode -c C -t T -g G -m pop -q 8",
            "mqadmin deleteExpiredCommitLog -n a:1 -b 127.0.0.1:10911",
            "mqadmin cleanExpiredCQ -c C",
            "mqadmin updateNamesrvConfig -n a:1 -k brokerSilenceMs -v 60000",
            "mqadmin snapshot -b 127.0.0.1:10911 -o json",
            "mqadmin getControllerMetaData -a 127.0.0.1:9878",
            "mqadmin getConsumerStatus -g G -t T -i client@1",
            "mqadmin getBrokerLiteInfo -c C -d",
            "mqadmin getParentTopicInfo -p P -o json",
            "mqadmin getLiteTopicInfo -p P -l l -s",
            "mqadmin getLiteClientInfo -p P -g G -c client@1",
            "mqadmin getLiteGroupInfo -p P -g G -l l",
            "mqadmin updateTopicPerm -c C -t T -p 4 -y",
            "mqadmin completion zsh",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn lines_that_make_no_sense() {
        for (line, part) in [
            ("mqadmin updateTopic", "-t"),
            ("mqadmin updateTopic -t T -p 5", "2, 4 or 6"),
            ("mqadmin updateTopic -t T -r 0", "1..=65535"),
            ("mqadmin updateTopicPerm -t T -p 7", "2, 4 or 6"),
            ("mqadmin queryMsgById -t T", "--msgId"),
            ("mqadmin queryMsgById -t T -i 01AB -g G", "--clientId"),
            ("mqadmin queryMsgByOffset -t T -i 0 -o -1", "-1"),
            ("mqadmin printMsg -t T -b yesterday", "yyyy-MM-dd"),
            ("mqadmin updateTopic -t T -a message.type=FIFO", "+key=value"),
            ("mqadmin topicLost", "topicList"),
            ("mqadmin updateSubGroup -g G -r -1", ""),
            ("mqadmin updateUser -u alice", "--password"),
            ("mqadmin createUser -u alice -p x -t Root", "Super"),
            ("mqadmin createAcl -s User:alice -r Topic:a -d Allow", "-a"),
            ("mqadmin cloneGroupOffset -s G -t T", "-d"),
            ("mqadmin updateBrokerConfig -k fileReservedTime", "-v"),
            ("mqadmin benchmark producer --seconds 0", "1..="),
            ("mqadmin completion csh", "bash"),
            ("mqadmin replacePeer -l n1 --node n1 --disk ff --address h:1", "hexadecimal"),
        ] {
            let refused = parse(line).expect_err(line);
            assert!(refused.contains(part), "{line}: {refused}");
        }
    }

    #[test]
    fn a_topic_may_be_named_after_a_command() {
        let cli = parse("mqadmin topicRoute -t topiclist").expect("valid");
        assert!(format!("{:?}", cli.command).contains("\"topiclist\""));
    }
}
