//! Who is there, and what outlives a connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::outbox::{Mode, Outbox, OwnMessages};
use super::record::{
    InFlightRecord, OptionsRecord, ProgressRecord, ReplayRecord, SessionRecord, SubscriptionRecord, WillRecord,
};
use super::retained::Replay;
use super::streams::{Positions, Streams};
use super::subscriptions::Subscriptions;
use super::tables::{self, OWNERS, PROGRESS, RECEIVED, SESSIONS, SHARES, WILLS};
use super::{Router, SessionKey, Store, record};
use crate::auth::acl::{Access, Use};
use crate::clock::Monotonic;
use crate::log::{AppendError, Appended, Entry, Stamp, Ticket};
use crate::mqtt::packet::{PacketId, SubscriptionOptions, Will};
use crate::mqtt::properties::encode_stored;
use crate::mqtt::session::{InFlight, Negotiated, SessionExpiry, SessionState, Stage};
use crate::mqtt::topic::TopicName;

/// One session, connected or not.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) client_id: Arc<str>,
    pub(super) expiry: SessionExpiry,
    pub(super) subscriptions: Subscriptions,
    pub(super) link: Link,
    /// What its client may do; `None`: everything. Of a session that was restored: nobody has shown who it is yet.
    pub(super) access: Option<Arc<Access>>,
    /// There may be records of it on disk.
    pub(super) stored: bool,
    /// There may be the will of its connected client on disk.
    pub(super) will_stored: bool,
}

/// One subscription of a session.
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    pub(super) options: SubscriptionOptions,
    pub(super) id: Option<u32>,
    /// Set when it was made while the session was catching up: what is older must not be read for it.
    pub(super) since: Option<Box<Positions>>,
}

#[derive(Debug)]
pub(super) enum Link {
    Online(Online),
    Offline(Box<Offline>),
}

#[derive(Debug)]
pub(super) struct Online {
    pub(super) outbox: Outbox,
}

/// A session without a connection: some bytes, not a copy of its messages.
#[derive(Debug)]
pub(super) struct Offline {
    pub(super) state: SessionState,
    pub(super) positions: Positions,
    pub(super) own: OwnMessages,
    pub(super) replays: Vec<Replay>,
    pub(super) since: Stamp,
    /// `None`: never.
    pub(super) ends: Option<Monotonic>,
    pub(super) will: Option<(Monotonic, Box<Will>)>,
}

/// Why a client could not be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// Another connection has the session: tell it to leave, wait for its [`Router::detach`], try again [MQTT-3.1.4-3].
    InUse(SessionKey),
    /// `max_sessions` is reached.
    TooManySessions,
}

/// A session that got a connection.
#[derive(Debug)]
pub struct Attached {
    /// Its handle until it is detached.
    pub key: SessionKey,
    /// Whose it is, shared with the router.
    pub client_id: Arc<str>,
    /// There was a session [MQTT-3.2.2-2, MQTT-3.2.2-3].
    pub present: bool,
    /// What outlived the last connection.
    pub state: SessionState,
    /// Where to read on in the log; `None`: nothing was missed.
    pub catch_up: Option<Positions>,
    /// Retained messages still to be sent.
    pub replays: Vec<Replay>,
    /// A delayed will of a session that this clean start ended: publish it now [MQTT-3.1.2-8].
    pub will: Option<Box<Will>>,
}

/// What a connection hands back.
#[derive(Debug)]
pub struct Leaving<'a> {
    /// From the session machine.
    pub state: SessionState,
    /// Its positions, if it is catching up.
    pub reading: Option<&'a Positions>,
    /// Retained messages still to be sent.
    pub replays: Vec<Replay>,
    /// DISCONNECT may have changed it.
    pub expiry: SessionExpiry,
    /// `None`: the client said goodbye.
    pub will: Option<Box<Will>>,
}

/// What to do after a detach.
#[derive(Debug)]
pub struct Detached {
    /// Publish this now.
    pub will: Option<Box<Will>>,
    /// The session goes on without a connection: save it with [`Router::save_progress`].
    pub persists: bool,
}

