//! Messages from the client with QoS 2 that are not released, and the receive maximum it must keep to.

use std::collections::BTreeMap;

use super::acks::AckTicket;
use crate::mqtt::packet::PacketId;

/// A QoS 2 packet id between PUBLISH and PUBREL: while it is here, the message is not published again [MQTT-4.3.3-10].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    /// `None` while the router has not answered; the id must not outlive the connection then.
    pub(super) ticket: Option<AckTicket>,
    /// Counts against the receive maximum of this connection.
    counted: bool,
}

/// Ids received and not released. At most 65,535, about 30 bytes each; a v5 client cannot have more than the receive maximum
/// open, a 3.1.1 client opens as many as it likes but only at the pace of our PUBRECs.
#[derive(Debug, Default)]
pub struct ReceivedIds {
    ids: BTreeMap<u16, Received>,
    counted: usize,
}

impl ReceivedIds {
    /// Ids that are durable, as found at start.
    pub fn restored(ids: impl IntoIterator<Item = PacketId>) -> Self {
        let durable = Received { ticket: Some(AckTicket(0)), counted: false };
        Self { ids: ids.into_iter().map(|id| (id.0.get(), durable)).collect(), counted: 0 }
    }

    /// Every id, in order of number.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ids.keys().copied()
    }

    /// What a new connection of the same session begins with.
    pub(super) fn handed_over(mut self) -> Self {
        self.ids.retain(|_, received| received.ticket.is_some());
        for received in self.ids.values_mut() {
            received.counted = false;
        }
        self.counted = 0;
        self
    }

    pub(super) fn find(&self, id: PacketId) -> Option<Received> {
        self.ids.get(&id.0.get()).copied()
    }

    pub(super) fn insert(&mut self, id: PacketId) {
        self.ids.insert(id.0.get(), Received { ticket: None, counted: true });
        self.counted += 1;
    }

    pub(super) fn settle(&mut self, id: PacketId, ticket: AckTicket) {
        if let Some(received) = self.ids.get_mut(&id.0.get()) {
            received.ticket = Some(ticket);
        }
    }

    pub(super) fn remove(&mut self, id: PacketId) {
        if self.ids.remove(&id.0.get()).is_some_and(|received| received.counted) {
            self.counted -= 1;
        }
    }

    /// Handshakes that this connection began and that are open.
    pub(super) fn counted(&self) -> usize {
        self.counted
    }
}
