//! The header by which a proxy says whom it connects for: PROXY protocol, version 1 (a line of text) and 2 (binary). Pure.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. What follows the addresses in version 2 is skipped.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header that is taken: version 1 has 107 bytes at most, and version 2 some hundred with everything that proxies add.
pub(super) const MAX_BYTES: usize = 1024;

/// Longest line of version 1, its end included.
const MAX_LINE: usize = 107;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Bytes that it takes.
    pub(super) len: usize,
    /// Whom the proxy connects for; `None`: for itself, or it does not tell.
    pub(super) source: Option<SocketAddr>,
}

/// What is wrong with a header: the proxy, or somebody who reached the listener beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxyError {
    /// It begins as neither version does.
    NoHeader,
    /// A line of version 1 that does not end, or is no `PROXY TCP4|TCP6|UNKNOWN ...`.
    Line,
    /// Another version or command of the binary header.
    Version,
    /// A family of addresses that is none, or too few bytes for its addresses.
    Family,
    /// Longer than any proxy makes it.
    TooLong,
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxyError::NoHeader => "expected a PROXY protocol header, found something else",
            ProxyError::Line => "expected `PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT` or `PROXY UNKNOWN`",
            ProxyError::Version => "expected version 2 with the command LOCAL or PROXY",
            ProxyError::Family => "expected addresses of a family that fits their length",
            ProxyError::TooLong => "the header is longer than 1024 bytes",
        })
    }
}

/// Reads a header. `None`: more bytes are needed, all of those given belong to it.
///
/// # Errors
/// See [`ProxyError`].
pub(super) fn parse(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        if bytes.len() < SIGNATURE.len() + 4 { Ok(None) } else { binary(bytes) }
    } else if begins(b"PROXY ") {
        text(bytes)
    } else {
        Err(ProxyError::NoHeader)
    }
}

fn binary(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let [command, family, high, low] = [bytes[12], bytes[13], bytes[14], bytes[15]];
    let len = 16 + usize::from(u16::from_be_bytes([high, low]));
    if !matches!(command, 0x20 | 0x21) {
        return Err(ProxyError::Version);
    }
    if len > MAX_BYTES {
        return Err(ProxyError::TooLong);
    }
    let needed = match family >> 4 {
        _ if family & 0x0f > 2 => return Err(ProxyError::Family),
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Err(ProxyError::Family),
    };
    if len - 16 < needed {
        return Err(ProxyError::Family);
    }
    let Some(body) = bytes.get(16..len) else { return Ok(None) };
    let source = match (command, family >> 4) {
        (0x21, 1) => {
            let address: [u8; 4] = body[..4].try_into().expect("the length was looked at");
            Some(SocketAddr::new(Ipv4Addr::from(address).into(), u16::from_be_bytes([body[8], body[9]])))
        }
        (0x21, 2) => {
            let address: [u8; 16] = body[..16].try_into().expect("the length was looked at");
            Some(SocketAddr::new(Ipv6Addr::from(address).into(), u16::from_be_bytes([body[32], body[33]])))
        }
        // Its own check of our health, or a family that has no address for us.
        _ => None,
    };
    Ok(Some(Header { len, source }))
}

fn text(bytes: &[u8]) -> Result<Option<Header>, ProxyError> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_LINE { Ok(None) } else { Err(ProxyError::Line) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(ProxyError::Line)?;
    let line = core::str::from_utf8(line).map_err(|_| ProxyError::Line)?;
    let mut words = line.split(' ').skip(1);
    let mut word = || words.next().ok_or(ProxyError::Line);
    let family = word()?;
    if family == "UNKNOWN" {
        return Ok(Some(Header { len: end + 1, source: None }));
    }
    let mut address = || -> Result<IpAddr, ProxyError> {
        let text = word()?;
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| ProxyError::Line),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| ProxyError::Line),
            _ => Err(ProxyError::Line),
        }
    };
    let (source, _destination) = (address()?, address()?);
    let mut port = || word()?.parse::<u16>().map_err(|_| ProxyError::Line);
    let (port, _destination) = (port()?, port()?);
    if words.next().is_some() {
        return Err(ProxyError::Line);
    }
    Ok(Some(Header { len: end + 1, source: Some(SocketAddr::new(source, port)) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn made(version: u8, source: SocketAddr, more: &[u8]) -> Vec<u8> {
        let (family, any) = match source {
            SocketAddr::V4(_) => ("TCP4", "192.0.2.9"),
            SocketAddr::V6(_) => ("TCP6", "2001:db8::9"),
        };
        if version == 1 {
            return format!("PROXY {family} {} {any} {} 1883\r\n", source.ip(), source.port()).into_bytes();
        }
        let mut body = match source.ip() {
            IpAddr::V4(ip) => [&ip.octets()[..], &[192, 0, 2, 9]].concat(),
            IpAddr::V6(ip) => [ip.octets(), [7; 16]].concat(),
        };
        body.extend(source.port().to_be_bytes());
        body.extend([7, 91]);
        body.extend(more);
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x21, if source.is_ipv4() { 0x11 } else { 0x21 }]);
        bytes.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn what_a_proxy_says_of_itself_or_does_not_tell_names_nobody() {
        for (bytes, len) in [
            (&b"PROXY UNKNOWN\r\nrest"[..], 15),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", 35),
            (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00rest", 16),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x02xx", 18),
        ] {
            assert_eq!(parse(bytes), Ok(Some(Header { len, source: None })));
        }
    }

    #[test]
    fn what_is_malformed_is_named() {
        let long = [&b"PROXY TCP4 "[..], &[b'1'; 200]].concat();
        for (bytes, error) in [
            (&b"\x10\x1a\0\x04MQTT"[..], ProxyError::NoHeader),
            (b"GET / HTTP/1.1\r\n", ProxyError::NoHeader),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", ProxyError::Line),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", ProxyError::Line),
            (b"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n", ProxyError::Line),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", ProxyError::Line),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", ProxyError::Line),
            (b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", ProxyError::Line),
            (&long, ProxyError::Line),
            (b"\r\n\r\n\0\r\nQUIT\n\x11\x11\x00\x0c", ProxyError::Version),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0b", ProxyError::Family),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x41\x00\x0b", ProxyError::Family),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", ProxyError::TooLong),
        ] {
            assert_eq!(parse(bytes), Err(error), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_header_is_read_whole_and_in_any_pieces(
            version in 1_u8..=2, ip in any::<IpAddr>(), port in any::<u16>(),
            more in prop::collection::vec(any::<u8>(), 0..100), rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let source = SocketAddr::new(ip, port);
            let header = made(version, source, &more);
            for cut in 0..header.len() {
                prop_assert_eq!(parse(&header[..cut]), Ok(None), "{}", cut);
            }
            let whole = [&header[..], &rest].concat();
            prop_assert_eq!(parse(&whole), Ok(Some(Header { len: header.len(), source: Some(source) })));
        }

        #[test]
        fn no_bytes_make_it_panic_or_wait_for_ever(
            start in 0_usize..3, bytes in prop::collection::vec(any::<u8>(), 0..1200),
        ) {
            let bytes = [[&b""[..], b"PROXY ", SIGNATURE][start], &bytes].concat();
            match parse(&bytes) {
                Ok(Some(header)) => prop_assert!(header.len <= bytes.len().min(MAX_BYTES)),
                Ok(None) => prop_assert!(bytes.len() < MAX_BYTES),
                Err(_) => {}
            }
        }
    }
}
