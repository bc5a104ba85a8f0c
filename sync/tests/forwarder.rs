//! The forwarder step by step: what it does on which input, and when.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater_broker::clock::{ClockQuality, MessageTime, Monotonic, WallTime};
use headwater_broker::log::{Seq, StreamUid};
use headwater_sync::backoff::Jitter;
use headwater_sync::batch::{Absence, Entry, Limits};
use headwater_sync::encode::Encoder;
use headwater_sync::forwarder::{Batch, Doing, Forwarder, Held, Input, News, Now, Output, RequestId, Settings};
use headwater_sync::hub::{Committed, Delivery, HubAnswer, HubSeq, HubStream, Keeps, LastMessage, Trouble};

const UID: StreamUid = StreamUid(7);

struct Bench {
    forwarder: Forwarder,
    encoder: Arc<Encoder>,
    now: Monotonic,
    /// Last sequence that a read finds.
    last: u64,
}

impl Bench {
    fn new(floor: u64, last: u64) -> Bench {
        let encoder = Encoder::new("edge.{gateway}.{stream}.{subject}", "gw", "s", UID).expect("a valid template");
        let encoder = Arc::new(encoder);
        let settings = Settings {
            batch: Limits { msgs: 8, bytes: 1 << 20 },
            batch_delay: Duration::from_millis(20),
            ack_timeout: Duration::from_secs(10),
            max_backoff: Duration::from_secs(30),
        };
        let held = Held { first: Seq(1), last: Seq(last) };
        let created = (floor > 0).then(|| "t1".to_owned());
        let forwarder = Forwarder::new(settings, Arc::clone(&encoder), UID, Seq(floor), created, held);
        Bench { forwarder, encoder, now: Monotonic(1_000_000_000), last }
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        self.forwarder.handle(Now { at: self.now, jitter: Jitter(u32::MAX) }, input);
        std::iter::from_fn(|| self.forwarder.poll()).filter(|output| !matches!(output, Output::Tell(_))).collect()
    }

    fn pass(&mut self, time: Duration) -> Vec<Output> {
        self.now = self.now + time;
        self.give(Input::Tick)
    }

    /// Up to the point where the hub has told where we stopped.
    fn resume(&mut self, answer: HubAnswer) -> Vec<Output> {
        let id = asked(&self.give(Input::LinkUp { max_payload: 1 << 20 }));
        self.give(Input::Answered { id, answer: Ok(answer) })
    }

    fn found(&mut self, outputs: &[Output]) -> Vec<Output> {
        let (id, from, limits) = read(outputs).expect("a read was wanted");
        let last = (from.0 + limits.msgs as u64 - 1).min(self.last);
        let entries = (from.0..=last).map(|seq| self.message(seq)).collect();
        self.give(Input::Read { id, result: Ok((entries, Seq(last + 1))) })
    }

    fn message(&self, seq: u64) -> Entry {
        let payload = Bytes::from_static(b"x");
        let time = MessageTime { wall: WallTime(0), quality: ClockQuality::Synced };
        let outgoing = self.encoder.message(Seq(seq), time, "a", None, payload).expect("a short subject");
        Entry::Message { seq: Seq(seq), outgoing }
    }

    fn hold(&mut self, last: u64) -> Vec<Output> {
        self.last = last;
        self.give(Input::Held(Held { first: Seq(1), last: Seq(last) }))
    }
}

fn asked(outputs: &[Output]) -> RequestId {
    let id = outputs.iter().find_map(|o| if let Output::Ask { id } = o { Some(*id) } else { None });
    id.unwrap_or_else(|| panic!("the hub was not asked: {outputs:?}"))
}

fn read(outputs: &[Output]) -> Option<(RequestId, Seq, Limits)> {
    outputs.iter().find_map(|o| match o {
        Output::Read { id, from, limits } => Some((*id, *from, *limits)),
        _ => None,
    })
}

fn batch(outputs: &[Output]) -> Option<(RequestId, &Batch)> {
    outputs.iter().find_map(|o| if let Output::Send { id, batch } = o { Some((*id, batch)) } else { None })
}

fn sent(outputs: &[Output]) -> (RequestId, usize, HubSeq) {
    let (id, batch) = batch(outputs).unwrap_or_else(|| panic!("nothing was sent: {outputs:?}"));
    (id, batch.messages.len(), batch.fence)
}

fn answer(last: Option<(u64, u64)>) -> HubAnswer {
    HubAnswer {
        last: last.map(|(hub, seq)| LastMessage {
            hub_seq: HubSeq(hub),
            subject: "edge.gw.s.a".into(),
            origin: Some((UID, Seq(seq))),
        }),
        stream: HubStream {
            created: "t1".into(),
            last_seq: HubSeq(500),
            delivery: Delivery::Atomic,
            keeps: Keeps::UntilLimits,
            max_msg_bytes: None,
        },
    }
}

