//! A relay in front of a port: it stands between whoever connects and the node, passes bytes on both ways, and loses
//! those of one direction from a moment that the test chooses. That moment may be the passing of some bytes: what is
//! to happen then happens before they are passed on.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the node.
    Inbound,
    /// From the node.
    Outbound,
}

type Action = Box<dyn FnOnce() + Send>;

struct Watch {
    direction: Direction,
    bytes: Vec<u8>,
    action: Option<Action>,
    passed: usize,
}

#[derive(Default)]
struct State {
    lost: Vec<Direction>,
    /// A connection over which these bytes come loses them, and whatever follows in their direction.
    lost_with: Option<(Direction, Vec<u8>)>,
    watches: Vec<Watch>,
}

struct Shared {
    target: SocketAddr,
    state: Mutex<State>,
    heals: watch::Sender<u64>,
}

/// Clones stand for the same relay, which ends with the last of them.
#[derive(Clone)]
pub struct Relay {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Relay {
    /// Listens on `at` and connects to `target` for each connection it gets.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on.
    pub async fn start(at: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        Ok(Self::of(TcpListener::bind(at).await?, target))
    }

    /// The same where somebody listens already.
    ///
    /// # Errors
    ///
    /// The listener is none of this runtime's kind.
    pub fn on(listener: std::net::TcpListener, target: SocketAddr) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::of(TcpListener::from_std(listener)?, target))
    }

    fn of(listener: TcpListener, target: SocketAddr) -> Self {
        let shared = Arc::new(Shared { target, state: Mutex::default(), heals: watch::channel(0).0 });
        let accepting = shared.clone();
        let task = tokio::spawn(async move {
            // Dropped with this task, and the connections with it.
            let mut connections = JoinSet::new();
            while let Ok((dialed, _)) = listener.accept().await {
                connections.spawn(accepting.clone().carry(dialed));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { shared, _task: Arc::new(Task(task)) }
    }

    /// From now on bytes of this direction are taken and not passed on.
    pub fn lose(&self, direction: Direction) {
        self.shared.state().lost.push(direction);
    }

    /// Bytes are passed on again. Connections that lost some are closed: nobody could make sense of the rest.
    pub fn heal(&self) {
        self.heal_except_for(None);
    }

    /// As [`Relay::heal`], but a connection over which `bytes` come in this direction loses them and what follows, until
    /// the next healing: of two connections between the same nodes one may be open and the other not.
    pub fn heal_but_lose(&self, direction: Direction, bytes: &str) {
        self.heal_except_for(Some((direction, bytes.into())));
    }

    fn heal_except_for(&self, lost_with: Option<(Direction, Vec<u8>)>) {
        {
            let mut state = self.shared.state();
            state.lost.clear();
            state.lost_with = lost_with;
        }
        self.shared.heals.send_modify(|heals| *heals += 1);
    }

    /// Calls `action` when `bytes` come in this direction for the first time, before they are passed on or lost.
    /// They must come in one piece of HTTP/2 data, as those of a small request do.
    pub fn when(&self, direction: Direction, bytes: &str, action: impl FnOnce() + Send + 'static) {
        let watch = Watch { direction, bytes: bytes.into(), action: Some(Box::new(action)), passed: 0 };
        self.shared.state().watches.push(watch);
    }

    /// How often bytes that were given to [`Relay::when`] have come in that direction, passed on or lost.
    pub fn came(&self, direction: Direction, bytes: &str) -> usize {
        let state = self.shared.state();
        let mut watches = state.watches.iter();
        watches
            .find(|watch| watch.direction == direction && watch.bytes == bytes.as_bytes())
            .map_or(0, |watch| watch.passed)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    async fn carry(self: Arc<Self>, dialed: TcpStream) {
        let mut heals = self.heals.subscribe();
        let Ok(node) = TcpStream::connect(self.target).await else { return };
        // Without delay, as both ends have it.
        if dialed.set_nodelay(true).and_then(|()| node.set_nodelay(true)).is_err() {
            return;
        }
        let (from_dialer, to_dialer) = dialed.into_split();
        let (from_node, to_node) = node.into_split();
        let lossy = AtomicBool::new(false);
        let healed = async {
            while heals.changed().await.is_ok() {
                if lossy.load(Ordering::Relaxed) {
                    return;
                }
            }
        };
        // One side's end is the other's too: HTTP/2 does not half-close.
        tokio::select! {
            () = self.pump(Direction::Inbound, from_dialer, to_node, &lossy) => {}
            () = self.pump(Direction::Outbound, from_node, to_dialer, &lossy) => {}
            () = healed => {}
        }
    }

    async fn pump(&self, direction: Direction, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lossy: &AtomicBool) {
        let mut chunk = vec![0; 64 << 10];
        let (mut seen, mut closed) = (Vec::new(), false);
        while let Ok(read) = from.read(&mut chunk).await {
            if read == 0 {
                return;
            }
            let before = seen.len();
            seen.extend_from_slice(&chunk[..read]);
            closed |= self.loses_with(direction, &seen);
            if !self.passes(direction, &mut seen, before) || closed {
                lossy.store(true, Ordering::Relaxed);
            } else if to.write_all(&chunk[..read]).await.is_err() {
                return;
            }
        }
    }

    fn loses_with(&self, direction: Direction, seen: &[u8]) -> bool {
        let state = self.state();
        let Some((of, bytes)) = &state.lost_with else { return false };
        *of == direction && seen.windows(bytes.len()).any(|window| window == bytes)
    }

    /// Whether what has come goes on. `seen` is what came last, of which `before` bytes were looked at before; keeps of
    /// it what may be the beginning of a watch.
    fn passes(&self, direction: Direction, seen: &mut Vec<u8>, before: usize) -> bool {
        let (mut actions, mut longest) = (Vec::new(), 0);
        for watch in self.state().watches.iter_mut().filter(|watch| watch.direction == direction) {
            longest = longest.max(watch.bytes.len());
            let first = (before + 1).saturating_sub(watch.bytes.len());
            let found = seen[first..].windows(watch.bytes.len()).filter(|window| *window == watch.bytes).count();
            watch.passed += found;
            if found > 0 {
                actions.extend(watch.action.take());
            }
        }
        // Another relay may be what they act on, or this one.
        actions.into_iter().for_each(|action| action());
        let kept = longest.saturating_sub(1).min(seen.len());
        seen.drain(..seen.len() - kept);
        !self.state().lost.contains(&direction)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn bytes_are_lost_from_a_chosen_moment_on() {
        let node = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        let target = node.local_addr().expect("bound");
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, crate::cluster::free_port().expect("a port")));
        let relay = Relay::start(at, target).await.expect("starts");
        let acting = relay.clone();
        relay.when(Direction::Inbound, "mark", move || acting.lose(Direction::Outbound));
        let mut dialed = TcpStream::connect(at).await.expect("connects");
        let (mut served, _) = node.accept().await.expect("accepts");
        let mut buffer = [0; 4];
        served.write_all(b"once").await.expect("writes");
        dialed.read_exact(&mut buffer).await.expect("reads");
        dialed.write_all(b"--ma").await.expect("writes");
        served.read_exact(&mut buffer).await.expect("reads");
        assert_eq!(relay.came(Direction::Inbound, "mark"), 0);
        dialed.write_all(b"rk--").await.expect("writes");
        served.read_exact(&mut buffer).await.expect("reads");
        assert_eq!(relay.came(Direction::Inbound, "mark"), 1);
        served.write_all(b"lost").await.expect("writes");
        // What comes in goes on. Its answer is lost, and the connection is closed by the healing.
        dialed.write_all(b"more").await.expect("writes");
        served.read_exact(&mut buffer).await.expect("reads");
        let closed = tokio::spawn(async move { dialed.read(&mut buffer).await.map_or(0, |read| read) });
        loop {
            relay.heal();
            if closed.is_finished() {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(closed.await.expect("ends"), 0);
        let _again = TcpStream::connect(at).await.expect("connects");
    }
}
