//! Whether the gateway does its work: it started, and what is appended becomes durable. Looked at when somebody asks: a gateway
//! that has nothing to do wakes for nothing.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use headwater_broker::log::LogStats;

/// A sync that takes longer means a disk that hangs: `/healthz` says so, and whoever watches may restart the machine.
/// The worst cards take a second or two.
const STALLED: Duration = Duration::from_secs(10);

/// Alive and committing.
pub(crate) fn alive(log: &LogStats) -> Result<(), String> {
    if log.failed {
        return Err("a sync of the log failed".to_owned());
    }
    if log.oldest_unsynced >= STALLED {
        return Err(format!("messages have been waiting for their sync for {} s", log.oldest_unsynced.as_secs()));
    }
    Ok(())
}

/// What somebody should know although the gateway works: nothing that a restart would help.
pub(crate) fn warning(log: &LogStats) -> Option<&'static str> {
    log.disk_full.then_some(
        "the disk is full of what must not be discarded: appends to streams with discard = \"new\" are refused",
    )
}

/// What `/readyz` adds to it.
#[derive(Debug, Default)]
pub(crate) struct Health {
    ready: AtomicBool,
}

impl Health {
    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    /// Alive, and started or not yet stopping.
    pub(crate) fn ready(&self, log: &LogStats) -> Result<(), String> {
        alive(log)?;
        if self.ready.load(Relaxed) { Ok(()) } else { Err("starting or stopping".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_says_why_not() {
        let health = Health::default();
        let mut log = LogStats::default();
        assert!(alive(&log).is_ok());
        assert!(health.ready(&log).is_err_and(|why| why.contains("starting")));
        health.set_ready(true);
        assert!(health.ready(&log).is_ok());
        log.oldest_unsynced = Duration::from_secs(9);
        assert!(alive(&log).is_ok(), "a slow card is no dead one");
        log.oldest_unsynced = Duration::from_secs(12);
        assert!(health.ready(&log).is_err_and(|why| why.contains("12 s")));
        log.oldest_unsynced = Duration::ZERO;
        assert_eq!(warning(&log), None);
        log.disk_full = true;
        assert!(alive(&log).is_ok() && warning(&log).is_some_and(|why| why.contains("full")));
        log.failed = true;
        assert!(alive(&log).is_err_and(|why| why.contains("sync")));
    }
}
