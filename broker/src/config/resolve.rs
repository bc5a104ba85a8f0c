//! From the file as written to the configuration as used: defaults filled in, everything checked against everything.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, ConfigErrors};
use super::key::Key;
use super::raw::{self, RawAck, RawAuth, RawCompression, RawFile, RawJwt, RawMqtt, RawTrust};
use super::size::{GIB, KIB, MIB, Size};
use super::span::Span;
use super::tree::{NodeId, Override, Tree};
use super::{Auth, Bind, Config, Disk, Durability, Gateway, Http, Listener, Mqtt};
use super::{listeners, streams, uplinks};
use crate::auth::AuthFiles;
use crate::auth::jwt::JwtConfig;
use crate::clock::ClockTrust;
use crate::log::{AckPolicy, BlockCodec};
use crate::mqtt::topic::TopicName;

/// G2's smallest budget: below it the staging log, the reserve and a few epochs do not fit.
const MIN_DISK_BYTES: Size = Size(32 * MIB);
/// Largest packet the MQTT wire format can carry (1.5.5 of MQTT 5.0), rounded down.
const MAX_PACKET_BYTES: Size = Size(256 * MIB);
/// Host names that fresh system images come with: no identity for a gateway among others.
const COMMON_HOST_NAMES: [&str; 6] = ["localhost", "raspberrypi", "debian", "ubuntu", "buildroot", "openwrt"];

/// A configuration that can be run, and what its author should know about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Sentences for the operator: nothing wrong, but worth a look.
    pub notes: Vec<String>,
}

/// Reads a configuration from `text`, called `name` in messages, with `overrides` on top.
///
/// `host_name` stands in for `gateway.id` where that is not given.
///
/// # Errors
/// Everything that is wrong with it, as far as it can be told at once.
pub fn load(name: &str, text: &str, overrides: &[Override], host_name: &str) -> Result<Loaded, ConfigErrors> {
    let mut tree = Tree::new(name, text, overrides).map_err(ConfigErrors)?;
    let raw: RawFile = tree.read(raw::keys_at).map_err(ConfigErrors)?;
    let mut check = Check { tree: &tree, errors: Vec::new(), notes: Vec::new() };
    let config = resolve(&raw, host_name, &mut check);
    let Check { mut errors, notes, .. } = check;
    match errors.is_empty() {
        true => Ok(Loaded { config, notes }),
        false => {
            errors.sort();
            errors.dedup();
            Err(ConfigErrors(errors))
        }
    }
}

/// Collects what is found on the way, so that one run names all of it.
pub(super) struct Check<'a> {
    tree: &'a Tree<'a>,
    errors: Vec<ConfigError>,
    pub(super) notes: Vec<String>,
}

impl Check<'_> {
    /// Notes an error about the value at `node`.
    pub(super) fn error(&mut self, node: Option<NodeId>, message: impl Into<String>) {
        self.errors.push(self.tree.error(node, message));
    }

    /// Notes an error unless `holds`.
    pub(super) fn demand<T>(&mut self, key: &Key<T>, holds: bool, message: impl FnOnce(&T) -> String) {
        if !holds {
            self.error(key.node, message(&key.value));
        }
    }

    /// A size that must lie between two others, as 32 bits.
    pub(super) fn size_u32(&mut self, key: &Key<Size>, low: Size, high: Size) -> u32 {
        let fits = (low..=high).contains(&key.value);
        self.demand(key, fits, |value| format!("expected a size from {low} to {high}, found {value}"));
        u32::try_from(key.value.0).unwrap_or(u32::MAX)
    }

    /// A time that must lie between two others.
    pub(super) fn time(&mut self, key: &Key<Span>, low: Span, high: Span) -> Duration {
        let fits = (low..=high).contains(&key.value);
        self.demand(key, fits, |value| format!("expected a time from {low} to {high}, found {value}"));
        key.value.0
    }

    /// A text that may be left away.
    pub(super) fn text(
        &mut self,
        key: &Key<Option<String>>,
        expected: &str,
        holds: impl FnOnce(&str) -> bool,
    ) -> Option<String> {
        let text = key.value.as_deref().unwrap_or_default();
        self.demand(key, key.value.is_none() || holds(text), |_| format!("expected {expected}, found {text:?}"));
        key.value.clone()
    }

    /// A number that must not be zero.
    pub(super) fn positive(&mut self, key: &Key<u32>) -> u32 {
        self.demand(key, key.value > 0, |_| "expected at least 1, found 0".to_owned());
        key.value
    }

    pub(super) fn address(&mut self, key: &Key<String>, also: &str) -> Option<SocketAddr> {
        let address = key.value.parse().ok();
        self.demand(key, address.is_some(), |text| {
            format!("expected an address and port such as \"127.0.0.1:1883\" or \"[::]:1883\"{also}, found \"{text}\"")
        });
        address
    }
}

