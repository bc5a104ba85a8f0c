//! Subscribers: MQTT 3.1.1, QoS 1, counting what arrives and acknowledging it. No client library.
//!
//! A message that does not come within the patience is an error: a fan-out at QoS 1 either arrives complete or is no figure.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::mqtt_connect;

/// How long a subscriber waits for the next bytes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A subscriber of `plant/#` whose subscription the broker has granted.
#[derive(Debug)]
pub struct Subscriber {
    stream: TcpStream,
    rest: Vec<u8>,
}

impl Subscriber {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// When the broker refuses the client or does not grant QoS 1.
    pub async fn connect(address: SocketAddr, number: usize) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        mqtt_connect(&mut stream, &format!("subscriber-{number}")).await?;
        stream.write_all(b"\x82\x0c\x00\x01\x00\x07plant/#\x01").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        if answer != [0x90, 3, 0, 1, 1] {
            return Err(io::Error::other(format!("SUBACK for QoS 1 expected, got {answer:02x?}")));
        }
        Ok(Self { stream, rest: Vec::new() })
    }

    /// Takes and acknowledges `messages` messages; returns when the last one came.
    ///
    /// # Errors
    /// When the broker closes, sends anything but PUBLISH at QoS 1, or nothing for 30 s.
    pub async fn take(mut self, messages: u64) -> io::Result<Instant> {
        let mut taken = 0;
        let mut input = vec![0; 64 * 1024];
        let mut out = Vec::new();
        while taken < messages {
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut input)).await.map_err(|_| {
                io::Error::other(format!("nothing came for {PATIENCE:?} after {taken} of {messages} messages"))
            })??;
            if read == 0 {
                return Err(io::Error::other(format!("closed by the broker after {taken} of {messages} messages")));
            }
            self.rest.extend_from_slice(&input[..read]);
            let mut used = 0;
            out.clear();
            while let Some((bytes, id)) = delivered(&self.rest[used..])? {
                used += bytes;
                taken += 1;
                out.extend_from_slice(&[0x40, 2, id[0], id[1]]);
            }
            self.rest.drain(..used);
            self.stream.write_all(&out).await?;
        }
        Ok(Instant::now())
    }
}

/// Bytes of the first PUBLISH and its packet id; `None` if it is not complete yet.
fn delivered(rest: &[u8]) -> io::Result<Option<(usize, [u8; 2])>> {
    let Some(&first) = rest.first() else { return Ok(None) };
    if first & 0xf6 != 0x32 {
        return Err(io::Error::other(format!("PUBLISH at QoS 1 expected, got {:02x?}", &rest[..rest.len().min(8)])));
    }
    let mut remaining = 0;
    for at in 0..4 {
        let Some(&byte) = rest.get(1 + at) else { return Ok(None) };
        remaining |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let begin = 2 + at;
            let Some(body) = rest.get(begin..begin + remaining) else { return Ok(None) };
            let id = body.get(..2).map(|length| 2 + usize::from(u16::from_be_bytes([length[0], length[1]])));
            let id = id.and_then(|id| body.get(id..id + 2));
            let id = id.ok_or_else(|| io::Error::other("a PUBLISH that is too short for its topic and packet id"))?;
            return Ok(Some((begin + remaining, [id[0], id[1]])));
        }
    }
    Err(io::Error::other("a remaining length of more than four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_taken_when_it_is_complete_and_not_before() {
        let packet = [0x32, 8, 0, 3, b'a', b'/', b'b', 1, 2, b'x', 0x32];
        for cut in 0..10 {
            assert_eq!(delivered(&packet[..cut]).expect("valid"), None, "cut at {cut}");
        }
        assert_eq!(delivered(&packet).expect("valid"), Some((10, [1, 2])));
    }

    #[test]
    fn what_is_no_publish_at_qos_1_is_an_error() {
        for packet in
            [&[0x30_u8, 5, 0, 3, b'a', b'/', b'b'][..], &[0x40, 2, 0, 1], &[0x32, 2, 0, 3], &[0x32, 255, 255, 255, 255]]
        {
            assert!(delivered(packet).is_err(), "{packet:02x?}");
        }
    }
}
