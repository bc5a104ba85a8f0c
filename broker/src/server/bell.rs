//! Wakes one task. It takes 24 bytes, whoever waits: a future that waits for a `Notify` is 64 bytes of every task besides.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// A bell that one task listens to. What rings before it listens is not lost, and rings once however often it was rung.
#[derive(Debug, Default)]
pub(super) struct Bell(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    rung: bool,
    listener: Option<Waker>,
}

impl Bell {
    /// Wakes the listener, now or when it listens next.
    pub(super) fn ring(&self) {
        let listener = {
            let mut ring = self.lock();
            ring.rung = true;
            ring.listener.take()
        };
        // Outside of the lock, which the listener will want.
        if let Some(listener) = listener {
            listener.wake();
        }
    }

    /// Ready if it was rung since the last time that this was ready.
    pub(super) fn poll_rung(&self, context: &Context<'_>) -> Poll<()> {
        let mut ring = self.lock();
        if std::mem::take(&mut ring.rung) {
            return Poll::Ready(());
        }
        if !ring.listener.as_ref().is_some_and(|listener| listener.will_wake(context.waker())) {
            ring.listener = Some(context.waker().clone());
        }
        Poll::Pending
    }

    /// The listener ends. IMPORTANT: a waker keeps the memory of its task, so that one which is left here would be kept as long as
    /// the bell.
    pub(super) fn leave(&self) {
        self.lock().listener = None;
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // Nothing in here panics half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_ring_before_the_listener_comes_is_heard_once() {
        let (bell, waker) = (Bell::default(), Waker::noop());
        bell.ring();
        bell.ring();
        assert_eq!(bell.poll_rung(&Context::from_waker(waker)), Poll::Ready(()));
        assert_eq!(bell.poll_rung(&Context::from_waker(waker)), Poll::Pending);
    }

    #[test]
    fn a_ring_wakes_the_listener_and_one_that_left_is_not_kept() {
        let (bell, count) = (Bell::default(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        assert_eq!(bell.poll_rung(&Context::from_waker(&waker)), Poll::Pending);
        bell.ring();
        bell.ring();
        assert_eq!(count.0.load(Ordering::Relaxed), 1, "it is awake, and will look");
        assert_eq!(bell.poll_rung(&Context::from_waker(&waker)), Poll::Ready(()));
        assert_eq!(bell.poll_rung(&Context::from_waker(&waker)), Poll::Pending);
        drop(waker);
        bell.leave();
        assert_eq!(Arc::strong_count(&count), 1);
    }
}
