//! What leaves a connection, and what must be on disk before it may: packets of QoS 2 towards sessions that are kept.

use std::sync::atomic::Ordering::Relaxed;

use super::connection::{Blocked, Connection};
use crate::log::AppendError;
use crate::mqtt::packet::{Packet, QoS};
use crate::mqtt::session::{Outgoing, Transmit};

/// Packets that may wait to be written before no further messages are taken for the client.
const WAITING_PACKETS: usize = 256;

impl Connection {
    /// Encodes what the machine wants to be written, up to what must be on disk first.
    pub(super) fn transmit(&mut self) {
        loop {
            let early = self.waits_for_disk();
            if early && self.closing.is_none() {
                return;
            }
            let Some(transmit) = self.session.poll_transmit() else { return };
            self.exact = self.exact.saturating_sub(1);
            match transmit {
                // The connection ends before it could be sent: it stays in flight, and the next connection sends it.
                _ if early => {}
                Transmit::Packet(packet) => self.send(packet),
                Transmit::Publish(outgoing) => self.send_publish(&outgoing),
            }
        }
    }

    /// The next packet is one of QoS 2 that must not leave yet.
    ///
    /// IMPORTANT: the packet id of a message must be on disk before the message leaves, and its stage before PUBREL does. The client
    /// remembers the id from the one to the other; a broker that comes back from a kill with another id, or with the message
    /// behind PUBREL, would deliver it twice [MQTT-4.3.3-2].
    fn waits_for_disk(&self) -> bool {
        self.exact == 0
            && self.session.expiry().persists()
            && match self.session.next_transmit() {
                Some(Transmit::Publish(outgoing)) => outgoing.qos == QoS::ExactlyOnce,
                Some(Transmit::Packet(packet)) => matches!(packet, Packet::PubRel(_)),
                None => false,
            }
    }

    /// Saves what packets of QoS 2 wait for, all that wait with one record.
    pub(super) fn save_exact(&mut self) {
        if self.awaits_exact() || self.closing.is_some() || !self.waits_for_disk() {
            return;
        }
        let count = self.session.transmits_waiting();
        match self.save_now() {
            Ok(ticket) => {
                let busy = self.busy.get_or_insert_default();
                busy.exact_after = Some((ticket, count));
                busy.save_at = None;
                self.session.saved();
            }
            Err(AppendError::Busy) => self.blocked = Some(Blocked::Room),
            Err(AppendError::Failed) => self.log_failed(),
            // A record that finds no place is counted; the client is served all the same.
            Err(AppendError::TooLarge { .. } | AppendError::Full { .. }) => {
                self.exact = count;
                self.transmit();
            }
        }
    }

    /// There is room for further messages towards the client.
    pub(super) fn may_deliver(&self) -> bool {
        self.wire.has_room() && self.session.transmits_waiting() < WAITING_PACKETS
    }

    fn send_publish(&mut self, outgoing: &Outgoing) {
        self.moved = true;
        let topic = &outgoing.message.topic;
        let alias = self.session.alias(topic);
        match self.wire.deliver(outgoing, alias, self.session.version(), self.max_packet_bytes) {
            Ok(alias) => {
                if let Some(alias) = alias {
                    self.session.alias_sent(alias, topic);
                }
                self.hub.counters.packets_out.fetch_add(1, Relaxed);
                self.hub.counters.messages_out[outgoing.qos as usize].fetch_add(1, Relaxed);
                self.hub.counters.redelivered.fetch_add(u64::from(outgoing.dup), Relaxed);
            }
            Err(packet_id) => {
                self.hub.counters.dropped_too_large_for_client.fetch_add(1, Relaxed);
                if let Some(packet_id) = packet_id {
                    self.session.undeliverable(packet_id);
                }
            }
        }
    }

    fn send(&mut self, packet: Packet) {
        self.hub.counters.packets_out.fetch_add(1, Relaxed);
        if !self.wire.send(packet, self.session.version(), self.max_packet_bytes) {
            // An acknowledgement that the client does not accept: the specification has no way out but to leave it away.
            self.hub.counters.dropped_too_large_for_client.fetch_add(1, Relaxed);
        }
    }
}
