//! SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK (3.8 to 3.11).

use std::num::NonZeroU32;

use bytes::Bytes;

use super::ack::{MISPLACED_REASON, reason};
use super::property::{Properties, Property, emit_user, misplaced, write_properties};
use super::publish::MAX_SUBSCRIPTION_ID;
use super::read::{Reader, malformed, protocol_error};
use super::write::Sink;
use super::{EncodeError, MAX_FILTERS};
use crate::mqtt::packet::{
    DecodeError, QoS, ReasonCode, RetainHandling, SubAck, Subscribe, SubscriptionOptions, UnsubAck, Unsubscribe,
    Version,
};
use crate::mqtt::topic::TopicFilter;

pub(super) fn decode_subscribe(from: &mut Reader<'_>, version: Version) -> Result<Subscribe, DecodeError> {
    let mut subscribe =
        Subscribe { packet_id: from.packet_id()?, subscription_id: None, user: Vec::new(), filters: Vec::new() };
    if version == Version::V5 {
        let mut properties = Properties::read(from)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SubscriptionId(id) => {
                    if subscribe.subscription_id.replace(id.get()).is_some() {
                        return Err(protocol_error("subscription identifier comes twice (3.8.2.1.2)"));
                    }
                }
                Property::User(name, value) => subscribe.user.push((name.to_owned(), value.to_owned())),
                _ => return Err(misplaced()),
            }
        }
    }
    while !from.is_empty() {
        let filter = filter(from)?;
        let options = options(from.u8()?, version)?;
        if options.no_local && filter.as_ref().is_ok_and(TopicFilter::is_shared) {
            return Err(protocol_error("No Local on a shared subscription [MQTT-3.8.3-4]"));
        }
        count(subscribe.filters.len())?;
        subscribe.filters.push((filter, options));
    }
    if subscribe.filters.is_empty() {
        return Err(protocol_error("SUBSCRIBE without a topic filter [MQTT-3.8.3-2]"));
    }
    Ok(subscribe)
}

pub(super) fn decode_unsubscribe(from: &mut Reader<'_>, version: Version) -> Result<Unsubscribe, DecodeError> {
    let mut unsubscribe = Unsubscribe { packet_id: from.packet_id()?, user: Vec::new(), filters: Vec::new() };
    if version == Version::V5 {
        let mut properties = Properties::read(from)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::User(name, value) => unsubscribe.user.push((name.to_owned(), value.to_owned())),
                _ => return Err(misplaced()),
            }
        }
    }
    while !from.is_empty() {
        count(unsubscribe.filters.len())?;
        unsubscribe.filters.push(filter(from)?);
    }
    if unsubscribe.filters.is_empty() {
        return Err(protocol_error("UNSUBSCRIBE without a topic filter [MQTT-3.10.3-2]"));
    }
    Ok(unsubscribe)
}

/// A topic filter; a string that is not one is kept, to be answered with Topic Filter invalid. Copied, because
/// subscriptions outlive the packet by far.
fn filter(from: &mut Reader<'_>) -> Result<Result<TopicFilter, String>, DecodeError> {
    let text = from.string()?;
    Ok(TopicFilter::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|_| text.to_owned()))
}

fn count(filters: usize) -> Result<(), DecodeError> {
    if filters < MAX_FILTERS {
        return Ok(());
    }
    Err(DecodeError {
        reason: ReasonCode::QuotaExceeded,
        detail: "more topic filters than this broker takes in one packet",
    })
}

