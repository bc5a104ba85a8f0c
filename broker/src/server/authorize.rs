//! Who may connect. Today everybody, so listeners beyond loopback are warned about at start (G8); passwords and access
//! control come in here and nowhere else.

use std::net::SocketAddr;

use crate::mqtt::packet::{Connect, ReasonCode};

/// A client that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// No proof of who it is was asked for.
    Anonymous,
}

/// Decides about a CONNECT before anything else happens with it.
///
/// # Errors
/// The reason for the CONNACK that refuses it.
#[allow(clippy::unnecessary_wraps)] // the refusals come with passwords
pub(super) fn authorize(_connect: &Connect, _peer: SocketAddr) -> Result<Identity, ReasonCode> {
    Ok(Identity::Anonymous)
}
