//! Properties of MQTT 5.0 (2.2.2): one table of identifiers and types, read and written here for every packet.

use std::num::{NonZeroU16, NonZeroU32};

use super::MAX_USER_PROPERTIES;
use super::read::{Reader, malformed, protocol_error};
use super::write::{Counter, Sink};
use crate::mqtt::packet::{DecodeError, PublishProperties, QoS, ReasonCode};

/// A property with its value. Values that no packet may carry cannot be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mqtt) enum Property<'a> {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(&'a str),
    ResponseTopic(&'a [u8]),
    CorrelationData(&'a [u8]),
    SubscriptionId(NonZeroU32),
    SessionExpiry(u32),
    AssignedClientId(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelay(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQoS(QoS),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketSize(u32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

impl<'a> Property<'a> {
    /// Reads one property (table 2-4).
    fn read(id: u8, from: &mut Reader<'a>) -> Result<Property<'a>, DecodeError> {
        let flag = |from: &mut Reader<'a>| match from.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(protocol_error("property takes 0 or 1 only (3.1.2.11, 3.2.2.3)")),
        };
        Ok(match id {
            0x01 => match from.u8()? {
                format @ 0..=1 => Property::PayloadFormat(format),
                _ => return Err(protocol_error("payload format indicator is neither 0 nor 1 (3.3.2.3.2)")),
            },
            0x02 => Property::MessageExpiry(from.u32()?),
            0x03 => Property::ContentType(from.string()?),
            0x08 => Property::ResponseTopic(from.string()?.as_bytes()),
            0x09 => Property::CorrelationData(from.binary()?),
            0x0B => match NonZeroU32::new(from.varint()?) {
                Some(id) => Property::SubscriptionId(id),
                None => return Err(protocol_error("subscription identifier 0 (3.3.2.3.8, 3.8.2.1.2)")),
            },
            0x11 => Property::SessionExpiry(from.u32()?),
            0x12 => Property::AssignedClientId(from.string()?),
            0x13 => Property::ServerKeepAlive(from.u16()?),
            0x15 => Property::AuthenticationMethod(from.string()?),
            0x16 => Property::AuthenticationData(from.binary()?),
            0x17 => Property::RequestProblemInformation(flag(from)?),
            0x18 => Property::WillDelay(from.u32()?),
            0x19 => Property::RequestResponseInformation(flag(from)?),
            0x1A => Property::ResponseInformation(from.string()?),
            0x1C => Property::ServerReference(from.string()?),
            0x1F => Property::ReasonString(from.string()?),
            0x21 => match NonZeroU16::new(from.u16()?) {
                Some(maximum) => Property::ReceiveMaximum(maximum),
                None => return Err(protocol_error("Receive Maximum 0 (3.1.2.11.3)")),
            },
            0x22 => Property::TopicAliasMaximum(from.u16()?),
            0x23 => match NonZeroU16::new(from.u16()?) {
                Some(alias) => Property::TopicAlias(alias),
                None => {
                    return Err(DecodeError {
                        reason: ReasonCode::TopicAliasInvalid,
                        detail: "topic alias 0 [MQTT-3.3.2-8]",
                    });
                }
            },
            0x24 => match from.u8()? {
                0 => Property::MaximumQoS(QoS::AtMostOnce),
                1 => Property::MaximumQoS(QoS::AtLeastOnce),
                _ => return Err(protocol_error("Maximum QoS is neither 0 nor 1 (3.2.2.3.4)")),
            },
            0x25 => Property::RetainAvailable(flag(from)?),
            0x26 => Property::User(from.string()?, from.string()?),
            0x27 => match from.u32()? {
                0 => return Err(protocol_error("Maximum Packet Size 0 (3.1.2.11.4)")),
                bytes => Property::MaximumPacketSize(bytes),
            },
            0x28 => Property::WildcardSubscriptionAvailable(flag(from)?),
            0x29 => Property::SubscriptionIdAvailable(flag(from)?),
            0x2A => Property::SharedSubscriptionAvailable(flag(from)?),
            _ => return Err(malformed("unknown property (2.2.2.2)")),
        })
    }

    /// Appends the identifier and the value.
    pub(in crate::mqtt) fn write(&self, out: &mut impl Sink) {
        match *self {
            Property::PayloadFormat(format) => put_u8(out, 0x01, format),
            Property::MessageExpiry(seconds) => put_u32(out, 0x02, seconds),
            Property::ContentType(text) => put_field(out, 0x03, text.as_bytes()),
            Property::ResponseTopic(topic) => put_field(out, 0x08, topic),
            Property::CorrelationData(data) => put_field(out, 0x09, data),
            Property::SubscriptionId(id) => {
                out.u8(0x0B);
                out.varint(usize::try_from(id.get()).unwrap_or(usize::MAX));
            }
            Property::SessionExpiry(seconds) => put_u32(out, 0x11, seconds),
            Property::AssignedClientId(text) => put_field(out, 0x12, text.as_bytes()),
            Property::ServerKeepAlive(seconds) => put_u16(out, 0x13, seconds),
            Property::AuthenticationMethod(text) => put_field(out, 0x15, text.as_bytes()),
            Property::AuthenticationData(data) => put_field(out, 0x16, data),
            Property::RequestProblemInformation(yes) => put_u8(out, 0x17, yes.into()),
            Property::WillDelay(seconds) => put_u32(out, 0x18, seconds),
            Property::RequestResponseInformation(yes) => put_u8(out, 0x19, yes.into()),
            Property::ResponseInformation(text) => put_field(out, 0x1A, text.as_bytes()),
            Property::ServerReference(text) => put_field(out, 0x1C, text.as_bytes()),
            Property::ReasonString(text) => put_field(out, 0x1F, text.as_bytes()),
            Property::ReceiveMaximum(maximum) => put_u16(out, 0x21, maximum.get()),
            Property::TopicAliasMaximum(maximum) => put_u16(out, 0x22, maximum),
            Property::TopicAlias(alias) => put_u16(out, 0x23, alias.get()),
            Property::MaximumQoS(qos) => put_u8(out, 0x24, qos as u8),
            Property::RetainAvailable(yes) => put_u8(out, 0x25, yes.into()),
            Property::User(name, value) => {
                put_field(out, 0x26, name.as_bytes());
                out.field(value.as_bytes());
            }
            Property::MaximumPacketSize(bytes) => put_u32(out, 0x27, bytes),
            Property::WildcardSubscriptionAvailable(yes) => put_u8(out, 0x28, yes.into()),
            Property::SubscriptionIdAvailable(yes) => put_u8(out, 0x29, yes.into()),
            Property::SharedSubscriptionAvailable(yes) => put_u8(out, 0x2A, yes.into()),
        }
    }
}

fn put_u8(out: &mut impl Sink, id: u8, value: u8) {
    out.put(&[id, value]);
}

fn put_u16(out: &mut impl Sink, id: u8, value: u16) {
    out.u8(id);
    out.u16(value);
}

fn put_u32(out: &mut impl Sink, id: u8, value: u32) {
    out.u8(id);
    out.u32(value);
}

fn put_field(out: &mut impl Sink, id: u8, value: &[u8]) {
    out.u8(id);
    out.field(value);
}

/// The properties of a packet, one after the other. Refuses one that comes twice where it may not.
#[derive(Debug)]
pub(in crate::mqtt) struct Properties<'a> {
    part: Reader<'a>,
    /// One bit per identifier that was seen; all are below 64.
    seen: u64,
    users: usize,
}

impl<'a> Properties<'a> {
    /// Reads the property length; `from` goes on behind the properties.
    pub(super) fn read(from: &mut Reader<'a>) -> Result<Properties<'a>, DecodeError> {
        let len = from.length()?;
        Ok(Properties::all(from.part(len)?))
    }

    /// Takes all that `part` holds for properties.
    pub(in crate::mqtt) fn all(part: Reader<'a>) -> Properties<'a> {
        Properties { part, seen: 0, users: 0 }
    }

    /// The next property. A user property may come again, and so may a subscription identifier (in a PUBLISH).
    pub(in crate::mqtt) fn next(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.part.is_empty() {
            return Ok(None);
        }
        let id = u8::try_from(self.part.varint()?).map_err(|_| malformed("unknown property (2.2.2.2)"))?;
        let property = Property::read(id, &mut self.part)?;
        match property {
            Property::User(..) => {
                self.users += 1;
                if self.users > MAX_USER_PROPERTIES {
                    return Err(DecodeError {
                        reason: ReasonCode::QuotaExceeded,
                        detail: "more user properties than this broker takes in one packet",
                    });
                }
            }
            Property::SubscriptionId(_) => {}
            _ => {
                let bit = 1_u64 << id;
                if self.seen & bit != 0 {
                    return Err(protocol_error("property comes twice (2.2.2.2)"));
                }
                self.seen |= bit;
            }
        }
        Ok(Some(property))
    }
}

/// Error for a property that its packet may not have.
pub(super) fn misplaced() -> DecodeError {
    malformed("property is not allowed in this packet (2.2.2.2)")
}

/// Writes the property length and what `visit` emits, which it is asked for twice.
pub(super) fn write_properties(out: &mut impl Sink, visit: impl Fn(&mut dyn FnMut(Property<'_>))) {
    let mut counter = Counter::default();
    visit(&mut |property| property.write(&mut counter));
    out.varint(counter.bytes());
    visit(&mut |property| property.write(out));
}

/// Emits user properties in order [MQTT-3.1.3-10, MQTT-3.3.2-18].
pub(super) fn emit_user(user: &[(String, String)], emit: &mut dyn FnMut(Property<'_>)) {
    for (name, value) in user {
        emit(Property::User(name, value));
    }
}

impl PublishProperties {
    /// Takes `property`, which must be one that travels with a message. Everything is copied: properties are kept longer
    /// than the packet they came in.
    pub(in crate::mqtt) fn take(into: &mut Option<Box<Self>>, property: Property<'_>) -> Result<(), DecodeError> {
        let this = into.get_or_insert_default();
        match property {
            Property::PayloadFormat(format) => this.payload_format = Some(format),
            Property::MessageExpiry(seconds) => this.message_expiry = Some(seconds),
            Property::ContentType(text) => this.content_type = Some(text.to_owned()),
            Property::ResponseTopic(topic) => {
                let topic = bytes::Bytes::copy_from_slice(topic);
                this.response_topic = Some(super::read::response_topic(topic)?);
            }
            Property::CorrelationData(data) => {
                this.correlation_data = Some(bytes::Bytes::copy_from_slice(data));
            }
            Property::User(name, value) => this.user.push((name.to_owned(), value.to_owned())),
            _ => return Err(misplaced()),
        }
        Ok(())
    }

    /// Emits the properties. `message_expiry` goes in place of our own, because it shrinks while a message waits
    /// [MQTT-3.3.2-6].
    pub(in crate::mqtt) fn emit(&self, message_expiry: Option<u32>, emit: &mut dyn FnMut(Property<'_>)) {
        self.payload_format.into_iter().for_each(|format| emit(Property::PayloadFormat(format)));
        message_expiry.into_iter().for_each(|seconds| emit(Property::MessageExpiry(seconds)));
        self.content_type.iter().for_each(|text| emit(Property::ContentType(text)));
        self.response_topic.iter().for_each(|topic| emit(Property::ResponseTopic(topic.as_bytes())));
        self.correlation_data.iter().for_each(|data| emit(Property::CorrelationData(data)));
        emit_user(&self.user, emit);
    }
}