fn resolve(raw: &RawFile, host_name: &str, check: &mut Check<'_>) -> Config {
    let auth = auth(&raw.auth, check);
    let listeners = listeners::resolve(
        &raw.listener,
        auth.files.password_file.is_some() || auth.files.jwt.is_some(),
        raw.mqtt.max_connections.value,
        check,
    );
    let http = http(raw, &listeners, check);
    let streams = streams::resolve(&raw.stream, raw.disk.max_bytes.value.0, check);
    let uplinks = uplinks::resolve(&raw.uplink, &streams, check);
    let id = gateway_id(&raw.gateway.id, host_name, !uplinks.is_empty(), check);
    let data_dir = &raw.gateway.data_dir;
    check.demand(data_dir, !data_dir.value.is_empty(), |_| "expected a directory, found \"\"".to_owned());
    Config {
        gateway: Gateway { id, data_dir: data_dir.value.clone().into() },
        disk: disk(raw, check),
        durability: durability(raw, check),
        clock: clock(raw, check),
        http,
        mqtt: mqtt(&raw.mqtt, check),
        auth,
        listeners,
        streams,
        uplinks,
    }
}

/// `None`: there are no tokens, or what is wrong was noted.
fn jwt(raw: &RawJwt, check: &mut Check<'_>) -> Option<JwtConfig> {
    let given = |key: &Key<Option<String>>| key.value.clone().filter(|value| !value.is_empty());
    let leeway = check.time(&raw.leeway, Span::ms(0), Span::ms(3_600_000));
    let (key_file, issuer, audience) = (given(&raw.key_file), given(&raw.issuer), given(&raw.audience));
    if key_file.is_none() && issuer.is_none() && audience.is_none() {
        return None;
    }
    for (key, value, name) in [
        (&raw.key_file, &key_file, "key_file"),
        (&raw.issuer, &issuer, "issuer"),
        (&raw.audience, &audience, "audience"),
    ] {
        let node = key.node.or(raw.key_file.node).or(raw.issuer.node).or(raw.audience.node);
        if value.is_none() {
            check
                .error(node, format!("missing key `auth.jwt.{name}`: tokens need `key_file`, `issuer` and `audience`"));
        }
    }
    Some(JwtConfig {
        key_file: key_file?.into(),
        issuer: issuer?,
        audience: audience?,
        leeway,
        without_clock: raw.without_clock.value,
    })
}

fn gateway_id(key: &Key<Option<String>>, host_name: &str, mirrored: bool, check: &mut Check<'_>) -> String {
    let Some(id) = &key.value else {
        let id = token_from(host_name);
        if mirrored && COMMON_HOST_NAMES.contains(&id.as_str()) {
            check.notes.push(format!(
                "gateway.id is not set and the host is called `{id}`, as many are: two gateways of one id spoil each \
                 other's copy in the hub. Set gateway.id"
            ));
        }
        return id;
    };
    let valid = !id.is_empty() && id.len() <= 64 && id.chars().all(is_token_char);
    check.demand(key, valid, |_| {
        format!("expected 1 to 64 printable characters without space, `.`, `*`, `>` or `/` (it is one token of a subject), found \"{id}\"")
    });
    id.clone()
}

