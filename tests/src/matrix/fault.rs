//! What goes wrong: each fault is put into a running group of three and taken back.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use raftmq_broker::machine::VERSION;
use rand::{RngExt, rngs::StdRng};

use crate::cluster::{Cluster, LEADER_WITHIN, Options, program};
use crate::netns::{self, Network};

/// File name of the library that shifts a node's wall clock.
const CLOCK_LIBRARY: &str = "libraftmq_clock_shift.so";
/// What a leader says of a clock that is off.
const CLOCK_IS_OFF: &str = "this node's clock is off";
const HOUR_MS: i64 = 3_600_000;

/// A fault of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 of the leader.
    KillLeader,
    /// kill -9 of all nodes at once.
    KillAll,
    /// SIGSTOP of the leader, and SIGCONT.
    PauseLeader,
    /// The leader reaches neither of the others, and they not it.
    PartitionLeader,
    /// A follower reaches neither of the others, and they not it.
    PartitionFollower,
    /// What the leader sends to the others is dropped, what they send is not.
    LeaderMute,
    /// What the others send to the leader is dropped, what it sends is not.
    LeaderDeaf,
    /// The leader's wall clock jumps an hour ahead, and back.
    ClockForward,
    /// The leader's wall clock jumps an hour back, and ahead.
    ClockBack,
    /// Each sync of the leader's log takes much longer.
    SlowLeader,
    /// Each sync of everybody's log takes longer.
    SlowAll,
    /// The leader loses its power, and what it had not synced.
    PowerLeader,
    /// All nodes lose their power at once, and what they had not synced.
    PowerAll,
    /// The leader loses its power and what it had not synced, while a follower hangs.
    PowerLeaderPauseFollower,
}

impl Fault {
    /// In the order of the table.
    pub const ALL: [Fault; 14] = [
        Self::KillLeader,
        Self::KillAll,
        Self::PauseLeader,
        Self::PartitionLeader,
        Self::PartitionFollower,
        Self::LeaderMute,
        Self::LeaderDeaf,
        Self::ClockForward,
        Self::ClockBack,
        Self::SlowLeader,
        Self::SlowAll,
        Self::PowerLeader,
        Self::PowerAll,
        Self::PowerLeaderPauseFollower,
    ];

    /// As in `FAULT=`.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// In a sentence, for people.
    pub fn meaning(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::KillLeader => ("kill-leader", "`kill -9` of the leader; it is started again"),
            Self::KillAll => ("kill-all", "`kill -9` of all three nodes at once; they are started again"),
            Self::PauseLeader => ("pause-leader", "the leader is stopped (SIGSTOP), is deposed, and goes on (SIGCONT)"),
            Self::PartitionLeader => ("partition-leader", "no packet between the leader and the two others"),
            Self::PartitionFollower => ("partition-follower", "no packet between a follower and the two others"),
            Self::LeaderMute => ("leader-mute", "one way: packets of the leader to the others are dropped"),
            Self::LeaderDeaf => ("leader-deaf", "one way: packets of the others to the leader are dropped"),
            Self::ClockForward => ("clock-forward", "the leader's wall clock jumps an hour ahead, and back"),
            Self::ClockBack => ("clock-back", "the leader's wall clock jumps an hour back, and ahead again"),
            Self::SlowLeader => ("slow-leader", "each fdatasync of the leader's log takes 0.4 to 1 s longer"),
            Self::SlowAll => ("slow-all", "each fdatasync of all three logs takes 0.1 to 0.2 s longer"),
            Self::PowerLeader => ("power-leader", "the leader loses its power and whatever it had not synced"),
            Self::PowerAll => {
                ("power-all", "all three nodes lose their power at once and whatever they had not synced")
            }
            Self::PowerLeaderPauseFollower => (
                "power-leader-pause-follower",
                "a follower is stopped, the leader loses its power and what it had not synced and comes back, the \
                 follower goes on",
            ),
        }
    }

    /// The fault of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.name() == name)
    }

    fn cuts_links(self) -> bool {
        matches!(self, Self::PartitionLeader | Self::PartitionFollower | Self::LeaderMute | Self::LeaderDeaf)
    }

    fn moves_clocks(self) -> bool {
        matches!(self, Self::ClockForward | Self::ClockBack)
    }

    fn cuts_power(self) -> bool {
        matches!(self, Self::PowerLeader | Self::PowerAll | Self::PowerLeaderPauseFollower)
    }

    /// Why it cannot be had here, or none.
    pub fn unavailable(self) -> Option<String> {
        self.cuts_links().then(netns::unavailable).flatten()
    }
}

/// A group of three that the fault can happen to, and who it has happened to.
pub struct Stage {
    /// The processes. They go before the network that they are in.
    pub cluster: Cluster,
    network: Option<Network>,
    fault: Fault,
    clocks: Vec<PathBuf>,
    leader: usize,
    follower: usize,
}

