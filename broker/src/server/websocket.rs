//! WebSocket (RFC 6455), the server's side, as MQTT uses it (section 6): the request that opens it, and frames. No I/O.
//!
//! A packet may lie in several frames and a frame hold several packets [MQTT-6.0.0-2], so that frames are unwrapped as their bytes come
//! and nothing of them is kept: an idle client costs the state below, and a frame needs no limit of its own. Pings are answered, the
//! last one where several wait; anything but binary data ends the connection [MQTT-6.0.0-1].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, BytesMut};
use ring::digest;

use crate::config::WebSocket as Place;

/// Longest request, and most headers of one: a browser with its cookies stays below.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;

/// Payload of one frame of ours.
const FRAME_BYTES: usize = 16 * 1024;

/// Longest payload of a control frame, RFC 6455 5.5.
const MAX_CONTROL: u64 = 125;

/// Names of the sub-protocol [MQTT-6.0.0-3]; the second one is what scripts of MQTT 3.1 ask for.
const PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// RFC 6455 1.3.
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Status codes of a close, RFC 6455 7.4.1.
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED: u16 = 1003;

/// Why a client is refused or cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WebSocketError(pub(super) &'static str);

impl std::fmt::Display for WebSocketError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for WebSocketError {}

/// One client's WebSocket.
#[derive(Debug)]
pub(super) struct WebSocket {
    state: State,
    /// Ready to be written.
    output: BytesMut,
}

#[derive(Debug)]
enum State {
    /// The request is not read to its end.
    Opening {
        place: std::sync::Arc<Place>,
        request: BytesMut,
    },
    Open(Frames),
    /// A close was queued: nothing more is read or written.
    Closed,
}

/// Where in the client's frames we are.
#[derive(Debug, Default)]
struct Frames {
    head: heapless::Vec<u8, 14>,
    /// Of the payload, still to come.
    left: u64,
    mask: [u8; 4],
    mask_at: usize,
    /// A message has begun and not ended.
    in_message: bool,
    /// Payload of a control frame so far.
    control: Vec<u8>,
    /// To be answered.
    ping: Option<Vec<u8>>,
}

impl WebSocket {
    pub(super) fn new(place: std::sync::Arc<Place>) -> WebSocket {
        WebSocket { state: State::Opening { place, request: BytesMut::new() }, output: BytesMut::new() }
    }

    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state, State::Opening { .. })
    }

    /// Takes bytes of the client, and appends those of MQTT in them to `input`.
    ///
    /// # Errors
    /// What is wrong; the answer that says so waits to be written.
    pub(super) fn receive(&mut self, bytes: &[u8], input: &mut BytesMut) -> Result<(), WebSocketError> {
        match &mut self.state {
            State::Closed => Ok(()),
            State::Open(frames) => {
                let error = match frames.receive(bytes, input) {
                    Ok(None) => return Ok(()),
                    // The client says goodbye, and gets the same back.
                    Ok(Some(code)) => (code, None),
                    Err((code, what)) => (code, Some(WebSocketError(what))),
                };
                self.close(error.0);
                error.1.map_or(Ok(()), Err)
            }
            State::Opening { place, request } => {
                request.extend_from_slice(bytes);
                match open(place, request) {
                    Ok(None) => Ok(()),
                    Ok(Some((len, answer))) => {
                        let rest = request.split_off(len);
                        self.output.extend_from_slice(answer.as_bytes());
                        self.state = State::Open(Frames::default());
                        self.receive(&rest, input)
                    }
                    Err((status, what)) => {
                        let body = format!("{what}\n");
                        let more = if status.starts_with("426") { "Sec-WebSocket-Version: 13\r\n" } else { "" };
                        let answer = format!(
                            "HTTP/1.1 {status}\r\nConnection: close\r\n{more}Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        self.output.extend_from_slice(answer.as_bytes());
                        self.state = State::Closed;
                        Err(WebSocketError(what))
                    }
                }
            }
        }
    }

    /// Bytes for the socket, made of those of MQTT in `plain` once earlier ones are gone.
    pub(super) fn pending<'a>(&'a mut self, plain: &mut BytesMut) -> &'a mut BytesMut {
        if self.output.is_empty() {
            match &mut self.state {
                State::Open(frames) => {
                    if let Some(ping) = frames.ping.take() {
                        head(&mut self.output, 0x8a, ping.len());
                        self.output.extend_from_slice(&ping);
                    }
                    if !plain.is_empty() {
                        let len = plain.len().min(FRAME_BYTES);
                        self.output.reserve(len + 4);
                        head(&mut self.output, 0x82, len);
                        self.output.extend_from_slice(&plain[..len]);
                        plain.advance(len);
                    } else if self.output.is_empty() {
                        self.output = BytesMut::new();
                    }
                }
                // Nobody reads it any more.
                State::Closed => plain.clear(),
                State::Opening { .. } => {}
            }
        }
        &mut self.output
    }

    pub(super) fn has_output(&self) -> bool {
        !self.output.is_empty() || matches!(&self.state, State::Open(frames) if frames.ping.is_some())
    }

    /// Says goodbye, behind what is already queued.
    pub(super) fn end(&mut self) {
        if matches!(self.state, State::Open(_)) {
            self.close(NORMAL);
        }
    }

    fn close(&mut self, code: u16) {
        head(&mut self.output, 0x88, 2);
        self.output.put_u16(code);
        self.state = State::Closed;
    }

    /// The client has said goodbye, or was told so: nothing more will come.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }
}

