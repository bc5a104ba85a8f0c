//! Whether the gateway does its work: it started, and what is appended becomes durable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use headwater_broker::clock::Monotonic;
use headwater_broker::log::Ticket;

/// A sync that takes longer means a disk that hangs: `/healthz` says so, and whoever watches may restart the machine.
/// The worst cards take a second or two.
const STALLED: Duration = Duration::from_secs(10);

/// What `/healthz` and `/readyz` look at.
#[derive(Debug, Default)]
pub(crate) struct Health {
    ready: AtomicBool,
    failed: AtomicBool,
    oldest_unsynced_ms: AtomicU64,
}

impl Health {
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    /// Takes what the watch has found.
    pub(crate) fn observe(&self, failed: bool, waiting: Duration) {
        self.failed.store(failed, Relaxed);
        self.oldest_unsynced_ms.store(u64::try_from(waiting.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    /// How long something has been waiting for its sync, to the second.
    pub(crate) fn oldest_unsynced(&self) -> Duration {
        Duration::from_millis(self.oldest_unsynced_ms.load(Relaxed))
    }

    /// Alive and committing.
    pub(crate) fn alive(&self) -> Result<(), String> {
        if self.failed.load(Relaxed) {
            return Err("a sync of the log failed".to_owned());
        }
        let waiting = self.oldest_unsynced();
        if waiting >= STALLED {
            return Err(format!("messages have been waiting for their sync for {} s", waiting.as_secs()));
        }
        Ok(())
    }

    /// Alive, and started or not yet stopping.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.alive()?;
        if self.ready.load(Relaxed) { Ok(()) } else { Err("starting or stopping".to_owned()) }
    }
}

/// Follows how long appends wait for their sync: looked at now and then, without a clock of its own.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// An append that was not durable, and when that was first seen.
    waiting: Option<(Ticket, Monotonic)>,
}

impl Watch {
    /// `appended` is the last append, `durable` how far the log is; answers how long an append has been waiting.
    pub(crate) fn look(&mut self, now: Monotonic, appended: Ticket, durable: Ticket) -> Duration {
        self.waiting = match self.waiting {
            Some((ticket, since)) if durable < ticket => Some((ticket, since)),
            _ if durable < appended => Some((appended, now)),
            _ => None,
        };
        self.waiting.map_or(Duration::ZERO, |(_, since)| now.since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(seconds * 1_000_000_000)
    }

    #[test]
    fn a_busy_log_is_healthy_and_a_stuck_one_is_not() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(at(1), Ticket(0), Ticket(0)), Duration::ZERO);
        // Always something underway, but always something new.
        for second in 2..40 {
            assert!(watch.look(at(second), Ticket(second), Ticket(second - 1)) <= Duration::from_secs(1));
        }
        // Stuck at 39, while appends go on.
        assert_eq!(watch.look(at(60), Ticket(60), Ticket(38)), Duration::from_secs(21));
        assert_eq!(watch.look(at(61), Ticket(60), Ticket(60)), Duration::ZERO);
    }

    #[test]
    fn health_says_why_not() {
        let health = Health::default();
        assert!(health.alive().is_ok());
        assert!(health.ready().is_err_and(|why| why.contains("starting")));
        health.set_ready(true);
        assert!(health.ready().is_ok());
        health.observe(false, Duration::from_secs(12));
        assert!(health.ready().is_err_and(|why| why.contains("12 s")));
        health.observe(true, Duration::ZERO);
        assert!(health.alive().is_err_and(|why| why.contains("sync")));
    }
}
