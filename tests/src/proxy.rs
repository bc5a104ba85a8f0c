//! A link that can be disturbed: a TCP proxy whose two directions are set one by one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::port::Port;

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They go through.
    #[default]
    Forward,
    /// They are taken and thrown away: the sender believes that they arrived. What follows on the same connection is
    /// no longer a sound conversation, so [`Proxy::heal`] ends such connections.
    Swallow,
    /// They are not taken: the sender's buffers fill.
    Hold,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server behind.
    Up,
    /// From the server behind to the client.
    Down,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    up: Flow,
    down: Flow,
    /// New connections are closed at once.
    closed: bool,
    /// Connections made before the last cut are of an earlier generation, and end.
    generation: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    forwarded: [AtomicU64; 2],
    swallowed: [AtomicU64; 2],
}

/// A proxy in front of one server. Dropping it ends every connection.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    state: watch::Sender<State>,
    counters: Arc<Counters>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy that forwards to `server`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(server: SocketAddr) -> Proxy {
        let port = Port::lease();
        let listener = TcpListener::bind(port.address()).await.expect("a leased port can be bound");
        let (state, watched) = watch::channel(State::default());
        let counters = Arc::new(Counters::default());
        let accepting = tokio::spawn(accept(listener, server, watched, Arc::clone(&counters)));
        Proxy { port, state, counters, accepting }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The same as a URL for NATS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Sets what happens to one direction, on open and on new connections.
    pub fn set(&self, direction: Direction, flow: Flow) {
        self.state.send_modify(|state| match direction {
            Direction::Up => state.up = flow,
            Direction::Down => state.down = flow,
        });
    }

    /// Ends every connection and lets no new one last.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.closed = true;
            state.generation += 1;
        });
    }

    /// Forwards again. Connections whose bytes were swallowed cannot go on and are ended, as all others are.
    pub fn heal(&self) {
        self.state.send_modify(|state| *state = State { generation: state.generation + 1, ..State::default() });
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// Bytes thrown away so far.
    #[must_use]
    pub fn swallowed(&self, direction: Direction) -> u64 {
        self.counters.swallowed[direction as usize].load(Ordering::Relaxed)
    }

    /// Bytes passed on so far.
    #[must_use]
    pub fn forwarded(&self, direction: Direction) -> u64 {
        self.counters.forwarded[direction as usize].load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, watched: watch::Receiver<State>, counters: Arc<Counters>) {
    // Dropped, and its tasks ended with it, when this task is aborted.
    let mut links = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        counters.connections.fetch_add(1, Ordering::Relaxed);
        if watched.borrow().closed {
            continue;
        }
        links.spawn(link(client, server, watched.clone(), Arc::clone(&counters)));
        while links.try_join_next().is_some() {}
    }
}

async fn link(client: TcpStream, server: SocketAddr, mut watched: watch::Receiver<State>, counters: Arc<Counters>) {
    let generation = watched.borrow_and_update().generation;
    // The server may be down: the client sees its connection end, as it would through any other proxy.
    let Ok(server) = TcpStream::connect(server).await else { return };
    // Small messages must not wait for each other; a socket that refuses this option still works.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (up, down) = (watched.clone(), watched.clone());
    let over = async {
        // An error means that the proxy itself is gone.
        let _ = watched.wait_for(|state| state.generation != generation).await;
    };
    tokio::select! {
        () = over => {}
        () = carry(from_client, to_server, Direction::Up, up, &counters) => {}
        () = carry(from_server, to_client, Direction::Down, down, &counters) => {}
    }
}

/// Carries one direction until either side is done with it.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    direction: Direction,
    mut watched: watch::Receiver<State>,
    counters: &Counters,
) {
    let flow_of = |state: &State| if direction == Direction::Up { state.up } else { state.down };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if watched.wait_for(|state| flow_of(state) != Flow::Hold).await.is_err() {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            // Back to the top: the direction may be held now.
            changed = watched.changed() => if changed.is_ok() { continue } else { return },
        };
        let Ok(length @ 1..) = read else { return };
        let count = u64::try_from(length).unwrap_or(u64::MAX);
        // What counts is the state after the bytes arrived.
        let flow = flow_of(&watched.borrow());
        if flow == Flow::Swallow {
            counters.swallowed[direction as usize].fetch_add(count, Ordering::Relaxed);
        } else if to.write_all(&buffer[..length]).await.is_ok() {
            counters.forwarded[direction as usize].fetch_add(count, Ordering::Relaxed);
        } else {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = socket.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        address
    }

    async fn exchange(socket: &mut TcpStream) -> std::io::Result<[u8; 4]> {
        socket.write_all(b"ping").await?;
        let mut answer = [0; 4];
        socket.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn bytes_go_through_until_the_link_is_cut_and_again_once_it_is_healed() {
        let proxy = Proxy::start(echo().await).await;
        let mut socket = TcpStream::connect(proxy.address()).await.expect("the proxy accepts");
        assert_eq!(&exchange(&mut socket).await.expect("an echo"), b"ping");
        proxy.cut();
        assert!(exchange(&mut socket).await.is_err());
        let mut refused = TcpStream::connect(proxy.address()).await.expect("the kernel accepts");
        assert!(exchange(&mut refused).await.is_err());
        proxy.heal();
        let mut socket = TcpStream::connect(proxy.address()).await.expect("the proxy accepts");
        assert_eq!(&exchange(&mut socket).await.expect("an echo"), b"ping");
    }

    #[tokio::test]
    async fn swallowed_answers_are_counted_and_never_arrive() {
        let proxy = Proxy::start(echo().await).await;
        let mut socket = TcpStream::connect(proxy.address()).await.expect("the proxy accepts");
        assert_eq!(&exchange(&mut socket).await.expect("an echo"), b"ping");
        proxy.set(Direction::Down, Flow::Swallow);
        let none = tokio::time::timeout(Duration::from_millis(200), exchange(&mut socket)).await;
        assert!(none.is_err(), "an answer came: {none:?}");
        assert_eq!((proxy.swallowed(Direction::Down), proxy.forwarded(Direction::Up)), (4, 8));
        proxy.heal();
        assert!(exchange(&mut socket).await.is_err(), "a disturbed conversation cannot go on");
    }
}
