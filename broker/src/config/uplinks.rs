//! `[[uplink]]`: servers, credentials, and what is mirrored where.

use std::path::{Path, PathBuf};

use super::key::{Key, Switch};
use super::raw::{RawCreate, RawMirror, RawUplink, RawUplinkKind};
use super::resolve::Check;
use super::size::{KIB, MIB, Size};
use super::span::Span;
use super::streams::is_stream_name;
use super::{CreateStream, Mirror, Stream, Uplink, UplinkAuth, UplinkTls};

/// NATS servers listen here unless told otherwise.
const NATS_PORT: u16 = 4222;
/// A hub refuses larger atomic batches.
const MAX_BATCH_MSGS: u32 = 1_000;

pub(super) fn resolve(raw: &[Key<RawUplink>], streams: &[Stream], check: &mut Check<'_>) -> Vec<Uplink> {
    let mut uplinks: Vec<Uplink> = Vec::with_capacity(raw.len());
    for entry in raw {
        let uplink = uplink(entry, streams, check);
        if uplinks.iter().any(|other| !uplink.name.is_empty() && other.name == uplink.name) {
            check.error(entry.value.name.node, format!("there is another uplink \"{}\"", uplink.name));
        }
        uplinks.push(uplink);
    }
    uplinks
}

fn uplink(entry: &Key<RawUplink>, streams: &[Stream], check: &mut Check<'_>) -> Uplink {
    let raw = &entry.value;
    if raw.name.value.is_none() {
        check.error(entry.node, "missing key `name`: expected 1 to 64 characters of A-Z a-z 0-9 _ -");
    }
    let name = raw.name.value.clone().unwrap_or_default();
    check.demand(&raw.name, raw.name.value.is_none() || is_stream_name(&name), |_| {
        format!("expected 1 to 64 characters of A-Z a-z 0-9 _ -, found \"{name}\"")
    });
    check.demand(&raw.kind, matches!(raw.kind.value, RawUplinkKind::Jetstream), |_| {
        "not supported in this version: only \"jetstream\" is".to_owned()
    });
    if raw.servers.is_empty() {
        check.error(entry.node, "missing key `servers`: expected a list such as [\"nats://hub.example.com:4222\"]");
    }
    let mut in_url = None;
    let servers = (raw.servers.iter()).filter_map(|key| server(key, &mut in_url, check)).collect();
    let fits = (1..=MAX_BATCH_MSGS).contains(&raw.batch_msgs.value);
    check.demand(&raw.batch_msgs, fits, |value| format!("expected 1 to {MAX_BATCH_MSGS}, found {value}"));
    Uplink {
        servers,
        auth: auth(entry, in_url, check),
        tls: tls(raw, check),
        mirrors: mirrors(entry, streams, check),
        batch_msgs: raw.batch_msgs.value,
        batch_bytes: check.size_u32(&raw.batch_bytes, Size(4 * KIB), Size(64 * MIB)),
        batch_delay: check.time(&raw.batch_delay, Span::ms(0), Span::ms(10_000)),
        ack_timeout: check.time(&raw.ack_timeout, Span::ms(100), Span::ms(600_000)),
        max_backoff: check.time(&raw.max_backoff, Span::ms(100), Span::ms(3_600_000)),
        name,
    }
}

/// `scheme://host:port` without the user information, which goes to `in_url`.
fn server(key: &Key<String>, in_url: &mut Option<UplinkAuth>, check: &mut Check<'_>) -> Option<String> {
    let parsed = parse_server(&key.value);
    match parsed {
        Some((address, auth)) => {
            *in_url = auth.or(in_url.take());
            Some(address)
        }
        None => {
            // The text is not repeated: it may hold a password.
            check.error(
                key.node,
                "expected a server such as \"nats://hub.example.com:4222\" or \"tls://hub.example.com:4222\"",
            );
            None
        }
    }
}

fn parse_server(url: &str) -> Option<(String, Option<UplinkAuth>)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = Some(scheme).filter(|scheme| matches!(*scheme, "nats" | "tls"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (user_info, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
    let after_address = host.rfind(']').map_or(0, |end| end + 1);
    let (name, port) = match host[after_address..].rfind(':') {
        Some(colon) => (&host[..after_address + colon], host[after_address + colon + 1..].parse().ok()?),
        None => (host, NATS_PORT),
    };
    let is_host = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c));
    let auth = user_info.map(|info| match info.split_once(':') {
        Some((user, password)) => UplinkAuth::UserPassword { user: user.to_owned(), password: password.to_owned() },
        None => UplinkAuth::Token(info.to_owned()),
    });
    is_host.then(|| (format!("{scheme}://{name}:{port}"), auth))
}