fn ok(last: u64) -> Result<Committed, Trouble> {
    Ok(Committed { last: HubSeq(last), duplicate: false })
}

#[test]
fn one_batch_is_underway_and_the_next_is_prepared() {
    let mut b = Bench::new(0, 30);
    let outputs = b.resume(answer(Some((400, 4))));
    let outputs = b.found(&outputs);
    let (first, msgs, fence) = sent(&outputs);
    assert_eq!((msgs, fence), (8, HubSeq(400)));
    let outputs = b.found(&outputs);
    assert!(batch(&outputs).is_none(), "two batches underway");
    assert!(read(&outputs).is_none(), "more than one batch prepared");
    let outputs = b.give(Input::Sent { id: first, result: ok(408) });
    assert!(outputs.iter().any(|o| matches!(o, Output::Advance { floor: Seq(12) })));
    assert_eq!((sent(&outputs).1, sent(&outputs).2), (8, HubSeq(408)));
}

#[test]
fn a_live_message_waits_for_company_no_longer_than_the_delay() {
    let mut b = Bench::new(4, 4);
    assert!(b.resume(answer(Some((400, 4)))).iter().all(|o| !matches!(o, Output::Read { .. })));
    assert!(read(&b.hold(5)).is_none());
    assert_eq!(b.forwarder.deadline(), Some(b.now + Duration::from_millis(20)));
    assert!(read(&b.pass(Duration::from_millis(10))).is_none());
    assert!(read(&b.hold(6)).is_none(), "a later message does not start the delay anew, nor end it");
    let outputs = b.pass(Duration::from_millis(10));
    let outputs = b.found(&outputs);
    assert_eq!(sent(&outputs).1, 2);
}

#[test]
fn a_full_batch_waits_for_nothing() {
    let mut b = Bench::new(4, 4);
    b.resume(answer(Some((400, 4))));
    assert!(read(&b.hold(12)).is_some());
}

#[test]
fn nothing_is_due_while_there_is_nothing_to_do() {
    let mut b = Bench::new(4, 4);
    assert_eq!(b.forwarder.deadline(), None);
    b.resume(answer(Some((400, 4))));
    assert_eq!(b.forwarder.deadline(), None);
    assert_eq!(b.forwarder.doing(), Doing::Streaming);
}

#[test]
fn an_unanswered_batch_is_suspect_and_the_next_one_is_smaller() {
    let mut b = Bench::new(0, 30);
    let outputs = b.resume(answer(None));
    let began = b.now;
    let outputs = b.found(&outputs);
    assert_eq!(sent(&outputs).1, 8);
    assert_eq!(b.forwarder.deadline(), Some(began + Duration::from_secs(10)));
    let outputs = b.pass(Duration::from_secs(10));
    assert!(outputs.iter().any(|o| matches!(o, Output::Suspect { since } if *since == began)));
    b.give(Input::LinkDown);
    let outputs = b.resume(answer(None));
    let outputs = b.found(&outputs);
    assert_eq!(sent(&outputs).1, 4);
}

#[test]
fn an_answer_that_comes_after_it_was_given_up_changes_nothing() {
    let mut b = Bench::new(0, 30);
    let outputs = b.resume(answer(None));
    let outputs = b.found(&outputs);
    let (id, ..) = sent(&outputs);
    b.pass(Duration::from_secs(10));
    b.give(Input::LinkDown);
    b.resume(answer(None));
    b.give(Input::Sent { id, result: ok(8) });
    assert_eq!(b.forwarder.confirmed(), Seq(0));
    assert_eq!(b.forwarder.counters().late_answers, 1);
}

#[test]
fn a_first_doubt_is_settled_at_once_and_a_second_one_after_a_pause() {
    let mut b = Bench::new(0, 30);
    let outputs = b.resume(answer(None));
    let outputs = b.found(&outputs);
    let (id, ..) = sent(&outputs);
    let question = asked(&b.give(Input::Sent { id, result: Err(Trouble::FenceMoved) }));
    let outputs = b.give(Input::Answered { id: question, answer: Ok(answer(Some((8, 8)))) });
    let outputs = b.found(&outputs);
    let (id, _, fence) = sent(&outputs);
    assert_eq!(fence, HubSeq(8));
    let outputs = b.give(Input::Sent { id, result: Err(Trouble::FenceMoved) });
    assert!(outputs.is_empty());
    assert!(matches!(b.forwarder.doing(), Doing::Waiting(Trouble::FenceMoved)));
    asked(&b.pass(Duration::from_millis(200)));
}

