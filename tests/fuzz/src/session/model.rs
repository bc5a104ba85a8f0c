//! What client and session owe each other, kept the plain way: lists, looked at from the front.

use std::collections::{BTreeMap, VecDeque};

use headwater_broker::mqtt::packet::*;
use headwater_broker::mqtt::session::{Close, InFlight, Stage};

/// Acknowledgements besides those of publishes that a session lets stand, as its source says.
const OTHER_ACKS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PubAck,
    PubRec,
    PubComp,
    SubAck,
    UnsubAck,
}

#[derive(Debug)]
struct Owed {
    kind: Kind,
    packet_id: PacketId,
    filters: usize,
    /// `None`: the router has not answered.
    ticket: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Model {
    version: Version,
    receive_maximum: usize,
    window: usize,
    /// The last ticket given out, and how far all is durable.
    pub(super) ticket: u64,
    pub(super) mark: u64,
    /// A timeout was due in this step.
    pub(super) may_time_out: bool,
    owed: VecDeque<Owed>,
    /// QoS 2 ids between PUBLISH and PUBREL; with a ticket once the router has answered.
    received: BTreeMap<PacketId, Option<u64>>,
    /// PUBLISH with QoS > 0 of this connection that the client saw no end of.
    unacknowledged: Vec<(QoS, PacketId)>,
    /// The client used no id twice on this connection.
    proper: bool,
    /// The packet that is being handled, and what must come of it.
    packet: Option<Packet>,
    /// How far that had come which it acknowledges, perhaps on an earlier connection.
    waiting: Option<Stage>,
    handed: usize,
    pings: usize,
    releases: Vec<PacketId>,
    /// Deliveries that the client has not acknowledged, as it sees them; on this connection.
    open: BTreeMap<PacketId, Stage>,
}

impl Model {
    pub(super) fn new(version: Version, receive_maximum: u16, window: u16) -> Model {
        Model {
            version,
            receive_maximum: usize::from(receive_maximum),
            window: usize::from(window),
            ticket: 0,
            mark: 0,
            may_time_out: false,
            owed: VecDeque::new(),
            received: BTreeMap::new(),
            unacknowledged: Vec::new(),
            proper: true,
            packet: None,
            waiting: None,
            handed: 0,
            pings: 0,
            releases: Vec::new(),
            open: BTreeMap::new(),
        }
    }

    /// The client sends this.
    pub(super) fn before(&mut self, packet: &Packet, in_flight: &VecDeque<InFlight>) {
        self.packet = Some(packet.clone());
        self.waiting = match packet {
            Packet::PubRec(ack) => {
                in_flight.iter().find(|entry| entry.packet_id == ack.packet_id).map(|entry| entry.stage)
            }
            _ => None,
        };
    }

    /// The shell could not send it: it is larger than the client takes.
    pub(super) fn forgotten(&mut self, packet_id: PacketId) {
        self.open.remove(&packet_id);
    }

    /// The session gave this to the router.
    pub(super) fn handed_out(&mut self, packet: &Packet) {
        match (packet, &self.packet) {
            (Packet::Publish(out), Some(Packet::Publish(sent))) => assert_eq!(out.payload, sent.payload),
            (Packet::Subscribe(_), Some(Packet::Subscribe(_))) => {}
            (Packet::Unsubscribe(_), Some(Packet::Unsubscribe(_))) => {}
            other => panic!("{other:?}"),
        }
        self.handed += 1;
    }

    pub(super) fn released(&mut self, packet_id: PacketId) {
        assert!(matches!(&self.packet, Some(Packet::PubRel(ack)) if ack.packet_id == packet_id));
        self.handed += 1;
    }

    /// The step is over; what the session did must be what the packet asks for.
    pub(super) fn after(&mut self, close: Option<Close>) {
        let timed_out = std::mem::take(&mut self.may_time_out);
        let handed = std::mem::take(&mut self.handed);
        let packet = self.packet.take();
        if let Some(close) = close {
            assert_eq!(handed, 0, "what ends the connection is not routed");
            assert!(packet.is_some() || timed_out || close.reason == ReasonCode::SessionTakenOver, "{close:?}");
            if close.reason == ReasonCode::ReceiveMaximumExceeded {
                let within = self.unacknowledged.len() < self.receive_maximum;
                assert!(!(within && self.proper), "cut off within the receive maximum: {self:?}");
            }
            return;
        }
        assert!(!timed_out, "[MQTT-3.1.2-22]");
        let expected = packet.is_some_and(|packet| self.apply(packet));
        assert_eq!(handed, usize::from(expected), "{self:?}");
    }

