//! Publishers, lean enough not to be the bottleneck: payloads made beforehand, one thread, no client library.
//!
//! Closed loop: a publisher sends as soon as its window has room, and a latency is that of the message on its way. Open loop:
//! messages are due at a rate, and a latency counts from when the message was due, so that a stall is not hidden by a publisher
//! that waited for it (coordinated omission).
//!
//! Two protocols do the same work: MQTT 3.1.1 QoS 1 (any MQTT broker) and the NATS protocol with JetStream
//! acknowledgements (nats-server's own best path). Each publisher keeps a window of unacknowledged messages.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::histogram::Histogram;
use crate::payload::{Numbers, telemetry, topic};

/// What to publish.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Connections, each with a topic of its own.
    pub publishers: usize,
    /// Messages over all publishers.
    pub messages: u64,
    /// Unacknowledged messages per publisher.
    pub window: u64,
    /// Wait until a whole window is acknowledged before the next is sent: sets the messages per sync.
    pub lockstep: bool,
    /// Messages per second over all publishers that are due (open loop). `None`: as fast as the window allows.
    pub rate: Option<u32>,
}

/// How publishing went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first byte to the last acknowledgement.
    pub took: Duration,
    /// From when a message was sent (closed loop) or due (open loop) to its acknowledgement.
    pub latency: Histogram,
}

impl Work {
    /// Twenty publishers with a window of 50 each, as fast as they can.
    #[must_use]
    pub fn closed(messages: u64) -> Self {
        Self { publishers: 20, messages, window: 50, lockstep: false, rate: None }
    }
}

/// How the messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// MQTT 3.1.1, QoS 1.
    Mqtt,
    /// NATS, publish with reply, JetStream's acknowledgement counted.
    JetStream,
}

/// Publishes all of `work`.
///
/// # Errors
/// When the broker refuses, answers with an error or closes.
pub async fn publish(wire: Wire, address: SocketAddr, work: Work) -> io::Result<Outcome> {
    let share = work.messages / work.publishers as u64;
    let mut connections = Vec::new();
    for publisher in 0..work.publishers {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let acknowledgements = Acknowledgements {
            wire,
            rest: match wire {
                Wire::Mqtt => {
                    mqtt_connect(&mut stream, &format!("bench-{publisher}")).await?;
                    Vec::new()
                }
                Wire::JetStream => nats_connect(&mut stream, publisher).await?,
            },
        };
        connections.push((publisher, stream, acknowledgements));
    }
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (publisher, stream, acknowledgements) in connections {
        tasks.spawn(one_publisher(stream, acknowledgements, publisher, share, work));
    }
    let mut latency = Histogram::default();
    while let Some(done) = tasks.join_next().await {
        latency.merge(&done.map_err(io::Error::other)??);
    }
    Ok(Outcome { took: start.elapsed(), latency })
}

async fn one_publisher(
    mut stream: TcpStream,
    mut acknowledgements: Acknowledgements,
    publisher: usize,
    share: u64,
    work: Work,
) -> io::Result<Histogram> {
    let wire = acknowledgements.wire;
    // A few hundred different messages in turn: compressible as telemetry is, without generating while measuring.
    let mut numbers = Numbers::new(publisher as u64);
    let ring: Vec<Vec<u8>> = (0..512).map(|count| telemetry(&mut numbers, publisher, count)).collect();
    let topic = match wire {
        Wire::Mqtt => topic(publisher),
        Wire::JetStream => topic(publisher).replace('/', "."),
    };
    let between =
        work.rate.map(|rate| Duration::from_secs(1) * u32::try_from(work.publishers).unwrap_or(u32::MAX) / rate);
    let start = Instant::now();
    let mut latency = Histogram::default();
    // Messages of one burst and the time their latency counts from; acknowledgements come in the order of sending.
    let mut waiting: VecDeque<(u64, Instant)> = VecDeque::new();
    let (mut sent, mut acknowledged) = (0_u64, 0_u64);
    let mut out = Vec::new();
    let mut input = vec![0; 64 * 1024];
    while acknowledged < share {
        let room = work.window - (sent - acknowledged);
        let mut burst = if work.lockstep && sent != acknowledged { 0 } else { room.min(share - sent) };
        if let Some(between) = between {
            let due = start.elapsed().as_nanos() / between.as_nanos() + 1;
            burst = burst.min(u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(sent));
        }
        if burst > 0 {
            out.clear();
            let now = Instant::now();
            for _ in 0..burst {
                let payload = &ring[usize::try_from(sent % 512).expect("below 512")];
                match wire {
                    Wire::Mqtt => mqtt_publish(&mut out, &topic, sent, payload),
                    Wire::JetStream => nats_publish(&mut out, &topic, publisher, payload),
                }
                if let Some(between) = between {
                    waiting.push_back((1, start + nth(between, sent)));
                }
                sent += 1;
            }
            if between.is_none() {
                waiting.push_back((burst, now));
            }
            stream.write_all(&out).await?;
        }
        // A read is safe to give up: what was not read yet is read by the next.
        let read = match between.filter(|_| sent < share && sent - acknowledged < work.window) {
            Some(between) => tokio::select! {
                read = stream.read(&mut input) => read?,
                () = tokio::time::sleep_until((start + nth(between, sent)).into()) => continue,
            },
            None => stream.read(&mut input).await?,
        };
        if read == 0 {
            return Err(io::Error::other(format!(
                "publisher {publisher}: closed by the broker after {acknowledged} messages"
            )));
        }
        let count = acknowledgements.count(&input[..read])?;
        acknowledged += count;
        settle(&mut waiting, count, &mut latency)?;
    }
    Ok(latency)
}

/// When message `count` is due, after the start.
fn nth(between: Duration, count: u64) -> Duration {
    Duration::from_nanos(u64::try_from(between.as_nanos()).unwrap_or(u64::MAX).saturating_mul(count))
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

pub(crate) async fn mqtt_connect(stream: &mut TcpStream, id: &str) -> io::Result<()> {
    let mut packet = vec![0x10, u8::try_from(12 + id.len()).expect("short id"), 0, 4];
    packet.extend_from_slice(b"MQTT\x04\x02\x00\x3c");
    packet.extend_from_slice(&[0, u8::try_from(id.len()).expect("short id")]);
    packet.extend_from_slice(id.as_bytes());
    stream.write_all(&packet).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    if answer != [0x20, 2, 0, 0] {
        return Err(io::Error::other(format!("CONNACK expected, got {answer:02x?}")));
    }
    Ok(())
}

fn mqtt_publish(out: &mut Vec<u8>, topic: &str, count: u64, payload: &[u8]) {
    let id = u16::try_from(count % 65_535).expect("below 65,535") + 1;
    let remaining = 2 + topic.len() + 2 + payload.len();
    out.push(0x32);
    assert!(remaining < 16_384, "two length bytes are enough for bench messages");
    out.push(u8::try_from(remaining % 128).expect("below 128") | 0x80);
    out.push(u8::try_from(remaining / 128).expect("below 128"));
    out.extend_from_slice(&u16::try_from(topic.len()).expect("short topic").to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Connects and returns what was read behind the first PONG: the beginning of what is counted later.
async fn nats_connect(stream: &mut TcpStream, publisher: usize) -> io::Result<Vec<u8>> {
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
            return Ok(text.split_off(pong + 6));
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