/// What a connected session's progress record needs from its connection.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Unacknowledged messages.
    pub in_flight: &'a VecDeque<InFlight>,
    /// Its positions, if it is catching up.
    pub reading: Option<&'a Positions>,
    /// Retained messages still to be sent.
    pub replays: &'a [Replay],
}

impl Slot {
    /// Whether its client may do this with the topic.
    pub(super) fn may(&self, what: Use, topic: &TopicName) -> bool {
        self.access.as_ref().is_none_or(|access| access.may(what, topic))
    }

    pub(super) fn outbox(&self) -> Option<&Outbox> {
        match &self.link {
            Link::Online(online) => Some(&online.outbox),
            Link::Offline(_) => None,
        }
    }

    pub(super) fn outbox_mut(&mut self) -> Option<&mut Outbox> {
        match &mut self.link {
            Link::Online(online) => Some(&mut online.outbox),
            Link::Offline(_) => None,
        }
    }

    /// Where to remember that a message was the client's own; `None` while nothing is read back from the log.
    pub(super) fn own_messages_to_remember(&mut self) -> Option<&mut OwnMessages> {
        match &mut self.link {
            Link::Online(online) if online.outbox.is_live() && online.outbox.is_empty() => None,
            Link::Online(online) => Some(&mut online.outbox.own),
            Link::Offline(offline) => Some(&mut offline.own),
        }
    }
}

impl Router {
    /// Gives the client's session, an old or a new one, to a connection.
    ///
    /// # Errors
    /// As [`AttachError`] says; nothing has changed.
    pub fn attach(&mut self, agreed: &Negotiated) -> Result<Attached, AttachError> {
        let known = self.by_client.get(agreed.client_id.as_str()).copied();
        let mut will = None;
        if let Some(key) = known {
            if self.slot(key).is_some_and(|s| s.outbox().is_some()) {
                return Err(AttachError::InUse(key));
            }
            // A session is its user's: another one who comes with the same client id may take the connection [MQTT-3.1.4-3], but gets
            // neither messages nor subscriptions.
            let foreign = self.owners.get(&key).is_some_and(|owner| agreed.user.as_deref() != Some(owner));
            self.counters.sessions_of_others += u64::from(foreign);
            if !agreed.clean_start
                && !foreign
                && let Some(attached) = self.resume(key, agreed.expiry)
            {
                self.set_owner(key, agreed);
                return Ok(attached);
            }
            // A clean start ends the old session, and with it the waiting of its will [MQTT-3.1.2-4, 3.1.3.2.2].
            will = self.end_session(key);
        }
        if self.by_client.len() >= self.limits.max_sessions {
            return Err(AttachError::TooManySessions);
        }
        let client_id: Arc<str> = Arc::from(agreed.client_id.as_str());
        let slot = Slot {
            client_id: Arc::clone(&client_id),
            expiry: agreed.expiry,
            subscriptions: Subscriptions::default(),
            link: Link::Online(Online { outbox: Outbox::new(Mode::Live) }),
            access: None,
            stored: false,
            will_stored: false,
        };
        let key = self.insert_slot(slot);
        self.set_owner(key, agreed);
        self.by_client.insert(Arc::clone(&client_id), key);
        self.queues.clients += 1;
        self.max_online = self.max_online.max(self.queues.clients);
        Ok(Attached {
            key,
            client_id,
            present: false,
            state: SessionState::default(),
            catch_up: None,
            replays: Vec::new(),
            will,
        })
    }

    /// Only of sessions that are kept: one that ends with its connection never meets another user.
    fn set_owner(&mut self, key: SessionKey, agreed: &Negotiated) {
        if let Some(user) = agreed.user.as_ref().filter(|_| agreed.expiry.persists()) {
            self.owners.insert(key, Arc::clone(user));
        }
    }

    /// What the session's client may do from now on; `None`: everything.
    pub fn set_access(&mut self, key: SessionKey, access: Option<Arc<Access>>) {
        if let Some(slot) = self.slot_mut(key) {
            slot.access = access;
        }
    }

    /// The client id of a session.
    #[must_use]
    pub fn client_id(&self, key: SessionKey) -> Option<Arc<str>> {
        self.slot(key).map(|slot| Arc::clone(&slot.client_id))
    }

