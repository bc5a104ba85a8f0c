//! CONNECT and CONNACK (3.1, 3.2).

use bytes::Bytes;

use super::EncodeError;
use super::ack::{MISPLACED_REASON, reason};
use super::property::{Properties, Property, emit_user, misplaced, write_properties};
use super::read::{Reader, malformed, protocol_error, topic_name};
use super::write::Sink;
use crate::mqtt::packet::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, DecodeError, PublishProperties, QoS, ReasonCode, Version,
    Will,
};

const PROTOCOL_NAME: &[u8] = b"MQTT";
/// What MQTT 3.1 called itself.
const PROTOCOL_NAME_3_1: &[u8] = b"MQIsdp";

/// The version that the CONNECT at the front of `buf` asks for, if that much of it is there: in which words to refuse
/// one that [`decode`](super::decode) did not take.
#[must_use]
pub fn connect_version(buf: &[u8]) -> Option<Version> {
    let frame = super::frame::frame_bounds(buf).ok()??;
    match buf.get(frame.start..)? {
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, ..] => Some(Version::V31),
        [0, 4, b'M', b'Q', b'T', b'T', 4, ..] => Some(Version::V311),
        [0, 4, b'M', b'Q', b'T', b'T', 5, ..] => Some(Version::V5),
        _ => None,
    }
}

/// Connect flags (3.1.2.3).
mod flag {
    pub(super) const RESERVED: u8 = 1;
    pub(super) const CLEAN_START: u8 = 1 << 1;
    pub(super) const WILL: u8 = 1 << 2;
    pub(super) const WILL_QOS_SHIFT: u8 = 3;
    pub(super) const WILL_QOS: u8 = 0b11 << WILL_QOS_SHIFT;
    pub(super) const WILL_RETAIN: u8 = 1 << 5;
    pub(super) const PASSWORD: u8 = 1 << 6;
    pub(super) const USERNAME: u8 = 1 << 7;
}

pub(super) fn decode_connect(from: &mut Reader<'_>) -> Result<Connect, DecodeError> {
    let version = version(from)?;
    let flags = from.u8()?;
    if flags & flag::RESERVED != 0 {
        return Err(malformed("reserved connect flag is set [MQTT-3.1.2-3]"));
    }
    let has_will = flags & flag::WILL != 0;
    let will_qos = QoS::from_u8((flags & flag::WILL_QOS) >> flag::WILL_QOS_SHIFT)
        .ok_or_else(|| malformed("will QoS 3 [MQTT-3.1.2-12]"))?;
    if !has_will && flags & (flag::WILL_QOS | flag::WILL_RETAIN) != 0 {
        return Err(malformed("will QoS or will retain without a will [MQTT-3.1.2-11, MQTT-3.1.2-13]"));
    }
    if version != Version::V5 && flags & flag::USERNAME == 0 && flags & flag::PASSWORD != 0 {
        return Err(malformed("password without a user name ([MQTT-3.1.2-22] of 3.1.1)"));
    }
    let keep_alive = from.u16()?;
    let properties = if version == Version::V5 { connect_properties(from)? } else { ConnectProperties::default() };
    let client_id = from.string()?.to_owned();
    let will = if has_will { Some(will(from, version, will_qos, flags & flag::WILL_RETAIN != 0)?) } else { None };
    let username = if flags & flag::USERNAME != 0 { Some(from.string()?.to_owned()) } else { None };
    let password = if flags & flag::PASSWORD != 0 { Some(binary(from)?) } else { None };
    from.finish()?;
    Ok(Connect {
        version,
        clean_start: flags & flag::CLEAN_START != 0,
        keep_alive,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

fn version(from: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let unsupported = |detail| DecodeError { reason: ReasonCode::UnsupportedProtocolVersion, detail };
    let name = from.binary()?;
    if name != PROTOCOL_NAME && name != PROTOCOL_NAME_3_1 {
        return Err(unsupported("protocol name is neither \"MQTT\" nor \"MQIsdp\" [MQTT-3.1.2-1]"));
    }
    match (from.u8()?, name == PROTOCOL_NAME_3_1) {
        (3, true) => Ok(Version::V31),
        (4, false) => Ok(Version::V311),
        (5, false) => Ok(Version::V5),
        _ => Err(unsupported("protocol version is not 3 (of MQIsdp), 4 (3.1.1) or 5 (5.0) [MQTT-3.1.2-2]")),
    }
}

fn connect_properties(from: &mut Reader<'_>) -> Result<ConnectProperties, DecodeError> {
    let mut into = ConnectProperties::default();
    let mut properties = Properties::read(from)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(seconds) => into.session_expiry = Some(seconds),
            Property::ReceiveMaximum(maximum) => into.receive_maximum = Some(maximum),
            Property::MaximumPacketSize(bytes) => into.maximum_packet_size = Some(bytes),
            Property::TopicAliasMaximum(maximum) => into.topic_alias_maximum = Some(maximum),
            Property::RequestResponseInformation(yes) => into.request_response_information = Some(yes),
            Property::RequestProblemInformation(yes) => into.request_problem_information = Some(yes),
            Property::User(name, value) => into.user.push((name.to_owned(), value.to_owned())),
            Property::AuthenticationMethod(text) => into.authentication_method = Some(text.to_owned()),
            Property::AuthenticationData(data) => into.authentication_data = Some(from.shared(data)),
            _ => return Err(misplaced()),
        }
    }
    if into.authentication_data.is_some() && into.authentication_method.is_none() {
        return Err(protocol_error("authentication data without a method (3.1.2.11.10)"));
    }
    Ok(into)
}

fn will(from: &mut Reader<'_>, version: Version, qos: QoS, retain: bool) -> Result<Will, DecodeError> {
    let mut delay = 0;
    let mut message = None;
    if version == Version::V5 {
        let mut properties = Properties::read(from)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::WillDelay(seconds) => delay = seconds,
                other => PublishProperties::take(&mut message, other)?,
            }
        }
    }
    let topic = topic_name(binary(from)?)?;
    let payload = binary(from)?;
    Ok(Will { topic, payload, qos, retain, delay, properties: message })
}