    /// True: the packet goes to the router.
    fn apply(&mut self, packet: Packet) -> bool {
        match packet {
            Packet::Publish(Publish { qos, packet_id, .. }) => return self.publish(qos, packet_id),
            Packet::PubRel(ack) => match self.received.get(&ack.packet_id) {
                Some(Some(_)) => {
                    self.owe(Kind::PubComp, ack.packet_id, 0, None);
                    return true;
                }
                Some(None) => panic!("PUBREL before PUBREC was let pass"),
                None => self.owe(Kind::PubComp, ack.packet_id, 0, Some(0)),
            },
            Packet::Subscribe(p) => {
                self.owe(Kind::SubAck, p.packet_id, p.filters.len(), None);
                return true;
            }
            Packet::Unsubscribe(p) => {
                self.owe(Kind::UnsubAck, p.packet_id, p.filters.len(), None);
                return true;
            }
            Packet::PubAck(ack) => self.finish(ack.packet_id, Stage::AwaitsAck),
            Packet::PubComp(ack) => self.finish(ack.packet_id, Stage::AwaitsComp),
            Packet::PubRec(ack) => match self.open.get(&ack.packet_id) {
                Some(Stage::AwaitsAck) => panic!("PUBREC for a QoS 1 message was let pass"),
                Some(Stage::AwaitsRec) if ack.reason.is_failure() => {
                    self.open.remove(&ack.packet_id);
                }
                Some(_) => {
                    self.open.insert(ack.packet_id, Stage::AwaitsComp);
                    self.releases.push(ack.packet_id);
                }
                // One that waits to be sent again, or that nobody knows.
                None => match self.waiting.take() {
                    Some(Stage::AwaitsAck) => panic!("PUBREC for a QoS 1 message was let pass"),
                    Some(Stage::AwaitsRec) if ack.reason.is_failure() => {}
                    Some(_) | None => self.releases.push(ack.packet_id),
                },
            },
            Packet::PingReq => self.pings += 1,
            other => panic!("{other:?} was let pass"),
        }
        false
    }

    fn publish(&mut self, qos: QoS, packet_id: Option<PacketId>) -> bool {
        let Some(packet_id) = packet_id else { return true };
        let again = qos == QoS::ExactlyOnce && self.received.contains_key(&packet_id);
        // In use until its last acknowledgement has come, also where that answers a PUBREL out of nowhere.
        let in_use = self.unacknowledged.iter().map(|(_, id)| *id).chain(self.owed.iter().map(|owed| owed.packet_id));
        self.proper &= !in_use.into_iter().any(|id| id == packet_id) && !again;
        match qos {
            QoS::AtMostOnce => panic!("a packet id with QoS 0"),
            QoS::AtLeastOnce => self.owe(Kind::PubAck, packet_id, 0, None),
            QoS::ExactlyOnce => match self.received.get(&packet_id) {
                Some(Some(ticket)) => {
                    let ticket = Some(*ticket);
                    self.owe(Kind::PubRec, packet_id, 0, ticket);
                    return false;
                }
                Some(None) => return false,
                None => {
                    self.received.insert(packet_id, None);
                    self.owe(Kind::PubRec, packet_id, 0, None);
                }
            },
        }
        self.unacknowledged.push((qos, packet_id));
        true
    }

    fn owe(&mut self, kind: Kind, packet_id: PacketId, filters: usize, ticket: Option<u64>) {
        self.owed.push_back(Owed { kind, packet_id, filters, ticket });
        assert!(self.owed.len() <= self.receive_maximum + OTHER_ACKS, "what is owed is bounded: {self:?}");
    }

    fn finish(&mut self, packet_id: PacketId, stage: Stage) {
        if let Some(open) = self.open.get(&packet_id) {
            assert_eq!(*open, stage, "an acknowledgement of the wrong kind was let pass");
            self.open.remove(&packet_id);
        }
    }

    /// What the router has to answer next, and how many filters it holds.
    pub(super) fn first_open(&self) -> Option<(Kind, usize)> {
        self.owed.iter().find(|owed| owed.ticket.is_none()).map(|owed| (owed.kind, owed.filters))
    }

    /// It was answered with the last ticket.
    pub(super) fn answered(&mut self, refused: bool) {
        let ticket = self.ticket;
        let owed = self.owed.iter_mut().find(|owed| owed.ticket.is_none()).expect("something was open");
        owed.ticket = Some(ticket);
        let packet_id = owed.packet_id;
        match owed.kind {
            Kind::PubRec if refused && self.version == Version::V5 => drop(self.received.remove(&packet_id)),
            // A second PUBREL may have released it meanwhile, which no proper client sends.
            Kind::PubRec => drop(self.received.get_mut(&packet_id).map(|received| *received = Some(ticket))),
            Kind::PubComp => drop(self.received.remove(&packet_id)),
            Kind::PubAck | Kind::SubAck | Kind::UnsubAck => {}
        }
    }

