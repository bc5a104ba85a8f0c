//! The forwarder against a simulated hub that loses, delays, repeats and reorders, answers from the past, commits late and
//! forgets its dedupe window, while the gateway restarts with an old cursor and retention discards messages: whatever
//! happened, the hub ends with every message or its gap notice, once, in order.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_broker::clock::{ClockQuality, MessageTime, Monotonic, WallTime};
use headwater_broker::log::{Seq, StreamUid};
use headwater_sync::backoff::Jitter;
use headwater_sync::batch::{Absence, Entry, Limits};
use headwater_sync::encode::{Encoder, Outgoing};
use headwater_sync::forwarder::{Batch, Forwarder, Held, Input, Now, Output, RequestId, Settings};
use headwater_sync::hub::{Committed, Delivery, HubAnswer, HubSeq, HubStream, Keeps, LastMessage, Trouble};
use proptest::prelude::*;

const UID: StreamUid = StreamUid(0xfeed);

/// A message of ours in the hub: the sequences it stands for (a gap notice stands for several).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ours {
    hub_seq: HubSeq,
    first: u64,
    last: u64,
    is_gap: bool,
}

struct Hub {
    delivery: Delivery,
    accepts_ids: bool,
    last_seq: u64,
    ours: Vec<Ours>,
    ids: HashSet<String>,
}

impl Hub {
    fn header<'a>(m: &'a Outgoing, name: &str) -> Option<&'a str> {
        m.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn number(m: &Outgoing, name: &str) -> Option<u64> {
        Self::header(m, name).and_then(|v| v.parse().ok())
    }

    fn store(&mut self, m: &Outgoing) {
        self.last_seq += 1;
        let last = Self::number(m, "Headwater-Seq").expect("every message carries its sequence");
        let first = Self::number(m, "Headwater-Gap-First");
        self.ours.push(Ours {
            hub_seq: HubSeq(self.last_seq),
            first: first.unwrap_or(last),
            last,
            is_gap: first.is_some(),
        });
        self.ids.insert(Self::header(m, "Nats-Msg-Id").expect("every message carries an id").to_owned());
    }

    fn knows(&self, m: &Outgoing) -> bool {
        self.ids.contains(Self::header(m, "Nats-Msg-Id").expect("every message carries an id"))
    }

    /// As nats-server does it: a batch is checked for known ids first, then for its fence; a publish the other way round.
    fn take(&mut self, batch: &Batch, mask: u64) -> Option<Result<Committed, Trouble>> {
        let atomic = batch.delivery == Delivery::Atomic && batch.messages.len() > 1;
        match batch.delivery {
            Delivery::Atomic | Delivery::Single => {
                assert!(atomic || batch.messages.len() == 1, "only atomic batches hold several messages");
                if atomic && batch.with_ids && !self.accepts_ids {
                    return Some(Err(Trouble::IdsRefused));
                }
                if atomic && batch.with_ids && batch.messages.iter().any(|m| self.knows(m)) {
                    return Some(Err(Trouble::Duplicate));
                }
                if self.ours.last().map_or(HubSeq(0), |m| m.hub_seq) != batch.fence {
                    return Some(Err(Trouble::FenceMoved));
                }
                if !atomic && self.knows(&batch.messages[0]) {
                    return Some(Ok(Committed { last: HubSeq(self.last_seq), duplicate: true }));
                }
                batch.messages.iter().for_each(|m| self.store(m));
                Some(Ok(Committed { last: HubSeq(self.last_seq), duplicate: false }))
            }
            Delivery::Window => {
                let mut complete = true;
                for (i, m) in batch.messages.iter().enumerate() {
                    if mask >> (i % 64) & 1 == 0 {
                        complete = false;
                    } else if !self.knows(m) {
                        self.store(m);
                    }
                }
                complete.then_some(Ok(Committed { last: HubSeq(self.last_seq), duplicate: false }))
            }
        }
    }

    /// As it was when it held only the first `known` messages of ours: what a deposed leader may still answer.
    fn answer(&self, known: usize) -> HubAnswer {
        HubAnswer {
            last: self.ours[..known].last().map(|m| LastMessage {
                hub_seq: m.hub_seq,
                subject: "edge.gw.s.a".into(),
                origin: Some((UID, Seq(m.last))),
            }),
            stream: HubStream {
                created: "2026-01-01T00:00:00Z".into(),
                last_seq: HubSeq(self.last_seq),
                delivery: self.delivery,
                keeps: Keeps::UntilLimits,
                max_msg_bytes: None,
            },
        }
    }
}

