//! The commands that ask the running broker: `status`, `stream`, `uplink`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::cli::{QueryArgs, SelectArgs, SettingsArgs, StreamCommand, UplinkCommand};
use crate::failure::Failure;
use crate::out::say;
use crate::show;
use crate::status::{Loss, Message, Page, Status, Stream, Uplink};
use crate::{http, settings};

/// How often a followed stream is asked for more.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// Messages that `tail` shows at first.
const DEFAULT_TAIL: u64 = 10;
/// Messages asked for at once.
const PAGE_MSGS: u64 = 500;

pub(crate) fn status(args: &QueryArgs) -> Result<(), Failure> {
    let broker = Broker::new(args)?;
    broker.show("/api/v1/status", |status: &Status| show::status(status))
}

pub(crate) fn uplink(command: &UplinkCommand) -> Result<(), Failure> {
    let UplinkCommand::Ls(args) = command;
    Broker::new(args)?.show("/api/v1/uplinks", |uplinks: &Vec<Uplink>| show::uplinks(uplinks))
}

pub(crate) fn stream(command: &StreamCommand) -> Result<(), Failure> {
    match command {
        StreamCommand::Ls(args) => {
            Broker::new(args)?.show("/api/v1/streams", |streams: &Vec<Stream>| show::streams(streams))
        }
        StreamCommand::Info { name, query } => {
            Broker::new(query)?.show(&stream_path(name), |stream: &Stream| show::stream(stream))
        }
        StreamCommand::Losses { stream, query } => losses(&Broker::new(query)?, stream.as_deref()),
        StreamCommand::Get { stream, seq, query } => get(&Broker::new(query)?, stream, *seq),
        StreamCommand::Tail { stream, count, select, follow, query } => {
            tail(&Broker::new(query)?, stream, *count, select, *follow)
        }
    }
}

fn losses(broker: &Broker, stream: Option<&str>) -> Result<(), Failure> {
    if let Some(name) = stream {
        // A name that is not there is an error, not an empty list.
        let _known: Stream = broker.ask(&stream_path(name))?;
    }
    let mut losses: Vec<Loss> = broker.ask("/api/v1/losses")?;
    losses.retain(|loss| stream.is_none_or(|name| loss.stream == name));
    match broker.json {
        true => say(format_args!("{}\n", serde_json::to_string(&losses).map_err(Failure::runtime)?)),
        false => say(format_args!("{}", show::losses(&losses))),
    }
}

fn get(broker: &Broker, stream: &str, seq: u64) -> Result<(), Failure> {
    let page: Page = broker.ask(&messages_path(stream, seq, 1))?;
    match page.messages.first() {
        Some(message) if message.seq == seq => broker.say_message(message),
        _ => {
            let gap = page.gaps.iter().find(|gap| (gap.first..=gap.last).contains(&seq));
            let why = gap.map(|gap| format!(": it is gone ({})", gap.reason)).unwrap_or_default();
            Err(Failure::runtime(format!("stream \"{stream}\" has no message {seq}{why}")))
        }
    }
}

fn tail(broker: &Broker, stream: &str, count: Option<u64>, select: &SelectArgs, follow: bool) -> Result<(), Failure> {
    let info: Stream = broker.ask(&stream_path(stream))?;
    let (filter, end) = (filter(select), info.last_seq);
    let since = select.since.as_ref().map(|since| format!("&since={}", escaped(since)));
    let mut next = match (count, &since) {
        (None, Some(_)) => 0,
        (count, None) if filter.is_empty() => {
            info.first_seq.max((end + 1).saturating_sub(count.unwrap_or(DEFAULT_TAIL)))
        }
        (count, _) => {
            let also = filter.clone() + since.as_deref().unwrap_or_default();
            newest(broker, stream, &also, count.unwrap_or(DEFAULT_TAIL), end)?
        }
    };
    // Said once: what comes later was stored later.
    let mut also = filter.clone() + since.as_deref().filter(|_| count.is_none()).unwrap_or_default();
    loop {
        let page: Page = broker.ask(&(messages_path(stream, next, PAGE_MSGS) + &also))?;
        for gap in &page.gaps {
            broker.say_gap(gap)?;
        }
        for message in &page.messages {
            broker.say_message(message)?;
        }
        let idle = page.next == next;
        next = page.next;
        also.clone_from(&filter);
        if !follow && (next > end || idle) {
            return Ok(());
        }
        if idle {
            std::thread::sleep(FOLLOW_EVERY);
        }
    }
}

