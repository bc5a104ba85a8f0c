//! A link that can be cut, stalled, or made deaf on the way back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Passes them on.
    Up,
    /// Swallows what the hub says: half-open.
    DropsAnswers,
    /// Ends every connection and accepts none.
    Cut,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    link: Arc<watch::Sender<Link>>,
    accepted: Arc<AtomicUsize>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("a bound listener has an address").port();
        let link = Arc::new(watch::Sender::new(Link::Up));
        let shared = Arc::clone(&link);
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&accepted);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                if *shared.borrow() == Link::Cut {
                    continue;
                }
                counter.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(carry(client_read, server_write, shared.subscribe(), false));
                tokio::spawn(carry(server_read, client_write, shared.subscribe(), true));
            }
        });
        Proxy { port: own, link, accepted }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Connections that were let through.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: watch::Receiver<Link>, answers: bool) {
    let mut bytes = vec![0; 64 * 1024];
    // A connection that was deaf once stays deaf: what was swallowed cannot come later.
    let mut deaf = false;
    loop {
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            _ = link.wait_for(|link| *link == Link::Cut) => return,
        };
        let Ok(count @ 1..) = read else { return };
        deaf |= answers && *link.borrow() == Link::DropsAnswers;
        if !deaf && to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
