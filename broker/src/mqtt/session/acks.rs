//! Acknowledgements that we owe, in the order in which their packets arrived.

use crate::mqtt::packet::{Ack, Packet, PacketId, ReasonCode, SubAck, UnsubAck};
use crate::queue::Queue;

/// Counts append groups of the log. An acknowledgement leaves when the durable mark has reached its ticket (G1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AckTicket(pub u64);

/// What an acknowledgement answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckKind {
    PubAck,
    PubRec,
    PubComp,
    SubAck,
    UnsubAck,
}

#[derive(Debug)]
enum State {
    /// The router has not answered yet.
    Open,
    /// Leaves once the mark reaches the ticket.
    Answered(AckTicket, Packet),
}

#[derive(Debug)]
struct Pending {
    kind: AckKind,
    packet_id: PacketId,
    state: State,
}

/// The queue: at most the receive maximum, plus what [`super::Session::wants_read`] lets in besides, times about 150 bytes.
///
/// One queue for all kinds keeps PUBACK and PUBREC in the order of their PUBLISH [MQTT-4.6.0-2, MQTT-4.6.0-3].
#[derive(Debug, Default)]
pub(super) struct Acks {
    queue: Queue<Pending>,
    /// Everything before this index is answered.
    open_from: usize,
    /// PUBACK in the queue.
    pubacks: usize,
    /// PUBREC in the queue.
    pubrecs: usize,
}

impl Acks {
    /// Owes an answer that the router will give.
    pub(super) fn expect(&mut self, kind: AckKind, packet_id: PacketId) {
        self.count(kind);
        self.queue.push_back(Pending { kind, packet_id, state: State::Open });
    }

    /// Owes an answer that is known already.
    pub(super) fn push(&mut self, kind: AckKind, packet_id: PacketId, ticket: AckTicket, packet: Packet) {
        self.count(kind);
        self.queue.push_back(Pending { kind, packet_id, state: State::Answered(ticket, packet) });
    }

    /// Holds memory for acknowledgements that are not owed now.
    pub(super) fn holds_room(&self) -> bool {
        self.queue.holds_room()
    }

    /// Gives it back.
    pub(super) fn rest(&mut self) {
        self.queue.rest();
    }

    fn count(&mut self, kind: AckKind) {
        match kind {
            AckKind::PubAck => self.pubacks += 1,
            AckKind::PubRec => self.pubrecs += 1,
            AckKind::PubComp | AckKind::SubAck | AckKind::UnsubAck => {}
        }
    }

    /// The oldest one that the router has not answered.
    pub(super) fn first_open(&mut self) -> Option<(AckKind, PacketId)> {
        while self.queue.get(self.open_from).is_some_and(|p| matches!(p.state, State::Answered(..))) {
            self.open_from += 1;
        }
        self.queue.get(self.open_from).map(|p| (p.kind, p.packet_id))
    }

    /// Answers the one that [`Self::first_open`] returned.
    pub(super) fn answer_first(&mut self, ticket: AckTicket, packet: Packet) {
        if let Some(pending) = self.queue.get_mut(self.open_from) {
            pending.state = State::Answered(ticket, packet);
            self.open_from += 1;
        }
    }

    /// The next acknowledgement that may leave when `mark` is durable.
    pub(super) fn pop_durable(&mut self, mark: AckTicket) -> Option<(AckKind, PacketId, Packet)> {
        match self.queue.front()?.state {
            State::Answered(ticket, _) if ticket <= mark => {}
            State::Answered(..) | State::Open => return None,
        }
        let Pending { kind, packet_id, state: State::Answered(_, packet) } = self.queue.pop_front()? else {
            return None;
        };
        self.open_from = self.open_from.saturating_sub(1);
        match kind {
            AckKind::PubAck => self.pubacks -= 1,
            AckKind::PubRec => self.pubrecs -= 1,
            AckKind::PubComp | AckKind::SubAck | AckKind::UnsubAck => {}
        }
        if self.queue.is_empty() && self.queue.capacity() > super::KEPT_CAPACITY {
            self.queue.rest();
        }
        Some((kind, packet_id, packet))
    }

    /// The ticket that the oldest acknowledgement waits for.
    pub(super) fn waits_for(&self) -> Option<AckTicket> {
        match self.queue.front()?.state {
            State::Answered(ticket, _) => Some(ticket),
            State::Open => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// PUBACK that have not left.
    pub(super) fn pubacks(&self) -> usize {
        self.pubacks
    }

    /// PUBACK and PUBREC that have not left.
    pub(super) fn publishes(&self) -> usize {
        self.pubacks + self.pubrecs
    }
}

pub(super) fn ack(packet_id: PacketId, reason: ReasonCode, reason_string: Option<&str>) -> Ack {
    Ack { packet_id, reason, reason_string: reason_string.map(str::to_owned), user: Vec::new() }
}

pub(super) fn suback(packet_id: PacketId, reasons: Vec<ReasonCode>) -> Packet {
    Packet::SubAck(SubAck { packet_id, reason_string: None, reasons })
}

pub(super) fn unsuback(packet_id: PacketId, reasons: Vec<ReasonCode>) -> Packet {
    Packet::UnsubAck(UnsubAck { packet_id, reason_string: None, reasons })
}
