//! PUBACK, PUBREC, PUBREL, PUBCOMP (3.4 to 3.7): one shape, two sets of reason codes.

use super::EncodeError;
use super::frame::Kind;
use super::property::{Properties, Property, emit_user, misplaced, write_properties};
use super::read::{Reader, malformed, protocol_error};
use super::write::Sink;
use crate::mqtt::packet::{Ack, DecodeError, ReasonCode, Version};

pub(super) fn decode(from: &mut Reader<'_>, kind: Kind, version: Version) -> Result<Ack, DecodeError> {
    let packet_id = from.packet_id()?;
    let mut ack = Ack { packet_id, reason: ReasonCode::Success, reason_string: None, user: Vec::new() };
    if version != Version::V5 || from.is_empty() {
        return Ok(ack);
    }
    ack.reason = reason(from, |reason| allowed(kind, reason))?;
    // Without properties the property length may be left out (3.4.2.2.1).
    if from.is_empty() {
        return Ok(ack);
    }
    let mut properties = Properties::read(from)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::ReasonString(text) => ack.reason_string = Some(text.to_owned()),
            Property::User(name, value) => ack.user.push((name.to_owned(), value.to_owned())),
            _ => return Err(misplaced()),
        }
    }
    Ok(ack)
}

pub(super) fn check(ack: &Ack, kind: Kind) -> Result<(), EncodeError> {
    if allowed(kind, ack.reason) { Ok(()) } else { Err(MISPLACED_REASON) }
}

pub(super) fn write(ack: &Ack, version: Version, out: &mut impl Sink) {
    out.u16(ack.packet_id.get());
    let bare = ack.reason_string.is_none() && ack.user.is_empty();
    if version != Version::V5 || (bare && ack.reason == ReasonCode::Success) {
        return;
    }
    out.u8(ack.reason as u8);
    if !bare {
        write_properties(out, |emit| {
            ack.reason_string.iter().for_each(|text| emit(Property::ReasonString(text)));
            emit_user(&ack.user, emit);
        });
    }
}

pub(super) const MISPLACED_REASON: EncodeError = EncodeError::Invalid("reason code is not one of this packet (2.4)");

/// Reads a reason code of which the packet `allows` some.
pub(super) fn reason(from: &mut Reader<'_>, allows: impl Fn(ReasonCode) -> bool) -> Result<ReasonCode, DecodeError> {
    let code = ReasonCode::from_u8(from.u8()?).ok_or_else(|| malformed("unknown reason code (2.4)"))?;
    if allows(code) { Ok(code) } else { Err(protocol_error("reason code is not one of this packet (2.4)")) }
}

/// [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
fn allowed(kind: Kind, reason: ReasonCode) -> bool {
    use ReasonCode::*;
    match kind {
        Kind::PubRel | Kind::PubComp => matches!(reason, Success | PacketIdNotFound),
        _ => matches!(
            reason,
            Success
                | NoMatchingSubscribers
                | UnspecifiedError
                | ImplementationSpecificError
                | NotAuthorized
                | TopicNameInvalid
                | PacketIdInUse
                | QuotaExceeded
                | PayloadFormatInvalid
        ),
    }
}
