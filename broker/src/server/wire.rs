//! The bytes of one connection: what was read and is not decoded, what is encoded and not written.
//!
//! A connection that is idle holds no buffer: it takes one when the socket has something, and gives it back when all of it is decoded.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use super::socket::Socket;
use super::spare::{self, Use};
use super::stats::Counters;
use super::tls;
use super::websocket::WebSocket;
use crate::mqtt::codec;
use crate::mqtt::packet::{DecodeError, Packet, PacketId, Version};
use crate::mqtt::session::{Alias, Outgoing};
use bytes::{Buf, BytesMut};

/// Bytes read at once: some eighty messages of a busy device.
const READ_BYTES: usize = 16 * 1024;

/// Deliveries stop when this much waits to be written: a client that does not read holds no more than this and one message.
pub(super) const WRITE_BYTES: usize = 64 * 1024;

/// Reading stops when this much waits to be written: answers to what a client sends while it does not read.
const WRITE_BYTES_HARD: usize = 4 * WRITE_BYTES;

/// Most that is read only to be thrown away when a connection ends, and how much of it at once.
const DISCARD_BYTES: usize = 256 * 1024;
const DISCARD_AT_ONCE: usize = 4 * 1024;

/// A socket and its two buffers.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) socket: Socket,
    /// `None`: the bytes of the socket are the client's.
    tls: Option<Box<tls::Session>>,
    /// `None`: those are MQTT.
    websocket: Option<Box<WebSocket>>,
    /// `None`: both are empty.
    buffers: Option<Box<Buffers>>,
    /// The socket may have something to read.
    ready: bool,
    /// Nothing follows what is to be written.
    ending: bool,
}

#[derive(Debug, Default)]
struct Buffers {
    input: BytesMut,
    output: BytesMut,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes.
    Some,
    /// Nothing now.
    None,
    /// The peer has closed.
    End,
}

impl Wire {
    pub(super) fn new(socket: Socket, tls: Option<tls::Session>, websocket: Option<WebSocket>) -> Self {
        Self {
            socket,
            tls: tls.map(Box::new),
            websocket: websocket.map(Box::new),
            buffers: None,
            ready: true,
            ending: false,
        }
    }

    /// Reads once, without waiting.
    pub(super) fn read(&mut self, counters: &Counters) -> io::Result<Read> {
        if !self.ready {
            return Ok(Read::None);
        }
        let read = if self.websocket.is_some() { self.read_frames() } else { self.read_plain() };
        match read {
            Ok((0, _)) => Ok(Read::End),
            Ok((n, read)) => {
                counters.bytes_in.fetch_add(n as u64, Relaxed);
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.ready = false;
                self.release();
                Ok(Read::None)
            }
            Err(error) => Err(error),
        }
    }

    /// How many bytes were read, and what they brought.
    fn read_plain(&mut self) -> io::Result<(usize, Read)> {
        let input = &mut self.buffers.get_or_insert_default().input;
        if input.capacity() == 0 {
            *input = spare::take(Use::Reading);
        }
        let missing = match codec::frame_len(input) {
            // Bounded: the decoder has refused packets above the limit before.
            Ok(Some(len)) => len.saturating_sub(input.len()),
            Ok(None) | Err(_) => 0,
        };
        input.reserve(missing.clamp(READ_BYTES, 16 * READ_BYTES));
        let n = match &mut self.tls {
            None => {
                let (n, emptied) = self.socket.try_read_buf(input)?;
                self.ready = !emptied;
                n
            }
            Some(tls) => tls.read(&self.socket, input)?,
        };
        Ok((n, Read::Some))
    }

