//! A client that sends exactly what it is told and shows everything it receives.

use std::collections::VecDeque;
use std::future::Future;

use bytes::{Bytes, BytesMut};
use headwater_broker::mqtt::codec::{decode, encode};
use headwater_broker::mqtt::packet::*;
use headwater_tests::wait::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::target::Target;

/// Both versions, for tests that hold in both.
pub(crate) const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// A CONNECT with a clean start and a keep alive of a minute.
pub(crate) fn hello(version: Version, client_id: &str) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        // Unique per version, so that tests may share a broker.
        client_id: format!("{client_id}-{version:?}"),
        will: None,
        username: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

/// A CONNECT of a session that stays for an hour and is taken up if there is one.
pub(crate) fn resume(version: Version, client_id: &str) -> Connect {
    let mut connect = Connect { clean_start: false, ..hello(version, client_id) };
    if version == Version::V5 {
        connect.properties.session_expiry = Some(3_600);
    }
    connect
}

/// A PUBLISH at QoS 0 without properties.
pub(crate) fn publish(topic: &str, payload: &str) -> Publish {
    Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic: Some(topic.parse().expect("a topic")),
        packet_id: None,
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    }
}

/// The same at QoS 1 or 2.
pub(crate) fn publish_at(qos: QoS, packet_id: u16, topic: &str, payload: &str) -> Publish {
    Publish { qos, packet_id: PacketId::new(packet_id), ..publish(topic, payload) }
}

/// An acknowledgement without anything but its id.
pub(crate) fn ack(packet_id: PacketId) -> Ack {
    Ack { packet_id, reason: ReasonCode::Success, reason_string: None, user: Vec::new() }
}

/// A DISCONNECT with that reason.
pub(crate) fn disconnect(reason: ReasonCode) -> Packet {
    let (reason_string, server_reference) = (None, None);
    Packet::Disconnect(Disconnect { reason, session_expiry: None, reason_string, user: Vec::new(), server_reference })
}

/// Payload as text.
pub(crate) fn text(publish: &Publish) -> &str {
    std::str::from_utf8(&publish.payload).expect("the tests send text")
}

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    version: Version,
    read: BytesMut,
    /// What came while something else was awaited.
    early: VecDeque<Publish>,
    next_id: u16,
    /// The connection was reset, instead of closed.
    pub(crate) torn: bool,
    /// The answer to CONNECT.
    pub(crate) connack: ConnAck,
}

impl Client {
    /// A connection on which nothing was sent.
    pub(crate) async fn open(target: &Target, version: Version) -> Client {
        let stream = patiently("a connection", TcpStream::connect(target.address())).await.expect("a broker listens");
        Client::over(stream, version)
    }

    fn over(stream: TcpStream, version: Version) -> Client {
        stream.set_nodelay(true).expect("a socket of ours");
        Client {
            stream,
            version,
            read: BytesMut::new(),
            early: VecDeque::new(),
            next_id: 1,
            torn: false,
            connack: ConnAck {
                session_present: false,
                reason: ReasonCode::UnspecifiedError,
                properties: ConnAckProperties::default(),
            },
        }
    }

    /// Connects and is accepted.
    pub(crate) async fn connect(target: &Target, connect: Connect) -> Client {
        let mut client = Client::open(target, connect.version).await;
        client.send(Packet::Connect(Box::new(connect))).await;
        client.accepted().await;
        client
    }

    /// Connects, unless the broker is gone before it answers.
    pub(crate) async fn try_connect(target: &Target, connect: Connect) -> Option<Client> {
        let stream = patiently("a connection", TcpStream::connect(target.address())).await.ok()?;
        let mut client = Client::over(stream, connect.version);
        client.send_or_lose(Packet::Connect(Box::new(connect))).await;
        match client.recv_or_end().await? {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => client.connack = *connack,
            other => panic!("expected an accepting CONNACK, got {other:?}"),
        }
        Some(client)
    }

    /// The next packet is a CONNACK that accepts.
    pub(crate) async fn accepted(&mut self) {
        match self.recv().await {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => self.connack = *connack,
            other => panic!("expected an accepting CONNACK, got {other:?}"),
        }
    }

