//! Who may connect (G8): asks [`crate::auth`], and does the slow part of it off the threads that serve connections.

use std::sync::Arc;

use super::hub::Hub;
use super::peer::Peer;
use super::stats::Refused;
use crate::auth::acl::{Access, Use};
use crate::auth::{Auth, acl::UnsafeName};
use crate::mqtt::packet::{Connect, ReasonCode, Will};

/// A client that may connect.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// `None`: anonymous.
    pub(super) username: Option<String>,
    /// Shown by a certificate, so that no password file must know it.
    pub(super) certified: bool,
    /// What the identity was shown against: rights are read from the same files.
    pub(super) auth: Arc<Auth>,
}

/// Decides about the user name and password of a CONNECT.
///
/// # Errors
/// The reason for the CONNACK that refuses it, and how it is counted.
pub(super) async fn authorize(
    hub: &Hub,
    connect: &Connect,
    peer: Peer,
    anonymous: bool,
    certified: Option<String>,
) -> Result<Identity, (ReasonCode, Refused)> {
    let auth = hub.auth();
    if let Some(name) = certified {
        // Shown by the certificate, which TLS has verified; what the CONNECT says does not count.
        return Ok(Identity { username: Some(name), certified: true, auth });
    }
    let (Some(name), Some(users)) = (&connect.username, auth.users()) else {
        // A name that nobody can prove is no name.
        return match anonymous && (connect.username.is_none() || auth.users().is_none()) {
            true => Ok(Identity { username: None, certified: false, auth }),
            false => Err((ReasonCode::NotAuthorized, Refused::NotAuthorized)),
        };
    };
    let password = connect.password.clone().unwrap_or_default();
    let mut right = users.is_proved(name, &password);
    if !right {
        // IMPORTANT: one at a time. A hash takes megabytes and a processor for tens of milliseconds; who waits here is bounded by the
        // connections, and by `connect_timeout`.
        // The turn goes with the hash: a client whose time is over stops waiting, but its hash runs on, and must not run beside the next.
        let turn = Arc::clone(&hub.hashing).acquire_owned().await;
        let (auth, name) = (Arc::clone(&auth), name.clone());
        let verified = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            auth.users().is_some_and(|users| users.verify(&name, &password))
        });
        right = verified.await.unwrap_or(false);
    }
    if right {
        return Ok(Identity { username: Some(name.clone()), certified: false, auth });
    }
    tracing::info!(%peer, client_id = connect.client_id, "a client gave a wrong user name or password");
    Err((ReasonCode::BadUserNameOrPassword, Refused::WrongPassword))
}

/// What the client may do, once its client id is known.
///
/// # Errors
/// The reason for the CONNACK that refuses it: its names cannot be told from wildcards, or its will goes where it may not write.
pub(super) fn rights(
    identity: &Identity,
    client_id: &str,
    will: Option<&Will>,
) -> Result<Option<Arc<Access>>, ReasonCode> {
    let access = identity.auth.access(identity.username.as_deref(), client_id);
    let access = access.map_err(|UnsafeName| ReasonCode::ClientIdNotValid)?;
    let allowed = match (&access, will) {
        (Some(access), Some(will)) => access.may(Use::Write, &will.topic),
        _ => true,
    };
    if allowed { Ok(access) } else { Err(ReasonCode::NotAuthorized) }
}