    /// Whether the session's client may read the topic.
    #[must_use]
    pub fn may_read(&self, key: SessionKey, topic: &TopicName) -> bool {
        self.slot(key).is_some_and(|slot| slot.may(Use::Read, topic))
    }

    pub(super) fn insert_slot(&mut self, slot: Slot) -> SessionKey {
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = Some(slot);
            return SessionKey(index);
        }
        self.slots.push(Some(slot));
        // `max_sessions` is a u32.
        SessionKey(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
    }

    fn resume(&mut self, key: SessionKey, expiry: SessionExpiry) -> Option<Attached> {
        let tails = self.streams.tails();
        let slot = self.slots.get_mut(key.0 as usize)?.as_mut()?;
        let missed = |positions: &Positions| positions.0.iter().zip(&tails.0).any(|(at, tail)| at < tail);
        let online = Link::Online(Online { outbox: Outbox::new(Mode::Live) });
        let Link::Offline(offline) = std::mem::replace(&mut slot.link, online) else { return None };
        let Offline { state, positions, own, replays, ends, will, .. } = *offline;
        slot.expiry = expiry;
        let client_id = Arc::clone(&slot.client_id);
        let catch_up = missed(&positions).then_some(positions);
        if let Link::Online(Online { outbox }) = &mut slot.link {
            outbox.own = own;
            if catch_up.is_some() {
                outbox.mode = Mode::CatchingUp { live_from: None };
            }
        }
        // A client that is back before its will was due has not died [MQTT-3.1.3-9].
        for at in [ends, will.map(|(at, _)| at)].into_iter().flatten() {
            self.timers.remove(&(at, key));
        }
        self.queues.clients += 1;
        self.max_online = self.max_online.max(self.queues.clients);
        Some(Attached { key, client_id, present: true, state, catch_up, replays, will: None })
    }

    /// Takes the session back from its connection.
    pub fn detach(&mut self, now: Monotonic, key: SessionKey, leaving: Leaving<'_>) -> Detached {
        let boot = self.boot;
        let Leaving { mut state, reading, replays, expiry, will } = leaving;
        self.take_back(key, expiry.persists(), &mut state.in_flight);
        let streams = &self.streams;
        let Some(slot) = self.slots.get_mut(key.0 as usize).and_then(Option::as_mut) else {
            return Detached { will, persists: false };
        };
        // Its rights may have changed since it connected.
        let will = will.filter(|will| slot.may(Use::Write, &will.topic));
        let Link::Online(online) = &mut slot.link else { return Detached { will, persists: false } };
        slot.expiry = expiry;
        self.queues.clients -= 1;
        if !expiry.persists() {
            self.counters.dropped_disconnected += online.outbox.len() as u64;
            online.outbox.clear(&mut self.queues);
            if slot.stored {
                let client_id = Arc::clone(&slot.client_id);
                self.delete_received(&state, &client_id);
            }
            self.end_session(key);
            return Detached { will, persists: false };
        }
        self.counters.dropped_disconnected += online.outbox.unstored() as u64;
        let positions = online.outbox.positions(reading, streams);
        let own = std::mem::take(&mut online.outbox.own);
        online.outbox.clear(&mut self.queues);
        let ends = expiry.duration().map(|d| now + d);
        // The will waits for its delay or the end of the session, whichever comes first (3.1.3.2.2).
        let (will_now, will_later) = match will {
            Some(will) if will.delay > 0 => {
                let due = now + Duration::from_secs(u64::from(will.delay));
                (None, Some((ends.map_or(due, |ends| ends.min(due)), will)))
            }
            now_or_never => (now_or_never, None),
        };
        self.timers.extend(ends.map(|at| (at, key)));
        self.timers.extend(will_later.as_ref().map(|(at, _)| (*at, key)));
        let since = Stamp { boot, at: now };
        slot.link = Link::Offline(Box::new(Offline { state, positions, own, replays, since, ends, will: will_later }));
        Detached { will: will_now, persists: true }
    }