struct World {
    hub: Hub,
    gateway: Forwarder,
    encoder: Arc<Encoder>,
    now: Now,
    held: Held,
    floor: Seq,
    created: Option<String>,
    up: bool,
    asks: Vec<RequestId>,
    reads: Vec<(RequestId, Seq, Limits)>,
    underway: Vec<(RequestId, Batch)>,
    acks: Vec<(RequestId, Result<Committed, Trouble>)>,
}

fn settings() -> Settings {
    Settings {
        batch: Limits { msgs: 4, bytes: 1 << 20 },
        batch_delay: Duration::from_millis(20),
        ack_timeout: Duration::from_secs(5),
        max_backoff: Duration::from_secs(2),
    }
}

impl World {
    fn new(delivery: Delivery, accepts_ids: bool) -> Self {
        let template = "edge.{gateway}.{stream}.{subject}";
        let encoder = Arc::new(Encoder::new(template, "gw", "s", UID).expect("a valid template"));
        let held = Held { first: Seq(1), last: Seq(0) };
        let hub = Hub { delivery, accepts_ids, last_seq: 0, ours: Vec::new(), ids: HashSet::new() };
        Self {
            hub,
            gateway: Forwarder::new(settings(), Arc::clone(&encoder), UID, Seq(0), None, held),
            encoder,
            now: Now { at: Monotonic(1), jitter: Jitter(0) },
            held,
            floor: Seq(0),
            created: None,
            up: false,
            asks: Vec::new(),
            reads: Vec::new(),
            underway: Vec::new(),
            acks: Vec::new(),
        }
    }

    fn input(&mut self, input: Input) {
        self.gateway.handle(self.now, input);
        while let Some(output) = self.gateway.poll() {
            match output {
                Output::Ask { id } => self.asks.push(id),
                Output::Send { id, batch } => self.underway.push((id, batch)),
                Output::Read { id, from, limits } => self.reads.push((id, from, limits)),
                Output::Remember { created } => self.created = Some(created),
                Output::Advance { floor } => {
                    assert!(floor <= self.held.last, "the cursor may not pass the log");
                    self.floor = self.floor.max(floor);
                }
                Output::Suspect { .. } | Output::Tell(_) => {}
            }
        }
    }

    fn read(&mut self, index: usize) {
        if self.reads.is_empty() {
            return;
        }
        let (id, from, limits) = self.reads.remove(index % self.reads.len());
        let mut entries = Vec::new();
        let mut next = from;
        if next < self.held.first {
            let last = Seq(self.held.first.0 - 1);
            entries.push(Entry::Gap { first: next, last, reason: Absence::Retention });
            next = self.held.first;
        }
        while next <= self.held.last && entries.len() < limits.msgs {
            let time = MessageTime { wall: WallTime(0), quality: ClockQuality::Synced };
            let outgoing = self.encoder.message(next, time, "a", None, Bytes::new()).expect("a short subject");
            entries.push(Entry::Message { seq: next, outgoing });
            next = next.next();
        }
        self.input(Input::Read { id, result: Ok((entries, next)) });
    }

    fn answer(&mut self, index: usize, back: usize) {
        if self.asks.is_empty() {
            return;
        }
        let id = self.asks.remove(index % self.asks.len());
        let answer = Ok(self.hub.answer(self.hub.ours.len().saturating_sub(back)));
        self.input(Input::Answered { id, answer });
    }

    fn commit(&mut self, index: usize, mask: u64) {
        if self.underway.is_empty() {
            return;
        }
        let (id, batch) = self.underway.remove(index % self.underway.len());
        if let Some(result) = self.hub.take(&batch, mask) {
            self.acks.push((id, result));
        }
    }

    fn ack(&mut self, index: usize) {
        if self.acks.is_empty() {
            return;
        }
        let (id, result) = self.acks.remove(index % self.acks.len());
        self.input(Input::Sent { id, result });
    }

