//! Sockets of both kinds, TCP and Unix, as listeners and connections use them: the only file that tells them apart.
//!
//! The file of a Unix socket has its mode before anybody can connect; one that a dead process left is replaced, one that somebody
//! listens on, or a file of another kind, is not touched. It is removed at the end, if it is still ours.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};

use super::peer::Peer;
use crate::config::Bind;

/// Connections that may wait to be accepted; the system's own limit (`net.core.somaxconn`, 4,096 by default) is the most. A client that
/// finds no place tries again after a second, then after two more: too long when all come back after a power cut.
const BACKLOG: u32 = 4096;

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) enum Listening {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: Owned },
}

/// The file of a Unix socket that is ours.
#[derive(Debug)]
pub(super) struct Owned {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Drop for Owned {
    fn drop(&mut self) {
        if identity(&self.path).is_some_and(|now| now == self.identity) {
            // It only costs the next start a look.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Listening {
    /// Listens. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The address is in use, is not of this machine, or may not be used.
    pub(super) async fn bind(bind: &Bind) -> io::Result<Listening> {
        match bind {
            Bind::Tcp(address) => {
                let socket = match address {
                    SocketAddr::V4(_) => TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => TcpSocket::new_v6()?,
                };
                // So that a restart need not wait for old connections to time out.
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                socket.listen(BACKLOG).map(Listening::Tcp)
            }
            Bind::Unix { path, mode } => {
                make_way(path)?;
                let socket = UnixSocket::new_stream()?;
                socket.bind(path)?;
                // IMPORTANT: before it listens. Nobody can connect until then, whatever the file's mode was.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(*mode))?;
                let gone = || io::Error::new(io::ErrorKind::NotFound, "the socket's file is gone");
                let file = Owned { path: path.clone(), identity: identity(path).ok_or_else(gone)? };
                Ok(Listening::Unix { listener: socket.listen(BACKLOG)?, _file: file })
            }
        }
    }

    /// Where it listens; with the real port where the configuration said 0.
    ///
    /// # Errors
    /// The system does not tell.
    pub(super) fn bound(&self, as_configured: &Bind) -> io::Result<Bind> {
        match self {
            Listening::Tcp(listener) => listener.local_addr().map(Bind::Tcp),
            Listening::Unix { .. } => Ok(as_configured.clone()),
        }
    }

    /// The next connection. Safe to cancel.
    pub(super) async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Listening::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                // Acknowledgements are small, and waiting for company would only delay them. A socket that refuses is broken and
                // shows it soon.
                let _ = socket.set_nodelay(true);
                Ok((Socket::Tcp(socket), Peer::Address(address)))
            }
            Listening::Unix { listener, .. } => {
                let (socket, _) = listener.accept().await?;
                Ok((Socket::Unix(socket), Peer::Local))
            }
        }
    }
}

/// Whether one could listen there, before anything else is touched.
///
/// # Errors
/// As for listening itself.
pub async fn probe(bind: &Bind) -> io::Result<()> {
    match bind {
        Bind::Tcp(address) => {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            socket.set_reuseaddr(true)?;
            // IMPORTANT: it does not listen. Clients that came in that moment would be connected, and reset. Where somebody listens,
            // this fails as listening would.
            socket.bind(*address)
        }
        Bind::Unix { path, .. } => {
            make_way(path)?;
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            directory.map_or(Ok(()), |directory| std::fs::metadata(directory).map(drop))
        }
    }
}

/// Removes the file of a socket that nobody listens on.
fn make_way(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it")),
    }
}

/// The socket of one connection. Its calls never wait, but for those that say so.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The same call on either kind.
macro_rules! either {
    ($socket:expr, $name:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($name) => $call,
            Socket::Unix($name) => $call,
        }
    };
}

impl Socket {
    pub(super) fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        either!(self, socket => socket.try_read(into))
    }

    /// Reads into the room that `into` has: how many bytes, and whether that emptied the socket. It did where room is left; then it is
    /// not said to be readable again before more has come, and the read that would only find out that there is none is saved.
    pub(super) fn try_read_buf(&self, into: &mut BytesMut) -> io::Result<(usize, bool)> {
        let room = into.capacity() - into.len();
        let mut read = Ok(0);
        let outcome = either!(self, socket => socket.try_io(Interest::READABLE, || {
            // IMPORTANT: inside, so that only the readiness from before the read is taken back: what comes during it counts.
            read = socket.try_read_buf(into);
            match read {
                Ok(n) if (1..room).contains(&n) => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        }));
        match outcome {
            // It was not ready: nothing was called.
            Err(error) if matches!(read, Ok(0)) => Err(error),
            outcome => read.map(|n| (n, outcome.is_err())),
        }
    }

    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        either!(self, socket => socket.try_write(bytes))
    }

    pub(super) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => socket.poll_read_ready(context))
    }

    pub(super) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, socket => socket.poll_write_ready(context))
    }

    /// Waits until it takes bytes. Safe to cancel.
    pub(super) async fn writable(&self) -> io::Result<()> {
        either!(self, socket => socket.writable().await)
    }

    /// Waits for bytes, and shows them without taking them; 0 at the end. Only for TCP.
    pub(super) async fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(socket) => socket.peek(into).await,
            Socket::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn a_probe_never_lets_a_client_in() {
        // Not the address that clients come from: one of them could be given this port and be connected to itself.
        let free = std::net::TcpListener::bind((Ipv4Addr::new(127, 0, 0, 3), 0)).expect("a port");
        let address: SocketAddr = free.local_addr().expect("bound");
        let taken = probe(&Bind::Tcp(address)).await;
        assert_eq!(taken.expect_err("somebody listens").kind(), io::ErrorKind::AddrInUse);
        drop(free);
        let stop = Arc::new(AtomicBool::new(false));
        let client = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut connected = 0;
                while !stop.load(Ordering::Relaxed) {
                    connected += u32::from(std::net::TcpStream::connect(address).is_ok());
                }
                connected
            }
        });
        for _ in 0..2_000 {
            probe(&Bind::Tcp(address)).await.expect("free");
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(client.join().expect("it only connects"), 0);
    }
}
