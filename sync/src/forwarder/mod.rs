//! One mirrored stream as a machine: when to ask the hub, read the log, send a batch, wait, and what an answer means.
//! No I/O, clock or randomness: time and jitter come with every input, everything to do leaves as an [`Output`].
//!
//! # Why the copy is exact
//! Every batch carries a fence: "store this only if the last message under our prefix has hub sequence N", N being the last
//! message we know of. The hub checks it in the order in which its (replicated) log stores messages, so of several batches
//! that carry the same N at most one is ever stored, whichever arrives first and however late. Hence:
//! * *No duplicate.* Whatever old answer the next batch is based on - a stale read from a deposed leader, a read that came
//!   before an older batch of ours which is still underway - its N is then old as well, the hub refuses it, and we ask again.
//! * *No loss.* The next batch begins behind the `Headwater-Seq` of the message that N names, and that message is the last
//!   of its batch; batches are stored whole or not at all.
//! * *Order.* A batch is stored only directly behind the one it was based on.
//!
//! So nothing that is uncertain needs to be waited for: after any doubt the hub is asked and its answer taken as the new
//! position, even if that answer is outdated. Where the hub knows no fence ([`Delivery::Window`]) this does not hold; there,
//! the last window before the hub's position is sent again and the hub's dedupe window takes out what it knows.

mod signals;

pub use signals::{Batch, Counters, Doing, Held, Input, News, Now, Output, RequestId, Settings};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use headwater_broker::clock::Monotonic;
use headwater_broker::log::{Seq, StreamUid};

use crate::backoff::Backoff;
use crate::batch::{Absence, Entry, Limits, Queue};
use crate::encode::{Encoder, Outgoing};
use crate::hub::{Committed, Delivery, HubAnswer, HubSeq, HubStream, Trouble};
use crate::resume::{Finding, Known, resume};

/// What fences and batches add to a message's headers at most, without the fence's subject: names, numbers, line ends.
const FENCE_BYTES: usize = 256;
/// Batches are halved at most this often: 1,000 messages down to one.
const MOST_SQUEEZED: u32 = 10;
/// Batches that must pass in a row before squeezed batches grow again, so that a hub with room for half a batch is
/// not asked in vain every second time.
const GOOD_BEFORE_GROWING: u32 = 4;

/// The machine.
#[derive(Debug)]
pub struct Forwarder {
    settings: Settings,
    encoder: Arc<Encoder>,
    uid: StreamUid,
    state: State,
    outputs: VecDeque<Output>,
    last_request: u64,
    /// Everything up to here needs no sending.
    confirmed: Seq,
    created: Option<String>,
    held: Held,
    max_payload: usize,
    with_ids: bool,
    squeeze: u32,
    good_in_a_row: u32,
    /// Up to here messages go one by one, to find the one that a batch was refused for.
    single_through: Seq,
    /// Was refused as too large when sent alone.
    refused_as_too_large: Option<Seq>,
    ask_backoff: Backoff,
    send_backoff: Backoff,
    told: Option<&'static str>,
    finding: Option<Finding>,
    counters: Counters,
}

#[derive(Debug)]
enum State {
    Offline,
    Asking { id: RequestId, since: Monotonic },
    Streaming(Streaming),
    Waiting { until: Monotonic, trouble: Trouble },
}

#[derive(Debug)]
struct Streaming {
    hub: HubStream,
    fence: HubSeq,
    flight: Option<Flight>,
    queue: Queue,
    reading: Option<RequestId>,
    next_read: Seq,
    /// Since when a message waits to be read; `None` if none does.
    waiting: Option<Monotonic>,
}

/// The one batch that is underway.
#[derive(Debug)]
struct Flight {
    id: RequestId,
    since: Monotonic,
    last: Seq,
    msgs: u64,
    bytes: u64,
    gaps: Vec<(Seq, Seq, Absence)>,
}

