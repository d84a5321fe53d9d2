//! A TCP relay that misbehaves on demand: it cuts, stalls, half-closes, delays, refuses and counts.
//!
//! It sits between any client and any server and understands nothing of what it relays. Faults are switched on and off
//! while connections are open; each applies to all of them.

use anyhow::Result;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client.
    ToServer,
    /// From the server.
    ToClient,
}

/// What the relay does now; every change reaches the open connections at once.
#[derive(Clone, Debug, Default)]
struct Faults {
    target: Option<SocketAddr>,
    refuse: bool,
    /// Counts the cuts: a connection ends when the number is not the one it began with.
    cuts: u64,
    stalled: [bool; 2],
    delay: [Duration; 2],
    /// Counts as `cuts` does.
    half_closes: [u64; 2],
    /// Cut when so many bytes in total have gone that way.
    cut_at: [Option<u64>; 2],
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    bytes: [AtomicU64; 2],
}

/// What went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Connections ever accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes relayed to the server.
    pub to_server: u64,
    /// Bytes relayed to the client.
    pub to_client: u64,
}

/// A running relay; dropping it closes everything.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    faults: watch::Sender<Faults>,
    counters: Arc<Counters>,
    listener: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and relays to `port` there.
    ///
    /// # Errors
    /// When there is no port to listen on.
    pub async fn start(port: u16) -> Result<FaultProxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let listens_on = listener.local_addr()?.port();
        let target = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let (faults, changes) = watch::channel(Faults { target, ..Faults::default() });
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(accept(listener, faults.clone(), changes, counters.clone()));
        Ok(FaultProxy { port: listens_on, faults, counters, listener: task })
    }

    /// Where clients connect to, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `conninfo` with this relay in the place of its server.
    #[must_use]
    pub fn conninfo(&self, conninfo: &str) -> String {
        format!("{conninfo} host=127.0.0.1 port={}", self.port) // the last of two values counts, as in libpq
    }

    /// Resets every open connection; new ones are relayed.
    pub fn cut(&self) {
        self.faults.send_modify(|faults| faults.cuts += 1);
    }

    /// Resets the connections as soon as `bytes` more have gone that way: in the middle of a message, if one likes.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        let gone = self.counters.bytes[direction as usize].load(Ordering::Relaxed);
        self.faults.send_modify(|faults| faults.cut_at[direction as usize] = Some(gone + bytes));
    }

    /// Whether new connections are closed as soon as they come.
    pub fn refuse(&self, refuse: bool) {
        self.faults.send_modify(|faults| faults.refuse = refuse);
    }

    /// Whether nothing is relayed that way, with the sockets left open (a network that swallows).
    pub fn stall(&self, direction: Direction, stalled: bool) {
        self.faults.send_modify(|faults| faults.stalled[direction as usize] = stalled);
    }

    /// Ends that way of every open connection, as `shutdown(SHUT_WR)` does; the other way stays.
    pub fn half_close(&self, direction: Direction) {
        self.faults.send_modify(|faults| faults.half_closes[direction as usize] += 1);
    }

    /// Holds each read that way back for so long.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.faults.send_modify(|faults| faults.delay[direction as usize] = delay);
    }

    /// Relays new connections to another port of 127.0.0.1 (a fail-over).
    pub fn retarget(&self, port: u16) {
        self.faults.send_modify(|faults| faults.target = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
    }

    /// What went through so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [to_server, to_client] = &self.counters.bytes;
        Counts {
            accepted: get(&self.counters.accepted),
            open: get(&self.counters.open),
            to_server: get(to_server),
            to_client: get(to_client),
        }
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.cut();
    }
}

async fn accept(
    listener: TcpListener,
    faults: watch::Sender<Faults>,
    changes: watch::Receiver<Faults>,
    counters: Arc<Counters>,
) {
    while let Ok((client, _)) = listener.accept().await {
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        let state = changes.borrow().clone();
        let Some(target) = state.target.filter(|_| !state.refuse) else { continue };
        let relay = Relay {
            faults: faults.clone(),
            changes: changes.clone(),
            counters: counters.clone(),
            born: state,
        };
        tokio::spawn(relay.run(client, target));
    }
}

/// One connection.
#[derive(Clone)]
struct Relay {
    faults: watch::Sender<Faults>,
    changes: watch::Receiver<Faults>,
    counters: Arc<Counters>,
    born: Faults,
}

impl Relay {
    async fn run(self, mut client: TcpStream, target: SocketAddr) {
        let Ok(mut server) = TcpStream::connect(target).await else { return };
        for socket in [&client, &server] {
            let _ = socket.set_nodelay(true);
        }
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        let mut changes = self.changes.clone();
        let cut = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            let there = self.clone().one_way(from_client, to_server, Direction::ToServer);
            let back = self.clone().one_way(from_server, to_client, Direction::ToClient);
            tokio::select! {
                biased;
                _ = changes.wait_for(|now| now.cuts != self.born.cuts) => true,
                _ = futures_util::future::join(there, back) => false,
            }
        };
        if cut {
            // A reset instead of the usual farewell.
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
    }