fn binary(from: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    let bytes = from.binary()?;
    Ok(from.shared(bytes))
}

pub(super) fn check_connect(connect: &Connect) -> Result<(), EncodeError> {
    if connect.version != Version::V5 && connect.username.is_none() && connect.password.is_some() {
        return Err(EncodeError::Invalid("password without a user name ([MQTT-3.1.2-22] of 3.1.1)"));
    }
    Ok(())
}

pub(super) fn write_connect(connect: &Connect, out: &mut impl Sink) {
    out.field(if connect.version == Version::V31 { PROTOCOL_NAME_3_1 } else { PROTOCOL_NAME });
    out.u8(match connect.version {
        Version::V31 => 3,
        Version::V311 => 4,
        Version::V5 => 5,
    });
    let mut flags = 0;
    let mut set = |yes: bool, flag: u8| flags |= if yes { flag } else { 0 };
    set(connect.clean_start, flag::CLEAN_START);
    set(connect.username.is_some(), flag::USERNAME);
    set(connect.password.is_some(), flag::PASSWORD);
    if let Some(will) = &connect.will {
        set(true, flag::WILL | (will.qos as u8) << flag::WILL_QOS_SHIFT);
        set(will.retain, flag::WILL_RETAIN);
    }
    out.u8(flags);
    out.u16(connect.keep_alive);
    if connect.version == Version::V5 {
        write_properties(out, |emit| emit_connect(&connect.properties, emit));
    }
    out.field(connect.client_id.as_bytes());
    if let Some(will) = &connect.will {
        if connect.version == Version::V5 {
            write_properties(out, |emit| {
                if will.delay != 0 {
                    emit(Property::WillDelay(will.delay));
                }
                if let Some(properties) = &will.properties {
                    properties.emit(properties.message_expiry, emit);
                }
            });
        }
        out.field(will.topic.as_bytes());
        out.field(&will.payload);
    }
    connect.username.iter().for_each(|name| out.field(name.as_bytes()));
    connect.password.iter().for_each(|password| out.field(password));
}

