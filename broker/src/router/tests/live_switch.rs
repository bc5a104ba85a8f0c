//! The switch between queue and log, against a model: every message with QoS > 0 that was published after the subscription is
//! delivered once, per stream in order, whatever the client's pace and however often it goes away.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Publish(usize, QoS),
    /// The client takes this many messages.
    Take(usize),
    Sync,
    /// Away and back; `bool`: through a restart of the broker.
    Away(usize, bool),
}

const TOPICS: [&str; 4] = ["a/1", "a/2", "b/1", "n/1"];

fn any_op() -> impl Strategy<Value = Op> {
    let qos = prop_oneof![1 => Just(QoS::AtMostOnce), 4 => Just(QoS::AtLeastOnce), 1 => Just(QoS::ExactlyOnce)];
    prop_oneof![
        8 => (0..TOPICS.len(), qos).prop_map(|(t, q)| Op::Publish(t, q)),
        6 => (0usize..4).prop_map(Op::Take),
        3 => Just(Op::Sync),
        1 => (0usize..8, any::<bool>()).prop_map(|(n, restart)| Op::Away(n, restart)),
    ]
}

/// A client that acknowledges at once what it takes.
struct Client {
    key: SessionKey,
    expiry: u32,
    catch_up: Option<CatchUp>,
    got: Vec<(String, String, QoS)>,
}

impl Client {
    fn note(&mut self, delivery: &Delivery) {
        let payload = String::from_utf8_lossy(&delivery.message.payload).into_owned();
        self.got.push((delivery.message.topic.to_string(), payload, delivery.qos));
    }

    /// Takes up to `n` messages as the connection would.
    fn take(&mut self, router: &mut Router, log: &FakeLog, mut n: usize) {
        while n > 0 {
            let Some(catch_up) = &mut self.catch_up else {
                let mut out = Vec::new();
                let pulled = router.pull(self.key, 1, 1, &mut out);
                n -= out.len();
                out.iter().for_each(|d| self.note(d));
                match pulled {
                    Pull::CatchUp(positions) => self.catch_up = Some(CatchUp::new(positions)),
                    Pull::Idle if out.is_empty() => return,
                    Pull::Idle | Pull::More => {}
                }
                continue;
            };
            match catch_up.step() {
                Step::Deliver => {
                    let delivery = catch_up.pop().expect("the step says so");
                    self.note(&delivery);
                    n -= 1;
                }
                Step::Read(stream, from) => {
                    let page = if router.concerns(self.key, stream) {
                        let batch = log.read(router.stream_id(stream), from, 2);
                        router.filter_page(self.key, stream, batch)
                    } else {
                        router.skip_stream(stream)
                    };
                    catch_up.accept(stream, page);
                }
                Step::Join => router.join(self.key, catch_up),
                Step::GoLive => {
                    if router.go_live(self.key, catch_up) {
                        self.catch_up = None;
                    }
                }
                Step::WaitDurable => {
                    // The connection waits for the mark here; every call of ours is a new mark.
                    catch_up.mark_moved();
                    return;
                }
            }
        }
    }

    fn leave(&mut self, router: &mut Router, log: &FakeLog) {
        let positions = self.catch_up.take().map(|c| c.positions().clone());
        router.detach(NOW, self.key, Leaving { reading: positions.as_ref(), ..leaving(self.expiry) });
        router.save_progress(log, self.key, None).expect("there is room");
    }

    fn come_back(&mut self, router: &mut Router) {
        let attached = router.attach(&agreed("c", self.expiry, false)).expect("there is room");
        assert!(attached.present);
        self.key = attached.key;
        self.catch_up = attached.catch_up.map(CatchUp::new);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn nothing_is_lost_repeated_or_reordered(
        persists in any::<bool>(),
        wide in any::<bool>(),
        ops in proptest::collection::vec(any_op(), 0..120),
    ) {
        let (mut router, log) = router();
        let expiry = if persists { 100 } else { 0 };
        let key = attach(&mut router, "c", expiry);
        for filter in if wide { &["#"][..] } else { &["a/+", "n/#"] } {
            assert_eq!(subscribe(&mut router, key, filter, QoS::AtLeastOnce).0, ReasonCode::GrantedQoS1);
        }
        router.save_session(&log, key, Progress { in_flight: &Default::default(), reading: None, replays: &[] })
            .expect("there is room");
        let mut client = Client { key, expiry, catch_up: None, got: Vec::new() };
        let mut wanted: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut number = 0;
        let mut send = |router: &mut Router, topic: usize, qos: QoS| {
            number += 1;
            let (topic, payload) = (TOPICS[topic], number.to_string());
            publish(router, &log, msg(topic, &payload, qos));
            if qos > QoS::AtMostOnce && (wide || !topic.starts_with('b')) {
                wanted.entry(topic[..1].to_owned()).or_default().push(payload);
            }
        };
        for op in ops {
            match op {
                Op::Publish(topic, qos) => send(&mut router, topic, qos),
                Op::Take(n) => client.take(&mut router, &log, n),
                Op::Sync => log.sync(),
                Op::Away(n, restart) => {
                    if !persists {
                        continue;
                    }
                    client.leave(&mut router, &log);
                    if restart {
                        log.sync();
                        let report;
                        (router, report) = restored(&log, NOW);
                        prop_assert_eq!((report.sessions, report.unreadable), (1, 0));
                    }
                    for i in 0..n {
                        send(&mut router, i % TOPICS.len(), QoS::AtLeastOnce);
                    }
                    client.come_back(&mut router);
                }
            }
        }
        log.sync();
        client.take(&mut router, &log, 1000);
        // Once more, now that it may have joined: what is left is in the queue.
        client.take(&mut router, &log, 1000);
        prop_assert!(client.catch_up.is_none(), "it is live in the end");
        let mut got: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (topic, payload, qos) in client.got {
            if qos > QoS::AtMostOnce {
                got.entry(topic[..1].to_owned()).or_default().push(payload);
            }
        }
        prop_assert_eq!(got, wanted);
        prop_assert_eq!(router.counters().dropped_unstored, 0);
    }
}