fn head(output: &mut BytesMut, first: u8, len: usize) {
    output.put_u8(first);
    match len {
        // At most FRAME_BYTES, which 16 bits hold.
        126.. => {
            output.put_u8(126);
            output.put_u16(u16::try_from(len).expect("frames of ours are short"));
        }
        _ => output.put_u8(u8::try_from(len).expect("less than 126")),
    }
}

impl Frames {
    /// `Some`: the client closes with this code.
    fn receive(&mut self, mut bytes: &[u8], input: &mut BytesMut) -> Result<Option<u16>, (u16, &'static str)> {
        while let Some(&byte) = bytes.first() {
            if self.left == 0 {
                bytes = &bytes[1..];
                self.head.push(byte).expect("a head is complete with 14 bytes");
                if !self.head_is_complete()? {
                    continue;
                }
            }
            let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, rest) = bytes.split_at(len);
            self.unmask(now, input);
            bytes = rest;
            if self.left == 0
                && let Some(code) = self.frame_ends()
            {
                return Ok(Some(code));
            }
        }
        Ok(None)
    }

    fn opcode(&self) -> u8 {
        self.head[0] & 0x0f
    }

    /// Looks at what there is of the head; at its end the payload follows.
    fn head_is_complete(&mut self) -> Result<bool, (u16, &'static str)> {
        let (first, second) = match self.head[..] {
            [first] => {
                let fin = first & 0x80 != 0;
                return match first & 0x7f {
                    0 if self.in_message => Ok(false),
                    2 if !self.in_message => Ok(false),
                    8..=10 if fin => Ok(false),
                    1 => Err((UNSUPPORTED, "expected binary data, found text")),
                    _ => Err((PROTOCOL_ERROR, "a frame of no known kind, or out of its turn")),
                };
            }
            [first, second, ..] => (first, second),
            [] => return Ok(false),
        };
        if second & 0x80 == 0 {
            return Err((PROTOCOL_ERROR, "a frame that is not masked"));
        }
        let (len_bytes, short) = match second & 0x7f {
            126 => (2, 126),
            127 => (8, 0x1_0000),
            _ => (0, 0),
        };
        if first & 0x08 != 0 && len_bytes > 0 {
            return Err((PROTOCOL_ERROR, "a control frame longer than 125 bytes"));
        }
        if self.head.len() < 2 + len_bytes + 4 {
            return Ok(false);
        }
        let len = match len_bytes {
            0 => u64::from(second & 0x7f),
            _ => self.head[2..2 + len_bytes].iter().fold(0, |len, byte| len << 8 | u64::from(*byte)),
        };
        if len < short || len >> 63 != 0 {
            return Err((PROTOCOL_ERROR, "a length that is not written as it should be"));
        }
        debug_assert!(first & 0x08 == 0 || len <= MAX_CONTROL);
        self.mask.copy_from_slice(&self.head[2 + len_bytes..]);
        self.mask_at = 0;
        self.left = len;
        if first & 0x08 == 0 {
            self.in_message = first & 0x80 == 0;
        }
        Ok(true)
    }

    fn unmask(&mut self, bytes: &[u8], input: &mut BytesMut) {
        let at = self.mask_at;
        let masked = |(n, byte): (usize, &mut u8)| *byte ^= self.mask[(at + n) % 4];
        if self.opcode() < 8 {
            let begin = input.len();
            input.extend_from_slice(bytes);
            input[begin..].iter_mut().enumerate().for_each(masked);
        } else {
            let begin = self.control.len();
            self.control.extend_from_slice(bytes);
            self.control[begin..].iter_mut().enumerate().for_each(masked);
        }
        self.mask_at = (at + bytes.len()) % 4;
        self.left -= bytes.len() as u64;
    }

    /// The payload has come to its end. `Some`: the client closes.
    fn frame_ends(&mut self) -> Option<u16> {
        let opcode = self.opcode();
        self.head.clear();
        let control = std::mem::take(&mut self.control);
        match opcode {
            8 => {
                // The same code back; one that may not be on the wire, or half of one, is a mistake (7.4, 7.1.5).
                let code = match control[..] {
                    [] => NORMAL,
                    [high, low, ..] => u16::from_be_bytes([high, low]),
                    [_] => PROTOCOL_ERROR,
                };
                return Some(match code {
                    1000..=1003 | 1007..=1011 | 3000..=4999 => code,
                    _ => PROTOCOL_ERROR,
                });
            }
            9 => self.ping = Some(control),
            _ => {}
        }
        None
    }
}

