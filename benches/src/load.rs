//! Publishers, lean enough not to be the bottleneck: payloads made beforehand, one or two threads, no client library.
//!
//! Closed loop: a publisher sends as soon as its window has room, and a latency is that of the message on its way. Open loop:
//! messages are due at a rate (`paced.rs`), and a latency counts from when the message was due.
//!
//! Two protocols do the same work: MQTT 3.1.1 (any MQTT broker) and the NATS protocol with JetStream acknowledgements
//! (nats-server's own best path). Each publisher keeps a window of unacknowledged messages.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Client, Session};
use crate::histogram::Histogram;
use crate::paced::{self, Lane, Pace, Sending};
use crate::packet::{self, packet_id};
use crate::payload::{Numbers, PAYLOAD_BYTES, telemetry, topic};
use crate::tally::Mark;

/// Different payloads of a publisher, sent in turn.
const RING: u64 = 512;

/// What to publish.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Connections.
    pub publishers: usize,
    /// Topics of each publisher, used in turn.
    pub topics: usize,
    /// Messages over all publishers; what does not divide by them is left out.
    pub messages: u64,
    /// Bytes of a payload, at most [`PAYLOAD_BYTES`]: longer ones are cut.
    pub payload_bytes: usize,
    /// 0 or 1, for MQTT. At 0 there is only the open loop.
    pub qos: u8,
    /// Unacknowledged messages per publisher.
    pub window: u64,
    /// Wait until a whole window is acknowledged before the next is sent: sets the messages per sync.
    pub lockstep: bool,
    /// Messages per second over all publishers that are due (open loop). `None`: as fast as the window allows.
    pub rate: Option<u32>,
    /// Each payload begins with a [`Mark`], due times counted from here. `None`: plain telemetry.
    pub marked: Option<Instant>,
}

/// How publishing went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first byte to the last acknowledgement, or to the last byte at QoS 0.
    pub took: Duration,
    /// Messages that were sent.
    pub messages: u64,
    /// From when a message was sent (closed loop) or due (open loop) to its acknowledgement.
    pub latency: Histogram,
}

impl Work {
    /// Twenty publishers with a window of 50 each, as fast as they can.
    #[must_use]
    pub fn closed(messages: u64) -> Self {
        Self {
            publishers: 20,
            topics: 1,
            messages,
            payload_bytes: PAYLOAD_BYTES,
            qos: 1,
            window: 50,
            lockstep: false,
            rate: None,
            marked: None,
        }
    }

    /// Twenty publishers, `rate` messages per second in all for `seconds`, a window of 1,000 each.
    #[must_use]
    pub fn paced(rate: u32, seconds: u64) -> Self {
        Self { window: 1_000, rate: Some(rate), ..Self::closed(u64::from(rate) * seconds) }
    }

    /// Messages of each publisher.
    #[must_use]
    pub fn share(&self) -> u64 {
        self.messages / self.publishers as u64
    }
}

/// How the messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// MQTT 3.1.1.
    Mqtt,
    /// NATS, publish with reply, JetStream's acknowledgement counted.
    JetStream,
}

/// Publishes all of `work`.
///
/// # Errors
/// When the broker refuses, answers with an error or closes.
pub async fn publish(wire: Wire, address: SocketAddr, work: Work) -> io::Result<Outcome> {
    publish_until(wire, address, work, &Arc::new(AtomicBool::new(false))).await
}

/// Publishes `work` until it is done or, in the open loop, until `stop` is set and what was sent is acknowledged.
///
/// # Errors
/// When the broker refuses, answers with an error or closes.
///
/// # Panics
/// With QoS 0 in the closed loop: nothing would slow it down.
pub async fn publish_until(wire: Wire, address: SocketAddr, work: Work, stop: &Arc<AtomicBool>) -> io::Result<Outcome> {
    assert!(work.qos == 1 || work.rate.is_some(), "QoS 0 is sent at a rate");
    let mut connections = Vec::new();
    for publisher in 0..work.publishers {
        let (stream, rest) = match wire {
            Wire::Mqtt => {
                let client = Client::connect(address, &format!("bench-{publisher}"), Session::Clean).await?;
                (client.into_stream(), Vec::new())
            }
            Wire::JetStream => nats_connect(address, publisher).await?,
        };
        connections.push((stream, Acknowledgements { wire, rest }));
    }
    match work.rate {
        Some(rate) => open_loop(connections, work, Pace::per_second(rate), stop).await,
        None => closed_loop(connections, work).await,
    }
}

