//! Whether the commit loop still turns: it is asked, and answers when it next comes round.
//!
//! A loop that hangs in a sync, waits for a sealer that hangs, or has ended does not answer. Asking writes nothing.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::sync::watch;

/// Questions and answers are numbered.
#[derive(Debug)]
pub(super) struct Pulse {
    asked: AtomicU64,
    answered: watch::Sender<u64>,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { asked: AtomicU64::new(0), answered: watch::Sender::new(0) }
    }
}

impl Pulse {
    /// Asks; the caller must then wake the writer, which may be asleep. The receiver yields the question's number or a later one.
    pub(super) fn ask(&self) -> (u64, watch::Receiver<u64>) {
        let answered = self.answered.subscribe();
        (self.asked.fetch_add(1, SeqCst) + 1, answered)
    }

    /// The loop has come round; whether somebody had asked. Costs next to nothing if nobody did.
    pub(super) fn answer(&self) -> bool {
        let asked = self.asked.load(SeqCst);
        self.answered.send_if_modified(|answered| std::mem::replace(answered, asked) != asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_before_is_answered() {
        let pulse = Pulse::default();
        let (first, answered) = pulse.ask();
        assert!(*answered.borrow() < first);
        assert!(pulse.answer());
        assert!(!pulse.answer());
        assert!(*answered.borrow() >= first);
        let (second, answered) = pulse.ask();
        assert!(*answered.borrow() < second);
    }
}
