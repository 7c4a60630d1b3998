//! RocketMQ's commands that have no meaning here, or another name: why, and what to use.

/// Commands and the end of the sentence that begins with their name.
const ABSENT: &[(&str, &str)] = &[
    (
        "resetOffsetByTimeOld",
        "is for clients that must be restarted; use resetOffsetByTime, which works while they run",
    ),
    (
        "resetMasterFlushOffset",
        "repairs a master and its slaves; members of a Raft group agree by themselves (haStatus)",
    ),
    ("setCommitLogReadAheadMode", "tunes a memory-mapped commit log, which there is none of here"),
    ("checkRocksdbCqWriteProgress", "compares two kinds of consume queues; there is one here (dump compares members)"),
    ("getControllerConfig", NO_CONTROLLER),
    ("updateControllerConfig", NO_CONTROLLER),
    ("addBroker", "adds a broker to a container, of which there are none; use addPeer for one more member"),
    ("removeBroker", "takes a broker out of a container, of which there are none; use removePeer"),
    ("copyUser", "is needless: users are replicated, and createUser goes to every broker group of the cluster"),
    ("copyAcl", "is needless: access rules are replicated, and createAcl goes to every broker group of the cluster"),
    (
        "startMonitoring",
        "watches consumer groups and prints alarms; use the metrics of brokers (README, \"Metrics and health\")",
    ),
    (
        "allocateMQ",
        "shares queues out among clients; here every member of a consumer group may get messages of every queue",
    ),
    ("updateStaticTopic", STATIC),
    ("remappingStaticTopic", STATIC),
    ("getColdDataFlowCtrInfo", COLD),
    ("updateColdDataFlowCtrGroupConfig", COLD),
    ("removeColdDataFlowCtrGroupConfig", COLD),
    ("dumpCompactionLog", "prints a compacted topic, which there are none of here; use printMsg"),
    ("exportMetadataInRocksDB", ROCKSDB),
    ("rocksDBConfigToJson", ROCKSDB),
    ("exportPopRecord", "prints records of POP; leases are in explainMsg, and their numbers in consumerProgress"),
    (
        "triggerLiteDispatch",
        "is needless: lite topics are delivered when a message arrives or a client begins to receive them",
    ),
    (
        "cleanUnusedTopic",
        "removes what topics that are gone left on disk, which deleteTopic sees to by itself; topics that nobody uses are in \
         statsAll",
    ),
    ("updateKvConfig", NO_KV),
    ("deleteKvConfig", NO_KV),
    (
        "updateOrderConf",
        "is needless: the order of a message group holds on any number of queues (updateTopic -o true)",
    ),
    ("switchTimerEngine", "chooses between two timers; there is one here"),
];

const NO_CONTROLLER: &str =
    "asks a controller, which there is none of: members elect by themselves (haStatus, getSyncStateSet, electMaster)";
const STATIC: &str = "maps logical queues to brokers; a topic's queues stay where they are, and updateTopic adds some";
const COLD: &str = "slows reads of old messages down; here they are bounded by deliverInflightBytesMax";
const ROCKSDB: &str = "reads RocketMQ's own database; use exportMetadata";
const NO_KV: &str = "writes into name servers, which keep nothing but what brokers report, and of which no client reads it: \
                     RocketMQ has it for updateOrderConf, which is needless here (updateTopic -o true), and for routes of its own \
                     protocol; keep settings of yours where your programs read them";

/// Why there is no such command, in a sentence; the name is understood in any case.
pub(crate) fn why(command: &str) -> Option<String> {
    let (name, rest) = ABSENT.iter().find(|(name, _)| name.eq_ignore_ascii_case(command))?;
    Some(format!("{name} {rest}"))
}

#[cfg(test)]
mod tests {
    use super::{ABSENT, why};
    use crate::cli::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn what_is_said_to_be_absent_is() {
        let cli = Cli::command();
        for (name, _) in ABSENT {
            assert!(cli.find_subcommand(name).is_none(), "there is a {name}");
        }
    }

    #[test]
    fn names_in_any_case() {
        assert!(why("SWITCHtimerENGINE").is_some_and(|why| why.starts_with("switchTimerEngine chooses")));
        assert_eq!(why("topicLost"), None);
    }
}
