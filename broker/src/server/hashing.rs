//! Hashes passwords off the threads that serve connections, one at a time; [`Turns`] says whose is next.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::peer::Peer;
use super::turns::{Joined, Turn, Turns};
use crate::clock::Clock;

/// Tells somebody who waits that it is their turn; dropped, that it will never be.
type Call = oneshot::Sender<()>;

/// See the module.
#[derive(Debug)]
pub(super) struct Hashing {
    turns: Mutex<Turns<Call>>,
    clock: Arc<dyn Clock>,
}

/// Too many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// What became of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    /// `first`: the address has given no wrong one of late.
    Wrong {
        first: bool,
    },
}

/// Ends a turn, or the wait for it, wherever its owner is dropped.
struct Guard {
    hashing: Arc<Hashing>,
    turn: Turn,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.hashing.end(self.turn);
    }
}

impl Hashing {
    pub(super) fn new(max_waiting: usize, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { turns: Mutex::new(Turns::new(max_waiting)), clock })
    }

    /// Runs `verify`, which takes long, when it is this client's turn. Safe to cancel: the turn goes on to the next, but not before a
    /// `verify` that has begun is done.
    ///
    /// # Errors
    /// Too many wait, and this one came last or gave too many wrong passwords.
    pub(super) async fn verify(
        self: &Arc<Self>,
        peer: Peer,
        verify: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<Verdict, Busy> {
        let (call, called) = oneshot::channel();
        let joined = self.lock().join(self.clock.monotonic(), peer.origin(), call);
        let (turn, waits) = match joined {
            Joined::Now(turn) => (turn, false),
            // Whoever had to leave learns it from the loss of its call.
            Joined::Waits(turn) | Joined::WaitsFor(turn, _) => (turn, true),
            Joined::Refused => return Err(Busy),
        };
        let guard = Guard { hashing: Arc::clone(self), turn };
        if waits {
            called.await.map_err(|_| Busy)?;
        }
        let hashed = tokio::task::spawn_blocking(move || {
            // IMPORTANT: the turn goes with the hash. A client whose time is over stops waiting, but its hash runs on, and must not run
            // beside the next.
            let guard = guard;
            if verify() {
                return Verdict::Right;
            }
            let Hashing { clock, .. } = &*guard.hashing;
            let first = guard.hashing.lock().failed(clock.monotonic(), peer.origin());
            Verdict::Wrong { first }
        });
        // Not done: the runtime ends, or the hash panicked; nobody is let in by that.
        Ok(hashed.await.unwrap_or(Verdict::Wrong { first: true }))
    }

    /// Something that needs no hash was wrong in place of a password. `true`: the first of late from this address.
    pub(super) fn failed(&self, peer: Peer) -> bool {
        self.lock().failed(self.clock.monotonic(), peer.origin())
    }

    /// How many clients wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting()
    }

    fn end(&self, turn: Turn) {
        let next = self.lock().end(turn);
        if let Some(call) = next {
            // Whoever has just left ends its turn itself: its guard is dropped, and finds that it is its turn.
            let _ = call.send(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Turns<Call>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;

    use super::*;
    use crate::clock::SystemClock;

    fn hashing(max_waiting: usize) -> Arc<Hashing> {
        Hashing::new(max_waiting, Arc::new(SystemClock))
    }

    const PEER: Peer = Peer::Local;

    /// A hash that runs until it is let go, and says when it has begun.
    fn slow(
        running: &Arc<AtomicUsize>,
    ) -> (impl FnOnce() -> bool + Send + use<>, mpsc::Receiver<usize>, mpsc::Sender<()>) {
        let (begun, has_begun) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let running = Arc::clone(running);
        let work = move || {
            // The test may not want to know.
            let _ = begun.send(running.fetch_add(1, SeqCst) + 1);
            // Let go, or the test is over.
            let _ = may_go.recv();
            running.fetch_sub(1, SeqCst);
            true
        };
        (work, has_begun, go)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hash_whose_client_has_left_keeps_its_turn_until_it_is_done() {
        let (hashing, running) = (hashing(4), Arc::new(AtomicUsize::new(0)));
        let (work, has_begun, go) = slow(&running);
        let first = tokio::spawn({
            let hashing = Arc::clone(&hashing);
            async move { hashing.verify(PEER, work).await }
        });
        assert_eq!(tokio::task::spawn_blocking(move || has_begun.recv()).await.expect("no panic"), Ok(1));
        first.abort();
        assert!(first.await.is_err_and(|error| error.is_cancelled()));
        // The next waits, although nobody waits for the first any more.
        let (work, has_begun, go_too) = slow(&running);
        go_too.send(()).expect("it is there");
        let second = tokio::spawn({
            let hashing = Arc::clone(&hashing);
            async move { hashing.verify(PEER, work).await }
        });
        while hashing.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(has_begun.try_recv().is_err());
        go.send(()).expect("it is there");
        assert_eq!(second.await.expect("no panic"), Ok(Verdict::Right));
        assert_eq!(has_begun.try_recv(), Ok(1), "one at a time");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn clients_that_leave_while_they_wait_hold_nobody_up() {
        let (hashing, running) = (hashing(64), Arc::new(AtomicUsize::new(0)));
        let most = Arc::new(AtomicUsize::new(0));
        let mut tasks = Vec::new();
        for n in 0..400_u32 {
            let (hashing, running, most) = (Arc::clone(&hashing), Arc::clone(&running), Arc::clone(&most));
            tasks.push(tokio::spawn(async move {
                let verify = hashing.verify(PEER, move || {
                    most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                    std::thread::yield_now();
                    running.fetch_sub(1, SeqCst);
                    true
                });
                if n % 3 == 0 {
                    // Gone at any moment: before its turn, in it, and after it.
                    tokio::time::timeout(std::time::Duration::from_micros(u64::from(n)), verify).await.ok();
                } else {
                    let _ = verify.await;
                }
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
        assert_eq!(most.load(SeqCst), 1);
        assert_eq!(hashing.verify(PEER, || true).await, Ok(Verdict::Right), "the turn was not lost");
        assert_eq!(hashing.waiting(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn past_the_bound_the_last_is_told_that_it_is_busy() {
        let (hashing, running) = (hashing(1), Arc::new(AtomicUsize::new(0)));
        let (work, has_begun, go) = slow(&running);
        let spawn = |work: Box<dyn FnOnce() -> bool + Send>| {
            let hashing = Arc::clone(&hashing);
            tokio::spawn(async move { hashing.verify(PEER, work).await })
        };
        let first = spawn(Box::new(work));
        assert_eq!(tokio::task::spawn_blocking(move || has_begun.recv()).await.expect("no panic"), Ok(1));
        let second = spawn(Box::new(|| false));
        while hashing.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(hashing.verify(PEER, || true).await, Err(Busy));
        go.send(()).expect("it is there");
        assert_eq!(first.await.expect("no panic"), Ok(Verdict::Right));
        assert_eq!(second.await.expect("no panic"), Ok(Verdict::Wrong { first: true }));
    }
}
