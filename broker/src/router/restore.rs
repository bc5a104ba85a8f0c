//! What was in the log when the broker started.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Router;
use super::outbox::OwnMessages;
use super::record::{
    self, BadRecord, ProgressRecord, RetainedRecord, SessionRecord, ShareRecord, StampRecord, WillRecord, qos_of,
};
use super::retained::Replay;
use super::sessions::{Link, Offline, Slot, Subscription};
use super::streams::Positions;
use super::subscriptions::Subscriptions;
use super::tables::{self, OWNERS, PROGRESS, RECEIVED, RETAINED, SESSIONS, SHARES, WILLS};
use crate::clock::Monotonic;
use crate::log::{Seq, Stamp, TableId};
use crate::mqtt::packet::{PacketId, PublishProperties, Will};
use crate::mqtt::properties::decode_stored;
use crate::mqtt::session::{InFlight, Message, Origin, QueueCount, ReceivedIds, SessionExpiry, SessionState, Stage};
use crate::mqtt::topic::{TopicFilter, TopicName};

/// Fills a router from the tables of the log: give it every entry of [`Restorer::TABLES`], in that order, then finish.
#[derive(Debug)]
pub struct Restorer<A> {
    router: Router,
    now: Monotonic,
    age: A,
    sessions: BTreeMap<String, Found>,
    shares: Vec<(TopicFilter, ShareRecord)>,
    report: RestoreReport,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Sessions that live on.
    pub sessions: usize,
    /// Retained messages.
    pub retained: usize,
    /// Entries that could not be read; they are left alone.
    pub unreadable: usize,
    /// Retained messages beyond the configured bounds; they are left alone, and come back when there is room at a start.
    pub retained_beyond_bounds: usize,
    /// Sessions beyond `max_sessions`; they are left alone.
    pub sessions_beyond_bounds: usize,
}

#[derive(Debug, Default)]
struct Found {
    session: SessionRecord,
    progress: Option<ProgressRecord>,
    received: Vec<PacketId>,
    /// Of the client that was connected when the broker ended.
    will: Option<WillRecord>,
    owner: Option<Arc<str>>,
}

impl Restorer<()> {
    /// The tables, in the order in which they are to be given.
    pub const TABLES: [TableId; 7] = [RETAINED, SHARES, SESSIONS, PROGRESS, RECEIVED, WILLS, OWNERS];
}

impl<A: Fn(Stamp) -> Duration> Restorer<A> {
    /// Fills `router`. `age` says how long ago a stamp was at least, boots in between included (G7).
    #[must_use]
    pub fn new(router: Router, now: Monotonic, age: A) -> Self {
        Self { router, now, age, sessions: BTreeMap::new(), shares: Vec::new(), report: RestoreReport::default() }
    }

    /// One entry.
    pub fn entry(&mut self, table: TableId, key: &[u8], value: &Bytes) {
        let read = match table {
            RETAINED => self.retained(key, value),
            SHARES => self.share(key, value),
            SESSIONS => self.session(key, value),
            PROGRESS => self.progress(key, value),
            RECEIVED => self.received(key),
            WILLS => self.will(key, value),
            OWNERS => self.owner(key, value),
            _ => Err(BadRecord),
        };
        if read.is_err() {
            self.report.unreadable += 1;
            self.router.counters.bad_records += 1;
        }
    }

    fn retained(&mut self, key: &[u8], value: &Bytes) -> Result<(), BadRecord> {
        let record: RetainedRecord<'_> = record::decode(value)?;
        let StampRecord(boot, at) = record.stamp;
        let message = Message {
            topic: TopicName::new(Bytes::copy_from_slice(key)).map_err(|_| BadRecord)?,
            payload: Bytes::copy_from_slice(record.payload),
            qos: qos_of(record.qos),
            retain: true,
            properties: properties(record.properties)?,
            received: self.router.received(Stamp { boot, at: Monotonic(at) }),
            queues: QueueCount::default(),
        };
        if !self.router.retained.has_room(&message.topic, message.cost_bytes()) {
            self.report.retained_beyond_bounds += 1;
            return Ok(());
        }
        self.report.retained += 1;
        self.router.retained.set(Arc::new(message), None);
        Ok(())
    }

    fn share(&mut self, key: &[u8], value: &Bytes) -> Result<(), BadRecord> {
        let filter = TopicFilter::new(Bytes::copy_from_slice(key)).map_err(|_| BadRecord)?;
        self.shares.push((filter, record::decode(value)?));
        Ok(())
    }

