//! Who gets a message, and where it is stored: one owner, one lock, no I/O.
//!
//! [`Router`] is a state machine behind the server's one mutex. It finds the stream of a message, appends it to the log (which
//! assigns the sequence), and hands it to the matching sessions, all in one step: the order of delivery is the order of
//! sequences. It never waits: an append that finds no room has changed nothing, and is tried again by the connection.
//!
//! Its files: [`streams`](Streams) which stream captures a topic; `publish` the way of a message; `sessions` who is there and what
//! outlives a connection; `subscribe`; `shared` subscriptions; `sys` figures; `outbox` the queue of a connected client, with the argument why nothing is lost between
//! queue and log; `queues` their bounds; `catch_up` the reader that a slow or returning client becomes; `retained`; `record` and `tables` what is on
//! disk; `restore` how it comes back.

mod catch_up;
mod outbox;
mod publish;
mod queues;
mod record;
mod restore;
mod retained;
mod sessions;
mod shared;
mod streams;
mod subscribe;
mod subscriptions;
mod sys;
mod tables;
#[cfg(test)]
mod tests;
pub mod trie;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use catch_up::{CatchUp, Page, Step};
pub use publish::{Publisher, Refusal, Routed, Stop};
pub use queues::QueueLimits;
pub use restore::{RestoreReport, Restorer};
pub use retained::Replay;
pub use sessions::{AttachError, Attached, Detached, Leaving, Progress};
pub use shared::ShareRead;
pub use streams::{Capture, Positions, StreamIndex, Streams};
pub use subscribe::Replayed;
pub use tables::{OWNERS, PROGRESS, RECEIVED, RETAINED, SESSIONS, SESSIONS_STREAM, SHARES, WILLS, internal_streams};

use crate::clock::Monotonic;
use crate::log::{AppendError, Appended, Entry, Log, Stamp};
use crate::mqtt::packet::SubscriptionOptions;
use crate::mqtt::session::Delivery;
use outbox::Outbox;
use publish::Scratch;
use queues::Queues;
use retained::RetainedIndex;
use sessions::Slot;
use shared::Shares;
use sys::SysSubscribers;
use trie::SubscriptionTrie;