    /// The same through frames, whose bytes are not kept. A ping alone brings nothing: it says nothing about the MQTT client.
    fn read_frames(&mut self) -> io::Result<(usize, Read)> {
        let Some(websocket) = &mut self.websocket else { return Ok((0, Read::End)) };
        let mut framed = BytesMut::with_capacity(READ_BYTES);
        let n = match &mut self.tls {
            None => {
                let (n, emptied) = self.socket.try_read_buf(&mut framed)?;
                self.ready = !emptied;
                n
            }
            Some(tls) => tls.read(&self.socket, &mut framed)?,
        };
        let input = &mut self.buffers.get_or_insert_default().input;
        let before = input.len();
        websocket.receive(&framed, input).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(match input.len() > before {
            true => (n, Read::Some),
            false if websocket.is_closed() => (n, Read::End),
            false => (n, Read::None),
        })
    }

    fn release(&mut self) {
        let Some(buffers) = &mut self.buffers else { return };
        if buffers.input.is_empty() {
            spare::give_back(Use::Reading, std::mem::take(&mut buffers.input));
            self.buffers.take_if(|buffers| buffers.output.is_empty());
        }
    }

    /// The next packet that was read completely.
    pub(super) fn decode(
        &mut self,
        version: Option<Version>,
        max_packet_bytes: u32,
    ) -> Result<Option<Packet>, DecodeError> {
        let Some(buffers) = &mut self.buffers else { return Ok(None) };
        let decoded = codec::decode(&mut buffers.input, version, max_packet_bytes);
        if !self.ready {
            // What was read before the socket had nothing more: no further read will find out that the buffer is empty.
            self.release();
        }
        decoded
    }

    /// The version that a CONNECT which was refused asked for.
    pub(super) fn connect_version(&self) -> Option<Version> {
        codec::connect_version(&self.buffers.as_ref()?.input)
    }

