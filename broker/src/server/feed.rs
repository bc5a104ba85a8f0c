//! What goes to the client, in order: messages of an earlier connection again, then retained messages, then what was missed,
//! then what is live; at the pace of the in-flight window and of the socket.

use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;

use super::connection::Connection;
use super::stats::Counters;
use crate::clock::Monotonic;
use crate::log::{Item, ReadBatch, ReadError, Seq, StreamId, Ticket};
use crate::mqtt::packet::{PacketId, QoS, ReasonCode};
use crate::mqtt::session::{Delivered, Delivery, Origin};
use crate::router::{CatchUp, Positions, Pull, Replay, Replayed, Step, StreamIndex};

/// One page of a reader.
const PAGE_MSGS: usize = 64;
const PAGE_BYTES: usize = 64 * 1024;

/// Taken out of the queue in one step.
const PULL_BYTES: usize = 32 * 1024;

/// What a read of the log brought.
type Brought = Result<ReadBatch, ReadError>;

/// Where the messages of one connection come from.
#[derive(Debug)]
pub(super) struct Feed {
    catch_up: Option<Box<CatchUp>>,
    pub(super) replays: Vec<Replay>,
    /// A read of the log under way; at most one.
    reader: Option<Box<(Order, JoinHandle<Brought>)>>,
    read: Option<Box<(Order, Brought)>>,
    /// A copy of a retained message found no room in the log.
    no_room: bool,
    /// The durable mark as last seen.
    mark: Ticket,
    /// What is to be read is not durable yet: nothing to do before the mark moves.
    waits_for_mark: bool,
}

/// A read as it was ordered.
#[derive(Clone, Copy, Debug)]
struct Order {
    purpose: Purpose,
    /// The durable mark at that time. IMPORTANT: a read that found nothing says nothing about what became durable since; who
    /// waited for the next mark after it could wait for ever.
    mark: Ticket,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Page(StreamIndex),
    Again(PacketId, Origin),
}

impl Feed {
    pub(super) fn new(catch_up: Option<Positions>, replays: Vec<Replay>, counters: &Counters) -> Self {
        counters.catch_up_readers.fetch_add(u64::from(catch_up.is_some()), Relaxed);
        Self {
            catch_up: catch_up.map(|positions| Box::new(CatchUp::new(positions))),
            replays,
            reader: None,
            read: None,
            no_room: false,
            mark: Ticket(0),
            waits_for_mark: false,
        }
    }

    /// Positions, while catching up.
    pub(super) fn positions(&self) -> Option<&Positions> {
        self.catch_up.as_deref().map(CatchUp::positions)
    }

    pub(super) fn waits_for_mark(&self) -> bool {
        self.waits_for_mark
    }

    pub(super) fn is_catching_up(&self) -> bool {
        self.catch_up.is_some()
    }

    /// The connection ends.
    pub(super) fn end(&mut self, counters: &Counters) {
        counters.catch_up_readers.fetch_sub(u64::from(self.catch_up.take().is_some()), Relaxed);
    }

    pub(super) fn set_mark(&mut self, mark: Ticket) {
        if self.mark < mark {
            self.mark = mark;
            self.waits_for_mark = false;
            if let Some(catch_up) = &mut self.catch_up {
                catch_up.mark_moved();
            }
        }
    }

    pub(super) fn waits_for_room(&self) -> bool {
        self.no_room
    }

    pub(super) fn room(&mut self) {
        self.no_room = false;
    }

    /// Whether the read under way is done; what it brought is kept for the next delivery.
    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> bool {
        let Some((order, handle)) = self.reader.as_deref_mut() else { return false };
        let Poll::Ready(read) = Pin::new(handle).poll(context) else { return false };
        // A cancelled task means that the runtime ends.
        self.read = read.ok().map(|read| Box::new((*order, read)));
        self.reader = None;
        true
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if let Some((_, handle)) = self.reader.as_deref() {
            handle.abort();
        }
    }
}