async fn closed_loop(connections: Vec<(TcpStream, Acknowledgements)>, work: Work) -> io::Result<Outcome> {
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (publisher, (stream, acknowledgements)) in connections.into_iter().enumerate() {
        tasks.spawn(one_publisher(stream, acknowledgements, publisher, work));
    }
    let mut latency = Histogram::default();
    while let Some(done) = tasks.join_next().await {
        latency.merge(&done.map_err(io::Error::other)??);
    }
    Ok(Outcome { took: start.elapsed(), messages: work.share() * work.publishers as u64, latency })
}

async fn one_publisher(
    mut stream: TcpStream,
    mut acknowledgements: Acknowledgements,
    publisher: usize,
    work: Work,
) -> io::Result<Histogram> {
    let mut messages = Messages::new(acknowledgements.wire, publisher, work);
    let share = work.share();
    let mut latency = Histogram::default();
    // Messages of one burst and when it was sent; acknowledgements come in the order of sending [MQTT-4.6.0-2].
    let mut waiting: VecDeque<(u64, Instant)> = VecDeque::new();
    let (mut sent, mut acknowledged) = (0_u64, 0_u64);
    let mut out = Vec::new();
    let mut input = vec![0; 64 * 1024];
    while acknowledged < share {
        let room = work.window - (sent - acknowledged);
        let burst = if work.lockstep && sent != acknowledged { 0 } else { room.min(share - sent) };
        if burst > 0 {
            out.clear();
            let now = Instant::now();
            let due = work.marked.map(|epoch| now - epoch);
            for count in sent..sent + burst {
                messages.put(&mut out, count, due);
            }
            sent += burst;
            waiting.push_back((burst, now));
            stream.write_all(&out).await?;
        }
        let read = stream.read(&mut input).await?;
        if read == 0 {
            return Err(closed(publisher, acknowledged));
        }
        let count = acknowledgements.count(&input[..read])?;
        acknowledged += count;
        settle(&mut waiting, count, &mut latency)?;
    }
    Ok(latency)
}

fn closed(publisher: usize, acknowledged: u64) -> io::Error {
    io::Error::other(format!("publisher {publisher}: closed by the broker after {acknowledged} messages"))
}

async fn open_loop(
    connections: Vec<(TcpStream, Acknowledgements)>,
    work: Work,
    pace: Pace,
    stop: &Arc<AtomicBool>,
) -> io::Result<Outcome> {
    let width = connections.len() as u64;
    let wire = connections.first().map_or(Wire::Mqtt, |(_, acknowledgements)| acknowledgements.wire);
    let start = Instant::now();
    let (mut lanes, mut readers) = (Vec::new(), tokio::task::JoinSet::new());
    let sent = Arc::new(AtomicU64::new(u64::MAX));
    for (number, (stream, acknowledgements)) in connections.into_iter().enumerate() {
        // The thread that sends and the task that reads share the socket.
        let stream = stream.into_std()?;
        let acknowledged = (work.qos > 0).then(|| Arc::new(AtomicU64::new(0)));
        lanes.push(Lane { stream: stream.try_clone()?, acknowledged: acknowledged.clone() });
        let due = move |count: u64| start + pace.due(count * width + number as u64);
        if let Some(acknowledged) = acknowledged {
            let reader = Reader { stream: TcpStream::from_std(stream)?, acknowledgements, acknowledged, number };
            readers.spawn(reader.run(due, Arc::clone(&sent), width));
        }
    }
    let mut messages: Vec<Messages> = (0..work.publishers).map(|number| Messages::new(wire, number, work)).collect();
    let sending = Sending { pace, messages: work.share() * width, window: work.window };
    let (stop, all_sent) = (Arc::clone(stop), Arc::clone(&sent));
    let offset = work.marked.map(|epoch| start.duration_since(epoch));
    let sender = tokio::task::spawn_blocking(move || {
        let done = paced::send(&mut lanes, sending, start, &stop, |out, lane, count| {
            let due = offset.map(|offset| offset + pace.due(count * width + lane as u64));
            messages[lane].put(out, count, due);
        });
        // An error ends the wait of the readers as well: they are dropped with the set.
        all_sent.store(*done.as_ref().unwrap_or(&0), Ordering::Relaxed);
        done.map(|sent| (sent, lanes))
    });
    let (sent, lanes) = sender.await.map_err(io::Error::other)??;
    let mut latency = Histogram::default();
    while let Some(done) = readers.join_next().await {
        latency.merge(&done.map_err(io::Error::other)??);
    }
    drop(lanes);
    Ok(Outcome { took: start.elapsed(), messages: sent, latency })
}

