//! Messages towards the client that it has not acknowledged: the window, the packet ids, redelivery.

use std::collections::VecDeque;
use std::num::NonZeroU16;

use super::message::{Origin, ShareId};
use crate::mqtt::packet::{PacketId, QoS, ReasonCode};

/// How far a QoS 1 or 2 delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Stage {
    /// PUBLISH with QoS 1 sent, PUBACK expected.
    AwaitsAck,
    /// PUBLISH with QoS 2 sent, PUBREC expected.
    AwaitsRec,
    /// PUBREL sent, PUBCOMP expected. The message itself is not needed any more [MQTT-4.3.3-4].
    AwaitsComp,
}

/// An unacknowledged message: 24 bytes, whatever the message weighs. It is read again from its origin for a redelivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// Kept until the handshake is over, across connections [MQTT-4.4.0-1].
    pub packet_id: PacketId,
    /// How far it has come.
    pub stage: Stage,
    /// The retain flag that it was sent with.
    pub retain: bool,
    /// `None`: cannot be read again. Such a message belongs to a session that ends with its connection.
    pub origin: Option<Origin>,
    /// The shared subscription that it was for. Not kept on disk.
    pub share: Option<ShareId>,
}

/// The in-flight window of one session, in the order of first sending. At most 65,535 entries, and at most the window while connected.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    entries: VecDeque<InFlight>,
    /// Entries before this index were sent on this connection; those from it on are still to be redelivered.
    sent: usize,
    window: usize,
    next_id: u16,
    /// This many ids from `next_id` on are known to be free, so that finding one costs nothing most of the time.
    free_run: u16,
}

/// An acknowledgement that does not fit what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckFault {
    /// No such packet id in flight.
    Unknown,
    /// In flight, but at another stage.
    WrongStage,
}

impl Outbound {
    pub(super) fn new(window: u16, entries: VecDeque<InFlight>, next_id: u16) -> Self {
        Self { entries, sent: 0, window: usize::from(window), next_id, free_run: 0 }
    }

    /// Holds memory for messages that are not in flight now.
    pub(super) fn holds_room(&self) -> bool {
        self.entries.capacity() > self.entries.len()
    }

    /// Gives it back.
    pub(super) fn rest(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// How many more messages with QoS > 0 may be sent now. 0 while older ones wait for redelivery [MQTT-4.6.0-1].
    pub(super) fn free(&self) -> usize {
        if self.sent < self.entries.len() { 0 } else { self.window.saturating_sub(self.entries.len()) }
    }

    /// The next entry to redeliver, if the window allows it [MQTT-3.3.4-9].
    pub(super) fn next_redelivery(&self) -> Option<InFlight> {
        if self.sent >= self.window { None } else { self.entries.get(self.sent).copied() }
    }

    pub(super) fn redelivering(&self) -> bool {
        self.sent < self.entries.len()
    }

    /// Marks what [`Self::next_redelivery`] returned as sent.
    pub(super) fn redelivered(&mut self) {
        debug_assert!(self.sent < self.entries.len());
        self.sent += 1;
    }

    /// Takes up a message. `None` when the window is full.
    pub(super) fn begin(
        &mut self,
        qos: QoS,
        retain: bool,
        origin: Option<Origin>,
        share: Option<ShareId>,
    ) -> Option<PacketId> {
        if self.free() == 0 {
            return None;
        }
        let stage = match qos {
            QoS::AtMostOnce => return None,
            QoS::AtLeastOnce => Stage::AwaitsAck,
            QoS::ExactlyOnce => Stage::AwaitsRec,
        };
        let packet_id = self.allocate_id()?;
        self.entries.push_back(InFlight { packet_id, stage, retain, origin, share });
        self.sent += 1;
        Some(packet_id)
    }

    /// A currently unused packet id [MQTT-2.2.1-3, MQTT-2.2.1-4].
    fn allocate_id(&mut self) -> Option<PacketId> {
        if self.entries.len() >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            if self.next_id == 0 {
                self.next_id = 1;
                self.free_run = 0;
            }
            if self.free_run == 0 {
                let distances = self.entries.iter().filter_map(|e| e.packet_id.0.get().checked_sub(self.next_id));
                match distances.min() {
                    Some(0) => {
                        self.next_id = self.next_id.wrapping_add(1);
                        continue;
                    }
                    Some(distance) => self.free_run = distance,
                    // Free up to the end of the range, where ids wrap.
                    None => self.free_run = u16::MAX - self.next_id + 1,
                }
            }
            let id = NonZeroU16::new(self.next_id)?;
            self.free_run -= 1;
            self.next_id = self.next_id.wrapping_add(1);
            return Some(PacketId(id));
        }
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        // Acknowledgements come in order from nearly every client: the first entry is the one.
        self.entries.iter().position(|e| e.packet_id == packet_id)
    }

    fn remove(&mut self, index: usize) {
        self.entries.remove(index);
        if index < self.sent {
            self.sent -= 1;
        }
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    pub(super) fn puback(&mut self, packet_id: PacketId) -> Result<(), AckFault> {
        let index = self.position(packet_id).ok_or(AckFault::Unknown)?;
        match self.entries[index].stage {
            Stage::AwaitsAck => self.remove(index),
            Stage::AwaitsRec | Stage::AwaitsComp => return Err(AckFault::WrongStage),
        }
        Ok(())
    }

    /// `Ok(true)`: answer with PUBREL. `Ok(false)`: the receiver refused it, the handshake is over [MQTT-4.3.3-4].
    pub(super) fn pubrec(&mut self, packet_id: PacketId, reason: ReasonCode) -> Result<bool, AckFault> {
        let index = self.position(packet_id).ok_or(AckFault::Unknown)?;
        match self.entries[index].stage {
            Stage::AwaitsAck => Err(AckFault::WrongStage),
            Stage::AwaitsRec if reason as u8 >= 0x80 => {
                self.remove(index);
                Ok(false)
            }
            Stage::AwaitsRec | Stage::AwaitsComp => {
                self.entries[index].stage = Stage::AwaitsComp;
                Ok(true)
            }
        }
    }

    pub(super) fn pubcomp(&mut self, packet_id: PacketId) -> Result<(), AckFault> {
        let index = self.position(packet_id).ok_or(AckFault::Unknown)?;
        match self.entries[index].stage {
            Stage::AwaitsComp => self.remove(index),
            Stage::AwaitsAck | Stage::AwaitsRec => return Err(AckFault::WrongStage),
        }
        Ok(())
    }

    /// Forgets an entry that cannot be sent (gone from the log, or larger than the client accepts).
    pub(super) fn forget(&mut self, packet_id: PacketId) {
        if let Some(index) = self.position(packet_id) {
            self.remove(index);
        }
    }

    pub(super) fn entries(&self) -> &VecDeque<InFlight> {
        &self.entries
    }

    pub(super) fn into_parts(self) -> (VecDeque<InFlight>, u16) {
        (self.entries, self.next_id)
    }
}