fn emit_connect(properties: &ConnectProperties, emit: &mut dyn FnMut(Property<'_>)) {
    let p = properties;
    p.session_expiry.into_iter().for_each(|seconds| emit(Property::SessionExpiry(seconds)));
    p.receive_maximum.into_iter().for_each(|maximum| emit(Property::ReceiveMaximum(maximum)));
    p.maximum_packet_size.into_iter().for_each(|bytes| emit(Property::MaximumPacketSize(bytes)));
    p.topic_alias_maximum.into_iter().for_each(|maximum| emit(Property::TopicAliasMaximum(maximum)));
    p.request_response_information.into_iter().for_each(|yes| emit(Property::RequestResponseInformation(yes)));
    p.request_problem_information.into_iter().for_each(|yes| emit(Property::RequestProblemInformation(yes)));
    emit_user(&p.user, emit);
    p.authentication_method.iter().for_each(|text| emit(Property::AuthenticationMethod(text)));
    p.authentication_data.iter().for_each(|data| emit(Property::AuthenticationData(data)));
}

/// The return code of a 3.1.1 CONNACK for `reason`. `None` if there is none: then the connection is closed without a
/// CONNACK ([MQTT-3.2.2-6] of 3.1.1).
#[must_use]
pub fn connect_return_code(reason: ReasonCode) -> Option<u8> {
    use ReasonCode::*;
    match reason {
        Success => Some(0),
        UnsupportedProtocolVersion => Some(1),
        ClientIdNotValid => Some(2),
        ServerUnavailable
        | ServerBusy
        | ServerShuttingDown
        | QuotaExceeded
        | ConnectionRateExceeded
        | UseAnotherServer
        | ServerMoved => Some(3),
        BadUserNameOrPassword => Some(4),
        NotAuthorized | Banned => Some(5),
        _ => None,
    }
}

pub(super) fn decode_connack(from: &mut Reader<'_>, version: Version) -> Result<ConnAck, DecodeError> {
    let flags = from.u8()?;
    if flags & !1 != 0 {
        return Err(malformed("reserved connect acknowledge flags [MQTT-3.2.2-1]"));
    }
    let mut connack =
        ConnAck { session_present: flags == 1, reason: ReasonCode::Success, properties: ConnAckProperties::default() };
    match version {
        Version::V31 | Version::V311 => connack.reason = return_code(from.u8()?)?,
        Version::V5 => {
            connack.reason = reason(from, allowed_in_connack)?;
            connack.properties = connack_properties(from)?;
        }
    }
    if connack.session_present && connack.reason != ReasonCode::Success {
        return Err(protocol_error("session present in a refusal [MQTT-3.2.2-6]"));
    }
    Ok(connack)
}

fn return_code(code: u8) -> Result<ReasonCode, DecodeError> {
    match code {
        0 => Ok(ReasonCode::Success),
        1 => Ok(ReasonCode::UnsupportedProtocolVersion),
        2 => Ok(ReasonCode::ClientIdNotValid),
        3 => Ok(ReasonCode::ServerUnavailable),
        4 => Ok(ReasonCode::BadUserNameOrPassword),
        5 => Ok(ReasonCode::NotAuthorized),
        _ => Err(malformed("return code of CONNACK is reserved (3.2.2.3 of 3.1.1)")),
    }
}

fn connack_properties(from: &mut Reader<'_>) -> Result<ConnAckProperties, DecodeError> {
    let mut into = ConnAckProperties::default();
    let mut properties = Properties::read(from)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(seconds) => into.session_expiry = Some(seconds),
            Property::ReceiveMaximum(maximum) => into.receive_maximum = Some(maximum),
            Property::MaximumQoS(qos) => into.maximum_qos = Some(qos),
            Property::RetainAvailable(yes) => into.retain_available = Some(yes),
            Property::MaximumPacketSize(bytes) => into.maximum_packet_size = Some(bytes),
            Property::AssignedClientId(text) => into.assigned_client_id = Some(text.to_owned()),
            Property::TopicAliasMaximum(maximum) => into.topic_alias_maximum = Some(maximum),
            Property::ReasonString(text) => into.reason_string = Some(text.to_owned()),
            Property::User(name, value) => into.user.push((name.to_owned(), value.to_owned())),
            Property::WildcardSubscriptionAvailable(yes) => into.wildcard_subscription_available = Some(yes),
            Property::SubscriptionIdAvailable(yes) => into.subscription_id_available = Some(yes),
            Property::SharedSubscriptionAvailable(yes) => into.shared_subscription_available = Some(yes),
            Property::ServerKeepAlive(seconds) => into.server_keep_alive = Some(seconds),
            Property::ResponseInformation(text) => into.response_information = Some(text.to_owned()),
            Property::ServerReference(text) => into.server_reference = Some(text.to_owned()),
            Property::AuthenticationMethod(text) => into.authentication_method = Some(text.to_owned()),
            Property::AuthenticationData(data) => into.authentication_data = Some(from.shared(data)),
            _ => return Err(misplaced()),
        }
    }
    Ok(into)
}

