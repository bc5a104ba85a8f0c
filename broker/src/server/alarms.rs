//! When connections want to be woken: one list for all. A timer of the runtime takes 128 bytes for every client that has a keep alive,
//! an entry here about 25; and a list that follows the boot clock is right after the machine slept.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::LONGEST_SLEEP;
use super::hub::Hub;
use crate::clock::Monotonic;
use crate::router::SessionKey;

/// At most one alarm per connection with a session.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    by_time: BTreeSet<(Monotonic, SessionKey)>,
}

impl Alarms {
    /// Moves an alarm. `true`: it is the next one now.
    pub(super) fn put(&mut self, key: SessionKey, before: Option<Monotonic>, at: Option<Monotonic>) -> bool {
        if let Some(before) = before {
            self.by_time.remove(&(before, key));
        }
        let Some(at) = at else { return false };
        self.by_time.insert((at, key));
        self.by_time.first() == Some(&(at, key))
    }

    /// Whose alarm is due; it is over then.
    fn due(&mut self, now: Monotonic) -> Option<SessionKey> {
        self.by_time.first().filter(|(at, _)| *at <= now)?;
        self.by_time.pop_first().map(|(_, key)| key)
    }

    fn next(&self) -> Option<Monotonic> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

/// Rings for those whose time has come. Connections need it to end in order: it serves until it is dropped.
pub(super) async fn serve(hub: Arc<Hub>) {
    loop {
        let now = hub.now();
        while let Some(key) = { hub.alarms().due(now) } {
            hub.ring(key);
        }
        let next = hub.alarms().next();
        let sleep = next.map_or(LONGEST_SLEEP, |at| at.since(now).min(LONGEST_SLEEP));
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = hub.alarms_changed.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarms_are_due_in_order_once_and_where_they_were_moved_to() {
        let (a, b, c) = (SessionKey(1), SessionKey(2), SessionKey(3));
        let at = |n| Some(Monotonic(n));
        let mut alarms = Alarms::default();
        assert!(alarms.put(a, None, at(30)), "the only one");
        assert!(!alarms.put(b, None, at(40)));
        assert!(alarms.put(b, at(40), at(20)), "before the other one now");
        alarms.put(c, None, at(20));
        alarms.put(a, at(30), None);
        assert_eq!(alarms.due(Monotonic(19)), None);
        assert_eq!((alarms.due(Monotonic(20)), alarms.due(Monotonic(20))), (Some(b), Some(c)));
        assert_eq!((alarms.due(Monotonic(99)), alarms.next()), (None, None));
    }
}