    fn session(&mut self, key: &[u8], value: &Bytes) -> Result<(), BadRecord> {
        let client_id = std::str::from_utf8(key).map_err(|_| BadRecord)?;
        let session = record::decode(value)?;
        if self.sessions.len() >= self.router.limits.max_sessions {
            self.report.sessions_beyond_bounds += 1;
            return Ok(());
        }
        self.sessions.entry(client_id.to_owned()).or_default().session = session;
        Ok(())
    }

    fn progress(&mut self, key: &[u8], value: &Bytes) -> Result<(), BadRecord> {
        let client_id = std::str::from_utf8(key).map_err(|_| BadRecord)?;
        let progress = record::decode(value)?;
        // A session without subscriptions has a progress record only.
        if !self.sessions.contains_key(client_id) && self.sessions.len() >= self.router.limits.max_sessions {
            self.report.sessions_beyond_bounds += 1;
            return Ok(());
        }
        self.sessions.entry(client_id.to_owned()).or_default().progress = Some(progress);
        Ok(())
    }

    fn received(&mut self, key: &[u8]) -> Result<(), BadRecord> {
        let (packet_id, client_id) = tables::parse_received_key(key).ok_or(BadRecord)?;
        if let Some(found) = self.of_session(client_id, RECEIVED, key) {
            found.received.push(packet_id);
        }
        Ok(())
    }

    /// The session that a record belongs to; of one that is gone, the record goes too.
    fn of_session(&mut self, client_id: &str, table: TableId, key: &[u8]) -> Option<&mut Found> {
        let found = self.sessions.get_mut(client_id);
        if found.is_none() {
            self.router.deletes.push((table, key.to_vec()));
        }
        found
    }

    fn will(&mut self, key: &[u8], value: &Bytes) -> Result<(), BadRecord> {
        let client_id = std::str::from_utf8(key).map_err(|_| BadRecord)?;
        let will = record::decode(value)?;
        if let Some(found) = self.of_session(client_id, WILLS, key) {
            found.will = Some(will);
        }
        Ok(())
    }

    fn owner(&mut self, key: &[u8], value: &Bytes) -> Result<(), BadRecord> {
        let client_id = std::str::from_utf8(key).map_err(|_| BadRecord)?;
        let owner = std::str::from_utf8(value).map_err(|_| BadRecord)?;
        if let Some(found) = self.of_session(client_id, OWNERS, key) {
            found.owner = Some(Arc::from(owner));
        }
        Ok(())
    }

    /// The router, ready for clients.
    #[must_use]
    pub fn finish(mut self) -> (Router, RestoreReport) {
        for (client_id, found) in std::mem::take(&mut self.sessions) {
            if self.install(&client_id, found).is_err() {
                self.report.unreadable += 1;
                self.router.counters.bad_records += 1;
            } else {
                self.report.sessions += 1;
            }
        }
        let tails = self.router.streams.tails();
        for (filter, record) in std::mem::take(&mut self.shares) {
            let mut at = positions(&self.router, &record.positions, Seq(0));
            skip_new_streams(&self.router, &record.positions, &mut at, &tails);
            if !self.router.shares.resume(&filter, at, &tails) {
                // Its members are gone.
                self.router.deletes.push((SHARES, filter.as_bytes().to_vec()));
            }
        }
        (self.router, self.report)
    }

