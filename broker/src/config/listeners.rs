//! `[[listener]]`: who may reach the broker, and how.

use std::path::PathBuf;

use super::key::Key;
use super::raw::{RawClientCertificates, RawListener, RawListenerKind, RawListenerTls, RawNameFrom};
use super::resolve::Check;
use super::{ClientCertificates, Listener, ListenerKind, ListenerTls, NameFrom};

/// `with_users`: there is a password file, so that clients can show who they are. `max_connections`: of all listeners.
pub(super) fn resolve(
    raw: &[Key<RawListener>],
    with_users: bool,
    max_connections: u32,
    check: &mut Check<'_>,
) -> Vec<Listener> {
    let default = [Key::from(RawListener::default())];
    let raw = if raw.is_empty() { &default[..] } else { raw };
    let mut listeners: Vec<Listener> = Vec::with_capacity(raw.len());
    for entry in raw {
        let RawListener { kind, bind, anonymous, tls, .. } = &entry.value;
        let spoken = match kind.value {
            RawListenerKind::Mqtt => {
                for key in [&tls.cert_file, &tls.key_file, &tls.ca_file, &tls.crl_file] {
                    check.demand(key, key.value.is_none(), |_| "is for listeners of kind \"mqtts\"".to_owned());
                }
                ListenerKind::Mqtt
            }
            RawListenerKind::Mqtts => match listener_tls(entry, tls, check) {
                Some(tls) => ListenerKind::Mqtts(tls),
                None => continue,
            },
            RawListenerKind::Ws | RawListenerKind::Wss => {
                check.error(kind.node, "not supported in this version: only \"mqtt\" and \"mqtts\" are");
                continue;
            }
        };
        let certified = spoken.requires_certificate();
        let Some(address) = check.address(bind, "") else { continue };
        let taken = address.port() != 0 && listeners.iter().any(|listener| listener.bind == address);
        check.demand(bind, !taken, |_| format!("{address} is used by an earlier listener"));
        // G8: whoever opens the broker to the network says so in as many words.
        let loopback = address.ip().is_loopback();
        check.demand(bind, loopback || with_users || certified || anonymous.value == Some(true), |_| {
            format!(
                "{address} can be reached from the network and nobody could be kept out: name a password file in \
                 `auth.password_file`, or add `anonymous = true` (or the flag --anonymous) to let in everyone who reaches it"
            )
        });
        check.demand(anonymous, with_users || certified || anonymous.value != Some(false), |_| {
            "nobody could connect: without `auth.password_file` every client is anonymous".to_owned()
        });
        let anonymous = anonymous.value.unwrap_or((loopback || certified) && !with_users);
        let limit = &entry.value.max_connections;
        check.demand(limit, limit.value != Some(0), |_| "expected at least 1, found 0".to_owned());
        listeners.push(Listener {
            kind: spoken,
            bind: address,
            anonymous,
            max_connections: limit.value.unwrap_or(max_connections),
            connect_rate: entry.value.connect_rate.value,
        });
    }
    listeners
}

fn listener_tls(entry: &Key<RawListener>, raw: &RawListenerTls, check: &mut Check<'_>) -> Option<ListenerTls> {
    let path = |key: &Key<Option<String>>| key.value.as_ref().map(PathBuf::from);
    let (cert_file, key_file) = (path(&raw.cert_file), path(&raw.key_file));
    if cert_file.is_none() || key_file.is_none() {
        check.error(entry.node, "a listener of kind \"mqtts\" needs `tls.cert_file` and `tls.key_file`");
    }
    let clients = match raw.client_certificates.value {
        RawClientCertificates::None => ClientCertificates::None,
        RawClientCertificates::Optional => ClientCertificates::Optional,
        RawClientCertificates::Required => ClientCertificates::Required,
    };
    let ca_file = path(&raw.ca_file);
    check.demand(&raw.client_certificates, clients == ClientCertificates::None || ca_file.is_some(), |_| {
        "needs `ca_file`: the authorities that client certificates are checked against".to_owned()
    });
    check.demand(&raw.ca_file, clients != ClientCertificates::None || ca_file.is_none(), |_| {
        "has no effect without `client_certificates = \"required\"` or \"optional\"".to_owned()
    });
    check.demand(&raw.crl_file, ca_file.is_some() || raw.crl_file.value.is_none(), |_| "needs `ca_file`".to_owned());
    let name_from = raw.user_name_from.value.map(|from| match from {
        RawNameFrom::Cn => NameFrom::CommonName,
        RawNameFrom::San => NameFrom::AlternativeName,
    });
    check.demand(&raw.user_name_from, clients != ClientCertificates::None || name_from.is_none(), |_| {
        "needs `client_certificates = \"required\"` or \"optional\"".to_owned()
    });
    Some(ListenerTls {
        cert_file: cert_file?,
        key_file: key_file?,
        ca_file,
        crl_file: path(&raw.crl_file),
        crl_may_be_expired: raw.crl_may_be_expired,
        clients,
        name_from,
    })
}