/// Reads the request. `None`: it is not whole. Otherwise how long it is, and the answer.
fn open(place: &Place, bytes: &[u8]) -> Result<Option<(usize, String)>, (&'static str, &'static str)> {
    const BAD: &str = "400 Bad Request";
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let len = match request.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= MAX_REQUEST_BYTES => len,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_REQUEST_BYTES => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return Err(("431 Request Header Fields Too Large", "the request is too large"));
        }
        Err(_) => return Err((BAD, "expected an HTTP request that opens a WebSocket")),
    };
    let all = |name: &'static str| {
        let named = request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.filter_map(|header| std::str::from_utf8(header.value).ok())
    };
    let tokens = |name| all(name).flat_map(|value| value.split(',')).map(str::trim);
    if request.method != Some("GET") || request.version != Some(1) {
        return Err((BAD, "expected GET and HTTP/1.1"));
    }
    let path = request.path.unwrap_or_default();
    if path.split('?').next() != Some(&place.path) {
        return Err(("404 Not Found", "there is no WebSocket at this path"));
    }
    if !tokens("upgrade").any(|token| token.eq_ignore_ascii_case("websocket"))
        || !tokens("connection").any(|token| token.eq_ignore_ascii_case("upgrade"))
    {
        return Err((BAD, "expected a request to upgrade to a WebSocket"));
    }
    if all("sec-websocket-version").next() != Some("13") {
        return Err(("426 Upgrade Required", "expected version 13 of the WebSocket protocol"));
    }
    let key = all("sec-websocket-key").next().unwrap_or_default();
    if !STANDARD.decode(key).is_ok_and(|key| key.len() == 16) {
        return Err((BAD, "expected a Sec-WebSocket-Key of 16 bytes"));
    }
    let allowed = all("origin").all(|origin| {
        let same = all("host").next().is_some_and(|host| host_of(origin) == Some(without_port(host)));
        same || place.origins.iter().any(|allowed| allowed == "*" || allowed.eq_ignore_ascii_case(origin))
    });
    if !allowed {
        return Err(("403 Forbidden", "pages of this origin may not connect"));
    }
    // [MQTT-6.0.0-3]
    let Some(protocol) = PROTOCOLS.into_iter().find(|name| tokens("sec-websocket-protocol").any(|t| t == *name)) else {
        return Err((BAD, "expected the sub-protocol mqtt"));
    };
    let accept = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_SUFFIX}").as_bytes());
    let accept = STANDARD.encode(accept);
    // [MQTT-6.0.0-4]
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    Ok(Some((len, answer)))
}