/// Where the router appends to. The log; in tests, a list.
pub trait Store {
    /// See [`Log::append`].
    ///
    /// # Errors
    /// As [`Log::append`].
    fn append(&self, group: &[Entry<'_>]) -> Result<Appended, AppendError>;

    /// See [`Log::append_unawaited`].
    ///
    /// # Errors
    /// As [`Log::append`].
    fn append_unawaited(&self, group: &[Entry<'_>]) -> Result<Appended, AppendError>;
}

impl Store for Log {
    fn append(&self, group: &[Entry<'_>]) -> Result<Appended, AppendError> {
        Log::append(self, group)
    }

    fn append_unawaited(&self, group: &[Entry<'_>]) -> Result<Appended, AppendError> {
        Log::append_unawaited(self, group)
    }
}

/// Handle of a session while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey(pub u32);

/// Bounds of everything that the router holds.
#[derive(Clone, Copy, Debug)]
pub struct RouterLimits {
    /// Sessions, connected or not.
    pub max_sessions: usize,
    /// Subscriptions of one session.
    pub max_subscriptions: usize,
    /// Queues of connected clients.
    pub queue: QueueLimits,
    /// Retained messages.
    pub max_retained_msgs: usize,
    /// Bytes of retained messages.
    pub max_retained_bytes: u64,
    /// There are figures below `$SYS`.
    pub sys: bool,
}

/// What the trie keeps for a subscription.
#[derive(Clone, Copy, Debug)]
struct Wants {
    options: SubscriptionOptions,
    id: Option<u32>,
}

/// What happened, counted since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouterCounters {
    /// Messages taken from clients, by QoS.
    pub messages_in: [u64; 3],
    /// Messages refused because a `discard = "new"` stream is full.
    pub refused_full: u64,
    /// Messages larger than their stream takes: refused on MQTT 5, acknowledged and discarded on 3.1.1.
    pub refused_too_large: u64,
    /// Messages to topics that their client may not write to: refused on MQTT 5 with QoS > 0, discarded otherwise.
    pub denied_publish: u64,
    /// Subscriptions to what their client may not read.
    pub denied_subscribe: u64,
    /// QoS 0 messages that met a full queue, or a client that lags behind.
    pub dropped_queue_full: u64,
    /// QoS > 0 messages that met a full queue and are stored nowhere.
    pub dropped_unstored: u64,
    /// Messages that expired before they were delivered.
    pub dropped_expired: u64,
    /// Queued messages of sessions that ended with their connection, QoS 0 messages of those that did not, and QoS 0 messages from
    /// clients that were gone before there was room for them.
    pub dropped_disconnected: u64,
    /// Retained messages that exceeded the bounds: delivered, not retained.
    pub retained_refused: u64,
    /// Queues that overflowed, so that their clients went on from the log.
    pub queue_overflows: u64,
    /// Messages that retention took before a session was sent them.
    pub lost_to_retention: u64,
    /// A client's own messages that no local could not hold back.
    pub no_local_overflows: u64,
    /// Messages of shared subscriptions that went back to their group because the member's connection ended.
    pub shared_moved: u64,
    /// Records that could not be read or written.
    pub bad_records: u64,
    /// Kept sessions that ended because another user came with their client id.
    pub sessions_of_others: u64,
    /// Sessions that ended because their expiry passed.
    pub sessions_expired: u64,
}

/// The state machine; see the module.
#[derive(Debug)]
pub struct Router {
    limits: RouterLimits,
    /// The boot of the machine that monotonic times belong to.
    boot: u32,
    streams: Streams,
    retained: RetainedIndex,
    trie: SubscriptionTrie<SessionKey, Wants>,
    shares: Shares,
    sys: SysSubscribers,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_client: HashMap<Arc<str>, SessionKey>,
    /// Whose a kept session is. Without an entry: of whoever comes with its client id.
    owners: HashMap<SessionKey, Arc<str>>,
    /// Sessions whose delayed will was published: their records still have it.
    published_wills: Vec<SessionKey>,
    subscriptions: usize,
    queues: Queues,
    max_online: usize,
    /// Session expiry and delayed wills.
    timers: BTreeSet<(Monotonic, SessionKey)>,
    /// Keys to delete from tables, of sessions that ended; at most a few per session.
    deletes: Vec<(crate::log::TableId, Vec<u8>)>,
    /// Sessions whose connection has something to look at.
    woken: Vec<SessionKey>,
    counters: RouterCounters,
    scratch: Scratch,
}

/// What a connection finds when it looks into its outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pull {
    /// Nothing more for now; the connection is woken when there is.
    Idle,
    /// There is more.
    More,
    /// The queue overflowed: go on from the log, from these positions.
    CatchUp(Positions),
}

impl Router {
    /// An empty router. [`Restorer`] fills it from the log.
    #[must_use]
    pub fn new(limits: RouterLimits, streams: Streams, boot: u32) -> Self {
        Self {
            limits,
            boot,
            streams,
            retained: RetainedIndex::new(limits.max_retained_msgs, limits.max_retained_bytes),
            trie: SubscriptionTrie::new(),
            shares: Shares::default(),
            sys: SysSubscribers::default(),
            slots: Vec::new(),
            free: Vec::new(),
            by_client: HashMap::new(),
            owners: HashMap::new(),
            published_wills: Vec::new(),
            subscriptions: 0,
            queues: Queues::new(limits.queue),
            max_online: 0,
            timers: BTreeSet::new(),
            deletes: Vec::new(),
            woken: Vec::new(),
            counters: RouterCounters::default(),
            scratch: Scratch::default(),
        }
    }

    /// Takes deliveries for a connection out of its queue: QoS 0 ones and up to `window` others, in order, until `max_bytes` are reached.
    pub fn pull(&mut self, key: SessionKey, window: usize, max_bytes: usize, out: &mut Vec<Delivery>) -> Pull {
        let Some(slot) = self.slots.get_mut(key.0 as usize).and_then(Option::as_mut) else { return Pull::Idle };
        let Some(outbox) = slot.outbox_mut() else { return Pull::Idle };
        if self.queues.scarce() && !outbox.is_empty() {
            self.shares.room_again();
        }
        let mut window = window;
        let mut bytes = 0;
        if outbox.deliverable() {
            while let Some(front) = outbox.front() {
                if front.qos > crate::mqtt::packet::QoS::AtMostOnce {
                    if window == 0 {
                        // The connection comes back by itself when the client acknowledges: no need to wake it per message.
                        outbox.awake();
                        return Pull::Idle;
                    }
                    window -= 1;
                }
                bytes += front.message.cost_bytes();
                out.extend(outbox.pop(&mut self.queues));
                if bytes >= max_bytes {
                    return Pull::More;
                }
            }
        }
        outbox.looked_at();
        outbox.begin_catch_up().map_or(Pull::Idle, Pull::CatchUp)
    }

    /// The connections to wake since the last call.
    pub fn take_woken(&mut self) -> std::vec::Drain<'_, SessionKey> {
        self.woken.drain(..)
    }

    /// Whether there is anybody to wake.
    #[must_use]
    pub fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// Counters since start.
    #[must_use]
    pub fn counters(&self) -> &RouterCounters {
        &self.counters
    }

    /// To count what only a connection sees.
    pub fn counters_mut(&mut self) -> &mut RouterCounters {
        &mut self.counters
    }

    /// Retained messages and their bytes.
    #[must_use]
    pub fn retained(&self) -> (usize, u64) {
        (self.retained.msgs(), self.retained.bytes())
    }

    /// Sessions known, sessions connected, subscriptions.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.by_client.len(), self.queues.clients, self.subscriptions)
    }

    /// Bytes in the queues of all connected clients, and messages that [`QueueLimits::max_bytes_total`] kept out of queues which
    /// had room themselves: of QoS 0 dropped, else left to the log where they are stored.
    #[must_use]
    pub fn queued(&self) -> (usize, u64) {
        (self.queues.bytes(), self.queues.refused_msgs())
    }

    /// Whether [`QueueLimits::max_bytes_total`] kept messages out of queues since the last call.
    pub fn take_queues_full(&mut self) -> bool {
        self.queues.take_full()
    }

    /// Most sessions that were connected at once.
    #[must_use]
    pub fn max_online(&self) -> usize {
        self.max_online
    }

    /// Sessions: handle, client id, subscriptions, and for connected ones the length of the queue.
    pub fn list(&self, limit: usize) -> impl Iterator<Item = (SessionKey, &str, usize, Option<usize>)> {
        self.by_client.values().take(limit).filter_map(|&key| {
            let slot = self.slot(key)?;
            Some((key, &*slot.client_id, slot.subscriptions.len(), slot.outbox().map(Outbox::len)))
        })
    }

    fn slot(&self, key: SessionKey) -> Option<&Slot> {
        self.slots.get(key.0 as usize)?.as_ref()
    }

    fn slot_mut(&mut self, key: SessionKey) -> Option<&mut Slot> {
        self.slots.get_mut(key.0 as usize)?.as_mut()
    }

    /// When a message of the log arrived, on this boot's clock: see [`crate::mqtt::session::Message::received`].
    fn received(&self, stamp: Stamp) -> Monotonic {
        if stamp.boot == self.boot { stamp.at } else { Monotonic(0) }
    }
}