fn is_token_char(c: char) -> bool {
    c.is_ascii_graphic() && !matches!(c, '.' | '*' | '>' | '/' | '\\' | '"')
}

/// A subject token made of a host name: what a token cannot hold becomes `-`.
fn token_from(host_name: &str) -> String {
    let token: String = host_name.chars().take(64).map(|c| if is_token_char(c) { c } else { '-' }).collect();
    if token.is_empty() { "gateway".to_owned() } else { token }
}

fn disk(raw: &RawFile, check: &mut Check<'_>) -> Disk {
    let max_bytes = &raw.disk.max_bytes;
    check.demand(max_bytes, max_bytes.value >= MIN_DISK_BYTES, |value| {
        format!("expected at least {MIN_DISK_BYTES}, found {value}")
    });
    Disk {
        max_bytes: max_bytes.value.0,
        min_free: raw.disk.min_free.value.0,
        codec: match raw.disk.compression {
            RawCompression::Zstd => BlockCodec::Zstd,
            RawCompression::Lz4 => BlockCodec::Lz4,
        },
    }
}

fn durability(raw: &RawFile, check: &mut Check<'_>) -> Durability {
    let raw = &raw.durability;
    let interval = check.time(&raw.interval, Span::ms(1), Span::ms(60_000));
    let ack = match raw.ack.value {
        RawAck::Synced => AckPolicy::Synced,
        RawAck::Interval => AckPolicy::Interval(interval),
    };
    Durability { ack, max_delay: check.time(&raw.max_delay, Span::ms(0), Span::ms(10_000)) }
}

fn clock(raw: &RawFile, check: &mut Check<'_>) -> ClockTrust {
    let raw = &raw.clock;
    let file = &raw.synced_file;
    check.demand(file, !file.value.is_empty(), |_| "expected a file, found \"\"".to_owned());
    match raw.trust.value {
        RawTrust::Daemon => ClockTrust::Daemon { synced_file: file.value.clone().into() },
        RawTrust::Always => ClockTrust::Always,
        RawTrust::Never => ClockTrust::Never,
    }
}

fn http(raw: &RawFile, listeners: &[Listener], check: &mut Check<'_>) -> Http {
    let key = &raw.http.bind;
    let bind = match key.value.as_str() {
        "off" => None,
        _ => check.address(key, ", or \"off\""),
    };
    if let Some(bind) = bind {
        let taken = listeners.iter().any(|listener| listener.bind.collides(&Bind::Tcp(bind)));
        check.demand(key, !taken, |_| format!("{bind} is used by a listener"));
    }
    Http { bind, remote_messages: raw.http.remote_messages }
}

fn auth(raw: &RawAuth, check: &mut Check<'_>) -> Auth {
    let mut file = |key: &Key<Option<String>>| {
        let named = key.value.as_deref() != Some("");
        check.demand(key, named, |_| "expected the path of a file, found \"\"".to_owned());
        key.value.as_ref().map(PathBuf::from)
    };
    let (password_file, acl_file) = (file(&raw.password_file), file(&raw.acl_file));
    let files = AuthFiles { password_file, acl_file, jwt: jwt(&raw.jwt, check) };
    Auth { files, max_waiting: check.positive(&raw.max_waiting) }
}

/// Told to clients in CONNACK and DISCONNECT, which should stay small.
const MAX_TEXT_BYTES: usize = 1024;

