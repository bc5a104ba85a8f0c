//! What the service manager is told, by systemd's protocol: ready, still committing, stopping.
//!
//! The protocol is a datagram of `KEY=value` lines to the socket that `NOTIFY_SOCKET` names (sd_notify(3)). Without that variable,
//! which is how it is started by hand or in a container, nothing is said. The sign of life is not a timer: it is sent only after
//! the log's commit loop has come round, so that a disk that hangs or a thread that is gone ends in a restart.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use headwater_broker::log::Log;
use tracing::warn;

/// The manager that started us, if it wants to hear anything.
#[derive(Debug)]
pub(crate) struct Notify {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notify {
    /// From the environment. A socket that cannot be used is worth a warning and no more: the manager notices the silence.
    pub(crate) fn from_env() -> Notify {
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let opened = address(&name).and_then(|to| Ok((UnixDatagram::unbound()?, to)));
            opened.map_err(|error| warn!(?name, %error, "the service manager cannot be told anything")).ok()
        });
        let variable = |name| std::env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Notify { to, watchdog }
    }

    /// Devices can connect.
    pub(crate) fn ready(&self) {
        self.say("READY=1");
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        self.say("STOPPING=1");
    }

    /// Gives signs of life for as long as the commit loop turns, if they are asked for. Never returns; safe to drop.
    pub(crate) async fn keep_alive(&self, log: &Log) -> Infallible {
        let Some(limit) = self.watchdog.filter(|_| self.to.is_some()) else { return std::future::pending().await };
        loop {
            log.pulse().await;
            self.say("WATCHDOG=1");
            // Three chances within the limit.
            tokio::time::sleep(limit / 3).await;
        }
    }

    fn say(&self, text: &str) {
        let Some((socket, to)) = &self.to else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), to) {
            warn!(text, %error, "the service manager was not told");
        }
    }
}

/// A path, or with `@` in front a name without a file.
fn address(name: &OsStr) -> std::io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(OsString::from(name)),
    }
}

/// After how long a silence the manager acts. `None` if it does not, or asks another process.
fn watchdog(micros: Option<String>, asked: Option<String>, me: u32) -> Option<Duration> {
    if asked.is_some_and(|asked| asked.parse() != Ok(me)) {
        return None;
    }
    micros?.parse().ok().filter(|micros| *micros > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_fed_only_by_the_process_that_is_asked() {
        let limit = |micros: &str, pid: Option<&str>| watchdog(Some(micros.to_owned()), pid.map(str::to_owned), 7);
        assert_eq!(limit("60000000", None), Some(Duration::from_secs(60)));
        assert_eq!(limit("60000000", Some("7")), Some(Duration::from_secs(60)));
        assert_eq!(limit("60000000", Some("8")), None);
        assert_eq!(limit("0", None), None);
        assert_eq!(limit("soon", None), None);
        assert_eq!(watchdog(None, None, 7), None);
    }

    #[test]
    fn a_name_without_a_file_and_a_path_are_told_apart() {
        let name = address(OsStr::new("@headwater/test")).expect("a valid name");
        assert_eq!(name.as_abstract_name(), Some(&b"headwater/test"[..]));
        let path = address(OsStr::new("/run/notify")).expect("a valid path");
        assert_eq!(path.as_pathname(), Some(std::path::Path::new("/run/notify")));
    }
}