fn auth(entry: &Key<RawUplink>, in_url: Option<UplinkAuth>, check: &mut Check<'_>) -> UplinkAuth {
    let raw = &entry.value;
    if let (Some(_), None) | (None, Some(_)) = (&raw.user.value, &raw.password.value) {
        check.error(raw.user.node.or(raw.password.node), "`user` and `password` go together");
    }
    let user_password = (raw.user.value.as_ref().zip(raw.password.value.as_ref()))
        .map(|(user, password)| UplinkAuth::UserPassword { user: user.clone(), password: password.clone() });
    let given = [
        ("credentials_file", raw.credentials_file.value.as_ref().map(|path| UplinkAuth::CredentialsFile(path.into()))),
        ("user and password", user_password),
        ("token", raw.token.value.clone().map(UplinkAuth::Token)),
        ("nkey", raw.nkey.value.clone().map(UplinkAuth::Nkey)),
        ("credentials in the server's URL", in_url),
    ];
    let given: Vec<_> = given.into_iter().filter_map(|(kind, auth)| Some((kind, auth?))).collect();
    if given.len() > 1 {
        let kinds: Vec<_> = given.iter().map(|(kind, _)| *kind).collect();
        check.error(entry.node, format!("several kinds of credentials, expected at most one: {}", kinds.join(", ")));
    }
    given.into_iter().next().map_or(UplinkAuth::Anonymous, |(_, auth)| auth)
}

fn tls(raw: &RawUplink, check: &mut Check<'_>) -> UplinkTls {
    let tls = &raw.tls;
    if let (Some(_), None) | (None, Some(_)) = (&tls.cert_file.value, &tls.key_file.value) {
        check.error(tls.cert_file.node.or(tls.key_file.node), "`cert_file` and `key_file` go together");
    }
    let path = |key: &Key<Option<String>>| key.value.as_ref().map(PathBuf::from);
    UplinkTls {
        required: tls.required,
        ca_file: path(&tls.ca_file),
        cert_file: path(&tls.cert_file),
        key_file: path(&tls.key_file),
    }
}

fn mirrors(entry: &Key<RawUplink>, streams: &[Stream], check: &mut Check<'_>) -> Vec<Mirror> {
    let raw = &entry.value.mirror;
    if raw.is_empty() {
        check.error(entry.node, "mirrors nothing: add [[uplink.mirror]] with `stream` and `into`");
    }
    let mut mirrors: Vec<Mirror> = Vec::new();
    for mirror in raw {
        let Some(stream) = &mirror.value.stream.value else {
            check.error(mirror.node, "missing key `stream`: expected the name of a stream, or \"*\" for all");
            continue;
        };
        let into = into(mirror, check);
        template(&mirror.value.subject, check);
        let named = |name: &str| raw.iter().any(|other| other.value.stream.value.as_deref() == Some(name));
        let chosen: Vec<&Stream> = match stream.as_str() {
            "*" => streams.iter().filter(|stream| !named(&stream.name)).collect(),
            name => streams.iter().filter(|stream| stream.name == name).collect(),
        };
        if chosen.is_empty() && stream != "*" {
            let names: Vec<_> = streams.iter().map(|stream| stream.name.as_str()).collect();
            let message = format!("there is no stream \"{stream}\", expected one of {}", names.join(", "));
            check.error(mirror.value.stream.node, message);
        }
        for stream in chosen {
            if mirrors.iter().any(|other| other.stream == stream.name) {
                let message = format!("stream \"{}\" is mirrored twice by this uplink", stream.name);
                check.error(mirror.value.stream.node, message);
                continue;
            }
            mirrors.push(Mirror {
                stream: stream.name.clone(),
                into: into.clone(),
                subject: mirror.value.subject.value.clone(),
                create: create(&mirror.value, check),
            });
        }
    }
    distinct_prefixes(entry, &mirrors, check);
    mirrors
}

fn into(mirror: &Key<RawMirror>, check: &mut Check<'_>) -> String {
    let key = &mirror.value.into;
    let Some(name) = &key.value else {
        check.error(mirror.node, "missing key `into`: expected the name of the hub's stream");
        return String::new();
    };
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || ".*>/\\".contains(c);
    let valid = (1..=255).contains(&name.len()) && !name.contains(forbidden);
    check.demand(key, valid, |_| {
        format!("expected a JetStream name (no space, `.`, `*`, `>`, `/`, `\\`), found \"{name}\"")
    });
    name.clone()
}