    fn install(&mut self, client_id: &str, found: Found) -> Result<(), BadRecord> {
        let router = &mut self.router;
        // Subscriptions without progress: written in one group, so something is wrong. Nothing is known of its expiry either.
        let progress = found.progress.ok_or(BadRecord)?;
        let mut subscriptions = Subscriptions::default();
        for s in found.session.subscriptions {
            let filter = TopicFilter::new(s.filter).map_err(|_| BadRecord)?;
            let since = (!s.since.is_empty()).then(|| Box::new(positions(router, &s.since, Seq(0))));
            subscriptions.insert(filter, Subscription { options: s.options.into(), id: s.id, since });
        }
        let mut in_flight = VecDeque::with_capacity(progress.in_flight.len());
        for e in progress.in_flight {
            let packet_id = PacketId(std::num::NonZeroU16::new(e.packet_id).ok_or(BadRecord)?);
            in_flight.push_back(InFlight {
                packet_id,
                stage: e.stage,
                retain: e.retain,
                origin: e.origin,
                share: None,
            });
        }
        let mut replays = Vec::new();
        let until_version = router.retained.version();
        for r in progress.replays {
            replays.push(Replay {
                filter: TopicFilter::new(r.filter).map_err(|_| BadRecord)?,
                qos: qos_of(r.qos),
                subscription_id: r.subscription_id,
                after: r.after.map(TopicName::new).transpose().map_err(|_| BadRecord)?,
                until_version,
            });
        }
        let own = progress
            .own
            .iter()
            .filter_map(|(stream, first, last)| Some((router.streams.by_id(*stream)?, Seq(*first), Seq(*last))))
            .collect();
        let tails = router.streams.tails();
        let mut at = positions(router, &progress.positions, Seq(0));
        skip_new_streams(router, &progress.positions, &mut at, &tails);
        let begun: Vec<Origin> =
            in_flight.iter().filter(|e| e.stage != Stage::AwaitsAck).filter_map(|e| e.origin).collect();
        // G7, never early: a session that was connected when the broker ended is offline from now on, and of the time between two
        // boots nothing is known.
        let since = match progress.offline_since {
            None => Stamp { boot: router.boot, at: self.now },
            Some(StampRecord(boot, at)) => Stamp { boot, at: Monotonic(at) },
        };
        let away = (self.age)(since);
        let after = |wait: Duration| self.now + wait.saturating_sub(away);
        let expiry = SessionExpiry(progress.expiry);
        let ends = expiry.duration().map(after);
        // A client that was connected when the broker ended has lost its connection: its will waits for its delay from now on.
        let was_connected = progress.offline_since.is_none();
        let will_stored = found.will.is_some();
        let found_will = found.will.filter(|_| was_connected).or(progress.will);
        let will = found_will.map(will).transpose()?.map(|will| {
            let due = after(Duration::from_secs(u64::from(will.delay)));
            (ends.map_or(due, |ends| ends.min(due)), Box::new(will))
        });
        let due = will.as_ref().map(|(due, _)| *due);
        let state = SessionState {
            in_flight,
            received: ReceivedIds::restored(found.received),
            next_packet_id: progress.next_packet_id,
        };
        let offline = Offline { state, positions: at, own: OwnMessages::restored(own), replays, since, ends, will };
        let client_id: Arc<str> = Arc::from(client_id);
        let filters: Vec<_> = subscriptions.iter().map(|(f, s)| (f.clone(), s.options, s.id)).collect();
        let key = router.insert_slot(Slot {
            client_id: Arc::clone(&client_id),
            expiry,
            subscriptions,
            link: Link::Offline(Box::new(offline)),
            access: None,
            stored: true,
            will_stored,
        });
        router.owners.extend(found.owner.map(|owner| (key, owner)));
        router.by_client.insert(client_id, key);
        router.subscriptions += filters.len();
        for (filter, options, id) in filters {
            router.note_sys(&filter);
            let Some(share) = router.enroll(&filter, key, options, id) else { continue };
            for origin in &begun {
                if let Some(stream) = router.streams.by_id(origin.stream) {
                    router.shares.begun(share, stream, Seq(origin.seq), key);
                }
            }
        }
        router.timers.extend(ends.map(|at| (at, key)));
        router.timers.extend(due.map(|at| (at, key)));
        Ok(())
    }
}

/// A stream that was added to the configuration since: what is in it already is not for who subscribed before.
fn skip_new_streams(router: &Router, stored: &[(u32, u64)], at: &mut Positions, tails: &Positions) {
    for (index, stream) in router.streams.iter() {
        if !stored.iter().any(|(id, _)| *id == stream.id.0) {
            at[index] = tails[index];
        }
    }
}

fn positions(router: &Router, stored: &[(u32, u64)], absent: Seq) -> Positions {
    Positions(
        router
            .streams
            .iter()
            .map(|(_, s)| stored.iter().find(|(id, _)| *id == s.id.0).map_or(absent, |(_, seq)| Seq(*seq)))
            .collect(),
    )
}

fn properties(stored: &[u8]) -> Result<Option<Box<PublishProperties>>, BadRecord> {
    if stored.is_empty() {
        return Ok(None);
    }
    decode_stored(&Bytes::copy_from_slice(stored)).map(|p| Some(Box::new(p))).map_err(|_| BadRecord)
}

fn will(record: WillRecord) -> Result<Will, BadRecord> {
    Ok(Will {
        topic: TopicName::new(record.topic).map_err(|_| BadRecord)?,
        payload: Bytes::from(record.payload),
        qos: qos_of(record.qos),
        retain: record.retain,
        delay: record.delay,
        properties: properties(&record.properties)?,
    })
}
