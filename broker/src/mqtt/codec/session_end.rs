//! DISCONNECT and AUTH (3.14, 3.15).

use super::EncodeError;
use super::ack::{MISPLACED_REASON, reason};
use super::property::{Properties, Property, emit_user, misplaced, write_properties};
use super::read::{Reader, protocol_error};
use super::write::Sink;
use crate::mqtt::packet::{Auth, DecodeError, Disconnect, ReasonCode, Version};

pub(super) fn decode_disconnect(from: &mut Reader<'_>, version: Version) -> Result<Disconnect, DecodeError> {
    let mut disconnect = Disconnect {
        reason: ReasonCode::Success,
        session_expiry: None,
        reason_string: None,
        user: Vec::new(),
        server_reference: None,
    };
    // 3.1.1 has nothing here, and 5.0 may leave out the normal reason (3.14.2.1) and the property length (3.14.2.2.1).
    if version != Version::V5 || from.is_empty() {
        return Ok(disconnect);
    }
    disconnect.reason = reason(from, allowed_in_disconnect)?;
    if from.is_empty() {
        return Ok(disconnect);
    }
    let mut properties = Properties::read(from)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(seconds) => disconnect.session_expiry = Some(seconds),
            Property::ReasonString(text) => disconnect.reason_string = Some(text.to_owned()),
            Property::User(name, value) => disconnect.user.push((name.to_owned(), value.to_owned())),
            Property::ServerReference(text) => disconnect.server_reference = Some(text.to_owned()),
            _ => return Err(misplaced()),
        }
    }
    Ok(disconnect)
}

pub(super) fn check_disconnect(disconnect: &Disconnect) -> Result<(), EncodeError> {
    if allowed_in_disconnect(disconnect.reason) { Ok(()) } else { Err(MISPLACED_REASON) }
}

pub(super) fn write_disconnect(disconnect: &Disconnect, version: Version, out: &mut impl Sink) {
    let Disconnect { reason, session_expiry, reason_string, user, server_reference } = disconnect;
    let bare = session_expiry.is_none() && reason_string.is_none() && user.is_empty() && server_reference.is_none();
    if version != Version::V5 || (bare && *reason == ReasonCode::Success) {
        return;
    }
    out.u8(*reason as u8);
    if !bare {
        write_properties(out, |emit| {
            session_expiry.iter().for_each(|seconds| emit(Property::SessionExpiry(*seconds)));
            reason_string.iter().for_each(|text| emit(Property::ReasonString(text)));
            emit_user(user, emit);
            server_reference.iter().for_each(|text| emit(Property::ServerReference(text)));
        });
    }
}

pub(super) fn decode_auth(from: &mut Reader<'_>) -> Result<Auth, DecodeError> {
    let mut auth =
        Auth { reason: ReasonCode::Success, method: None, data: None, reason_string: None, user: Vec::new() };
    // Success without properties may be left out (3.15.2.1).
    if from.is_empty() {
        return Ok(auth);
    }
    auth.reason = reason(from, allowed_in_auth)?;
    let mut properties = Properties::read(from)?;
    while let Some(property) = properties.next()? {
        match property {
            Property::AuthenticationMethod(text) => auth.method = Some(text.to_owned()),
            Property::AuthenticationData(data) => auth.data = Some(from.shared(data)),
            Property::ReasonString(text) => auth.reason_string = Some(text.to_owned()),
            Property::User(name, value) => auth.user.push((name.to_owned(), value.to_owned())),
            _ => return Err(misplaced()),
        }
    }
    if auth.method.is_none() {
        return Err(protocol_error("AUTH without an authentication method (3.15.2.2.2)"));
    }
    Ok(auth)
}

pub(super) fn check_auth(auth: &Auth, version: Version) -> Result<(), EncodeError> {
    if version != Version::V5 {
        return Err(EncodeError::Invalid("MQTT 3.1.1 has no AUTH"));
    }
    if allowed_in_auth(auth.reason) { Ok(()) } else { Err(MISPLACED_REASON) }
}

pub(super) fn write_auth(auth: &Auth, out: &mut impl Sink) {
    let Auth { reason, method, data, reason_string, user } = auth;
    let bare = method.is_none() && data.is_none() && reason_string.is_none() && user.is_empty();
    if bare && *reason == ReasonCode::Success {
        return;
    }
    out.u8(*reason as u8);
    write_properties(out, |emit| {
        method.iter().for_each(|text| emit(Property::AuthenticationMethod(text)));
        data.iter().for_each(|data| emit(Property::AuthenticationData(data)));
        reason_string.iter().for_each(|text| emit(Property::ReasonString(text)));
        emit_user(user, emit);
    });
}

/// Table 3-10, and Bad authentication method, which only table 2-6 lists [MQTT-3.14.2-1].
fn allowed_in_disconnect(reason: ReasonCode) -> bool {
    use ReasonCode::*;
    matches!(
        reason,
        Success
            | DisconnectWithWill
            | UnspecifiedError
            | MalformedPacket
            | ProtocolError
            | ImplementationSpecificError
            | NotAuthorized
            | ServerBusy
            | ServerShuttingDown
            | BadAuthenticationMethod
            | KeepAliveTimeout
            | SessionTakenOver
            | TopicFilterInvalid
            | TopicNameInvalid
            | ReceiveMaximumExceeded
            | TopicAliasInvalid
            | PacketTooLarge
            | MessageRateTooHigh
            | QuotaExceeded
            | AdministrativeAction
            | PayloadFormatInvalid
            | RetainNotSupported
            | QoSNotSupported
            | UseAnotherServer
            | ServerMoved
            | SharedSubscriptionsNotSupported
            | ConnectionRateExceeded
            | MaximumConnectTime
            | SubscriptionIdsNotSupported
            | WildcardSubscriptionsNotSupported
    )
}

/// [MQTT-3.15.2-1]
fn allowed_in_auth(reason: ReasonCode) -> bool {
    matches!(reason, ReasonCode::Success | ReasonCode::ContinueAuthentication | ReasonCode::ReAuthenticate)
}
