//! Devices that publish as fast as they can, with little of this machine's time spent on their side: MQTT 3.1.1 by hand, QoS 1,
//! payloads cut out of one random buffer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::chance::Chance;

/// Bytes that cannot be compressed, to cut payloads from.
#[derive(Clone, Debug)]
pub struct Noise(Arc<[u8]>);

impl Noise {
    /// So many bytes.
    #[must_use]
    pub fn new(chance: &mut Chance, bytes: usize) -> Noise {
        Noise((0..bytes.div_ceil(8)).flat_map(|_| chance.number().to_le_bytes()).collect())
    }

    /// A payload of so many bytes, begun anywhere.
    ///
    /// # Panics
    /// If there are not that many.
    #[must_use]
    pub fn cut(&self, chance: &mut Chance, bytes: usize) -> &[u8] {
        let at = usize::try_from(chance.below((self.0.len() - bytes) as u64 + 1)).expect("a position in memory");
        &self.0[at..at + bytes]
    }
}

/// A connection.
#[derive(Debug)]
pub struct Flood {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    topic: String,
    next_id: u16,
    /// Bytes of the payloads on their way; the broker acknowledges them in their order.
    open: VecDeque<usize>,
}

impl Flood {
    /// Connects with that client id. `None` if the broker is gone.
    pub async fn connect(broker: SocketAddr, id: &str, topic: &str) -> Option<Flood> {
        let socket = TcpStream::connect(broker).await.ok()?;
        socket.set_nodelay(true).ok()?;
        let (mut read, mut write) = socket.into_split();
        let mut body = b"\x00\x04MQTT\x04\x02\x00\x00".to_vec();
        put_text(&mut body, id);
        write.write_all(&packet(0x10, &[&body])).await.ok()?;
        let mut answer = [0; 4];
        read.read_exact(&mut answer).await.ok()?;
        (answer == [0x20, 2, 0, 0]).then(|| Flood {
            read,
            write,
            topic: topic.to_owned(),
            next_id: 1,
            open: VecDeque::new(),
        })
    }

    /// Publishes; with `window` on their way it waits for an acknowledgement first. The bytes of payload acknowledged meanwhile; `None`
    /// if the broker is gone.
    pub async fn publish(&mut self, payload: &[u8], window: usize) -> Option<usize> {
        let done = if self.open.len() >= window { self.acknowledged().await? } else { 0 };
        let mut head = Vec::new();
        put_text(&mut head, &self.topic);
        head.extend(self.next_id.to_be_bytes());
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        self.write.write_all(&packet(0x32, &[&head, payload])).await.ok()?;
        self.open.push_back(payload.len());
        Some(done)
    }

    /// Waits until everything is acknowledged. `None` if the broker is gone.
    pub async fn settle(&mut self) -> Option<()> {
        while !self.open.is_empty() {
            self.acknowledged().await?;
        }
        Some(())
    }

    /// Asks for everything with QoS 1, and reads no more.
    pub async fn subscribe_and_fall_silent(&mut self) -> Option<()> {
        let mut body = vec![0, 1];
        put_text(&mut body, "#");
        body.push(1);
        self.write.write_all(&packet(0x82, &[&body])).await.ok()?;
        let mut answer = [0; 5];
        self.read.read_exact(&mut answer).await.ok()?;
        (answer == [0x90, 3, 0, 1, 1]).then_some(())
    }

    async fn acknowledged(&mut self) -> Option<usize> {
        let mut answer = [0; 4];
        self.read.read_exact(&mut answer).await.ok()?;
        assert_eq!(answer[..2], [0x40, 2], "not a PUBACK: {answer:?}");
        self.open.pop_front()
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
    out.extend(text.as_bytes());
}

fn packet(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut left = parts.iter().map(|part| part.len()).sum::<usize>();
    let mut out = Vec::with_capacity(left + 5);
    out.push(kind);
    loop {
        let digit = u8::try_from(left % 128).expect("below 128");
        left /= 128;
        out.push(if left > 0 { digit | 0x80 } else { digit });
        if left == 0 {
            break;
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}