/// The host in `scheme://host:port`.
fn host_of(origin: &str) -> Option<&str> {
    origin.split_once("://").map(|(_, host)| without_port(host))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // Not within the brackets of an IPv6 address.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: &str = "GET /mqtt?x=1 HTTP/1.1\r\nHost: gw:9001\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://gw:8080\r\nSec-WebSocket-Protocol: chat, mqtt\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";

    fn fresh() -> WebSocket {
        WebSocket::new(Place { path: "/mqtt".to_owned(), origins: vec!["https://friend".to_owned()] }.into())
    }

    fn opened() -> WebSocket {
        let mut socket = fresh();
        socket.receive(REQUEST.as_bytes(), &mut BytesMut::new()).expect("a proper request");
        let answer = socket.pending(&mut BytesMut::new()).split();
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        socket
    }

    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload.len() {
            len @ 0..126 => bytes.push(0x80 | u8::try_from(len).expect("short")),
            len @ 126..0x1_0000 => {
                bytes.push(0xfe);
                bytes.extend(u16::try_from(len).expect("short").to_be_bytes());
            }
            len => {
                bytes.push(0xff);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
        bytes
    }

    fn answered(socket: &mut WebSocket, bytes: &[u8]) -> (Result<(), WebSocketError>, Vec<u8>, Vec<u8>) {
        let mut input = BytesMut::new();
        let received = socket.receive(bytes, &mut input);
        (received, input.to_vec(), socket.pending(&mut BytesMut::new()).split().to_vec())
    }

    #[test]
    fn the_request_of_the_rfc_is_answered_as_there_and_what_follows_it_is_read() {
        let mut socket = fresh();
        let (first, last) = REQUEST.split_at(100);
        let (received, _, answer) = answered(&mut socket, first.as_bytes());
        assert!(received.is_ok() && answer.is_empty() && socket.is_opening());
        let (received, input, answer) =
            answered(&mut socket, &[last.as_bytes(), &frame(0x82, b"abc", [1, 2, 3, 4])].concat());
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{answer}");
        assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"), "{answer}");
        assert_eq!((received, &input[..]), (Ok(()), &b"abc"[..]));
    }

    #[test]
    fn a_request_that_is_not_for_us_is_answered_with_its_reason() {
        for (from, to, status) in [
            ("chat, mqtt", "chat", "400"),
            ("GET /mqtt", "GET /other", "404"),
            ("GET", "POST", "400"),
            ("Version: 13", "Version: 8", "426"),
            ("Upgrade: websocket", "Upgrade: h2c", "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", "400"),
            ("http://gw:8080", "http://elsewhere", "403"),
            ("http://gw:8080", "null", "403"),
            ("GET /mqtt?x=1 HTTP/1.1\r\n", "\x10\x1a\0\x04MQTT\r\n", "400"),
        ] {
            let mut socket = fresh();
            let (received, _, answer) = answered(&mut socket, REQUEST.replace(from, to).as_bytes());
            assert!(received.is_err() && socket.is_closed(), "{to}");
            assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{to}: {answer:?}");
        }
        for origin in ["https://friend", "https://gw"] {
            let (received, ..) = answered(&mut fresh(), REQUEST.replace("http://gw:8080", origin).as_bytes());
            assert!(received.is_ok(), "{origin}");
        }
        let long = format!("GET /mqtt HTTP/1.1\r\nCookie: {}", "x".repeat(9_000));
        assert!(answered(&mut fresh(), long.as_bytes()).2.starts_with(b"HTTP/1.1 431 "));
    }

    #[test]
    fn pings_are_answered_between_frames_and_a_close_is_given_back() {
        let mut socket = opened();
        let (_, input, answer) = answered(&mut socket, &frame(0x89, b"are you there", [9; 4]));
        assert_eq!((&input[..], &answer[..]), (&b""[..], &b"\x8a\x0dare you there"[..]));
        // Within a message of several frames.
        let bytes = [
            frame(0x02, b"ab", [1; 4]),
            frame(0x89, b"1", [2; 4]),
            frame(0x89, b"2", [3; 4]),
            frame(0x80, b"c", [4; 4]),
        ];
        let (_, input, answer) = answered(&mut socket, &bytes.concat());
        assert_eq!((&input[..], &answer[..]), (&b"abc"[..], &b"\x8a\x012"[..]));
        let (received, _, answer) = answered(&mut socket, &frame(0x88, &[0x03, 0xe9, b'x'], [5; 4]));
        assert_eq!((received, &answer[..]), (Ok(()), &[0x88, 2, 0x03, 0xe9][..]));
        assert!(socket.is_closed());
    }

    /// [MQTT-6.0.0-1]
    #[test]
    fn what_is_no_binary_data_ends_it_with_the_code_that_says_so() {
        let unmasked = vec![0x82, 1, b'x'];
        let long_ping = frame(0x89, &[0; 126], [0; 4]);
        for (bytes, code) in [
            (frame(0x81, b"text", [0; 4]), UNSUPPORTED),
            (frame(0x80, b"nothing to continue", [0; 4]), PROTOCOL_ERROR),
            ([frame(0x02, b"a", [0; 4]), frame(0x82, b"b", [0; 4])].concat(), PROTOCOL_ERROR),
            (frame(0xc2, b"compressed", [0; 4]), PROTOCOL_ERROR),
            (frame(0x09, b"in pieces", [0; 4]), PROTOCOL_ERROR),
            (frame(0x83, b"unknown", [0; 4]), PROTOCOL_ERROR),
            (unmasked, PROTOCOL_ERROR),
            (long_ping, PROTOCOL_ERROR),
            (vec![0x82, 0xfe, 0, 5, 0, 0, 0, 0], PROTOCOL_ERROR),
            (vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], PROTOCOL_ERROR),
        ] {
            let mut socket = opened();
            let (received, _, answer) = answered(&mut socket, &bytes);
            assert!(received.is_err(), "{bytes:?}");
            let [high, low] = code.to_be_bytes();
            assert_eq!(answer, [0x88, 2, high, low], "{bytes:?}");
        }
    }

    #[test]
    fn what_we_send_is_framed_and_the_goodbye_comes_behind_it() {
        let mut socket = opened();
        let mut plain = BytesMut::from(&[7; 20_000][..]);
        let first = socket.pending(&mut plain).split();
        assert_eq!((&first[..4], first.len(), plain.len()), (&[0x82, 126, 0x40, 0][..], 16_388, 3_616));
        let second = socket.pending(&mut plain).split();
        assert_eq!((&second[..4], second.len()), (&[0x82, 126, 0x0e, 0x20][..], 3_620));
        let mut short = BytesMut::from(&[1, 2][..]);
        socket.pending(&mut short);
        socket.end();
        assert_eq!(socket.pending(&mut short)[..], [0x82, 2, 1, 2, 0x88, 2, 0x03, 0xe8]);
    }

    proptest! {
        #[test]
        fn data_comes_out_as_it_went_in_however_it_is_framed_and_cut(
            payloads in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<[u8; 4]>(), any::<bool>()), 1..12),
            long in 0_usize..70_000, cuts in prop::collection::vec(1_usize..200, 1..20),
        ) {
            let (mut bytes, mut expected, mut begun) = (Vec::new(), Vec::new(), false);
            for (payload, mask, last) in &payloads {
                bytes.extend(frame(if begun { 0 } else { 2 } | if *last { 0x80 } else { 0 }, payload, *mask));
                bytes.extend(frame(0x89, b"ping", *mask));
                expected.extend(payload);
                begun = !last;
            }
            let filler = vec![5; long];
            bytes.extend(frame(if begun { 0x80 } else { 0x82 }, &filler, [1, 2, 3, 4]));
            expected.extend(filler);
            let (mut socket, mut input, mut rest) = (opened(), BytesMut::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                prop_assert_eq!(socket.receive(now, &mut input), Ok(()));
                rest = later;
            }
            prop_assert_eq!(input.to_vec(), expected);
        }

        #[test]
        fn no_bytes_make_it_panic(open in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut socket = if open { opened() } else { fresh() };
            let mut input = BytesMut::new();
            // What matters is that it comes back, and that no more comes out than went in.
            let _ = socket.receive(&bytes, &mut input);
            prop_assert!(input.len() <= bytes.len());
        }
    }
}