    /// Bytes of room for reading and writing.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.buffers.as_ref().map_or(0, |b| size_of::<Buffers>() + b.input.capacity() + b.output.capacity())
    }

    /// The socket said that it has something to read.
    pub(super) fn set_ready(&mut self) {
        self.ready = true;
    }

    /// Appends a packet. `false`: it is larger than the client accepts and must not be sent [MQTT-3.1.2-24].
    pub(super) fn send(&mut self, mut packet: Packet, version: Version, max_packet_bytes: Option<u32>) -> bool {
        if let Some(max) = max_packet_bytes
            && !codec::fit(&mut packet, version, max).unwrap_or(false)
        {
            return false;
        }
        codec::encode(&packet, version, self.output()).is_ok()
    }

    /// Appends a PUBLISH, with its alias if it fits; gives the alias that it left with. `Err`: it is larger than the client
    /// accepts [MQTT-3.1.2-24].
    pub(super) fn deliver(
        &mut self,
        outgoing: &Outgoing,
        alias: Option<Alias>,
        version: Version,
        max_packet_bytes: Option<u32>,
    ) -> Result<Option<Alias>, Option<PacketId>> {
        let parts = codec::PublishRef {
            dup: outgoing.dup,
            qos: outgoing.qos,
            retain: outgoing.retain,
            topic: Some(&outgoing.message.topic).filter(|_| alias.is_none_or(|alias| !alias.known)),
            packet_id: outgoing.packet_id,
            topic_alias: alias.map(|alias| alias.number),
            subscription_ids: &outgoing.subscription_ids,
            message_expiry: outgoing.message_expiry,
            properties: outgoing.message.properties.as_deref(),
            payload: &outgoing.message.payload,
        };
        let max = max_packet_bytes.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        if codec::encode_publish_within(&parts, version, max, self.output()).unwrap_or(false) {
            Ok(alias)
        } else if alias.is_some() {
            self.deliver(outgoing, None, version, max_packet_bytes)
        } else {
            Err(outgoing.packet_id)
        }
    }

    fn output(&mut self) -> &mut BytesMut {
        let output = &mut self.buffers.get_or_insert_default().output;
        if output.capacity() == 0 {
            *output = spare::take(Use::Writing);
        }
        output
    }

    /// Bytes that wait to be written.
    fn waiting(&self) -> usize {
        self.buffers.as_ref().map_or(0, |buffers| buffers.output.len())
    }

    /// Deliveries may be added.
    pub(super) fn has_room(&self) -> bool {
        self.waiting() < WRITE_BYTES
    }

    /// Answers to further packets would find room.
    pub(super) fn may_read(&self) -> bool {
        self.waiting() < WRITE_BYTES_HARD
    }

    pub(super) fn has_output(&self) -> bool {
        self.waiting() > 0
            || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
            || self.websocket.as_ref().is_some_and(|websocket| websocket.has_output())
            || (self.ending && (self.tls.is_some() || self.websocket.is_some()))
    }

    /// What comes before MQTT is underway.
    pub(super) fn is_opening(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
            || self.websocket.as_ref().is_some_and(|websocket| websocket.is_opening())
    }

    /// Waits until the socket has something to read, or takes what waits to be written. Safe to cancel.
    pub(super) async fn ready(&self) -> io::Result<()> {
        poll_fn(|context| {
            if self.has_output()
                && let Poll::Ready(ready) = self.socket.poll_write_ready(context)
            {
                return Poll::Ready(ready);
            }
            self.socket.poll_read_ready(context)
        })
        .await
    }

    /// Who the client's certificate says it is.
    pub(super) fn certified(&self) -> tls::Certified {
        self.tls.as_ref().map_or(tls::Certified::Not, |tls| tls.certified())
    }

    /// Gives back the room of what has been decoded, before a wait that may be long.
    pub(super) fn rest(&mut self) {
        self.release();
    }

    /// Nothing follows what is to be written, but for the goodbyes of what lies below MQTT.
    pub(super) fn finish(&mut self) {
        self.ending = true;
    }

    /// Throws away what has come and will not be read. A socket that is closed with it is reset, and a reset may overtake the
    /// last bytes to the client, or have its system drop them: the DISCONNECT that says why. What comes later resets it still.
    pub(super) fn discard(&self) {
        let mut waste = [0; DISCARD_AT_ONCE];
        for _ in 0..DISCARD_BYTES / DISCARD_AT_ONCE {
            if !matches!(self.socket.try_read(&mut waste), Ok(1..)) {
                return;
            }
        }
    }

    /// Writes what the socket takes now; one system call, mostly.
    pub(super) fn flush(&mut self, counters: &Counters) -> io::Result<()> {
        loop {
            self.end();
            let Wire { socket, tls, websocket, buffers, .. } = self;
            // One that holds nothing, for those that have nothing to write.
            let mut none = BytesMut::new();
            let output = buffers.as_mut().map_or(&mut none, |buffers| &mut buffers.output);
            let bytes = match websocket {
                None => output,
                Some(websocket) => websocket.pending(output),
            };
            if bytes.is_empty() {
                if let Some(tls) = tls {
                    // Of the handshake, or of earlier output.
                    tls.write(socket, &[])?;
                }
                break;
            }
            let written = match tls {
                None => socket.try_write(bytes),
                Some(tls) => match tls.write(socket, bytes) {
                    Ok(0) => return Ok(()),
                    taken => taken,
                },
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    counters.bytes_out.fetch_add(n as u64, Relaxed);
                    bytes.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if let Some(buffers) = &mut self.buffers {
            spare::give_back(Use::Writing, std::mem::take(&mut buffers.output));
            self.buffers.take_if(|buffers| buffers.input.capacity() == 0);
        }
        Ok(())
    }

    /// Says goodbye behind the last byte.
    fn end(&mut self) {
        if !self.ending || self.waiting() > 0 {
            return;
        }
        let framed = match &mut self.websocket {
            None => false,
            Some(websocket) => {
                websocket.end();
                websocket.has_output()
            }
        };
        if !framed {
            self.ending = false;
            if let Some(tls) = &mut self.tls {
                tls.end();
            }
        }
    }
}