impl Connection {
    /// Sends what may be sent. `true`: there is more, call again.
    pub(super) fn deliver(&mut self, now: Monotonic) -> bool {
        if let Some(read) = self.feed.read.take() {
            let (order, read) = *read;
            self.use_read(now, order, read);
        }
        if self.feed.reader.is_some() || self.feed.waits_for_mark {
            return false;
        }
        if self.session.redelivering() {
            self.redeliver(now);
            self.transmit();
            if self.session.redelivering() {
                // The read, or an acknowledgement that opens the window, goes on with it.
                return false;
            }
        }
        if !self.may_deliver() {
            return false;
        }
        if !self.feed.replays.is_empty() && !self.feed.no_room {
            return self.replay(now);
        }
        if self.feed.catch_up.is_some() { self.catch_up(now) } else { self.live(now) }
    }

    fn read(&mut self, purpose: Purpose, stream: StreamId, from: Seq, max_msgs: usize) {
        let log = self.hub.log.clone();
        let readers = std::sync::Arc::clone(&self.hub.readers);
        let handle = tokio::spawn(async move {
            // Never closed, so there is always a permit some time.
            let permit = readers.acquire_owned().await.ok();
            let read = tokio::task::spawn_blocking(move || log.read(stream, from, max_msgs, PAGE_BYTES)).await;
            drop(permit);
            read.unwrap_or_else(|_| Ok(ReadBatch { items: Vec::new(), next: from }))
        });
        self.feed.reader = Some(Box::new((Order { purpose, mark: self.feed.mark }, handle)));
    }

    /// Asks for the next message of an earlier connection.
    fn redeliver(&mut self, now: Monotonic) {
        while let Some((packet_id, origin)) = self.session.next_redelivery() {
            match origin {
                Some(origin) => {
                    self.read(Purpose::Again(packet_id, origin), StreamId(origin.stream), Seq(origin.seq), 1);
                    return;
                }
                None => {
                    self.session.redeliver(now, None);
                    self.hub.with(|router, _| router.counters_mut().lost_to_retention += 1);
                }
            }
        }
    }

    fn use_read(&mut self, now: Monotonic, order: Order, read: Result<ReadBatch, ReadError>) {
        let moved = order.mark < self.feed.mark;
        let batch = match read {
            Ok(batch) => batch,
            Err(error) => {
                tracing::error!(?error, "the log cannot be read, the client is disconnected");
                return self.session.close(ReasonCode::ImplementationSpecificError, "the log cannot be read");
            }
        };
        match order.purpose {
            // Read again: more is durable now.
            Purpose::Page(_) if batch.items.is_empty() && moved => {}
            Purpose::Page(stream) => {
                let key = self.key;
                let page = self.hub.with(|router, _| router.filter_page(key, stream, batch));
                if let Some(catch_up) = &mut self.feed.catch_up {
                    catch_up.accept(stream, page);
                }
            }
            Purpose::Again(packet_id, origin) => {
                if self.session.next_redelivery().is_none_or(|(id, _)| id != packet_id) {
                    // Acknowledged meanwhile.
                    return;
                }
                if batch.items.is_empty() && self.hub.with(|router, _| router.is_appended(origin)) {
                    // On its way to the disk.
                    self.feed.waits_for_mark = !moved;
                    return;
                }
                let stored = batch.items.into_iter().find_map(|item| match item {
                    Item::Message(stored) if stored.seq == Seq(origin.seq) => Some(stored),
                    Item::Message(_) | Item::Gap { .. } => None,
                });
                let key = self.key;
                let message = self.hub.with(|router, _| {
                    let message = stored.and_then(|stored| router.message_of(stored));
                    if message.is_none() {
                        router.counters_mut().lost_to_retention += 1;
                    }
                    let message = message.filter(|message| router.may_read(key, &message.topic));
                    message.map(|message| {
                        let ids = router.subscription_ids(key, &message.topic);
                        (message, ids)
                    })
                });
                self.session.redeliver(now, message);
            }
        }
    }