    async fn one_way(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, direction: Direction) {
        let way = direction as usize;
        let mut buffer = vec![0; 32 * 1024];
        let mut changes = self.changes.clone();
        loop {
            let closes = self.born.half_closes[way];
            let length = tokio::select! {
                _ = changes.wait_for(|now| now.half_closes[way] != closes) => break,
                read = from.read(&mut buffer) => match read {
                    Ok(length) if length > 0 => length,
                    _ => break,
                },
            };
            let delay = self.changes.borrow().delay[way];
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if self.changes.wait_for(|now| !now.stalled[way]).await.is_err() {
                return;
            }
            let (length, cut) = self.until_cut(length, way);
            if to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
            if cut {
                self.faults.send_modify(|faults| {
                    faults.cut_at[way] = None;
                    faults.cuts += 1;
                });
                return;
            }
        }
        let _ = to.shutdown().await;
        // What still comes is read and thrown away: the sender must not notice by a full buffer.
        while from.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
    }

    /// How many of `length` bytes may go that way, and whether the connection is cut after them.
    fn until_cut(&self, length: usize, way: usize) -> (usize, bool) {
        let gone = self.counters.bytes[way].fetch_add(length as u64, Ordering::Relaxed);
        match self.changes.borrow().cut_at[way] {
            Some(at) if gone + length as u64 >= at => {
                (usize::try_from(at.saturating_sub(gone)).unwrap_or(length).min(length), true)
            }
            _ => (length, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    const A_WHILE: Duration = Duration::from_millis(150);

    /// A relay in front of a server that sends back what it gets, and a client of it.
    async fn echo() -> (FaultProxy, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                    let _ = write.shutdown().await;
                });
            }
        });
        let proxy = FaultProxy::start(port).await.unwrap();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
        (proxy, client)
    }

    async fn say(client: &mut TcpStream, text: &str) {
        client.write_all(text.as_bytes()).await.unwrap();
    }

    /// What comes, up to `length` bytes or the end.
    async fn hear(client: &mut TcpStream, length: usize) -> String {
        let mut heard = vec![0; length];
        let mut got = 0;
        while got < length {
            match tokio::time::timeout(SOON, client.read(&mut heard[got..])).await.unwrap() {
                Ok(0) | Err(_) => break,
                Ok(more) => got += more,
            }
        }
        String::from_utf8_lossy(&heard[..got]).into_owned()
    }

    #[tokio::test]
    async fn bytes_go_through_and_are_counted() {
        let (proxy, mut client) = echo().await;
        say(&mut client, "hello").await;
        assert_eq!(hear(&mut client, 5).await, "hello");
        assert_eq!(proxy.counts(), Counts { accepted: 1, open: 1, to_server: 5, to_client: 5 });
    }

    #[tokio::test]
    async fn a_cut_ends_the_open_connections_only() {
        let (proxy, mut client) = echo().await;
        say(&mut client, "x").await;
        assert_eq!(hear(&mut client, 1).await, "x");
        proxy.cut();
        assert_eq!(hear(&mut client, 1).await, "");
        let mut next = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
        say(&mut next, "y").await;
        assert_eq!(hear(&mut next, 1).await, "y");
    }

    #[tokio::test]
    async fn a_cut_can_come_in_the_middle() {
        let (proxy, mut client) = echo().await;
        proxy.cut_after(Direction::ToClient, 3);
        say(&mut client, "hello").await;
        assert_eq!(hear(&mut client, 5).await, "hel");
    }

    #[tokio::test]
    async fn a_stalled_way_delivers_later() {
        let (proxy, mut client) = echo().await;
        proxy.stall(Direction::ToServer, true);
        say(&mut client, "late").await;
        assert!(tokio::time::timeout(A_WHILE, client.readable()).await.is_err());
        proxy.stall(Direction::ToServer, false);
        assert_eq!(hear(&mut client, 4).await, "late");
    }

    #[tokio::test]
    async fn a_half_closed_way_leaves_the_other_open() {
        let (proxy, mut client) = echo().await;
        say(&mut client, "a").await;
        assert_eq!(hear(&mut client, 1).await, "a");
        proxy.half_close(Direction::ToClient);
        assert_eq!(hear(&mut client, 1).await, "");
        say(&mut client, "more").await;
        let deadline = tokio::time::Instant::now() + SOON;
        while proxy.counts().to_server < 5 {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn refused_connections_end_at_once() {
        let (proxy, _client) = echo().await;
        proxy.refuse(true);
        let mut next = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap();
        assert_eq!(hear(&mut next, 1).await, "");
    }
}