impl Stage {
    /// Starts the group. What disks keep of what was not synced follows from `seed`.
    ///
    /// # Errors
    ///
    /// A process or the network cannot be had.
    pub async fn set(fault: Fault, settings: Vec<(String, String)>, seed: u64) -> Result<Self> {
        let network = if fault.cuts_links() { Some(Network::new(3)?) } else { None };
        let mut cluster = Cluster::prepare(Options {
            settings,
            hosts: network.as_ref().map(|network| network.hosts.clone()).unwrap_or_default(),
            power_loss: fault.cuts_power(),
            slow_disks: matches!(fault, Fault::SlowLeader | Fault::SlowAll),
            ..Options::default()
        })
        .await?;
        cluster.keep_unsynced(Some(seed));
        let mut clocks = Vec::new();
        if fault.moves_clocks() {
            let library = program(CLOCK_LIBRARY)?;
            for node in &mut cluster.nodes {
                let file = node.data.with_extension("clock");
                fs::write(&file, 0_i64.to_ne_bytes())?;
                let text = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a path of ours is text");
                node.environment.push(("LD_PRELOAD".into(), text(&library)?));
                node.environment.push(("RAFTMQ_TEST_CLOCK".into(), text(&file)?));
                clocks.push(file);
            }
        }
        cluster.start_all().await?;
        // What the newest version promises is promised once it is active.
        cluster.activated(0, VERSION).await?;
        Ok(Self { cluster, network, fault, clocks, leader: 0, follower: 0 })
    }

    /// Chooses whom the fault happens to; right before it.
    ///
    /// # Errors
    ///
    /// Nobody leads.
    pub async fn choose(&mut self, random: &mut StdRng) -> Result<()> {
        self.leader = self.cluster.leader(0).await?;
        self.follower = (self.leader + random.random_range(1..=2)) % 3;
        Ok(())
    }

    /// The fault happens.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn inject(&mut self, random: &mut StdRng) -> Result<()> {
        let (leader, follower) = (self.leader, self.follower);
        let millis =
            |range: std::ops::Range<u64>, random: &mut StdRng| Duration::from_millis(random.random_range(range));
        match self.fault {
            Fault::KillLeader | Fault::PowerLeader => self.cluster.kill_at_once(&[leader]),
            Fault::KillAll | Fault::PowerAll => self.cluster.kill_at_once(&[0, 1, 2]),
            Fault::PauseLeader => self.cluster.pause(leader),
            Fault::PartitionLeader => self.links(leader, Network::cut),
            Fault::PartitionFollower => self.links(follower, Network::cut),
            Fault::LeaderMute => self.links(leader, Network::silence),
            Fault::LeaderDeaf => self.links(leader, |network, leader, other| network.silence(other, leader)),
            Fault::ClockForward => self.set_clock(leader, HOUR_MS),
            Fault::ClockBack => self.set_clock(leader, -HOUR_MS),
            Fault::SlowLeader => self.cluster.delay_syncs(leader, millis(400..1_000, random)),
            Fault::SlowAll => (0..3).try_for_each(|node| self.cluster.delay_syncs(node, millis(100..200, random))),
            Fault::PowerLeaderPauseFollower => {
                self.cluster.pause(follower)?;
                self.cluster.kill_at_once(&[leader])
            }
        }
    }

    /// How long it lasts.
    pub fn lasts(&self, random: &mut StdRng) -> Duration {
        let millis = match self.fault {
            // Nothing happens meanwhile.
            Fault::KillAll | Fault::PowerAll => 200..1_500,
            // A leader looks at its clock every second, and its successor needs time to be one.
            _ => 3_500..6_000,
        };
        Duration::from_millis(random.random_range(millis))
    }

    /// The fault is over.
    ///
    /// # Errors
    ///
    /// It cannot be undone.
    pub fn take_back(&mut self) -> Result<()> {
        let (leader, follower) = (self.leader, self.follower);
        match self.fault {
            Fault::KillLeader | Fault::PowerLeader => self.cluster.start_node(leader),
            Fault::KillAll | Fault::PowerAll => (0..3).try_for_each(|node| self.cluster.start_node(node)),
            Fault::PauseLeader => self.cluster.resume(leader),
            Fault::PartitionLeader => self.links(leader, Network::heal),
            Fault::PartitionFollower => self.links(follower, Network::heal),
            Fault::LeaderMute => self.links(leader, Network::hear),
            Fault::LeaderDeaf => self.links(leader, |network, leader, other| network.hear(other, leader)),
            Fault::ClockForward | Fault::ClockBack => self.set_clock(leader, 0),
            Fault::SlowLeader | Fault::SlowAll => {
                (0..3).try_for_each(|node| self.cluster.delay_syncs(node, Duration::ZERO))
            }
            Fault::PowerLeaderPauseFollower => {
                self.cluster.start_node(leader)?;
                self.cluster.resume(follower)
            }
        }
    }

    /// Waits until all members are there and have what the group has, and checks that the group noticed the fault
    /// where it says so.
    ///
    /// # Errors
    ///
    /// That is not so in time.
    pub async fn whole(&mut self) -> Result<()> {
        self.cluster.has_all_so_far(0, LEADER_WITHIN * 2).await?;
        if self.fault.moves_clocks() {
            let noticed = (0..3).any(|node| self.cluster.log(node).contains(CLOCK_IS_OFF));
            ensure!(
                noticed,
                "no node says that its clock is off: the clock did not jump\n{}",
                self.cluster.log_tails(0)
            );
        }
        Ok(())
    }

    fn links(&self, node: usize, change: impl Fn(&Network, usize, usize) -> Result<()>) -> Result<()> {
        let network = self.network.as_ref().context("this fault has a network")?;
        [1, 2].into_iter().try_for_each(|step| change(network, node, (node + step) % 3))
    }

    /// In place: the node has the file mapped.
    fn set_clock(&self, node: usize, offset_ms: i64) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let file = fs::OpenOptions::new().write(true).open(&self.clocks[node])?;
        Ok(file.write_all_at(&offset_ms.to_ne_bytes(), 0)?)
    }
}