    /// When [`Router::timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Monotonic> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Ends sessions whose expiry has passed, and returns one will that is due, if any; call again until it returns `None`.
    pub fn timeout(&mut self, now: Monotonic) -> Option<Box<Will>> {
        while let Some(&(at, key)) = self.timers.first() {
            if at > now {
                return None;
            }
            self.timers.pop_first();
            let Some(Slot { link: Link::Offline(offline), .. }) = self.slot_mut(key) else { continue };
            let will = offline.will.take_if(|(due, _)| *due <= now).map(|(_, will)| will);
            if offline.ends.is_some_and(|ends| ends <= now) {
                self.counters.sessions_expired += 1;
                let pending = self.end_session(key);
                if let Some(will) = will.or(pending) {
                    return Some(will);
                }
            } else if will.is_some() {
                self.published_wills.push(key);
                return will;
            }
        }
        None
    }

    /// Forgets a session; returns the will that waited. Its keys are deleted from the tables with the next save or [`Router::flush_deletes`].
    pub(super) fn end_session(&mut self, key: SessionKey) -> Option<Box<Will>> {
        let slot = self.slots.get_mut(key.0 as usize)?.take()?;
        self.free.push(key.0);
        self.by_client.remove(&slot.client_id);
        let owned = self.owners.remove(&key).is_some();
        self.subscriptions -= slot.subscriptions.len();
        for filter in slot.subscriptions.filters() {
            self.withdraw(filter, key);
        }
        let client_id = slot.client_id.as_bytes();
        let mut will = None;
        if let Link::Offline(offline) = slot.link {
            for at in [offline.ends, offline.will.as_ref().map(|(at, _)| *at)].into_iter().flatten() {
                self.timers.remove(&(at, key));
            }
            self.delete_received(&offline.state, &slot.client_id);
            will = offline.will.map(|(_, will)| will);
        }
        // Deleting a key that is not there costs a few bytes in the log; sessions that never persist do not.
        if slot.stored {
            self.deletes.push((SESSIONS, client_id.to_vec()));
            self.deletes.push((PROGRESS, client_id.to_vec()));
            if slot.will_stored {
                self.deletes.push((WILLS, client_id.to_vec()));
            }
            if owned {
                self.deletes.push((OWNERS, client_id.to_vec()));
            }
        }
        will
    }

    fn delete_received(&mut self, state: &SessionState, client_id: &str) {
        for id in state.received.iter() {
            let mut received = id.to_be_bytes().to_vec();
            received.extend_from_slice(client_id.as_bytes());
            self.deletes.push((RECEIVED, received));
        }
    }

    /// Deletes the keys of sessions that ended, and wills from the records of those that wait no longer.
    ///
    /// # Errors
    /// As [`Store::append`]; what is left is deleted by a later call.
    pub fn flush_deletes(&mut self, store: &impl Store) -> Result<(), AppendError> {
        while !self.deletes.is_empty() {
            let count = self.deletes.len().min(64);
            let group: Vec<Entry<'_>> =
                self.deletes[..count].iter().map(|(table, key)| Entry::Delete { table: *table, key }).collect();
            store.append(&group)?;
            self.deletes.drain(..count);
        }
        while let Some(&key) = self.published_wills.last() {
            // With a connection it has a new record.
            if let Some(slot) = self.slot(key).filter(|slot| slot.stored && slot.outbox().is_none()) {
                let value = self.progress_record(key, slot, None);
                let client_id = slot.client_id.as_bytes();
                store.append(&[
                    Entry::Put { table: PROGRESS, key: client_id, value: &value },
                    Entry::Delete { table: WILLS, key: client_id },
                ])?;
            }
            self.published_wills.pop();
        }
        Ok(())
    }