/// Reads the acknowledgements of one publisher of the open loop.
struct Reader {
    stream: TcpStream,
    acknowledgements: Acknowledgements,
    acknowledged: Arc<AtomicU64>,
    number: usize,
}

impl Reader {
    /// Until everything is acknowledged that was sent, once `sent` says how much that is over all publishers.
    async fn run(mut self, due: impl Fn(u64) -> Instant, sent: Arc<AtomicU64>, width: u64) -> io::Result<Histogram> {
        let mut latency = Histogram::default();
        let mut input = vec![0; 4 * 1024];
        let mut count = 0;
        loop {
            let all = sent.load(Ordering::Relaxed);
            let mine = if all == u64::MAX { all } else { (all + width - 1 - self.number as u64) / width };
            if count >= mine {
                return Ok(latency);
            }
            // The sender ends without telling each reader: look again now and then. A read is safe to give up.
            let wait = tokio::time::timeout(Duration::from_millis(50), self.stream.read(&mut input));
            let Ok(read) = wait.await else { continue };
            let read = read?;
            if read == 0 {
                return Err(closed(self.number, count));
            }
            let more = self.acknowledgements.count(&input[..read])?;
            let now = Instant::now();
            for message in count..count + more {
                latency.record(now.saturating_duration_since(due(message)), 1);
            }
            count += more;
            self.acknowledged.store(count, Ordering::Relaxed);
        }
    }
}

/// The messages of one publisher, made before the run: compressible as telemetry is, without generating while measuring.
struct Messages {
    wire: Wire,
    publisher: usize,
    qos: u8,
    topics: Vec<String>,
    ring: Vec<Vec<u8>>,
}

impl Messages {
    fn new(wire: Wire, publisher: usize, work: Work) -> Self {
        let mut numbers = Numbers::new(publisher as u64);
        let ring = (0..RING).map(|count| {
            let mut payload = telemetry(&mut numbers, publisher, count);
            payload.truncate(work.payload_bytes);
            payload
        });
        let topics = (0..work.topics).map(|number| match wire {
            Wire::Mqtt => topic(publisher, number),
            Wire::JetStream => topic(publisher, number).replace('/', "."),
        });
        Self { wire, publisher, qos: work.qos, topics: topics.collect(), ring: ring.collect() }
    }

    /// Appends message `count`, marked if it has a due time.
    fn put(&mut self, out: &mut Vec<u8>, count: u64, due: Option<Duration>) {
        let at = |length: usize| usize::try_from(count % length as u64).expect("an index");
        let topic = &self.topics[at(self.topics.len())];
        let slot = at(self.ring.len());
        if let Some(due) = due {
            let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
            let mark = Mark { due, publisher: number(self.publisher as u64), count: number(count) };
            mark.put(&mut self.ring[slot]);
        }
        let payload = &self.ring[slot];
        match self.wire {
            Wire::Mqtt => packet::publish(out, topic, (self.qos > 0).then(|| packet_id(count)), payload),
            Wire::JetStream => nats_publish(out, topic, self.publisher, payload),
        }
    }
}

/// Takes the `count` oldest messages out of `waiting` and counts how long they took.
fn settle(waiting: &mut VecDeque<(u64, Instant)>, mut count: u64, latency: &mut Histogram) -> io::Result<()> {
    let now = Instant::now();
    while count > 0 {
        let Some((messages, since)) = waiting.front_mut() else {
            return Err(io::Error::other(format!("{count} acknowledgements for messages that were not sent")));
        };
        let taken = count.min(*messages);
        latency.record(now.duration_since(*since), taken);
        *messages -= taken;
        count -= taken;
        if *messages == 0 {
            waiting.pop_front();
        }
    }
    Ok(())
}

