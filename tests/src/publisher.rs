//! Devices that publish through rumqttc and write down what was acknowledged.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, Outgoing, QoS};

use crate::copy::Acknowledged;
use crate::payload::Mark;

/// Without any event for so long, a run that should end has failed.
const STALLED: Duration = Duration::from_secs(60);

/// A device that publishes numbered messages.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// Its client id, and the publisher in its payloads.
    pub name: String,
    /// Its topics, used one after the other.
    pub topics: Vec<String>,
    /// Quality of service, 1 or 2.
    pub qos: u8,
    /// Messages on their way at once.
    pub window: u16,
}

/// What became of a run.
#[derive(Debug)]
pub struct Published {
    /// The publisher.
    pub name: String,
    /// Numbers that were acknowledged (PUBACK or PUBREC), in the order in which they were sent.
    pub acknowledged: Vec<u64>,
    /// The first number that was never handed to the client: where another run may go on.
    pub next: u64,
    /// Why it ended early, if it did.
    pub failure: Option<String>,
}

impl Publisher {
    /// A device with QoS 1 and a window of 50 that publishes to `plant/{name}/telemetry`.
    #[must_use]
    pub fn new(name: &str) -> Publisher {
        Publisher { name: name.to_owned(), topics: vec![format!("plant/{name}/telemetry")], qos: 1, window: 50 }
    }

    /// Publishes the numbers `first..first + count` and demands that all are acknowledged.
    ///
    /// # Panics
    /// If the connection fails.
    pub async fn publish(&self, broker: SocketAddr, first: u64, count: u64) -> Published {
        let published = self.publish_until_cut(broker, first, count).await;
        assert_eq!(published.failure, None, "{}", self.name);
        assert_eq!(published.acknowledged.len() as u64, count, "{}", self.name);
        published
    }

    /// Publishes up to `count` numbers from `first` on, until the connection ends. Nothing is sent again: what was not
    /// acknowledged by then may or may not have been stored, but never twice.
    pub async fn publish_until_cut(&self, broker: SocketAddr, first: u64, count: u64) -> Published {
        let mut options = MqttOptions::new(&self.name, broker.ip().to_string(), broker.port());
        options.set_inflight(self.window).set_keep_alive(Duration::from_secs(30)).set_clean_session(true);
        // The channel to the client is as small as it can be: what it holds was never sent.
        let (client, events) = AsyncClient::new(options, 1);
        let run = Run {
            publisher: self,
            first,
            sent: 0,
            acknowledged: Vec::new(),
            open: HashMap::new(),
            count,
            disconnect: client.clone(),
        };
        let feed = async {
            for number in first..first + count {
                let mark = Mark { publisher: self.name.clone(), number };
                let topic = &self.topics[usize::try_from(number).unwrap_or(0) % self.topics.len()];
                let qos = if self.qos == 2 { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
                if client.publish(topic, qos, false, mark.payload()).await.is_err() {
                    break;
                }
            }
            // The messages are all with the client; the run ends by its events.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            published = run.follow(events) => published,
            () = feed => unreachable!("the feed never ends by itself"),
        }
    }
}

struct Run<'a> {
    publisher: &'a Publisher,
    first: u64,
    sent: u64,
    acknowledged: Vec<u64>,
    /// Packet id to number.
    open: HashMap<u16, u64>,
    count: u64,
    disconnect: AsyncClient,
}

impl Run<'_> {
    async fn follow(mut self, mut events: EventLoop) -> Published {
        let mut finished = 0;
        let failure = loop {
            if finished == self.count {
                // Nobody waits for the answer: MQTT has none to DISCONNECT.
                let _ = self.disconnect.try_disconnect();
            }
            match tokio::time::timeout(STALLED, events.poll()).await {
                Err(_) => break Some(format!("nothing happened for {STALLED:?}")),
                Ok(Ok(Event::Outgoing(Outgoing::Disconnect))) => break None,
                Ok(Ok(event)) => finished += self.note(&event),
                Ok(Err(error)) => {
                    // Acknowledgements read together with the end of the connection count.
                    for event in std::mem::take(&mut events.state.events) {
                        finished += self.note(&event);
                    }
                    break if finished == self.count { None } else { Some(error.to_string()) };
                }
            }
        };
        self.acknowledged.sort_unstable();
        Published {
            name: self.publisher.name.clone(),
            acknowledged: self.acknowledged,
            next: self.first + self.sent,
            failure,
        }
    }

    /// Notes what an event says; 1 if it finished a message.
    fn note(&mut self, event: &Event) -> u64 {
        match event {
            Event::Outgoing(Outgoing::Publish(id)) => {
                self.open.insert(*id, self.first + self.sent);
                self.sent += 1;
                0
            }
            Event::Incoming(Incoming::PubAck(ack)) => {
                self.acknowledge(ack.pkid);
                1
            }
            Event::Incoming(Incoming::PubRec(ack)) => {
                self.acknowledge(ack.pkid);
                0
            }
            Event::Incoming(Incoming::PubComp(_)) => 1,
            _ => 0,
        }
    }

    fn acknowledge(&mut self, id: u16) {
        let number = self.open.remove(&id).unwrap_or_else(|| panic!("packet id {id} was acknowledged but not open"));
        self.acknowledged.push(number);
    }
}

/// Adds what a run had acknowledged.
pub fn record(all: &mut Acknowledged, published: &Published) {
    all.entry(published.name.clone()).or_default().extend(&published.acknowledged);
}
