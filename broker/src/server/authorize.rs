//! Who may connect (G8): asks [`crate::auth`], and does the slow part of it off the threads that serve connections.

use std::sync::Arc;

use super::hashing::{Busy, Verdict};
use super::hub::Hub;
use super::peer::Peer;
use super::stats::Refused;
use super::tls::Certified;
use crate::auth::acl::{Access, Use};
use crate::auth::jwt::{Grants, Jwt};
use crate::auth::{Auth, acl::UnsafeName};
use crate::clock::Monotonic;
use crate::mqtt::packet::{Connect, ReasonCode, Will};

/// A client that may connect.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// `None`: anonymous.
    pub(super) username: Option<String>,
    pub(super) proof: Proof,
    /// What the identity was shown against: rights are read from the same files.
    pub(super) auth: Arc<Auth>,
}

/// What a client has shown its name by.
#[derive(Clone, Debug)]
pub(super) enum Proof {
    /// It has no name.
    Anonymous,
    /// A password, which the password file must go on knowing.
    Password,
    /// A certificate.
    Certificate,
    /// A token.
    Token {
        /// The connection ends then.
        expires: Option<Monotonic>,
        /// Of the token itself; they take the place of those in the files.
        grants: Option<Grants>,
    },
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
    certified: Certified,
) -> Result<Identity, (ReasonCode, Refused)> {
    let auth = hub.auth();
    match certified {
        // Shown by the certificate, which TLS has verified; what the CONNECT says does not count.
        Certified::Name(name) => return Ok(Identity { username: Some(name), proof: Proof::Certificate, auth }),
        Certified::Nameless => {
            tracing::info!(%peer, client_id = connect.client_id, "a client's certificate holds no name of the kind that user_name_from asks for");
            return Err((ReasonCode::NotAuthorized, Refused::NotAuthorized));
        }
        Certified::Not => {}
    }
    if let (Some(jwt), Some(password)) = (auth.jwt(), &connect.password)
        && Jwt::looks_like_one(password)
    {
        return match jwt.verify(password, hub.clock.wall()) {
            Ok(token) => {
                let expires = token.remaining.map(|remaining| hub.now() + remaining);
                let proof = Proof::Token { expires, grants: token.grants };
                Ok(Identity { username: Some(token.subject), proof, auth })
            }
            Err(error) => {
                if hub.hashing.failed(peer) {
                    tracing::info!(%peer, client_id = connect.client_id, %error, "a client gave a token that does not count");
                }
                Err((ReasonCode::BadUserNameOrPassword, Refused::WrongPassword))
            }
        };
    }
    let (Some(name), Some(users)) = (&connect.username, auth.users()) else {
        // A name that nobody can prove is no name.
        return match anonymous && (connect.username.is_none() || !auth.has_names()) {
            true => Ok(Identity { username: None, proof: Proof::Anonymous, auth }),
            false => Err((ReasonCode::NotAuthorized, Refused::NotAuthorized)),
        };
    };
    let password = connect.password.clone().unwrap_or_default();
    if !users.is_proved(name, &password) {
        let verify = {
            let (auth, name) = (Arc::clone(&auth), name.clone());
            move || auth.users().is_some_and(|users| users.verify(&name, &password))
        };
        match hub.hashing.verify(peer, verify).await {
            Ok(Verdict::Right) => {}
            Ok(Verdict::Wrong { first }) => {
                if first {
                    tracing::info!(%peer, client_id = connect.client_id, "a client gave a wrong user name or password");
                }
                return Err((ReasonCode::BadUserNameOrPassword, Refused::WrongPassword));
            }
            Err(Busy) => return Err((ReasonCode::ServerBusy, Refused::Busy)),
        }
    }
    Ok(Identity { username: Some(name.clone()), proof: Proof::Password, auth })
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
    let access = match (&identity.proof, &identity.username) {
        (Proof::Token { grants: Some(grants), .. }, Some(name)) => {
            Access::of(&grants.write, &grants.read, name, client_id).map(|access| Some(Arc::new(access)))
        }
        _ => identity.auth.access(identity.username.as_deref(), client_id),
    };
    let access = access.map_err(|UnsafeName| ReasonCode::ClientIdNotValid)?;
    let allowed = match (&access, will) {
        (Some(access), Some(will)) => access.may(Use::Write, &will.topic),
        _ => true,
    };
    if allowed { Ok(access) } else { Err(ReasonCode::NotAuthorized) }
}