    /// Sends a packet.
    pub(crate) async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode(&packet, self.version, &mut bytes).unwrap_or_else(|e| panic!("{packet:?}: {e}"));
        self.send_bytes(&bytes).await;
    }

    /// Sends a packet on a connection that may have ended.
    pub(crate) async fn send_or_lose(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        encode(&packet, self.version, &mut bytes).unwrap_or_else(|e| panic!("{packet:?}: {e}"));
        self.send_to_be_refused(&bytes).await;
    }

    /// Sends bytes.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        patiently("room to send", self.stream.write_all(bytes)).await.expect("the connection is open");
    }

    /// Sends bytes to a broker that may close the connection at any of them.
    pub(crate) async fn send_to_be_refused(&mut self, bytes: &[u8]) {
        // A reset while we write is an answer too; what was said before it is still read.
        let _ = patiently("room to send", self.stream.write_all(bytes)).await;
    }

    /// The next packet.
    pub(crate) async fn recv(&mut self) -> Packet {
        self.recv_or_end().await.expect("expected a packet, but the broker closed the connection")
    }

    /// The next packet, or `None` if the broker closed the connection.
    pub(crate) async fn recv_or_end(&mut self) -> Option<Packet> {
        loop {
            let packet = decode(&mut self.read, Some(self.version), u32::MAX);
            if let Some(packet) = packet.unwrap_or_else(|e| panic!("the broker sent what is no packet: {e}")) {
                return Some(packet);
            }
            match patiently("a packet", self.stream.read_buf(&mut self.read)).await {
                Ok(1..) => {}
                Ok(0) => return None,
                Err(_) => {
                    self.torn = true;
                    return None;
                }
            }
        }
    }

    /// The broker closes the connection; on MQTT 5 it may say why before, and nothing else.
    pub(crate) async fn closed(&mut self) -> Option<ReasonCode> {
        let mut reason = None;
        while let Some(packet) = self.recv_or_end().await {
            match packet {
                Packet::Disconnect(disconnect) if self.version == Version::V5 && reason.is_none() => {
                    reason = Some(disconnect.reason);
                }
                other => panic!("expected the end of the connection, got {other:?}"),
            }
        }
        assert!(self.read.is_empty(), "the connection ended within a packet: {:?}", self.read);
        reason
    }

    /// What CONNACK says, if the broker sends one.
    pub(crate) async fn answer_to_connect(&mut self) -> Option<ReasonCode> {
        match self.recv_or_end().await {
            Some(Packet::ConnAck(connack)) => Some(connack.reason),
            Some(other) => panic!("expected CONNACK or the end of the connection, got {other:?}"),
            None => None,
        }
    }

    /// The broker closes the connection, perhaps after a CONNACK, whose reason this gives.
    pub(crate) async fn refused_or_closed(&mut self) -> Option<ReasonCode> {
        let reason = self.answer_to_connect().await;
        if reason.is_some() {
            assert_eq!(self.closed().await, None, "nothing follows a refusal");
        }
        reason
    }

    /// A packet id that this connection has not used.
    pub(crate) fn fresh_id(&mut self) -> PacketId {
        let id = PacketId::new(self.next_id).expect("few ids are used");
        self.next_id += 1;
        id
    }

    /// Subscribes with these options and gives the reason code of the answer.
    pub(crate) async fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscriptionOptions,
        subscription_id: Option<u32>,
    ) -> ReasonCode {
        let packet_id = self.fresh_id();
        let filters = vec![(filter.parse().map_err(|_| filter.to_owned()), options)];
        self.send(Packet::Subscribe(Subscribe { packet_id, subscription_id, user: Vec::new(), filters })).await;
        let suback = self.suback().await;
        assert_eq!((suback.packet_id, suback.reasons.len()), (packet_id, 1));
        suback.reasons[0]
    }

    /// Subscribes, and is granted what it asks for.
    pub(crate) async fn subscribe(&mut self, filter: &str, qos: QoS) {
        let granted = self.subscribe_with(filter, SubscriptionOptions { qos, ..Default::default() }, None).await;
        assert_eq!(granted, ReasonCode::granted(qos), "{filter}");
    }

    /// The next SUBACK; messages may come before it [MQTT-3.8.4-2].
    pub(crate) async fn suback(&mut self) -> SubAck {
        loop {
            match self.recv().await {
                Packet::SubAck(suback) => return suback,
                Packet::Publish(early) => self.early.push_back(early),
                other => panic!("expected SUBACK, got {other:?}"),
            }
        }
    }

    /// Unsubscribes and gives the reason codes of the answer, which MQTT 3.1.1 does not have.
    pub(crate) async fn unsubscribe(&mut self, filter: &str) -> Vec<ReasonCode> {
        let packet_id = self.fresh_id();
        let filters = vec![filter.parse().map_err(|_| filter.to_owned())];
        self.send(Packet::Unsubscribe(Unsubscribe { packet_id, user: Vec::new(), filters })).await;
        loop {
            match self.recv().await {
                Packet::UnsubAck(unsuback) => {
                    assert_eq!(unsuback.packet_id, packet_id);
                    return unsuback.reasons;
                }
                Packet::Publish(early) => self.early.push_back(early),
                other => panic!("expected UNSUBACK, got {other:?}"),
            }
        }
    }

    /// Publishes and awaits all acknowledgements; gives the reason of the first.
    pub(crate) async fn publish(&mut self, mut publish: Publish) -> ReasonCode {
        if publish.qos > QoS::AtMostOnce && publish.packet_id.is_none() {
            publish.packet_id = Some(self.fresh_id());
        }
        let (qos, packet_id) = (publish.qos, publish.packet_id);
        self.send(Packet::Publish(publish)).await;
        match (qos, self.acknowledgement(qos).await) {
            (QoS::AtMostOnce, _) => ReasonCode::Success,
            (_, Some(Packet::PubAck(ack))) => {
                assert_eq!(Some(ack.packet_id), packet_id);
                ack.reason
            }
            (_, Some(Packet::PubRec(received))) => {
                assert_eq!(Some(received.packet_id), packet_id);
                if !received.reason.is_failure() {
                    self.release(received.packet_id).await;
                }
                received.reason
            }
            (_, other) => panic!("expected an acknowledgement, got {other:?}"),
        }
    }

    async fn acknowledgement(&mut self, qos: QoS) -> Option<Packet> {
        if qos == QoS::AtMostOnce {
            return None;
        }
        loop {
            match self.recv().await {
                Packet::Publish(early) => self.early.push_back(early),
                other => return Some(other),
            }
        }
    }

    /// PUBREL, and the PUBCOMP to it.
    pub(crate) async fn release(&mut self, packet_id: PacketId) -> ReasonCode {
        self.send(Packet::PubRel(ack(packet_id))).await;
        match self.acknowledgement(QoS::ExactlyOnce).await {
            Some(Packet::PubComp(complete)) if complete.packet_id == packet_id => complete.reason,
            other => panic!("expected PUBCOMP, got {other:?}"),
        }
    }

    /// The next message, unacknowledged.
    pub(crate) async fn unacknowledged(&mut self) -> Publish {
        if let Some(early) = self.early.pop_front() {
            return early;
        }
        match self.recv().await {
            Packet::Publish(publish) => publish,
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }

    /// The next message, unacknowledged. What an earlier connection left to be completed is completed on the way.
    pub(crate) async fn message_or_release(&mut self) -> Publish {
        if let Some(early) = self.early.pop_front() {
            return early;
        }
        loop {
            match self.recv().await {
                Packet::Publish(publish) => return publish,
                Packet::PubRel(release) => self.send(Packet::PubComp(ack(release.packet_id))).await,
                other => panic!("expected PUBLISH or PUBREL, got {other:?}"),
            }
        }
    }

    /// The next message, acknowledged as its QoS wants.
    pub(crate) async fn message(&mut self) -> Publish {
        let message = self.unacknowledged().await;
        self.acknowledge(&message).await;
        message
    }

    /// Acknowledges a message as its QoS wants, to the end.
    pub(crate) async fn acknowledge(&mut self, message: &Publish) {
        match (message.qos, message.packet_id) {
            (QoS::AtLeastOnce, Some(id)) => self.send(Packet::PubAck(ack(id))).await,
            (QoS::ExactlyOnce, Some(id)) => {
                self.send(Packet::PubRec(ack(id))).await;
                loop {
                    match self.recv().await {
                        Packet::PubRel(release) if release.packet_id == id => break,
                        Packet::Publish(early) => self.early.push_back(early),
                        other => panic!("expected PUBREL, got {other:?}"),
                    }
                }
                self.send(Packet::PubComp(ack(id))).await;
            }
            _ => {}
        }
    }

    /// The payloads of the next messages up to the one that says `last`, which is not among them.
    pub(crate) async fn until(&mut self, last: &str) -> Vec<String> {
        let mut payloads = Vec::new();
        loop {
            let message = self.message().await;
            if text(&message) == last {
                return payloads;
            }
            payloads.push(text(&message).to_owned());
        }
    }

    /// The broker has handled everything that was sent so far.
    pub(crate) async fn settled(&mut self) {
        self.send(Packet::PingReq).await;
        loop {
            match self.recv().await {
                Packet::PingResp => return,
                Packet::Publish(early) => self.early.push_back(early),
                other => panic!("expected PINGRESP, got {other:?}"),
            }
        }
    }

    /// How many messages have come that nobody asked for yet.
    pub(crate) fn waiting(&self) -> usize {
        self.early.len()
    }

    /// DISCONNECT, and the broker closes the connection.
    pub(crate) async fn goodbye(mut self) {
        self.send(disconnect(ReasonCode::Success)).await;
        assert_eq!(self.closed().await, None);
    }

    /// The connection ends without DISCONNECT.
    pub(crate) fn vanish(self) {
        drop(self);
    }
}

async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}