    fn replay(&mut self, now: Monotonic) -> bool {
        let (key, window) = (self.key, self.session.window());
        let mut out = self.room_for_deliveries();
        let replay = &mut self.feed.replays[0];
        let replayed = self.hub.with(|router, log| router.replay(now, log, key, replay, window, &mut out));
        self.send_all(now, &mut out);
        self.keep_room(out);
        match replayed {
            Replayed::Done => {
                self.feed.replays.remove(0);
                true
            }
            Replayed::More => true,
            Replayed::WindowFull => false,
            Replayed::NoRoom => {
                self.feed.no_room = true;
                false
            }
        }
    }

    fn catch_up(&mut self, now: Monotonic) -> bool {
        let key = self.key;
        let Some(catch_up) = &mut self.feed.catch_up else { return false };
        match catch_up.step() {
            Step::Deliver => self.deliver_page(now),
            Step::Read(stream, from) => {
                let (concerns, id) =
                    self.hub.with(|router, _| (router.concerns(key, stream), router.stream_id(stream)));
                if concerns {
                    self.read(Purpose::Page(stream), id, from, PAGE_MSGS);
                    false
                } else {
                    let page = self.hub.with(|router, _| router.skip_stream(stream));
                    catch_up.accept(stream, page);
                    true
                }
            }
            Step::Join => {
                self.hub.with(|router, _| router.join(key, catch_up));
                true
            }
            Step::GoLive => {
                if self.hub.with(|router, _| router.go_live(key, catch_up)) {
                    self.feed.catch_up = None;
                    self.hub.counters.catch_up_readers.fetch_sub(1, Relaxed);
                }
                true
            }
            Step::WaitDurable => {
                self.feed.waits_for_mark = true;
                false
            }
        }
    }

    fn deliver_page(&mut self, now: Monotonic) -> bool {
        loop {
            if !self.may_deliver() {
                return false;
            }
            let Some(catch_up) = &mut self.feed.catch_up else { return false };
            match catch_up.front() {
                None => return true,
                Some(front) if front.qos > QoS::AtMostOnce && self.session.window() == 0 => return false,
                Some(_) => {}
            }
            if let Some(delivery) = catch_up.pop() {
                if self.session.deliver(now, delivery) == Delivered::Expired {
                    self.hub.with(|router, _| router.counters_mut().dropped_expired += 1);
                }
                self.transmit();
            }
        }
    }

    fn live(&mut self, now: Monotonic) -> bool {
        let mut out = self.room_for_deliveries();
        let pull = self.hub.pull(self.key, (self.session.window(), self.session.in_flight()), PULL_BYTES, &mut out);
        self.send_all(now, &mut out);
        match pull {
            Pull::Idle => false,
            Pull::More => {
                self.keep_room(out);
                true
            }
            Pull::CatchUp(positions) => {
                self.hub.counters.catch_up_readers.fetch_add(1, Relaxed);
                self.feed.catch_up = Some(Box::new(CatchUp::new(positions)));
                true
            }
        }
    }

    fn room_for_deliveries(&mut self) -> Vec<Delivery> {
        self.busy.as_mut().map(|busy| std::mem::take(&mut busy.pulled)).unwrap_or_default()
    }

    /// Keeps it for those that follow at once.
    fn keep_room(&mut self, room: Vec<Delivery>) {
        if room.capacity() > 0 {
            self.busy.get_or_insert_default().pulled = room;
        }
    }

    fn send_all(&mut self, now: Monotonic, deliveries: &mut Vec<Delivery>) {
        let mut expired = 0;
        for delivery in deliveries.drain(..) {
            match self.session.deliver(now, delivery) {
                Delivered::Sent => {}
                Delivered::Expired => expired += 1,
                Delivered::NoRoom => debug_assert!(false, "no more was taken than the window allows"),
            }
        }
        if expired > 0 {
            self.hub.with(|router, _| router.counters_mut().dropped_expired += expired);
        }
        self.transmit();
    }
}