/// The uplink asks the hub for the last message under the part before `{subject}`: that part must be ours alone.
fn template(key: &Key<String>, check: &mut Check<'_>) {
    let tokens: Vec<&str> = key.value.split('.').collect();
    let placeholder = |token: &str| matches!(token, "{gateway}" | "{stream}" | "{subject}");
    let plain = |token: &str| !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || "*>{}".contains(c));
    let valid = tokens.iter().all(|token| placeholder(token) || plain(token))
        && tokens.last() == Some(&"{subject}")
        && tokens.iter().filter(|token| **token == "{subject}").count() == 1
        && tokens.contains(&"{gateway}");
    check.demand(key, valid, |text| {
        format!("expected tokens joined by dots, {{gateway}} among them and {{subject}} at the end, such as \"{}\", found \"{text}\"", super::raw::DEFAULT_SUBJECT)
    });
}

fn create(raw: &RawMirror, check: &mut Check<'_>) -> Option<CreateStream> {
    let Switch::On(RawCreate { replicas, max_bytes, max_age, subjects }) = &raw.create.value else { return None };
    check.demand(replicas, matches!(replicas.value, 1 | 3 | 5), |value| format!("expected 1, 3 or 5, found {value}"));
    for subject in subjects {
        let valid = !subject.value.split('.').any(|token| token.is_empty() || token.contains(char::is_whitespace));
        check.demand(subject, valid, |text| format!("expected a subject such as \"edge.>\", found \"{text}\""));
    }
    Some(CreateStream {
        replicas: replicas.value,
        max_bytes: max_bytes.value.map(|size| size.0),
        max_age: max_age.value.map(|age| age.0),
        subjects: subjects.iter().map(|key| key.value.clone()).collect(),
    })
}

/// Two mirrors under one prefix would take each other's messages for their own when they resume.
fn distinct_prefixes(entry: &Key<RawUplink>, mirrors: &[Mirror], check: &mut Check<'_>) {
    let prefix = |mirror: &Mirror| {
        let text = mirror.subject.replace("{stream}", &mirror.stream);
        text.strip_suffix("{subject}").map(str::to_owned)
    };
    for (index, mirror) in mirrors.iter().enumerate() {
        let Some(ours) = prefix(mirror) else { continue };
        let clash = mirrors[..index].iter().find(|other| {
            let theirs = prefix(other).unwrap_or_default();
            other.into == mirror.into && (ours.starts_with(&theirs) || theirs.starts_with(&ours))
        });
        if let Some(other) = clash {
            check.error(
                entry.node,
                format!(
                    "streams \"{}\" and \"{}\" would share subjects in the hub's stream \"{}\": keep {{stream}} in `subject`",
                    other.stream, mirror.stream, mirror.into
                ),
            );
        }
    }
}

/// The files that the uplink reads when it connects, with the key that names them.
pub(super) fn files(uplink: &Uplink) -> Vec<(&'static str, &Path)> {
    let credentials = match &uplink.auth {
        UplinkAuth::CredentialsFile(path) => Some(path),
        _ => None,
    };
    let files = [
        ("credentials_file", credentials),
        ("tls.ca_file", uplink.tls.ca_file.as_ref()),
        ("tls.cert_file", uplink.tls.cert_file.as_ref()),
        ("tls.key_file", uplink.tls.key_file.as_ref()),
    ];
    files.into_iter().filter_map(|(key, path)| Some((key, path?.as_path()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_get_a_port_and_lose_their_user_information() {
        let address = |url| parse_server(url).map(|(address, _)| address);
        assert_eq!(address("nats://127.0.0.1"), Some("nats://127.0.0.1:4222".to_owned()));
        assert_eq!(address("tls://u:p@hub.example.com:4333/"), Some("tls://hub.example.com:4333".to_owned()));
        assert_eq!(address("nats://[::1]:4222"), Some("nats://[::1]:4222".to_owned()));
        assert_eq!(address("nats://[::1]"), Some("nats://[::1]:4222".to_owned()));
        for wrong in ["hub:4222", "http://hub", "nats://", "nats://hub:port", "nats://a b"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn user_information_becomes_credentials() {
        let auth = |url| parse_server(url).and_then(|(_, auth)| auth);
        assert!(
            matches!(auth("nats://u:p@h"), Some(UplinkAuth::UserPassword { user, password }) if user == "u" && password == "p")
        );
        assert!(matches!(auth("nats://secret@h"), Some(UplinkAuth::Token(token)) if token == "secret"));
        assert!(auth("nats://h").is_none());
    }
}
