//! What a connection waits for, all at one place.
//!
//! It is polled, not awaited: what an `async` block holds across an await lies in the task of every idle client, and a `select!` over
//! all of this took 300 bytes of it. Waits that only a busy connection has are boxed, made when they begin and dropped when they end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::connection::{Blocked, Connection};

/// A wait that goes on from one look to the next.
#[derive(Default)]
pub(super) struct Wait(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Wait(..)" } else { "Wait" })
    }
}

impl Wait {
    /// Begins it if it is wanted and has not begun. `true`: it is over, the next one begins anew.
    fn poll<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        wanted: bool,
        context: &mut Context<'_>,
        begin: impl FnOnce() -> F,
    ) -> bool {
        if !wanted {
            self.0 = None;
            return false;
        }
        let over = self.0.get_or_insert_with(|| Box::pin(begin())).as_mut().poll(context).is_ready();
        if over {
            self.0 = None;
        }
        over
    }
}

impl Connection {
    /// Whether something has happened that it has to look at. If not, the task is woken when it does.
    pub(super) fn poll_events(&mut self, context: &mut Context<'_>) -> bool {
        let mut happened = self.link.bell.poll_rung(context).is_ready();
        if happened {
            // It may have been the alarm, which is over then.
            let now = self.hub.now();
            self.alarm_at.take_if(|at| *at <= now);
        }
        if self.may_read()
            && let Poll::Ready(ready) = self.wire.socket.poll_read_ready(context)
        {
            match ready {
                Ok(()) => self.wire.set_ready(),
                Err(_) => self.broken = true,
            }
            happened = true;
        }
        if self.wire.has_output()
            && let Poll::Ready(ready) = self.wire.socket.poll_write_ready(context)
        {
            self.broken |= ready.is_err();
            happened = true;
        }
        self.set_alarm();
        happened | self.poll_log(context)
    }

    /// The log's mark, its room, a read.
    fn poll_log(&mut self, context: &mut Context<'_>) -> bool {
        let happened = self.feed.poll_read(context);
        let wants_mark = self.session.waits_for().is_some() || self.awaits_exact() || self.feed.waits_for_mark();
        let wants_room = self.blocked == Some(Blocked::Room) || self.feed.waits_for_room();
        if self.busy.is_none() && !wants_mark && !wants_room {
            return happened;
        }
        let busy = self.busy.get_or_insert_default();
        let durable = &self.durable;
        let has_moved = busy.mark_moves.poll(wants_mark, context, || {
            // It has seen what this connection has seen.
            let mut durable = durable.clone();
            async move {
                // An error: the log is gone, and the broker ends.
                let _ = durable.changed().await;
            }
        });
        let log = &self.hub.log;
        let has_room = busy.room_comes.poll(wants_room, context, || {
            let log = log.clone();
            async move { log.room().await }
        });
        if has_room {
            if self.blocked == Some(Blocked::Room) {
                self.blocked = None;
            }
            self.feed.room();
        }
        happened | has_moved | has_room
    }

    fn set_alarm(&mut self) {
        let full = match self.blocked {
            Some(Blocked::Full(at)) => Some(at),
            Some(Blocked::Room) | None => None,
        };
        let (save_at, rest_at) = self.busy.as_ref().map_or((None, None), |busy| (busy.save_at, busy.rest_at));
        let Some(at) =
            [self.session.next_timeout(), full, save_at, rest_at, self.link.expires].into_iter().flatten().min()
        else {
            return;
        };
        // An alarm that rings early costs one look; moving it with every packet would cost more.
        if self.alarm_at.is_none_or(|set| at < set) {
            self.hub.set_alarm(self.key, self.alarm_at, Some(at));
            self.alarm_at = Some(at);
        }
    }
}

/// Lets other tasks have their turn: this one is polled again after them.
pub(super) fn others_first(context: &mut Context<'_>) -> Poll<()> {
    let mut turn = std::pin::pin!(tokio::task::yield_now());
    turn.as_mut().poll(context)
}
