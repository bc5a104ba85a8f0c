//! Closed-loop publishers, lean enough not to be the bottleneck: packets encoded beforehand, one thread, no client library.
//!
//! Two protocols do the same work: MQTT 3.1.1 QoS 1 (any MQTT broker) and the NATS protocol with JetStream
//! acknowledgements (nats-server's own best path). Each publisher keeps a window of unacknowledged messages.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
}

/// How the messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// MQTT 3.1.1, QoS 1.
    Mqtt,
    /// NATS, publish with reply, JetStream's acknowledgement counted.
    JetStream,
}

/// Publishes all of `work` and returns how long it took from the first byte to the last acknowledgement.
///
/// # Errors
/// When the broker refuses, answers with an error or closes.
pub async fn publish(wire: Wire, address: SocketAddr, work: Work) -> io::Result<Duration> {
    let share = work.messages / work.publishers as u64;
    let mut connections = Vec::new();
    for publisher in 0..work.publishers {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let acknowledgements = Acknowledgements {
            wire,
            rest: match wire {
                Wire::Mqtt => mqtt_connect(&mut stream, publisher).await?,
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
    while let Some(done) = tasks.join_next().await {
        done.map_err(io::Error::other)??;
    }
    Ok(start.elapsed())
}

async fn one_publisher(
    mut stream: TcpStream,
    mut acknowledgements: Acknowledgements,
    publisher: usize,
    share: u64,
    work: Work,
) -> io::Result<()> {
    let wire = acknowledgements.wire;
    // A few hundred different messages in turn: compressible as telemetry is, without generating while measuring.
    let mut numbers = Numbers::new(publisher as u64);
    let ring: Vec<Vec<u8>> = (0..512).map(|count| telemetry(&mut numbers, publisher, count)).collect();
    let topic = match wire {
        Wire::Mqtt => topic(publisher),
        Wire::JetStream => topic(publisher).replace('/', "."),
    };
    let (mut sent, mut acknowledged) = (0_u64, 0_u64);
    let mut out = Vec::new();
    let mut input = vec![0; 64 * 1024];
    while acknowledged < share {
        let room = work.window - (sent - acknowledged);
        let burst = if work.lockstep && sent != acknowledged { 0 } else { room.min(share - sent) };
        if burst > 0 {
            out.clear();
            for _ in 0..burst {
                let payload = &ring[usize::try_from(sent % 512).expect("below 512")];
                match wire {
                    Wire::Mqtt => mqtt_publish(&mut out, &topic, sent, payload),
                    Wire::JetStream => nats_publish(&mut out, &topic, publisher, payload),
                }
                sent += 1;
            }
            stream.write_all(&out).await?;
        }
        let read = stream.read(&mut input).await?;
        if read == 0 {
            return Err(io::Error::other(format!(
                "publisher {publisher}: closed by the broker after {acknowledged} messages"
            )));
        }
        acknowledged += acknowledgements.count(&input[..read])?;
    }
    Ok(())
}

async fn mqtt_connect(stream: &mut TcpStream, publisher: usize) -> io::Result<Vec<u8>> {
    let id = format!("bench-{publisher}");
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
    Ok(Vec::new())
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