/// The socket, and what was read behind the first PONG: the beginning of what is counted later.
async fn nats_connect(address: SocketAddr, publisher: usize) -> io::Result<(TcpStream, Vec<u8>)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let connect = format!(
        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"bench\",\"version\":\"0\",\"protocol\":1}}\r\nSUB _INBOX.bench.{publisher} 1\r\nPING\r\n"
    );
    stream.write_all(connect.as_bytes()).await?;
    let mut text = Vec::new();
    loop {
        if stream.read_buf(&mut text).await? == 0 {
            return Err(io::Error::other("closed by nats-server while connecting"));
        }
        if let Some(pong) = text.windows(6).position(|part| part == b"PONG\r\n") {
            return Ok((stream, text.split_off(pong + 6)));
        }
    }
}

fn nats_publish(out: &mut Vec<u8>, subject: &str, publisher: usize, payload: &[u8]) {
    out.extend_from_slice(format!("PUB {subject} _INBOX.bench.{publisher} {}\r\n", payload.len()).as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// Counts acknowledgements in a byte stream that is cut anywhere.
struct Acknowledgements {
    wire: Wire,
    rest: Vec<u8>,
}

impl Acknowledgements {
    fn count(&mut self, bytes: &[u8]) -> io::Result<u64> {
        self.rest.extend_from_slice(bytes);
        let mut used = 0;
        let mut count = 0;
        loop {
            let rest = &self.rest[used..];
            let taken = match self.wire {
                Wire::Mqtt => puback(rest)?,
                Wire::JetStream => jetstream_ack(rest)?,
            };
            let Some((bytes, counts)) = taken else { break };
            used += bytes;
            count += u64::from(counts);
        }
        self.rest.drain(..used);
        Ok(count)
    }
}

/// Bytes of the first packet and whether it acknowledges a message.
fn puback(rest: &[u8]) -> io::Result<Option<(usize, bool)>> {
    match rest {
        [0x40, 2, _, _, ..] => Ok(Some((4, true))),
        [0x40, ..] | [] if rest.len() < 4 => Ok(None),
        _ => Err(io::Error::other(format!("PUBACK expected, got {:02x?}", &rest[..rest.len().min(8)]))),
    }
}

fn jetstream_ack(rest: &[u8]) -> io::Result<Option<(usize, bool)>> {
    let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = &rest[..end];
    if line.starts_with(b"PING") || line.starts_with(b"INFO") || line.starts_with(b"PONG") {
        return Ok(Some((end + 2, false)));
    }
    let length = std::str::from_utf8(line)
        .ok()
        .filter(|text| text.starts_with("MSG "))
        .and_then(|text| text.rsplit(' ').next())
        .and_then(|word| word.parse::<usize>().ok())
        .ok_or_else(|| {
            io::Error::other(format!("acknowledgement expected, got {:?}", String::from_utf8_lossy(line)))
        })?;
    let whole = end + 2 + length + 2;
    if rest.len() < whole {
        return Ok(None);
    }
    let body = &rest[end + 2..end + 2 + length];
    if body.windows(7).any(|part| part == b"\"error\"") {
        return Err(io::Error::other(format!("refused: {}", String::from_utf8_lossy(body))));
    }
    Ok(Some((whole, true)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> String {
        format!("MSG _INBOX.bench.0 1 {}\r\n{body}\r\n", body.len())
    }

    #[test]
    fn acknowledgements_are_counted_wherever_the_bytes_are_cut() {
        let mqtt = vec![0x40, 2, 0, 1, 0x40, 2, 0, 2];
        let nats = format!("{}PING\r\n{}", message(r#"{"stream":"B","seq":1}"#), message(r#"{"stream":"B","seq":22}"#));
        for (wire, bytes) in [(Wire::Mqtt, mqtt), (Wire::JetStream, nats.into_bytes())] {
            for cut in 0..bytes.len() {
                let mut counter = Acknowledgements { wire, rest: Vec::new() };
                let count = counter.count(&bytes[..cut]).expect("valid") + counter.count(&bytes[cut..]).expect("valid");
                assert_eq!(count, 2, "{wire:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn a_refusal_is_an_error() {
        let refusal = message(r#"{"error":{"code":503}}"#);
        assert!(Acknowledgements { wire: Wire::JetStream, rest: Vec::new() }.count(refusal.as_bytes()).is_err());
        assert!(Acknowledgements { wire: Wire::Mqtt, rest: Vec::new() }.count(&[0x20, 2, 0, 5]).is_err());
    }
}
