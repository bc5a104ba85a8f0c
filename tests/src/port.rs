//! Loopback ports that no other test can take, not even between a kill and the restart on the same port.
//!
//! A port is leased by a lock on a file named after it, in a directory that all test processes of this user share. The
//! kernel drops the lock with the process, so nothing has to be cleaned up. The range lies below the one from which
//! Linux takes the ports of outgoing connections, which would otherwise come and go on a port between two uses.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

const FIRST: u16 = 20_000;
const END: u16 = 32_000;

/// A port of 127.0.0.1 that is ours until this is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Leases a port on which nobody listens.
    ///
    /// # Panics
    /// If the whole range is taken.
    #[must_use]
    pub fn lease() -> Port {
        let dir = lock_directory();
        // Processes begin at different places, so that they do not all try the same files one after the other.
        let start = u16::try_from(std::process::id() % u32::from(END - FIRST)).expect("the range is smaller than u16");
        for step in 0..(END - FIRST) {
            let number = FIRST + (start + step) % (END - FIRST);
            let path = dir.join(number.to_string());
            let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let lock = lock.unwrap_or_else(|e| panic!("cannot open the lock file {}: {e}", path.display()));
            if lock.try_lock().is_err() {
                continue;
            }
            // Somebody outside these tests may listen here.
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Port { number, _lock: lock };
            }
        }
        panic!("every port from {FIRST} to {END} is taken");
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// 127.0.0.1 and the number.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

fn lock_directory() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("headwater-test-ports-{user}"));
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("cannot make {}: {e}", dir.display()));
    dir
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leased_port_is_given_to_nobody_else_until_it_is_dropped() {
        let first = Port::lease();
        let second = Port::lease();
        assert_ne!(first.number(), second.number());
        assert!((FIRST..END).contains(&first.number()));
        let listener = TcpListener::bind(first.address()).expect("a leased port can be bound");
        drop(listener);
    }
}
