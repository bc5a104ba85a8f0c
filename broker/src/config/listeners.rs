//! `[[listener]]`: who may reach the broker, and how.

use std::path::PathBuf;

use super::key::Key;
use super::raw::{RawClientCertificates, RawListener, RawListenerKind, RawListenerTls, RawNameFrom};
use super::resolve::Check;
use super::{Bind, ClientCertificates, Listener, ListenerKind, ListenerTls, NameFrom, WebSocket};

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
        let RawListener { kind, bind, anonymous, proxy_protocol, .. } = &entry.value;
        let (Some(spoken), Some(bound)) = (listener_kind(entry, check), bound(&entry.value, check)) else { continue };
        let certified = spoken.requires_certificate();
        let taken = listeners.iter().any(|listener| listener.bind.collides(&bound));
        check.demand(bind, !taken, |_| format!("{bound} is used by an earlier listener"));
        // G8: whoever opens the broker to the network says so in as many words. Who reaches a Unix socket, its mode says. What a proxy
        // on this machine brings comes from anywhere.
        let local = bound.is_local() && !proxy_protocol.value;
        check.demand(bind, local || with_users || certified || anonymous.value == Some(true), |_| {
            format!(
                "{bound} can be reached from the network and nobody could be kept out: name a password file in \
                 `auth.password_file`, or add `anonymous = true` (or the flag --anonymous) to let in everyone who reaches it"
            )
        });
        check.demand(anonymous, with_users || certified || anonymous.value != Some(false), |_| {
            "nobody could connect: without `auth.password_file` every client is anonymous".to_owned()
        });
        check.demand(proxy_protocol, !proxy_protocol.value || bound.address().is_some(), |_| {
            "is for network addresses, and not for Unix sockets".to_owned()
        });
        if proxy_protocol.value && kind.value == RawListenerKind::Mqtt && !bound.is_local() {
            check.notes.push(format!(
                "listener {bound} believes whoever connects which address he comes from (proxy_protocol): let only the proxy reach it"
            ));
        }
        let anonymous = anonymous.value.unwrap_or((local || certified) && !with_users);
        let limit = &entry.value.max_connections;
        check.demand(limit, limit.value != Some(0), |_| "expected at least 1, found 0".to_owned());
        listeners.push(Listener {
            kind: spoken,
            bind: bound,
            anonymous,
            proxy_protocol: proxy_protocol.value,
            max_connections: limit.value.unwrap_or(max_connections),
            connect_rate: entry.value.connect_rate.value,
        });
    }
    listeners
}

/// `None`: what is wrong was noted.
fn listener_kind(entry: &Key<RawListener>, check: &mut Check<'_>) -> Option<ListenerKind> {
    let RawListener { kind, tls, path, origins, .. } = &entry.value;
    let secure = matches!(kind.value, RawListenerKind::Mqtts | RawListenerKind::Wss);
    let framed = matches!(kind.value, RawListenerKind::Ws | RawListenerKind::Wss);
    if !secure {
        for key in [&tls.cert_file, &tls.key_file, &tls.ca_file, &tls.crl_file] {
            check.demand(key, key.value.is_none(), |_| "is for listeners of kind \"mqtts\" and \"wss\"".to_owned());
        }
    }
    check.demand(origins, framed || origins.value.is_empty(), |_| {
        "is for listeners of kind \"ws\" and \"wss\"".to_owned()
    });
    let proper = path.value.starts_with('/') && path.value.bytes().all(|c| c.is_ascii_graphic() && c != b'?');
    check.demand(path, proper, |path| format!("expected a path such as \"/mqtt\", found \"{path}\""));
    let websocket = WebSocket { path: path.value.clone(), origins: origins.value.clone() };
    Some(match kind.value {
        RawListenerKind::Mqtt => ListenerKind::Mqtt,
        RawListenerKind::Mqtts => ListenerKind::Mqtts(listener_tls(entry, tls, check)?),
        RawListenerKind::Ws => ListenerKind::Ws(websocket),
        RawListenerKind::Wss => ListenerKind::Wss(websocket, listener_tls(entry, tls, check)?),
    })
}

/// `None`: what is wrong was noted.
fn bound(raw: &RawListener, check: &mut Check<'_>) -> Option<Bind> {
    let Some(path) = raw.bind.value.strip_prefix("unix:") else {
        return check.address(&raw.bind, ", or \"unix:/run/headwater/mqtt.sock\"").map(Bind::Tcp);
    };
    // What the system can hold of a socket's path, its end included.
    let fits = path.starts_with('/') && path.len() < 108;
    check.demand(&raw.bind, fits, |bind| {
        format!("expected unix: and an absolute path below 108 bytes, found \"{bind}\"")
    });
    let mode = u32::from_str_radix(&raw.socket_mode.value, 8).ok().filter(|mode| *mode <= 0o777);
    check.demand(&raw.socket_mode, mode.is_some(), |mode| {
        format!("expected rights in octal digits such as \"0660\", found \"{mode}\"")
    });
    Some(Bind::Unix { path: path.into(), mode: mode? })
}

fn listener_tls(entry: &Key<RawListener>, raw: &RawListenerTls, check: &mut Check<'_>) -> Option<ListenerTls> {
    let path = |key: &Key<Option<String>>| key.value.as_ref().map(PathBuf::from);
    let (cert_file, key_file) = (path(&raw.cert_file), path(&raw.key_file));
    if cert_file.is_none() || key_file.is_none() {
        check.error(entry.node, "a listener of kind \"mqtts\" or \"wss\" needs `tls.cert_file` and `tls.key_file`");
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
