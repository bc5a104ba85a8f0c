//! The few MQTT 3.1.1 packets that load needs, as bytes. Bytes in, bytes out: no socket, no clock.
//!
//! Not the codec of the broker under test: what measures must not share its mistakes, nor its speed.

use std::io;

/// Appends a CONNECT with a keep alive of ten minutes.
///
/// # Panics
/// With a client id of more than 100 bytes.
pub fn connect(out: &mut Vec<u8>, id: &str, clean: bool) {
    assert!(id.len() <= 100, "client ids of the bench are short");
    out.extend_from_slice(&[0x10, short(12 + id.len())]);
    out.extend_from_slice(b"\x00\x04MQTT\x04");
    out.extend_from_slice(&[if clean { 2 } else { 0 }, 2, 88, 0, short(id.len())]);
    out.extend_from_slice(id.as_bytes());
}

/// Appends a SUBSCRIBE of one filter.
///
/// # Panics
/// With a filter of more than 100 bytes.
pub fn subscribe(out: &mut Vec<u8>, packet_id: u16, filter: &str, qos: u8) {
    assert!(filter.len() <= 100, "filters of the bench are short");
    out.extend_from_slice(&[0x82, short(5 + filter.len())]);
    out.extend_from_slice(&packet_id.to_be_bytes());
    out.extend_from_slice(&[0, short(filter.len())]);
    out.extend_from_slice(filter.as_bytes());
    out.push(qos);
}

/// Appends a PUBLISH; with a packet id it is of QoS 1, without of QoS 0.
///
/// # Panics
/// With a topic and payload of 16 KiB or more together.
pub fn publish(out: &mut Vec<u8>, topic: &str, packet_id: Option<u16>, payload: &[u8]) {
    let remaining = 2 + topic.len() + packet_id.map_or(0, |_| 2) + payload.len();
    out.push(if packet_id.is_some() { 0x32 } else { 0x30 });
    assert!(remaining < 16_384, "two length bytes are enough for bench messages");
    if remaining < 128 {
        out.push(short(remaining));
    } else {
        out.push(short(remaining % 128) | 0x80);
        out.push(short(remaining / 128));
    }
    out.extend_from_slice(&u16::try_from(topic.len()).expect("below 16,384").to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    if let Some(id) = packet_id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(payload);
}

/// The packet id of message `count` of a publisher: 1 to 65,535 in turn.
#[must_use]
pub fn packet_id(count: u64) -> u16 {
    u16::try_from(count % 65_535).expect("below 65,535") + 1
}

fn short(value: usize) -> u8 {
    u8::try_from(value).expect("checked by the caller")
}

/// One packet as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Kind and flags.
    pub first: u8,
    /// Everything behind the remaining length.
    pub body: &'a [u8],
}

/// A received PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// `None` at QoS 0.
    pub packet_id: Option<[u8; 2]>,
    /// What was published.
    pub payload: &'a [u8],
}

/// The first packet of `bytes` and how many bytes it takes; `None` while it is not complete.
///
/// # Errors
/// When the remaining length has more than four bytes.
pub fn frame(bytes: &[u8]) -> io::Result<Option<(Frame<'_>, usize)>> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let mut remaining = 0;
    for at in 0..4 {
        let Some(&byte) = bytes.get(1 + at) else { return Ok(None) };
        remaining |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let end = 2 + at + remaining;
            return Ok(bytes.get(2 + at..end).map(|body| (Frame { first, body }, end)));
        }
    }
    Err(io::Error::other("a remaining length of more than four bytes"))
}

impl<'a> Frame<'a> {
    /// Reads it as a PUBLISH at QoS 0 or 1.
    ///
    /// # Errors
    /// When it is another packet, or too short for its topic and packet id.
    pub fn delivery(self) -> io::Result<Delivery<'a>> {
        let qos = (self.first >> 1) & 3;
        if self.first >> 4 != 3 || qos > 1 {
            return Err(self.unexpected("PUBLISH at QoS 0 or 1"));
        }
        let too_short = || io::Error::other("a PUBLISH that is too short for its topic and packet id");
        let (length, rest) = self.body.split_first_chunk::<2>().ok_or_else(too_short)?;
        let rest = rest.get(usize::from(u16::from_be_bytes(*length))..).ok_or_else(too_short)?;
        if qos == 0 {
            return Ok(Delivery { packet_id: None, payload: rest });
        }
        let (id, payload) = rest.split_first_chunk::<2>().ok_or_else(too_short)?;
        Ok(Delivery { packet_id: Some(*id), payload })
    }

    /// The error for a packet that is not the `wanted` one.
    #[must_use]
    pub fn unexpected(&self, wanted: &str) -> io::Error {
        let head = &self.body[..self.body.len().min(8)];
        io::Error::other(format!("{wanted} expected, got packet {:02x} with {head:02x?}", self.first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_taken_when_it_is_complete_and_not_before() {
        for (id, payload) in [(None, vec![7; 5]), (Some(258), vec![7; 5]), (Some(1), vec![9; 200])] {
            let mut packet = Vec::new();
            publish(&mut packet, "a/b", id, &payload);
            let whole = packet.len();
            packet.push(0x32);
            for cut in 0..whole {
                assert_eq!(frame(&packet[..cut]).expect("valid"), None, "cut at {cut}");
            }
            let (first, end) = frame(&packet).expect("valid").expect("complete");
            assert_eq!(end, whole);
            let delivery = first.delivery().expect("a PUBLISH");
            assert_eq!(delivery, Delivery { packet_id: id.map(u16::to_be_bytes), payload: &payload });
        }
    }

    #[test]
    fn what_is_no_publish_is_an_error() {
        for packet in [&[0x40_u8, 2, 0, 1][..], &[0x34, 7, 0, 1, b'a', 0, 1, 2, 3], &[0x32, 2, 0, 3], &[0x30, 1, 0]] {
            let (frame, _) = frame(packet).expect("valid").expect("complete");
            assert!(frame.delivery().is_err(), "{packet:02x?}");
        }
        assert!(frame(&[0x32, 255, 255, 255, 255]).is_err());
    }

    #[test]
    fn packet_ids_are_never_zero() {
        assert_eq!([0, 65_534, 65_535].map(packet_id), [1, 65_535, 1]);
    }
}