    /// Saves that a session which persists has a connection, its will, and its user. It goes before everything else that is stored
    /// for the connection.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn save_connect(
        &mut self,
        store: &impl Store,
        key: SessionKey,
        progress: Progress<'_>,
        will: Option<&Will>,
    ) -> Result<Ticket, AppendError> {
        self.flush_deletes(store)?;
        let Some(slot) = self.slot(key).filter(|s| s.expiry.persists()) else { return Ok(Ticket(0)) };
        let value = self.progress_record(key, slot, Some(progress));
        let client_id = slot.client_id.as_bytes();
        let will = will.map(|will| record::encode(&will_record(will)));
        let mut group = vec![Entry::Put { table: PROGRESS, key: client_id, value: &value }];
        match &will {
            Some(value) => group.push(Entry::Put { table: WILLS, key: client_id, value }),
            None if slot.will_stored => group.push(Entry::Delete { table: WILLS, key: client_id }),
            None => {}
        }
        if let Some(owner) = self.owners.get(&key) {
            group.push(Entry::Put { table: OWNERS, key: client_id, value: owner.as_bytes() });
        }
        let appended = store.append(&group);
        if appended.is_ok()
            && let Some(slot) = self.slot_mut(key)
        {
            slot.will_stored = will.is_some();
        }
        self.saved(key, appended)
    }

    /// Forgets a QoS 2 id that was stored with its message. Returns what PUBCOMP has to wait for: a PUBCOMP that left before the
    /// id is gone from the disk would let a later message with the same id be taken for a repetition after a crash.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn release(&mut self, store: &impl Store, key: SessionKey, packet_id: PacketId) -> Result<Ticket, AppendError> {
        let Some(slot) = self.slot(key).filter(|s| s.expiry.persists()) else { return Ok(Ticket(0)) };
        let mut received = Vec::with_capacity(2 + slot.client_id.len());
        tables::received_key(&mut received, packet_id, &slot.client_id);
        Ok(store.append(&[Entry::Delete { table: RECEIVED, key: &received }])?.ticket)
    }

    /// Saves the subscriptions and the progress of a session that persists; 0 for others.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn save_session(
        &mut self,
        store: &impl Store,
        key: SessionKey,
        progress: Progress<'_>,
    ) -> Result<Ticket, AppendError> {
        self.flush_deletes(store)?;
        let Some(slot) = self.slot(key).filter(|s| s.expiry.persists()) else { return Ok(Ticket(0)) };
        let subscriptions = slot
            .subscriptions
            .iter()
            .map(|(filter, s)| SubscriptionRecord {
                filter: filter.as_str().to_owned(),
                options: OptionsRecord::from(s.options),
                id: s.id,
                since: s.since.as_ref().map_or_else(Vec::new, |since| by_number(since, &self.streams)),
            })
            .collect();
        let session = record::encode(&SessionRecord { subscriptions });
        let progress = self.progress_record(key, slot, Some(progress));
        let client_id = slot.client_id.as_bytes();
        let shares = self.share_records(key);
        let mut group = vec![
            Entry::Put { table: SESSIONS, key: client_id, value: &session },
            Entry::Put { table: PROGRESS, key: client_id, value: &progress },
        ];
        for (.., filter, value) in &shares {
            group.push(Entry::Put { table: SHARES, key: filter.as_bytes(), value });
        }
        let appended = store.append(&group);
        if appended.is_ok() {
            self.shares_saved(shares);
        }
        self.saved(key, appended)
    }

    /// Saves how far a session that persists has come; nothing waits for it. `progress` is `None` for one without a connection.
    ///
    /// # Errors
    /// As [`Store::append`].
    pub fn save_progress(
        &mut self,
        store: &impl Store,
        key: SessionKey,
        progress: Option<Progress<'_>>,
    ) -> Result<Ticket, AppendError> {
        self.flush_deletes(store)?;
        let Some(slot) = self.slot(key).filter(|s| s.expiry.persists()) else { return Ok(Ticket(0)) };
        if progress.is_none() && slot.outbox().is_some() {
            // It was detached, and has a new connection by now, which saves it.
            return Ok(Ticket(0));
        }
        let value = self.progress_record(key, slot, progress);
        let client_id = slot.client_id.as_bytes();
        let mut group = vec![Entry::Put { table: PROGRESS, key: client_id, value: &value }];
        // Without a connection, the will was published, waits in this record, or is not wanted any more.
        let no_will = slot.will_stored && progress.is_none();
        if no_will {
            group.push(Entry::Delete { table: WILLS, key: client_id });
        }
        let appended = store.append(&group);
        if no_will
            && appended.is_ok()
            && let Some(slot) = self.slot_mut(key)
        {
            slot.will_stored = false;
        }
        self.saved(key, appended)
    }

    fn saved(&mut self, key: SessionKey, appended: Result<Appended, AppendError>) -> Result<Ticket, AppendError> {
        match appended {
            Ok(appended) => {
                if let Some(slot) = self.slot_mut(key) {
                    slot.stored = true;
                }
                Ok(appended.ticket)
            }
            Err(error @ (AppendError::TooLarge { .. } | AppendError::Full { .. })) => {
                self.counters.bad_records += 1;
                Err(error)
            }
            Err(error @ (AppendError::Busy | AppendError::Failed)) => Err(error),
        }
    }

    fn progress_record(&self, key: SessionKey, slot: &Slot, progress: Option<Progress<'_>>) -> Vec<u8> {
        let record = match &slot.link {
            Link::Online(online) => {
                let no_messages = VecDeque::new();
                let (in_flight, reading, replays) =
                    progress.map_or((&no_messages, None, &[][..]), |p| (p.in_flight, p.reading, p.replays));
                ProgressRecord {
                    expiry: slot.expiry.0,
                    offline_since: None,
                    positions: by_number(&online.outbox.positions(reading, &self.streams), &self.streams),
                    // What its group would give to another member is in the group's record, which a group with a member that is
                    // kept has.
                    in_flight: in_flight_records(in_flight.iter().filter(|e| {
                        e.stage != Stage::AwaitsAck || !e.share.is_some_and(|share| self.shares.is_member(key, share))
                    })),
                    next_packet_id: in_flight.back().map_or(1, |e| e.packet_id.0.get().wrapping_add(1)),
                    own: own_records(&online.outbox.own, &self.streams),
                    // From the beginning: which of them were acknowledged is not known here.
                    replays: replays.iter().map(|r| replay_record(r, false)).collect(),
                    will: None,
                }
            }
            Link::Offline(offline) => ProgressRecord {
                expiry: slot.expiry.0,
                offline_since: Some(offline.since.into()),
                positions: by_number(&offline.positions, &self.streams),
                in_flight: in_flight_records(offline.state.in_flight.iter()),
                next_packet_id: offline.state.next_packet_id,
                own: own_records(&offline.own, &self.streams),
                replays: offline.replays.iter().map(|r| replay_record(r, true)).collect(),
                will: offline.will.as_ref().map(|(_, will)| will_record(will)),
            },
        };
        record::encode(&record)
    }
}

