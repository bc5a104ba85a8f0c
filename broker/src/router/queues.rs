//! The bounds of queues towards connected clients: of each one, and of all of them together.
//!
//! A message costs a queue its whole size, but all queues together only once, however many it waits in; what each queue holds of it
//! is counted for every queue.
//!
//! Clients that never read must not take the room of those that do. Up to half of the room for all, whoever comes first has it; in
//! the other half a queue may grow only to its share, which is that half divided by the clients that are connected.

use super::Outbox;
use crate::mqtt::session::{Delivery, Message};

/// Bounds of queues.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Messages of one queue.
    pub max_msgs: usize,
    /// Bytes of one queue, as [`crate::mqtt::session::Message::cost_bytes`] counts them.
    pub max_bytes: usize,
    /// Bytes of all queues together.
    pub max_bytes_total: usize,
}

/// What all queues hold.
#[derive(Debug)]
pub(super) struct Queues {
    limits: QueueLimits,
    bytes: usize,
    /// Clients connected.
    pub(super) clients: usize,
    /// Messages that found no room although their own queue had some.
    refused: u64,
    /// The same, since the last look.
    full: bool,
}

/// Whether a queue can take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Yes,
    /// The queue itself is full.
    NotInQueue,
    /// All queues together hold too much.
    NotInTotal,
}

/// Bytes of one entry of a queue; a list that grows has up to twice the room that it needs.
pub(super) fn entry_bytes(subscription_ids: usize) -> usize {
    2 * size_of::<Delivery>() + subscription_ids * size_of::<u32>()
}

impl Queues {
    pub(super) fn new(limits: QueueLimits) -> Self {
        Self { limits, bytes: 0, clients: 0, refused: 0, full: false }
    }

    /// Whether a message may enter now, with so many subscription identifiers.
    pub(super) fn room(&self, outbox: &Outbox, message: &Message, subscription_ids: usize) -> Room {
        let cost = message.cost_bytes();
        let shared = if message.queues.is_none() { cost } else { 0 };
        self.room_behind(outbox, cost, self.bytes, entry_bytes(subscription_ids) + shared)
    }

    /// Whether a message of that cost may enter where the queues hold `bytes`, of which `added` would be new.
    pub(super) fn room_behind(&self, outbox: &Outbox, cost: usize, bytes: usize, added: usize) -> Room {
        let limits = &self.limits;
        let own = outbox.queued_bytes() + cost;
        // One message always fits, however large: otherwise it could never be delivered live.
        if !outbox.is_empty() && (outbox.len() >= limits.max_msgs || own > limits.max_bytes) {
            return Room::NotInQueue;
        }
        let half = limits.max_bytes_total / 2;
        let share = half / self.clients.max(1);
        let after = bytes + added;
        if bytes == 0 || after <= half || (after <= limits.max_bytes_total && own <= share) {
            Room::Yes
        } else {
            Room::NotInTotal
        }
    }

    /// A delivery has entered a queue.
    pub(super) fn entered(&mut self, delivery: &Delivery) {
        self.bytes += entry_bytes(delivery.subscription_ids.len());
        if delivery.message.queues.enter() {
            self.bytes += delivery.message.cost_bytes();
        }
    }

    /// A delivery has left a queue.
    pub(super) fn left(&mut self, delivery: &Delivery) {
        self.bytes -= entry_bytes(delivery.subscription_ids.len());
        if delivery.message.queues.leave() {
            self.bytes -= delivery.message.cost_bytes();
        }
    }

    /// A message was turned away by [`Room::NotInTotal`].
    pub(super) fn refused(&mut self) {
        self.refused += 1;
        self.full = true;
    }

    /// Bytes in all queues.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether somebody may wait for room that all queues together do not have.
    pub(super) fn scarce(&self) -> bool {
        self.bytes > self.limits.max_bytes_total / 4
    }

    pub(super) fn refused_msgs(&self) -> u64 {
        self.refused
    }

    pub(super) fn take_full(&mut self) -> bool {
        std::mem::take(&mut self.full)
    }
}