pub(super) fn check_connack(connack: &ConnAck, version: Version) -> Result<(), EncodeError> {
    if connack.session_present && connack.reason != ReasonCode::Success {
        return Err(EncodeError::Invalid("session present in a refusal [MQTT-3.2.2-6]"));
    }
    if connack.properties.maximum_qos == Some(QoS::ExactlyOnce) {
        return Err(EncodeError::Invalid("Maximum QoS is 0 or 1; 2 is said by leaving it out (3.2.2.3.4)"));
    }
    match version {
        Version::V31 | Version::V311 if connect_return_code(connack.reason).is_none() => {
            Err(EncodeError::Invalid("3.1.1 has no return code for this reason ([MQTT-3.2.2-6] of 3.1.1)"))
        }
        Version::V5 if !allowed_in_connack(connack.reason) => Err(MISPLACED_REASON),
        _ => Ok(()),
    }
}

pub(super) fn write_connack(connack: &ConnAck, version: Version, out: &mut impl Sink) {
    out.u8(connack.session_present.into());
    match version {
        Version::V31 | Version::V311 => out.u8(connect_return_code(connack.reason).unwrap_or(3)),
        Version::V5 => {
            out.u8(connack.reason as u8);
            write_properties(out, |emit| emit_connack(&connack.properties, emit));
        }
    }
}

fn emit_connack(properties: &ConnAckProperties, emit: &mut dyn FnMut(Property<'_>)) {
    let p = properties;
    p.session_expiry.into_iter().for_each(|seconds| emit(Property::SessionExpiry(seconds)));
    p.receive_maximum.into_iter().for_each(|maximum| emit(Property::ReceiveMaximum(maximum)));
    p.maximum_qos.into_iter().for_each(|qos| emit(Property::MaximumQoS(qos)));
    p.retain_available.into_iter().for_each(|yes| emit(Property::RetainAvailable(yes)));
    p.maximum_packet_size.into_iter().for_each(|bytes| emit(Property::MaximumPacketSize(bytes)));
    p.assigned_client_id.iter().for_each(|text| emit(Property::AssignedClientId(text)));
    p.topic_alias_maximum.into_iter().for_each(|maximum| emit(Property::TopicAliasMaximum(maximum)));
    p.reason_string.iter().for_each(|text| emit(Property::ReasonString(text)));
    emit_user(&p.user, emit);
    p.wildcard_subscription_available.into_iter().for_each(|yes| emit(Property::WildcardSubscriptionAvailable(yes)));
    p.subscription_id_available.into_iter().for_each(|yes| emit(Property::SubscriptionIdAvailable(yes)));
    p.shared_subscription_available.into_iter().for_each(|yes| emit(Property::SharedSubscriptionAvailable(yes)));
    p.server_keep_alive.into_iter().for_each(|seconds| emit(Property::ServerKeepAlive(seconds)));
    p.response_information.iter().for_each(|text| emit(Property::ResponseInformation(text)));
    p.server_reference.iter().for_each(|text| emit(Property::ServerReference(text)));
    p.authentication_method.iter().for_each(|text| emit(Property::AuthenticationMethod(text)));
    p.authentication_data.iter().for_each(|data| emit(Property::AuthenticationData(data)));
}

/// [MQTT-3.2.2-8]
fn allowed_in_connack(reason: ReasonCode) -> bool {
    use ReasonCode::*;
    matches!(
        reason,
        Success
            | UnspecifiedError
            | MalformedPacket
            | ProtocolError
            | ImplementationSpecificError
            | UnsupportedProtocolVersion
            | ClientIdNotValid
            | BadUserNameOrPassword
            | NotAuthorized
            | ServerUnavailable
            | ServerBusy
            | Banned
            | BadAuthenticationMethod
            | TopicNameInvalid
            | PacketTooLarge
            | QuotaExceeded
            | PayloadFormatInvalid
            | RetainNotSupported
            | QoSNotSupported
            | UseAnotherServer
            | ServerMoved
            | ConnectionRateExceeded
    )
}