    /// The session sends this.
    pub(super) fn sent(&mut self, packet: &Packet) {
        match packet {
            Packet::PubAck(ack) => self.left(Kind::PubAck, ack.packet_id, ack.reason),
            Packet::PubRec(ack) => self.left(Kind::PubRec, ack.packet_id, ack.reason),
            Packet::PubComp(ack) => self.left(Kind::PubComp, ack.packet_id, ack.reason),
            Packet::SubAck(ack) => self.left(Kind::SubAck, ack.packet_id, ReasonCode::Success),
            Packet::UnsubAck(ack) => self.left(Kind::UnsubAck, ack.packet_id, ReasonCode::Success),
            Packet::PubRel(ack) => match self.releases.iter().position(|id| *id == ack.packet_id) {
                Some(at) => drop(self.releases.remove(at)),
                // Sent again after a new connection [MQTT-4.4.0-1].
                None => assert!(self.open.insert(ack.packet_id, Stage::AwaitsComp).is_none(), "[MQTT-4.3.3-6]"),
            },
            Packet::PingResp => self.pings = self.pings.checked_sub(1).expect("[MQTT-3.12.4-1]"),
            Packet::Disconnect(_) => assert_eq!(self.version, Version::V5),
            other => panic!("a session never sends {other:?}"),
        }
    }

    fn left(&mut self, kind: Kind, packet_id: PacketId, reason: ReasonCode) {
        let owed = self.owed.pop_front().expect("something was owed");
        assert_eq!((owed.kind, owed.packet_id), (kind, packet_id), "in the order of arrival");
        assert!(owed.ticket.is_some_and(|ticket| ticket <= self.mark), "G1: {owed:?}");
        let qos = match kind {
            Kind::PubAck => QoS::AtLeastOnce,
            Kind::PubComp => QoS::ExactlyOnce,
            Kind::PubRec if reason.is_failure() => QoS::ExactlyOnce,
            Kind::PubRec | Kind::SubAck | Kind::UnsubAck => return,
        };
        if let Some(at) = self.unacknowledged.iter().position(|open| *open == (qos, packet_id)) {
            self.unacknowledged.remove(at);
        }
    }

    /// The session sends this message.
    pub(super) fn delivered(&mut self, publish: &Publish) {
        let Some(packet_id) = publish.packet_id else { return };
        let stage = if publish.qos == QoS::AtLeastOnce { Stage::AwaitsAck } else { Stage::AwaitsRec };
        assert!(self.open.insert(packet_id, stage).is_none(), "[MQTT-2.2.1-4] {self:?}");
        assert!(self.open.len() <= self.window, "[MQTT-3.3.4-9] {self:?}");
    }

    /// Everything that may leave has left.
    pub(super) fn nothing_is_late(&self, waits_for: Option<u64>) {
        let front = self.owed.front().and_then(|owed| owed.ticket);
        assert_eq!(front, waits_for);
        assert!(front.is_none_or(|ticket| ticket > self.mark), "{self:?}");
        assert_eq!(self.pings, 0, "[MQTT-3.12.4-1]");
        assert!(self.releases.is_empty(), "[MQTT-4.3.3-4] {:?}", self.releases);
    }

    /// Whatever the client sees as open, the session knows, once.
    pub(super) fn agrees(&self, in_flight: &VecDeque<InFlight>) {
        let known: BTreeMap<PacketId, Stage> = in_flight.iter().map(|entry| (entry.packet_id, entry.stage)).collect();
        assert_eq!(known.len(), in_flight.len(), "[MQTT-2.2.1-4]");
        for (packet_id, stage) in &self.open {
            assert_eq!(known.get(packet_id), Some(stage), "{self:?} {in_flight:?}");
        }
    }

    pub(super) fn received(&self) -> impl Iterator<Item = u16> + '_ {
        self.received.keys().map(|id| id.get())
    }

    /// Messages whose routing was not answered are as if never received.
    pub(super) fn disconnected(&mut self) {
        self.received.retain(|_, ticket| ticket.is_some());
        self.owed.clear();
        self.unacknowledged.clear();
        self.open.clear();
        self.proper = true;
    }

    pub(super) fn connected(&mut self, window: u16) {
        self.window = usize::from(window);
    }
}