/// Where the `count` newest messages up to `end` begin that are asked for.
fn newest(broker: &Broker, stream: &str, also: &str, count: u64, end: u64) -> Result<u64, Failure> {
    let (mut left, mut from, mut first) = (count, end, end + 1);
    while left > 0 && from > 0 {
        let path = messages_path(stream, from, left.min(PAGE_MSGS)) + also + "&order=desc";
        let page: Page = broker.ask(&path)?;
        left = left.saturating_sub(page.messages.len() as u64);
        first = page.messages.last().map_or(first, |message| message.seq);
        if !page.more {
            break;
        }
        from = page.next;
    }
    Ok(first)
}

/// What a page is asked for beside its place.
fn filter(select: &SelectArgs) -> String {
    let one = |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("&{name}={}", escaped(value)));
    one("topic", &select.topic).or_else(|| one("subject", &select.subject)).unwrap_or_default()
}

fn stream_path(name: &str) -> String {
    format!("/api/v1/streams/{}", escaped(name))
}

fn messages_path(stream: &str, from: u64, limit: u64) -> String {
    format!("{}/messages?from={from}&limit={limit}", stream_path(stream))
}

/// A name as part of a path, or a value in a query.
fn escaped(name: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'$');
    name.bytes().map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The running broker, as seen over its HTTP address.
struct Broker {
    address: SocketAddr,
    json: bool,
    runtime: tokio::runtime::Runtime,
}

impl Broker {
    fn new(args: &QueryArgs) -> Result<Broker, Failure> {
        let address = match args.http {
            Some(address) => address,
            None => {
                let settings = SettingsArgs { config: args.config.clone(), ..SettingsArgs::default() };
                let bind = settings::load(&settings)?.config.http.bind;
                bind.ok_or_else(|| Failure::usage("http.bind is \"off\": the broker cannot be asked"))?
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::runtime)?;
        Ok(Broker { address: reachable(address), json: args.json, runtime })
    }

    fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let body = self.body(path)?;
        serde_json::from_slice(&body)
            .map_err(|e| Failure::runtime(format!("{} answers {path} in an unknown way: {e}", self.address)))
    }

    fn body(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let asked = self.runtime.block_on(http::get(self.address, path));
        let (code, body) = asked.map_err(|e| {
            Failure::runtime(format!("{e}\nis the broker running? --http or --config says where it serves its status"))
        })?;
        match code {
            200 => Ok(body),
            _ => Err(Failure::runtime(String::from_utf8_lossy(&body).trim().to_owned())),
        }
    }

    /// Asks for a page and shows it: as it came with `--json`, else as `text` makes it.
    fn show<T: DeserializeOwned>(&self, path: &str, text: impl Fn(&T) -> String) -> Result<(), Failure> {
        match self.json {
            true => say(format_args!("{}\n", String::from_utf8_lossy(&self.body(path)?).trim_end())),
            false => say(format_args!("{}", text(&self.ask(path)?))),
        }
    }

    fn say_message(&self, message: &Message) -> Result<(), Failure> {
        match self.json {
            true => say(format_args!("{}\n", serde_json::to_string(message).map_err(Failure::runtime)?)),
            false => say(format_args!("{}\n", show::message(message))),
        }
    }

    fn say_gap(&self, gap: &crate::status::Gap) -> Result<(), Failure> {
        match self.json {
            true => say(format_args!("{}\n", serde_json::json!({ "gap": gap }))),
            false => say(format_args!("{} to {} are gone ({})\n", gap.first, gap.last, gap.reason)),
        }
    }
}

/// An address to connect to, for one that is listened on.
fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bind.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_path() {
        assert_eq!(messages_path("a b/../c?", 5, 1), "/api/v1/streams/a%20b%2F%2E%2E%2Fc%3F/messages?from=5&limit=1");
        assert_eq!(stream_path("tele_metry-1"), "/api/v1/streams/tele_metry-1");
    }

    #[test]
    fn an_open_address_is_asked_on_loopback() {
        let reach = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(reach("0.0.0.0:8222"), "127.0.0.1:8222");
        assert_eq!(reach("[::]:8222"), "[::1]:8222");
        assert_eq!(reach("10.0.0.1:8222"), "10.0.0.1:8222");
    }
}