impl Forwarder {
    /// A mirror that knows what was remembered: the cursor's floor and the hub stream that it belongs to.
    #[must_use]
    pub fn new(
        settings: Settings,
        encoder: Arc<Encoder>,
        uid: StreamUid,
        floor: Seq,
        created: Option<String>,
        held: Held,
    ) -> Self {
        Self {
            settings,
            encoder,
            uid,
            state: State::Offline,
            outputs: VecDeque::new(),
            last_request: 0,
            confirmed: floor,
            created,
            held,
            max_payload: 0,
            with_ids: true,
            squeeze: 0,
            good_in_a_row: 0,
            single_through: Seq(0),
            refused_as_too_large: None,
            ask_backoff: Backoff::new(settings.max_backoff),
            send_backoff: Backoff::new(settings.max_backoff),
            told: None,
            finding: None,
            counters: Counters::default(),
        }
    }

    /// Takes what happened; afterwards [`Forwarder::poll`] until it is dry.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::LinkUp { max_payload } => {
                self.max_payload = max_payload;
                self.ask(now);
            }
            Input::LinkDown => self.state = State::Offline,
            Input::Held(held) => self.held_changed(held),
            Input::Answered { id, answer } => self.answered(now, id, answer),
            Input::Sent { id, result } => self.sent(now, id, result),
            Input::Read { id, result } => self.read(now, id, result),
            Input::Tick => {}
        }
        self.check_deadlines(now);
        self.pump(now);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Monotonic> {
        match &self.state {
            State::Offline => None,
            State::Asking { since, .. } => Some(*since + self.settings.ack_timeout),
            State::Waiting { until, .. } => Some(*until),
            State::Streaming(s) => {
                let answer = s.flight.as_ref().map(|flight| flight.since + self.settings.ack_timeout);
                let ripe = s.waiting.filter(|_| s.wants_to_read(self.limits())).map(|t| t + self.settings.batch_delay);
                answer.into_iter().chain(ripe).min()
            }
        }
    }

    /// What it is doing.
    #[must_use]
    pub fn doing(&self) -> Doing {
        match &self.state {
            State::Offline => Doing::Offline,
            State::Asking { .. } => Doing::Asking,
            State::Streaming(_) => Doing::Streaming,
            State::Waiting { trouble, .. } => Doing::Waiting(trouble.clone()),
        }
    }

    /// Figures since start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Last sequence that the hub has, as far as we know.
    #[must_use]
    pub fn confirmed(&self) -> Seq {
        self.confirmed
    }

    /// The hub's sequence of our last message there, while streaming.
    #[must_use]
    pub fn hub_seq(&self) -> Option<HubSeq> {
        match &self.state {
            State::Streaming(s) => Some(s.fence),
            State::Offline | State::Asking { .. } | State::Waiting { .. } => None,
        }
    }

    /// How messages are handed over, once the hub has told what it can do.
    #[must_use]
    pub fn delivery(&self) -> Option<Delivery> {
        match &self.state {
            State::Streaming(s) => Some(s.hub.delivery),
            State::Offline | State::Asking { .. } | State::Waiting { .. } => None,
        }
    }

    /// What the last comparison with the hub showed.
    #[must_use]
    pub fn finding(&self) -> Option<&Finding> {
        self.finding.as_ref()
    }

    fn request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    fn limits(&self) -> Limits {
        let Limits { msgs, bytes } = self.settings.batch;
        Limits { msgs: (msgs >> self.squeeze).max(1), bytes: (bytes >> self.squeeze).max(1) }
    }

    fn ask(&mut self, now: Now) {
        let id = self.request();
        self.state = State::Asking { id, since: now.at };
        self.outputs.push_back(Output::Ask { id });
    }

    fn held_changed(&mut self, held: Held) {
        // Sequences that the hub has already with other contents: never sent, never silently.
        let new_below = self.confirmed.min(held.last).0.saturating_sub(self.held.last.0);
        if new_below > 0 && matches!(self.finding, Some(Finding::HubAhead { .. })) {
            self.counters.skipped += new_below;
            self.outputs.push_back(Output::Advance { floor: self.confirmed.min(held.last) });
        }
        self.held = held;
    }

    fn answered(&mut self, now: Now, id: RequestId, answer: Result<HubAnswer, Trouble>) {
        match &self.state {
            State::Asking { id: asked, .. } if *asked == id => {}
            State::Offline | State::Asking { .. } | State::Streaming(_) | State::Waiting { .. } => {
                self.counters.late_answers += 1;
                return;
            }
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(trouble) => {
                let pause = self.ask_backoff.pause(now.jitter);
                return self.wait(now, pause, trouble);
            }
        };
        self.ask_backoff.reset();
        if self.send_backoff.failures() == 0 {
            self.told = None;
        }
        let known = Known {
            uid: self.uid,
            floor: self.confirmed,
            first: self.held.first,
            last: self.held.last,
            created: self.created.as_deref(),
            window: self.settings.batch.msgs as u64,
        };
        let resume = resume(&known, &answer);
        if self.created.as_ref() != Some(&answer.stream.created) {
            // IMPORTANT: before anything is sent there; a cursor without it could not be told from one of another stream.
            self.outputs.push_back(Output::Remember { created: answer.stream.created.clone() });
            self.created = Some(answer.stream.created.clone());
        }
        if resume.after > self.confirmed {
            self.outputs.push_back(Output::Advance { floor: resume.after.min(self.held.last) });
        }
        self.confirmed = resume.after;
        if self.send_backoff.failures() == 0 || self.finding.as_ref() != Some(&resume.finding) {
            self.outputs.push_back(Output::Tell(News::Resumed {
                finding: resume.finding.clone(),
                next: resume.after.next(),
                delivery: answer.stream.delivery,
            }));
        }
        self.finding = Some(resume.finding);
        self.state = State::Streaming(Streaming {
            hub: answer.stream,
            fence: resume.fence,
            flight: None,
            queue: Queue::default(),
            reading: None,
            next_read: resume.after.next(),
            // What is there already has waited long enough.
            waiting: Some(Monotonic(0)),
        });
    }

    fn sent(&mut self, now: Now, id: RequestId, result: Result<Committed, Trouble>) {
        let State::Streaming(s) = &mut self.state else {
            self.counters.late_answers += 1;
            return;
        };
        let Some(flight) = s.flight.take_if(|flight| flight.id == id) else {
            self.counters.late_answers += 1;
            return;
        };
        match result {
            Ok(committed) => {
                if committed.duplicate {
                    // The fence was right and has not moved: the hub remembered the id of a message it holds or held.
                    self.counters.duplicates += flight.msgs;
                } else {
                    s.fence = committed.last;
                }
                self.committed(&flight);
            }
            Err(trouble) => self.not_sent(now, &flight, trouble),
        }
    }

    fn committed(&mut self, flight: &Flight) {
        self.confirmed = flight.last;
        self.outputs.push_back(Output::Advance { floor: flight.last });
        self.counters.sent_msgs += flight.msgs;
        self.counters.sent_bytes += flight.bytes;
        self.counters.batches += 1;
        for &(first, last, reason) in &flight.gaps {
            self.counters.gaps += 1;
            if reason == Absence::TooLarge {
                self.counters.set_aside += last.0 - first.0 + 1;
                self.counters.last_set_aside = last.0;
            }
            self.outputs.push_back(Output::Tell(News::Gap { first, last, reason }));
        }
        self.send_backoff.reset();
        self.refused_as_too_large = None;
        if self.squeeze > 0 {
            self.good_in_a_row += 1;
            if self.good_in_a_row >= GOOD_BEFORE_GROWING {
                self.squeeze -= 1;
                self.good_in_a_row = 0;
            }
        }
        if self.told.take().is_some() {
            self.outputs.push_back(Output::Tell(News::Recovered));
        }
    }

    fn not_sent(&mut self, now: Now, flight: &Flight, trouble: Trouble) {
        self.counters.retries += 1;
        match &trouble {
            Trouble::IdsRefused => self.with_ids = false,
            // A publish of its own is answered for a known id instead of being refused with the rest of its batch.
            Trouble::Duplicate => self.single_through = flight.last,
            Trouble::TooLarge if flight.msgs > 1 => self.single_through = flight.last,
            Trouble::TooLarge if flight.gaps.is_empty() => self.refused_as_too_large = Some(flight.last),
            Trouble::Silent | Trouble::Full(_) => self.squeeze(),
            Trouble::TooLarge
            | Trouble::FenceMoved
            | Trouble::Abandoned(_)
            | Trouble::AtomicOff
            | Trouble::StreamMissing(_)
            | Trouble::NoResponders(_)
            | Trouble::NoPermission(_)
            | Trouble::NotCreated(_)
            | Trouble::Other(_)
            | Trouble::LogUnreadable(_) => {}
        }
        let first_time = self.send_backoff.failures() == 0;
        let pause = self.send_backoff.pause(now.jitter);
        if first_time && trouble.is_doubt() { self.ask(now) } else { self.wait(now, pause, trouble) }
    }

    fn squeeze(&mut self) {
        self.squeeze = (self.squeeze + 1).min(MOST_SQUEEZED);
        self.good_in_a_row = 0;
    }

    fn wait(&mut self, now: Now, pause: Duration, trouble: Trouble) {
        if self.told != Some(trouble.kind()) {
            self.told = Some(trouble.kind());
            self.outputs.push_back(Output::Tell(News::Troubled(trouble.clone())));
        }
        self.state = State::Waiting { until: now.at + pause, trouble };
    }

    fn read(&mut self, now: Now, id: RequestId, result: Result<(Vec<Entry>, Seq), String>) {
        let overhead = FENCE_BYTES + self.encoder.filter().len();
        let max_payload = self.max_payload;
        let set_aside = self.refused_as_too_large;
        let State::Streaming(s) = &mut self.state else { return };
        if s.reading != Some(id) {
            return;
        }
        s.reading = None;
        let stuck = |next: Seq| format!("nothing at sequence {next} although more is held");
        let (entries, next) = match result {
            Ok((_, next)) if next <= s.next_read => return self.log_unreadable(now, stuck(next)),
            Ok(found) => found,
            Err(text) => return self.log_unreadable(now, text),
        };
        let most = s.hub.max_msg_bytes.unwrap_or(usize::MAX).min(max_payload);
        for entry in entries {
            let too_large = |seq: Seq, outgoing: &Outgoing| outgoing.size() + overhead > most || Some(seq) == set_aside;
            s.queue.push(match entry {
                Entry::Message { seq, outgoing } if too_large(seq, &outgoing) => {
                    Entry::Gap { first: seq, last: seq, reason: Absence::TooLarge }
                }
                entry => entry,
            });
        }
        s.next_read = next;
        if next > self.held.last {
            s.waiting = None;
        } else {
            // What did not fit into this read was there before it.
            s.waiting.get_or_insert(Monotonic(0));
        }
    }

    fn log_unreadable(&mut self, now: Now, text: String) {
        self.counters.retries += 1;
        let pause = self.send_backoff.pause(now.jitter);
        self.wait(now, pause, Trouble::LogUnreadable(text));
    }

    fn check_deadlines(&mut self, now: Now) {
        let timeout = self.settings.ack_timeout;
        match &self.state {
            State::Waiting { until, .. } if now.at >= *until => self.ask(now),
            State::Asking { since, .. } if now.at.since(*since) >= timeout => {
                let since = *since;
                self.counters.retries += 1;
                self.outputs.push_back(Output::Suspect { since });
                let pause = self.ask_backoff.pause(now.jitter);
                self.wait(now, pause, Trouble::Silent);
            }
            State::Streaming(Streaming { flight: Some(flight), .. }) if now.at.since(flight.since) >= timeout => {
                let since = flight.since;
                self.counters.retries += 1;
                // A slow link may need longer than the timeout for a full batch: a smaller one gets through.
                self.squeeze();
                self.outputs.push_back(Output::Suspect { since });
                let pause = self.send_backoff.pause(now.jitter);
                self.wait(now, pause, Trouble::Silent);
            }
            State::Offline | State::Asking { .. } | State::Streaming(_) | State::Waiting { .. } => {}
        }
    }

    /// Keeps one batch underway and the next one prepared.
    fn pump(&mut self, now: Now) {
        let limits = self.limits();
        let delay = self.settings.batch_delay;
        let State::Streaming(s) = &mut self.state else { return };
        if s.flight.is_none() && !s.queue.is_empty() {
            self.send(now);
        }
        let State::Streaming(s) = &mut self.state else { return };
        if s.next_read > self.held.last {
            // Discarding may have emptied the stream, or the hub is ahead of us.
            s.waiting = None;
        } else {
            s.waiting.get_or_insert(now.at);
        }
        let unread = (self.held.last.0 + 1).saturating_sub(s.next_read.0);
        let ripe = unread >= limits.msgs as u64 || s.waiting.is_some_and(|since| now.at >= since + delay);
        if unread == 0 || !ripe || !s.wants_to_read(limits) {
            return;
        }
        let Some(room) = s.queue.room(limits) else { return };
        let id = RequestId(self.last_request + 1);
        self.last_request = id.0;
        s.reading = Some(id);
        s.waiting = None;
        self.outputs.push_back(Output::Read { id, from: s.next_read, limits: room });
    }

    fn send(&mut self, now: Now) {
        let id = self.request();
        let limits = self.limits();
        let one_by_one = self.confirmed < self.single_through;
        let State::Streaming(s) = &mut self.state else { return };
        let delivery = s.hub.delivery;
        let limits = match delivery {
            Delivery::Single => Limits { msgs: 1, ..limits },
            Delivery::Atomic | Delivery::Window if one_by_one => Limits { msgs: 1, ..limits },
            Delivery::Atomic | Delivery::Window => limits,
        };
        let through = match delivery {
            Delivery::Atomic | Delivery::Single => Seq(u64::MAX),
            // IMPORTANT: after a failure the hub's position tells only that what lies a window before it has arrived, so no
            // batch of several messages may reach further; a gap notice can stand for any number of sequences.
            Delivery::Window => Seq(self.confirmed.0 + self.settings.batch.msgs as u64),
        };
        let entries = s.queue.cut(limits, through);
        let Some(last) = entries.last().map(Entry::last) else { return };
        let mut gaps = Vec::new();
        let messages: Vec<_> = entries
            .into_iter()
            .map(|entry| match entry {
                Entry::Message { outgoing, .. } => outgoing,
                Entry::Gap { first, last, reason } => {
                    gaps.push((first, last, reason));
                    self.encoder.gap(first, last, reason)
                }
            })
            .collect();
        let bytes = messages.iter().map(|m| m.size() as u64).sum();
        s.flight = Some(Flight { id, since: now.at, last, msgs: messages.len() as u64, bytes, gaps });
        let batch = Batch { delivery, fence: s.fence, messages, with_ids: self.with_ids };
        self.outputs.push_back(Output::Send { id, batch });
    }
}

impl Streaming {
    /// The batch being prepared takes more. While none is underway, what was read is sent first.
    fn wants_to_read(&self, limits: Limits) -> bool {
        self.reading.is_none()
            && if self.flight.is_some() { self.queue.room(limits).is_some() } else { self.queue.is_empty() }
    }
}