    fn step(&mut self, action: u8, index: usize, amount: u64) {
        match action {
            0..=5 => {
                self.held.last.0 += 1 + amount % 6;
                self.input(Input::Held(self.held));
            }
            6..=12 => self.commit(index, if amount.is_multiple_of(2) { u64::MAX } else { amount }),
            13..=18 => self.ack(index),
            19..=25 => self.read(index),
            26..=31 => self.answer(index, 0),
            32..=33 => self.answer(index, usize::try_from(amount % 5).expect("below 5")),
            34 if !self.underway.is_empty() => drop(self.underway.remove(index % self.underway.len())),
            35 if !self.underway.is_empty() => {
                self.underway.push(self.underway[index % self.underway.len()].clone());
            }
            36 if !self.acks.is_empty() => drop(self.acks.remove(index % self.acks.len())),
            37 if !self.acks.is_empty() => self.acks.push(self.acks[index % self.acks.len()].clone()),
            38 if !self.asks.is_empty() => drop(self.asks.remove(index % self.asks.len())),
            39..=44 => {
                let far = if amount.is_multiple_of(8) { 6_000 } else { 25 };
                self.now.at = self.now.at + Duration::from_millis(far);
                self.now.jitter = Jitter(u32::try_from(amount).unwrap_or(u32::MAX));
                self.input(Input::Tick);
            }
            45..=46 => {
                self.up = !self.up;
                self.input(if self.up { Input::LinkUp { max_payload: 1 << 20 } } else { Input::LinkDown });
            }
            // IMPORTANT: never in the window's tests, which promise nothing beyond the dedupe window.
            47 if self.hub.delivery != Delivery::Window => self.hub.ids.clear(),
            48 => self.hub.last_seq += 1 + amount % 3,
            49 if self.held.first <= self.held.last => {
                self.held.first.0 += amount % (self.held.last.0 - self.held.first.0 + 1);
                self.input(Input::Held(self.held));
            }
            50 => self.restart(amount),
            _ => {}
        }
    }

    /// The process ends and starts anew with a cursor that was saved some time ago. What was underway stays underway.
    fn restart(&mut self, amount: u64) {
        let floor = Seq(self.floor.0.saturating_sub(amount % 7));
        self.floor = floor;
        self.up = false;
        self.reads.clear();
        let encoder = Arc::clone(&self.encoder);
        self.gateway = Forwarder::new(settings(), encoder, UID, floor, self.created.clone(), self.held);
        // Answers to the former process do not reach this one.
        self.asks.clear();
        self.acks.clear();
        for (_, batch) in std::mem::take(&mut self.underway) {
            self.underway.push((RequestId(u64::MAX), batch));
        }
    }

    /// From now on everything works; old batches still underway arrive at some point.
    fn settle(&mut self, order: &[u8]) {
        if !self.up {
            self.up = true;
            self.input(Input::LinkUp { max_payload: 1 << 20 });
        }
        for round in 0..20_000 {
            if self.gateway.confirmed() == self.held.last && self.underway.is_empty() && self.acks.is_empty() {
                return;
            }
            let index = usize::from(order[round % order.len()]);
            self.commit(index, u64::MAX);
            self.ack(index);
            self.read(0);
            self.answer(0, 0);
            self.now.at = self.now.at + Duration::from_millis(7);
            self.input(Input::Tick);
        }
        panic!("not settled: {:?}, hub has {:?}", self.gateway, self.hub.ours.last());
    }

    fn check_exact(&self, ever_discarded_below: Seq) {
        let mut next = 1;
        for m in &self.hub.ours {
            assert_eq!(m.first, next, "loss or duplicate at {m:?}");
            assert!(!m.is_gap || m.last < ever_discarded_below.0, "a gap notice for messages that were held: {m:?}");
            next = m.last + 1;
        }
        assert_eq!(next, self.held.last.0 + 1, "the copy ends early");
    }

    fn check_complete(&self) {
        let mut has = vec![false; usize::try_from(self.held.last.0).expect("few messages") + 1];
        for m in &self.hub.ours {
            (m.first..=m.last).for_each(|seq| has[usize::try_from(seq).expect("few messages")] = true);
        }
        assert!(has[1..].iter().all(|has| *has), "a message never arrived");
    }
}

fn run(delivery: Delivery, accepts_ids: bool, steps: &[(u8, u8, u16)], order: &[u8]) -> World {
    let mut world = World::new(delivery, accepts_ids);
    world.up = true;
    world.input(Input::LinkUp { max_payload: 1 << 20 });
    for &(action, index, amount) in steps {
        world.step(action, usize::from(index), u64::from(amount));
    }
    world.settle(order);
    world
}

fn steps() -> impl Strategy<Value = Vec<(u8, u8, u16)>> {
    prop::collection::vec((0..=50u8, any::<u8>(), any::<u16>()), 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn atomic_batches_give_an_exact_copy(steps in steps(), order in prop::collection::vec(any::<u8>(), 1..20), ids in any::<bool>()) {
        let world = run(Delivery::Atomic, ids, &steps, &order);
        world.check_exact(world.held.first);
    }

    #[test]
    fn fenced_publishes_give_an_exact_copy(steps in steps(), order in prop::collection::vec(any::<u8>(), 1..20)) {
        let world = run(Delivery::Single, true, &steps, &order);
        world.check_exact(world.held.first);
    }

    #[test]
    fn a_window_loses_nothing(steps in steps(), order in prop::collection::vec(any::<u8>(), 1..20)) {
        run(Delivery::Window, true, &steps, &order).check_complete();
    }
}