fn options(byte: u8, version: Version) -> Result<SubscriptionOptions, DecodeError> {
    let qos = QoS::from_u8(byte & 0b11).ok_or_else(|| match version {
        Version::V31 | Version::V311 => malformed("subscription with QoS 3 ([MQTT-3-8.3-4] of 3.1.1)"),
        Version::V5 => protocol_error("subscription with QoS 3 (3.8.3.1)"),
    })?;
    if version != Version::V5 {
        if byte & 0b1111_1100 != 0 {
            return Err(malformed("reserved bits of the requested QoS ([MQTT-3-8.3-4] of 3.1.1)"));
        }
        return Ok(SubscriptionOptions { qos, ..SubscriptionOptions::default() });
    }
    if byte & 0b1100_0000 != 0 {
        return Err(malformed("reserved bits of the subscription options [MQTT-3.8.3-5]"));
    }
    let retain_handling = match (byte >> 4) & 0b11 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(protocol_error("Retain Handling 3 (3.8.3.1)")),
    };
    Ok(SubscriptionOptions {
        qos,
        no_local: byte & 0b0100 != 0,
        retain_as_published: byte & 0b1000 != 0,
        retain_handling,
    })
}

pub(super) fn check_subscribe(subscribe: &Subscribe) -> Result<(), EncodeError> {
    if subscribe.subscription_id.is_some_and(|id| !(1..=MAX_SUBSCRIPTION_ID).contains(&id)) {
        return Err(EncodeError::Invalid("subscription identifier is not in 1..=268,435,455 (3.8.2.1.2)"));
    }
    check_filters(subscribe.filters.len())
}

pub(super) fn check_filters(filters: usize) -> Result<(), EncodeError> {
    if filters == 0 { Err(EncodeError::Invalid("no topic filter [MQTT-3.8.3-2] [MQTT-3.10.3-2]")) } else { Ok(()) }
}

pub(super) fn write_subscribe(subscribe: &Subscribe, version: Version, out: &mut impl Sink) {
    out.u16(subscribe.packet_id.get());
    if version == Version::V5 {
        write_properties(out, |emit| {
            let id = subscribe.subscription_id.and_then(NonZeroU32::new);
            id.into_iter().for_each(|id| emit(Property::SubscriptionId(id)));
            emit_user(&subscribe.user, emit);
        });
    }
    for (filter, options) in &subscribe.filters {
        write_filter(filter, out);
        let mut byte = options.qos as u8;
        if version == Version::V5 {
            byte |= u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | (options.retain_handling as u8) << 4;
        }
        out.u8(byte);
    }
}

pub(super) fn write_unsubscribe(unsubscribe: &Unsubscribe, version: Version, out: &mut impl Sink) {
    out.u16(unsubscribe.packet_id.get());
    if version == Version::V5 {
        write_properties(out, |emit| emit_user(&unsubscribe.user, emit));
    }
    for filter in &unsubscribe.filters {
        write_filter(filter, out);
    }
}

fn write_filter(filter: &Result<TopicFilter, String>, out: &mut impl Sink) {
    match filter {
        Ok(filter) => out.field(filter.as_bytes()),
        Err(text) => out.field(text.as_bytes()),
    }
}

pub(super) fn decode_suback(from: &mut Reader<'_>, version: Version) -> Result<SubAck, DecodeError> {
    let packet_id = from.packet_id()?;
    let reason_string = if version == Version::V5 { ack_properties(from)? } else { None };
    let mut reasons = Vec::new();
    while !from.is_empty() {
        count(reasons.len())?;
        reasons.push(match version {
            Version::V5 => reason(from, allowed_in_suback)?,
            Version::V31 | Version::V311 => match from.u8()? {
                0x80 => ReasonCode::UnspecifiedError,
                qos => QoS::from_u8(qos)
                    .map(ReasonCode::granted)
                    .ok_or_else(|| malformed("return code of SUBACK ([MQTT-3.9.3-2] of 3.1.1)"))?,
            },
        });
    }
    if reasons.is_empty() {
        return Err(protocol_error("SUBACK without a reason code [MQTT-3.8.4-6]"));
    }
    Ok(SubAck { packet_id, reason_string, reasons })
}

