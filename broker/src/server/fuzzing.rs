//! What must hold for any bytes that reach a listener before they are MQTT. For `tests/fuzz`; not part of any build that is shipped.

use std::sync::Arc;

use bytes::BytesMut;

use super::proxy::{self, Header};
use super::websocket::WebSocket;
use crate::config;

/// PROXY protocol: a header is waited for while bytes are missing, and then found whatever follows it.
///
/// # Panics
/// If that does not hold.
pub fn proxy(data: &[u8]) {
    match proxy::parse(data) {
        Ok(None) => assert!(data.len() < proxy::MAX_BYTES, "no header is waited for without end"),
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(Some(header)) => {
            let Header { len, .. } = header;
            assert!(len > 0 && len <= data.len().min(proxy::MAX_BYTES));
            for cut in [len - 1, len / 2, 0] {
                assert_eq!(proxy::parse(&data[..cut]), Ok(None), "{cut} of {len} bytes");
            }
            assert_eq!(proxy::parse(&data[..len]), Ok(Some(header)), "what follows does not matter");
        }
    }
}

/// WebSocket: the first byte says whether the request was read already, the second in what pieces the rest comes. How bytes are cut
/// does not matter, and no more comes out than went in.
///
/// # Panics
/// If that does not hold.
pub fn websocket(data: &[u8]) {
    let [mode, piece, bytes @ ..] = data else { return };
    let whole = received(*mode, [bytes].into_iter());
    let piece = usize::from(*piece) % 32 + 1;
    let pieces = received(*mode, bytes.chunks(piece));
    // A request that is too long is told from its bytes so far, in pieces sooner than as a whole.
    if bytes.len() < 4096 {
        assert_eq!(whole, pieces, "in pieces of {piece}");
    }
    assert!(whole.input.len() <= bytes.len());
}

#[derive(Debug, PartialEq, Eq)]
struct Received {
    input: BytesMut,
    output: BytesMut,
    failed: bool,
    closed: bool,
}

fn received<'a>(mode: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Received {
    let place = config::WebSocket { path: "/mqtt".to_owned(), origins: vec!["https://app.example".to_owned()] };
    let mut socket = WebSocket::new(Arc::new(place));
    let mut input = BytesMut::new();
    if mode & 1 == 1 {
        let request = b"GET /mqtt HTTP/1.1\r\nHost: gw\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
        socket.receive(request, &mut input).expect("a proper request");
        assert!(!socket.is_opening());
    }
    let mut failed = false;
    for piece in pieces {
        failed |= socket.receive(piece, &mut input).is_err();
        if failed {
            assert!(socket.is_closed() && socket.has_output(), "the client is told why");
            break;
        }
    }
    let mut plain = if socket.is_opening() { BytesMut::new() } else { BytesMut::from(&[7; 300][..]) };
    let mut output = BytesMut::new();
    for _ in 0..3 {
        output.unsplit(socket.pending(&mut plain).split());
    }
    assert!(plain.is_empty() && !socket.has_output());
    let closed = socket.is_closed();
    Received { input, output, failed, closed }
}
