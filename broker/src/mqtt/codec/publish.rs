//! PUBLISH (3.3).

use std::num::{NonZeroU16, NonZeroU32};

use bytes::BytesMut;

use super::EncodeError;
use super::frame::{Kind, header_len};
use super::property::{Properties, Property, write_properties};
use super::read::{Reader, protocol_error, topic_name};
use super::write::{Counter, Sink};
use crate::mqtt::packet::{DecodeError, PacketId, Publish, PublishProperties, QoS, Version};
use crate::mqtt::topic::TopicName;

/// Largest subscription identifier: what a variable byte integer holds (3.8.2.1.2).
pub(super) const MAX_SUBSCRIPTION_ID: u32 = 268_435_455;

pub(super) fn decode(from: &mut Reader<'_>, flags: u8, version: Version) -> Result<Publish, DecodeError> {
    // QoS 3 was refused with the fixed header.
    let qos = QoS::from_u8((flags >> 1) & 0b11).unwrap_or_default();
    let topic = from.binary()?;
    let packet_id = if qos == QoS::AtMostOnce { None } else { Some(from.packet_id()?) };
    let mut publish = Publish {
        dup: flags & 0b1000 != 0,
        qos,
        retain: flags & 0b0001 != 0,
        topic: None,
        packet_id,
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: None,
        payload: bytes::Bytes::new(),
    };
    if version == Version::V5 {
        let mut properties = Properties::read(from)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::TopicAlias(alias) => publish.topic_alias = Some(alias),
                Property::SubscriptionId(id) => publish.subscription_ids.push(id.get()),
                other => PublishProperties::take(&mut publish.properties, other)?,
            }
        }
    }
    if !topic.is_empty() || version != Version::V5 {
        publish.topic = Some(topic_name(from.shared(topic))?);
    } else if publish.topic_alias.is_none() {
        return Err(protocol_error("neither topic name nor topic alias (3.3.2.1)"));
    }
    let payload = from.take_rest();
    publish.payload = from.shared(payload);
    Ok(publish)
}

/// The parts of a PUBLISH, borrowed: what goes to one subscriber without building a packet for each.
#[derive(Clone, Copy, Debug)]
pub struct PublishRef<'a> {
    /// Sent before.
    pub dup: bool,
    /// 0, 1, 2.
    pub qos: QoS,
    /// Retain flag.
    pub retain: bool,
    /// `None` only where an MQTT 5 topic alias stands for it.
    pub topic: Option<&'a TopicName>,
    /// Present exactly when `qos` > 0.
    pub packet_id: Option<PacketId>,
    /// Topic alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Subscription identifiers; 0 is not one.
    pub subscription_ids: &'a [u32],
    /// Seconds that are left. Written in place of `properties.message_expiry`, which is what the publisher said
    /// [MQTT-3.3.2-6].
    pub message_expiry: Option<u32>,
    /// Everything else that travels with the message.
    pub properties: Option<&'a PublishProperties>,
    /// The message.
    pub payload: &'a [u8],
}

impl Publish {
    /// Borrows the parts.
    #[must_use]
    pub fn as_parts(&self) -> PublishRef<'_> {
        PublishRef {
            dup: self.dup,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic.as_ref(),
            packet_id: self.packet_id,
            topic_alias: self.topic_alias,
            subscription_ids: &self.subscription_ids,
            message_expiry: self.properties.as_ref().and_then(|properties| properties.message_expiry),
            properties: self.properties.as_deref(),
            payload: &self.payload,
        }
    }
}

/// Appends a PUBLISH to `out`. On MQTT 3.1.1 its properties are left out.
///
/// # Errors
/// As [`EncodeError`] says; `out` is unchanged.
pub fn encode_publish(publish: &PublishRef<'_>, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    encode_publish_within(publish, version, usize::MAX, out).map(drop)
}