fn mqtt(raw: &RawMqtt, check: &mut Check<'_>) -> Mqtt {
    let max_packet_bytes = check.size_u32(&raw.max_packet_bytes, Size(KIB), MAX_PACKET_BYTES);
    let max_queued_bytes = check.size_u32(&raw.max_queued_bytes, Size(KIB), Size(GIB));
    check.demand(&raw.max_queued_bytes, max_queued_bytes >= max_packet_bytes, |value| {
        format!("expected at least max_packet_bytes ({}), found {value}", raw.max_packet_bytes.value)
    });
    let max_queued_bytes_total = check.size_u32(&raw.max_queued_bytes_total, Size(KIB), Size(GIB));
    check.demand(&raw.max_queued_bytes_total, max_queued_bytes_total >= max_queued_bytes, |value| {
        format!("expected at least max_queued_bytes ({}), found {value}", raw.max_queued_bytes.value)
    });
    check.demand(&raw.receive_maximum, raw.receive_maximum.value > 0, |_| "expected at least 1, found 0".to_owned());
    let max_connections = check.positive(&raw.max_connections);
    check.demand(&raw.max_sessions, raw.max_sessions.value >= max_connections, |value| {
        format!("expected at least max_connections ({max_connections}), found {value}")
    });
    let keep_alive = check.time(&raw.max_keep_alive, Span::ms(0), Span::ms(65_535_000));
    check.demand(&raw.max_keep_alive, keep_alive.subsec_millis() == 0, |value| {
        format!("expected whole seconds, found {value}")
    });
    let server_reference = check.text(&raw.server_reference, "one server or several", |text| {
        text.len() <= MAX_TEXT_BYTES && !text.trim().is_empty() && !text.contains(char::is_control)
    });
    let response_information = check.text(&raw.response_information, "the beginning of a topic", |text| {
        text.len() <= MAX_TEXT_BYTES && text.replace("%c", "c").replace("%u", "u").parse::<TopicName>().is_ok()
    });
    Mqtt {
        max_connections,
        max_connections_per_address: raw.max_connections_per_address.value,
        connect_rate_per_address: raw.connect_rate_per_address.value,
        max_packet_bytes,
        receive_maximum: raw.receive_maximum.value,
        handshake_timeout: check.time(&raw.handshake_timeout, Span::ms(100), Span::ms(300_000)),
        connect_timeout: check.time(&raw.connect_timeout, Span::ms(100), Span::ms(300_000)),
        max_session_expiry: raw.max_session_expiry.value.0,
        max_sessions: raw.max_sessions.value,
        max_subscriptions: check.positive(&raw.max_subscriptions),
        max_queued_msgs: check.positive(&raw.max_queued_msgs),
        max_queued_bytes,
        max_queued_bytes_total,
        max_retained_msgs: raw.max_retained_msgs.value,
        max_retained_bytes: raw.max_retained_bytes.value.0,
        server_reference,
        response_information,
        sys_interval: check.time(&raw.sys_interval, Span::ms(0), Span::ms(86_400_000)),
        max_keep_alive: u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Given;

    fn errors(text: &str) -> Vec<String> {
        match load("h.toml", text, &[], "box") {
            Ok(loaded) => panic!("accepted: {loaded:?}"),
            Err(ConfigErrors(errors)) => errors.iter().map(ToString::to_string).collect(),
        }
    }

    fn config(text: &str) -> Config {
        load("h.toml", text, &[], "box").unwrap_or_else(|errors| panic!("refused:\n{errors}")).config
    }

    fn outside(origin: &str, path: &str, value: &str) -> Override {
        let path = path.split('.').map(str::to_owned).collect();
        Override { origin: origin.to_owned(), path, value: Given::Text(value.to_owned()) }
    }

    #[test]
    fn an_empty_file_is_a_working_gateway() {
        let config = config("");
        assert_eq!(config.gateway.id, "box");
        assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:1883");
        assert_eq!(config.http.bind.map(|bind| bind.to_string()), Some("127.0.0.1:8222".to_owned()));
        assert_eq!(config.streams[0].name, "default");
        assert_eq!(config.streams[0].topics[0].as_str(), "#");
        assert_eq!(config.durability.ack, AckPolicy::Synced);
        assert!(config.uplinks.is_empty());
    }

    #[test]
    fn a_misspelt_key_is_named_with_its_place_and_the_nearest_key() {
        let found = errors("[gateway]\nid = \"a\"\n\n[disk]\n  max_byts = \"1GiB\"\n");
        assert_eq!(found, ["h.toml:5:3: disk.max_byts: unknown key: did you mean `max_bytes`?"]);
        let found = errors("[[streams]]\nname = \"a\"\n");
        assert_eq!(found, ["h.toml:1:3: streams: unknown key: did you mean `stream`?"]);
    }

    #[test]
    fn a_value_of_the_wrong_kind_says_what_was_expected() {
        let cases = [
            ("[disk]\nmax_bytes = \"12 bananas\"", "h.toml:2:13: disk.max_bytes: expected a size such as \"64MiB\""),
            ("[disk]\nmax_bytes = true", "h.toml:2:13: disk.max_bytes: found boolean `true`, expected a size"),
            ("[mqtt]\nreceive_maximum = 70000", "expected a whole number from 0 to 65535"),
            ("[mqtt]\nreceive_maximum = \"x\"", "found string \"x\", expected a whole number from 0 to 65535"),
            ("[mqtt]\nconnect_timeout = 5", "expected a time such as \"20ms\""),
            ("disk = 5", "h.toml:1:8: disk: found integer `5`, expected a section"),
            ("[stream]\nname = \"a\"", "stream: expected a list: write this section's name in double brackets"),
            (
                "[durability]\nack = \"never\"",
                "durability.ack: unknown variant `never`, expected `synced` or `interval`",
            ),
            (
                "[[uplink]]\nmirror = [{create = 5}]",
                "uplink[0].mirror[0].create: found integer `5`, expected true, false or a table",
            ),
        ];
        for (text, expected) in cases {
            let found = errors(text).join("\n");
            assert!(found.contains(expected), "{text}\nsays: {found}\nnot: {expected}");
        }
    }

    #[test]
    fn all_errors_are_listed_at_once_in_the_order_of_the_file() {
        let found =
            errors("[disk]\nmax_bytes = 1.5\nmin_fre = 1\n[mqtt]\nreceive_maximum = -1\n[[stream]]\nnmae = \"a\"");
        let places: Vec<_> = found.iter().map(|error| error.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(places, ["h.toml:2:13", "h.toml:3:1", "h.toml:5:19", "h.toml:7:1"], "{found:#?}");

        let found =
            errors("[disk]\nmax_bytes = \"1MiB\"\n[[listener]]\nbind = \"nowhere\"\n[[stream]]\nname = \"a b\"");
        assert_eq!(found.len(), 4, "{found:#?}");
    }

    #[test]
    fn what_streams_ask_of_the_disk_must_be_possible() {
        let stream = |name: &str, keys: &str| format!("[[stream]]\nname = \"{name}\"\ntopics = [\"{name}\"]\n{keys}\n");
        let reserving = |bytes: &str| {
            let streams = ["a", "b", "c"].map(|name| stream(name, &format!("reserve = \"{bytes}\"")));
            format!("[disk]\nmax_bytes = \"64MiB\"\n{}", streams.concat())
        };
        assert_eq!(config(&reserving("16MiB")).streams[2].limits.reserve, Some(16 << 20));
        let found = errors(&reserving("17MiB"));
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("reserve: streams reserve 51MiB together: at most 48MiB"), "{found:#?}");
        let small = format!("[disk]\nmax_bytes = \"32MiB\"\n{}", stream("a", "reserve = \"17MiB\""));
        assert!(errors(&small)[0].contains("at most 16MiB of disk.max_bytes can be reserved"));

        let found = errors(&stream("a", "priority = 10"));
        assert!(found[0].ends_with("priority: expected 0 to 9, found 10"), "{found:#?}");
        let found = errors(&stream("a", "storage = \"memory\"\nmax_bytes = \"1MiB\"\nreserve = \"1MiB\""));
        assert!(found[0].contains("takes no disk that could be reserved"), "{found:#?}");

        let priorities =
            |count: usize| (0..count).map(|n| stream(&format!("s{n}"), &format!("priority = {n}"))).collect();
        let eight: String = priorities(8);
        assert_eq!(config(&eight).streams[0].limits.priority.0, 0);
        let nine: String = priorities(9);
        assert!(errors(&nine)[0].contains("9 retention classes: at most 8"));
    }

    #[test]
    fn broken_toml_is_an_error_with_its_place() {
        let found = errors("[disk]\nmax_bytes = \n[[stream]\n");
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(found[0].starts_with("h.toml:2:13: "), "{found:#?}");
        assert!(found[1].starts_with("h.toml:3:"), "{found:#?}");
        assert!(errors("[disk]\nmin_free = 1\nmin_free = 2\n")[0].starts_with("h.toml:3:1: "));
    }

    #[test]
    fn overlapping_streams_are_both_named_with_the_topic() {
        let text =
            "[[stream]]\nname = \"one\"\ntopics = [\"a/#\"]\n[[stream]]\nname = \"two\"\ntopics = [\"x\", \"+/b\"]\n";
        let found = errors(text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(
            found[0].starts_with(
                "h.toml:6:16: stream[1].topics[1]: streams \"one\" and \"two\" would both capture \"a/b\""
            ),
            "{}",
            found[0]
        );
        config(&text.replace("\"x\", \"+/b\"]", "\"#\"]\nexclude = [\"a/#\"]"));
    }

    #[test]
    fn variables_override_the_file_and_flags_override_variables() {
        let text = "[disk]\nmax_bytes = \"2GiB\"\n[[listener]]\nbind = \"127.0.0.1:1\"\n";
        let given = [
            outside("HEADWATER__DISK__MAX_BYTES", "disk.max_bytes", "67108864"),
            outside("HEADWATER__GATEWAY__ID", "gateway.id", "17"),
            outside("HEADWATER__LISTENER__0__BIND", "listener.0.bind", "127.0.0.1:2"),
            outside("HEADWATER__LISTENER__1__BIND", "listener.1.bind", "127.0.0.1:3"),
            outside("HEADWATER__STREAM", "stream", "[{name = \"all\", topics = [\"#\"]}]"),
            outside("--data-dir", "gateway.data_dir", "true"),
            outside("--data-dir", "gateway.data_dir", "/srv/x"),
        ];
        let config = load("h.toml", text, &given, "box").unwrap_or_else(|errors| panic!("refused:\n{errors}")).config;
        assert_eq!(config.disk.max_bytes, 64 << 20);
        assert_eq!(config.gateway.id, "17");
        assert_eq!(config.gateway.data_dir.to_str(), Some("/srv/x"));
        assert_eq!(config.streams[0].name, "all");
        let binds: Vec<_> =
            config.listeners.iter().filter_map(|l| l.bind.address()).map(|address| address.port()).collect();
        assert_eq!(binds, [2, 3]);
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let one = |name: &str, path: &str, value: &str| match load("h.toml", "", &[outside(name, path, value)], "box") {
            Ok(loaded) => panic!("accepted: {loaded:?}"),
            Err(errors) => errors.to_string(),
        };
        assert_eq!(
            one("HEADWATER__DISC__X", "disc.x", "1"),
            "HEADWATER__DISC__X: disc: unknown key: did you mean `disk`?"
        );
        let found = one("HEADWATER__DISK__MAX_BYTES", "disk.max_bytes", "5x");
        assert!(found.starts_with("HEADWATER__DISK__MAX_BYTES: disk.max_bytes: expected a size"), "{found}");
        let found = one("HEADWATER__MQTT__RECEIVE_MAXIMUM", "mqtt.receive_maximum", "99999");
        assert!(found.contains("found integer `99999`, expected a whole number from 0 to 65535"), "{found}");
        let found = one("HEADWATER__LISTENER__3__BIND", "listener.3.bind", "127.0.0.1:1");
        assert!(found.contains("there is no element 3"), "{found}");
        let found = one("HEADWATER__STREAM", "stream", "[{name = ");
        assert!(found.starts_with("HEADWATER__STREAM: stream: "), "{found}");
    }

    #[test]
    fn what_this_version_cannot_do_is_said_so() {
        let text = "[[uplink]]\nname = \"a\"\nkind = \"leaf\"\nservers = [\"nats://h\"]\nmirror = [{stream = \"default\", into = \"X\"}]";
        let found = errors(text);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("not supported in this version"), "{found:#?}");
    }

    #[test]
    fn the_network_is_let_in_only_on_purpose() {
        assert!(errors("[[listener]]\nbind = \"0.0.0.0:1883\"")[0].contains("add `anonymous = true`"));
        config("[[listener]]\nbind = \"0.0.0.0:1883\"\nanonymous = true");
        config("[[listener]]\nbind = \"[::1]:1883\"");
    }

    #[test]
    fn only_loopback_lets_in_anonymous_clients_unasked_and_only_without_users() {
        let anonymous = |text: &str| config(text).listeners.iter().map(|l| l.anonymous).collect::<Vec<_>>();
        assert_eq!(anonymous(""), [true]);
        assert_eq!(anonymous("[auth]\npassword_file = \"p\""), [false]);
        assert_eq!(anonymous("[auth]\npassword_file = \"p\"\n[[listener]]\nbind = \"0.0.0.0:1883\""), [false]);
        assert_eq!(
            anonymous("[auth]\npassword_file = \"p\"\n[[listener]]\nbind = \"0.0.0.0:1883\"\nanonymous = true"),
            [true]
        );
        assert!(errors("[[listener]]\nanonymous = false")[0].contains("nobody could connect"));
        assert!(errors("[auth]\nacl_file = \"a\"\n[[listener]]\nbind = \"[::]:1\"")[0].contains("password file"));
        assert!(errors("[auth]\npassword_file = \"\"")[0].contains("expected the path of a file"));
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        for (text, expected) in [
            ("[disk]\nmax_bytes = \"31MiB\"", "expected at least 32MiB, found 31MiB"),
            ("[mqtt]\nmax_queued_bytes = \"64KiB\"", "expected at least max_packet_bytes (1MiB)"),
            ("[mqtt]\nserver_reference = \" \"", "expected one server or several, found \" \""),
            ("[mqtt]\nresponse_information = \"r/#\"", "expected the beginning of a topic, found \"r/#\""),
            ("[mqtt]\nmax_queued_bytes_total = \"512KiB\"", "expected at least max_queued_bytes (1MiB)"),
            ("[mqtt]\nmax_sessions = 10", "expected at least max_connections (10000)"),
            ("[mqtt]\nmax_keep_alive = \"1500ms\"", "expected whole seconds"),
            ("[[stream]]\nname = \"m\"\ntopics = [\"#\"]\nstorage = \"memory\"", "needs `max_bytes`"),
            (
                "[[stream]]\nname = \"m\"\ntopics = [\"a\"]\n[[stream]]\nname = \"m\"\ntopics = [\"b\"]",
                "another stream \"m\"",
            ),
            ("[[stream]]\nname = \"m\"\ntopics = [\"a/b#\"]", "has a misplaced wildcard"),
            ("[[stream]]\nname = \"m\"", "missing key `topics`"),
            ("[auth.jwt]\nkey_file = \"k\"\nissuer = \"i\"", "missing key `auth.jwt.audience`"),
            ("[[listener]]\nbind = \"unix:relative\"", "an absolute path below 108 bytes"),
            ("[[listener]]\nbind = \"unix:/x\"\nsocket_mode = \"rw\"", "expected rights in octal digits"),
            ("[[listener]]\nbind = \"unix:/x\"\nproxy_protocol = true\nanonymous = true", "not for Unix sockets"),
            ("[[listener]]\nproxy_protocol = true", "can be reached from the network"),
            ("[[listener]]\nkind = \"ws\"\npath = \"mqtt\"", "expected a path such as"),
            ("[[listener]]\norigins = [\"*\"]", "is for listeners of kind \"ws\""),
            ("[[listener]]\nkind = \"wss\"", "needs `tls.cert_file` and `tls.key_file`"),
            ("[[listener]]\nmax_connections = 0", "expected at least 1, found 0"),
            ("[gateway]\nid = \"a.b\"", "gateway.id: expected 1 to 64 printable characters"),
            (
                "[[listener]]\nbind = \"127.0.0.1:9\"\n[[listener]]\nbind = \"127.0.0.1:9\"",
                "is used by an earlier listener",
            ),
            ("[http]\nbind = \"127.0.0.1:1883\"", "is used by a listener"),
        ] {
            let found = errors(text).join("\n");
            assert!(found.contains(expected), "{text}\nsays: {found}");
        }
    }

    const UPLINK: &str = "[[uplink]]\nname = \"hub\"\nservers = [\"nats://h\"]\n";

    #[test]
    fn uplinks_are_held_to_streams_and_to_one_kind_of_credentials() {
        for (rest, expected) in [
            ("", "mirrors nothing"),
            ("mirror = [{stream = \"x\", into = \"X\"}]", "there is no stream \"x\", expected one of default"),
            ("mirror = [{stream = \"default\"}]", "missing key `into`"),
            ("mirror = [{stream = \"*\", into = \"a.b\"}]", "expected a JetStream name"),
            ("mirror = [{stream = \"*\", into = \"X\", subject = \"a.{subject}\"}]", "{gateway} among them"),
            (
                "mirror = [{stream = \"*\", into = \"X\"}]\ntoken = \"t\"\nnkey = \"n\"",
                "several kinds of credentials, expected at most one: token, nkey",
            ),
            ("mirror = [{stream = \"*\", into = \"X\"}]\nuser = \"u\"", "`user` and `password` go together"),
            (
                "mirror = [{stream = \"*\", into = \"X\"}, {stream = \"default\", into = \"Y\"}, {stream = \"default\", into = \"Z\"}]",
                "is mirrored twice",
            ),
            ("mirror = [{stream = \"*\", into = \"X\"}]\nbatch_msgs = 1001", "expected 1 to 1000"),
        ] {
            let found = errors(&format!("{UPLINK}{rest}")).join("\n");
            assert!(found.contains(expected), "{rest}\nsays: {found}");
        }
    }

    #[test]
    fn no_secret_is_repeated_in_an_error_or_debug_text() {
        let found = errors(
            "[[uplink]]\nname = \"hub\"\nservers = [\"http://me:hunter2@h\"]\nmirror = [{stream = \"*\", into = \"X\"}]",
        );
        assert!(!found.join("\n").contains("hunter2"), "{found:#?}");
        let config = config(
            "[[uplink]]\nname = \"hub\"\nservers = [\"nats://me:hunter2@h\"]\nmirror = [{stream = \"*\", into = \"X\"}]",
        );
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn a_star_mirrors_every_stream_with_the_same_settings() {
        let streams = "[[stream]]\nname = \"a\"\ntopics = [\"a\"]\n[[stream]]\nname = \"b\"\ntopics = [\"b\"]\n";
        let config =
            config(&format!("{streams}{UPLINK}mirror = [{{stream = \"*\", into = \"X\", create = {{replicas = 3}}}}]"));
        let mirrors = &config.uplinks[0].mirrors;
        assert_eq!(mirrors.iter().map(|mirror| mirror.stream.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        for mirror in mirrors {
            let create = mirror.create.as_ref().expect("create was given");
            assert!(create.subjects.is_empty());
            assert_eq!(create.replicas, 3);
        }
    }

    #[test]
    fn a_host_name_everybody_has_is_pointed_out() {
        let text = format!("{UPLINK}mirror = [{{stream = \"*\", into = \"X\"}}]");
        let notes = |host| load("h.toml", &text, &[], host).map(|loaded| loaded.notes.len()).ok();
        assert_eq!((notes("raspberrypi"), notes("pump-17")), (Some(1), Some(0)));
        assert_eq!(token_from("pump 17.example.com"), "pump-17-example-com");
    }
}