#[test]
fn a_batch_with_a_known_id_is_repeated_one_by_one() {
    let mut b = Bench::new(0, 30);
    let outputs = b.resume(answer(None));
    let outputs = b.found(&outputs);
    let (id, ..) = sent(&outputs);
    let question = asked(&b.give(Input::Sent { id, result: Err(Trouble::Duplicate) }));
    let mut outputs = b.give(Input::Answered { id: question, answer: Ok(answer(None)) });
    outputs = b.found(&outputs);
    let (ahead, from, _) = read(&outputs).expect("the next batch is prepared");
    for n in 1..=8 {
        let (id, msgs, fence) = sent(&outputs);
        assert_eq!((msgs, fence), (1, HubSeq(0)));
        outputs = b.give(Input::Sent { id, result: Ok(Committed { last: HubSeq(900 + n), duplicate: true }) });
    }
    assert_eq!(b.forwarder.confirmed(), Seq(8));
    assert_eq!(b.forwarder.counters().duplicates, 8);
    let entries = (from.0..from.0 + 8).map(|seq| b.message(seq)).collect();
    let outputs = b.give(Input::Read { id: ahead, result: Ok((entries, Seq(from.0 + 8))) });
    assert!(sent(&outputs).1 > 1, "batches again behind the doubt");
}

#[test]
fn a_message_refused_as_too_large_becomes_a_gap_notice() {
    let mut b = Bench::new(0, 1);
    let outputs = b.resume(answer(None));
    let outputs = b.found(&outputs);
    let (id, ..) = sent(&outputs);
    let question = asked(&b.give(Input::Sent { id, result: Err(Trouble::TooLarge) }));
    let outputs = b.give(Input::Answered { id: question, answer: Ok(answer(None)) });
    let outputs = b.found(&outputs);
    let (id, batch) = batch(&outputs).expect("it goes on");
    let reason = batch.messages[0].headers.iter().find(|(name, _)| name == "Headwater-Gap-Reason");
    assert_eq!(reason.map(|(_, value)| value.as_str()), Some(Absence::TooLarge.as_str()));
    b.give(Input::Sent { id, result: ok(1) });
    let counters = b.forwarder.counters();
    assert_eq!((counters.set_aside, counters.last_set_aside, counters.gaps), (1, 1, 1));
}

#[test]
fn sequences_that_the_hub_has_already_are_counted_and_not_sent() {
    let mut b = Bench::new(5, 5);
    b.resume(answer(Some((400, 9))));
    assert!(b.hold(8).iter().all(|o| matches!(o, Output::Advance { floor: Seq(8) })));
    b.hold(10);
    assert_eq!(b.forwarder.counters().skipped, 4);
    let outputs = b.pass(Duration::from_millis(20));
    let outputs = b.found(&outputs);
    assert_eq!(sent(&outputs), (sent(&outputs).0, 1, HubSeq(400)));
}

#[test]
fn a_log_that_cannot_be_read_is_tried_again() {
    let mut b = Bench::new(0, 30);
    let outputs = b.resume(answer(None));
    let (id, ..) = read(&outputs).expect("a read was wanted");
    b.give(Input::Read { id, result: Err("i/o error".into()) });
    assert!(matches!(b.forwarder.doing(), Doing::Waiting(Trouble::LogUnreadable(_))));
    asked(&b.pass(Duration::from_millis(200)));
}

#[test]
fn trouble_is_told_once_and_its_end_as_well() {
    let mut b = Bench::new(0, 8);
    b.forwarder.handle(Now { at: b.now, jitter: Jitter(0) }, Input::LinkUp { max_payload: 1 << 20 });
    let mut news = Vec::new();
    let mut given = 0;
    for _ in 0..200 {
        b.now = b.now + Duration::from_millis(50);
        let mut inputs = vec![Input::Tick];
        while let Some(output) = b.forwarder.poll() {
            match output {
                Output::Ask { id } => inputs.push(Input::Answered { id, answer: Ok(answer(None)) }),
                Output::Read { id, from, .. } => {
                    let entries = (from.0..=8).map(|seq| b.message(seq)).collect();
                    inputs.push(Input::Read { id, result: Ok((entries, Seq(9))) });
                }
                Output::Send { id, .. } => {
                    given += 1;
                    let result = if given <= 4 { Err(Trouble::Full("full".into())) } else { ok(given) };
                    inputs.push(Input::Sent { id, result });
                }
                Output::Tell(told @ (News::Troubled(_) | News::Recovered)) => news.push(told),
                Output::Tell(_) | Output::Remember { .. } | Output::Advance { .. } | Output::Suspect { .. } => {}
            }
        }
        for input in inputs {
            b.forwarder.handle(Now { at: b.now, jitter: Jitter(0) }, input);
        }
    }
    assert_eq!(news, [News::Troubled(Trouble::Full("full".into())), News::Recovered]);
    assert_eq!(b.forwarder.confirmed(), Seq(8));
}