pub(super) fn decode_unsuback(from: &mut Reader<'_>, version: Version) -> Result<UnsubAck, DecodeError> {
    let packet_id = from.packet_id()?;
    let mut unsuback = UnsubAck { packet_id, reason_string: None, reasons: Vec::new() };
    if version != Version::V5 {
        return Ok(unsuback);
    }
    unsuback.reason_string = ack_properties(from)?;
    while !from.is_empty() {
        count(unsuback.reasons.len())?;
        unsuback.reasons.push(reason(from, allowed_in_unsuback)?);
    }
    if unsuback.reasons.is_empty() {
        return Err(protocol_error("UNSUBACK without a reason code [MQTT-3.11.3-1]"));
    }
    Ok(unsuback)
}

/// The reason string. User properties are checked, but we are a server and have no one to show them to.
fn ack_properties(from: &mut Reader<'_>) -> Result<Option<String>, DecodeError> {
    let mut reason_string = None;
    let mut properties = Properties::read(from)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::ReasonString(text) => reason_string = Some(text.to_owned()),
            Property::User(..) => {}
            _ => return Err(misplaced()),
        }
    }
    Ok(reason_string)
}

pub(super) fn check_suback(suback: &SubAck) -> Result<(), EncodeError> {
    check_reasons(&suback.reasons, allowed_in_suback)
}

pub(super) fn check_unsuback(unsuback: &UnsubAck, version: Version) -> Result<(), EncodeError> {
    if version != Version::V5 {
        return Ok(());
    }
    check_reasons(&unsuback.reasons, allowed_in_unsuback)
}

fn check_reasons(reasons: &[ReasonCode], allowed: fn(ReasonCode) -> bool) -> Result<(), EncodeError> {
    if reasons.is_empty() {
        return Err(EncodeError::Invalid("no reason code [MQTT-3.8.4-6] [MQTT-3.11.3-1]"));
    }
    if reasons.iter().all(|reason| allowed(*reason)) { Ok(()) } else { Err(MISPLACED_REASON) }
}

pub(super) fn write_suback(suback: &SubAck, version: Version, out: &mut impl Sink) {
    out.u16(suback.packet_id.get());
    if version == Version::V5 {
        write_ack_properties(suback.reason_string.as_deref(), out);
    }
    for reason in &suback.reasons {
        // 3.1.1 knows one failure only ([MQTT-3.9.3-2] of 3.1.1).
        out.u8(if version != Version::V5 && reason.is_failure() { 0x80 } else { *reason as u8 });
    }
}

pub(super) fn write_unsuback(unsuback: &UnsubAck, version: Version, out: &mut impl Sink) {
    out.u16(unsuback.packet_id.get());
    if version == Version::V5 {
        write_ack_properties(unsuback.reason_string.as_deref(), out);
        for reason in &unsuback.reasons {
            out.u8(*reason as u8);
        }
    }
}

fn write_ack_properties(reason_string: Option<&str>, out: &mut impl Sink) {
    write_properties(out, |emit| {
        reason_string.into_iter().for_each(|text| emit(Property::ReasonString(text)));
    });
}

/// [MQTT-3.9.3-2]
fn allowed_in_suback(reason: ReasonCode) -> bool {
    use ReasonCode::*;
    matches!(
        reason,
        Success
            | GrantedQoS1
            | GrantedQoS2
            | UnspecifiedError
            | ImplementationSpecificError
            | NotAuthorized
            | TopicFilterInvalid
            | PacketIdInUse
            | QuotaExceeded
            | SharedSubscriptionsNotSupported
            | SubscriptionIdsNotSupported
            | WildcardSubscriptionsNotSupported
    )
}

/// [MQTT-3.11.3-2]
fn allowed_in_unsuback(reason: ReasonCode) -> bool {
    use ReasonCode::*;
    matches!(
        reason,
        Success
            | NoSubscriptionExisted
            | UnspecifiedError
            | ImplementationSpecificError
            | NotAuthorized
            | TopicFilterInvalid
            | PacketIdInUse
    )
}