/// The same if it takes `max_bytes` at most; `Ok(false)`: it is larger, and `out` is unchanged [MQTT-3.1.2-24].
///
/// # Errors
/// As of [`encode_publish`].
pub fn encode_publish_within(
    publish: &PublishRef<'_>,
    version: Version,
    max_bytes: usize,
    out: &mut BytesMut,
) -> Result<bool, EncodeError> {
    let remaining = remaining_length(publish, version)?;
    let len = header_len(remaining) + remaining;
    if len > max_bytes {
        return Ok(false);
    }
    out.reserve(len);
    write_first(publish, remaining, out);
    write_body(publish, version, out);
    Ok(true)
}

/// Appends all of a PUBLISH but its payload, whose bytes are to follow: large payloads need not be copied.
///
/// # Errors
/// As of [`encode_publish`].
pub fn encode_publish_head(publish: &PublishRef<'_>, version: Version, out: &mut BytesMut) -> Result<(), EncodeError> {
    let remaining = remaining_length(publish, version)?;
    out.reserve(header_len(remaining) + remaining - publish.payload.len());
    write_first(publish, remaining, out);
    write_before_payload(publish, version, out);
    Ok(())
}

/// Bytes that [`encode_publish`] would append.
///
/// # Errors
/// As of [`encode_publish`].
pub fn publish_len(publish: &PublishRef<'_>, version: Version) -> Result<usize, EncodeError> {
    let remaining = remaining_length(publish, version)?;
    Ok(header_len(remaining) + remaining)
}

fn remaining_length(publish: &PublishRef<'_>, version: Version) -> Result<usize, EncodeError> {
    if publish.packet_id.is_some() != (publish.qos > QoS::AtMostOnce) {
        return Err(EncodeError::Invalid("PUBLISH has a packet identifier exactly if QoS > 0 [MQTT-2.2.1-2]"));
    }
    if publish.dup && publish.qos == QoS::AtMostOnce {
        return Err(EncodeError::Invalid("PUBLISH with DUP at QoS 0 [MQTT-3.3.1-2]"));
    }
    if publish.topic.is_none() && (version != Version::V5 || publish.topic_alias.is_none()) {
        return Err(EncodeError::Invalid("PUBLISH without a topic name (3.3.2.1)"));
    }
    if publish.subscription_ids.iter().any(|id| !(1..=MAX_SUBSCRIPTION_ID).contains(id)) {
        return Err(EncodeError::Invalid("subscription identifier is not in 1..=268,435,455 (3.3.2.3.8)"));
    }
    let mut counter = Counter::default();
    write_body(publish, version, &mut counter);
    counter.remaining_length()
}

fn write_first(publish: &PublishRef<'_>, remaining: usize, out: &mut BytesMut) {
    let flags = u8::from(publish.dup) << 3 | (publish.qos as u8) << 1 | u8::from(publish.retain);
    out.u8(Kind::Publish.first_byte() | flags);
    out.varint(remaining);
}

pub(super) fn write_body(publish: &PublishRef<'_>, version: Version, out: &mut impl Sink) {
    write_before_payload(publish, version, out);
    out.put(publish.payload);
}

fn write_before_payload(publish: &PublishRef<'_>, version: Version, out: &mut impl Sink) {
    out.field(publish.topic.map_or(&[][..], |topic| topic.as_bytes()));
    if let Some(packet_id) = publish.packet_id {
        out.u16(packet_id.get());
    }
    if version == Version::V5 {
        write_properties(out, |emit| {
            publish.topic_alias.into_iter().for_each(|alias| emit(Property::TopicAlias(alias)));
            match publish.properties {
                Some(properties) => properties.emit(publish.message_expiry, emit),
                None => publish.message_expiry.into_iter().for_each(|s| emit(Property::MessageExpiry(s))),
            }
            // Last: a client library in wide use miscounts these, and would lose what follows.
            for id in publish.subscription_ids.iter().copied().filter_map(NonZeroU32::new) {
                emit(Property::SubscriptionId(id));
            }
        });
    }
}