pub(super) fn by_number(positions: &Positions, streams: &Streams) -> Vec<(u32, u64)> {
    streams.iter().map(|(index, stream)| (stream.id.0, positions[index].0)).collect()
}

fn in_flight_records<'a>(in_flight: impl Iterator<Item = &'a InFlight>) -> Vec<InFlightRecord> {
    in_flight
        .map(|e| InFlightRecord { packet_id: e.packet_id.0.get(), stage: e.stage, retain: e.retain, origin: e.origin })
        .collect()
}

fn own_records(own: &OwnMessages, streams: &Streams) -> Vec<(u32, u64, u64)> {
    own.iter().map(|(stream, first, last)| (streams[stream].id.0, first.0, last.0)).collect()
}

fn replay_record(replay: &Replay, position: bool) -> ReplayRecord {
    ReplayRecord {
        filter: replay.filter.as_str().to_owned(),
        qos: replay.qos as u8,
        subscription_id: replay.subscription_id,
        after: replay.after.as_ref().filter(|_| position).map(|t| t.as_str().to_owned()),
    }
}

fn will_record(will: &Will) -> WillRecord {
    let mut properties = Vec::new();
    if let Some(p) = &will.properties {
        // Cannot fail: they came off the wire.
        let _ = encode_stored(p, &mut properties);
    }
    WillRecord {
        delay: will.delay,
        topic: will.topic.as_str().to_owned(),
        qos: will.qos as u8,
        retain: will.retain,
        properties,
        payload: will.payload.to_vec(),
    }
}
