//! What an idle client holds.

use super::*;
use crate::mqtt::session::Session;

/// Of the parts that every client has, whatever it does. A field more is a decision: it is there for each of thousands of idle clients.
#[test]
fn a_connection_is_as_large_as_it_was_decided_to_be() {
    let sizes = (size_of::<Session>(), size_of::<connection::Connection>());
    assert!(sizes.0 <= SESSION_BYTES && sizes.1 <= CONNECTION_BYTES, "{sizes:?}");
}

/// 296 and 984 were measured on 64 bits.
const SESSION_BYTES: usize = 304;
const CONNECTION_BYTES: usize = 1_024;

/// A client that is idle holds none of the room that a read needs, also where one read brought CONNECT and everything behind it.
#[tokio::test]
async fn a_client_whose_packets_came_together_holds_no_read_buffer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mut client = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
    let (socket, _) = listener.accept().await.expect("it was connected");
    let mut wire = wire::Wire::new(socket::Socket::Tcp(socket), None, None);
    let mut bytes = BytesMut::new();
    codec::encode(&Packet::Connect(Box::new(connect("c", Version::V5, true))), Version::V5, &mut bytes)
        .expect("proper");
    codec::encode(&Packet::PingReq, Version::V5, &mut bytes).expect("proper");
    client.write_all(&bytes).await.expect("it is read");
    let counters = stats::Counters::default();
    wire.ready().await.expect("it is connected");
    assert_eq!(wire.read(&counters).expect("bytes"), wire::Read::Some);
    assert!(matches!(wire.decode(None, 1_000), Ok(Some(Packet::Connect(_)))));
    // The connection begins with another read, before it looks at what it has.
    assert_eq!(wire.read(&counters).expect("nothing more"), wire::Read::None);
    assert!(matches!(wire.decode(Some(Version::V5), 1_000), Ok(Some(Packet::PingReq))));
    assert!(matches!(wire.decode(Some(Version::V5), 1_000), Ok(None)));
    assert_eq!(wire.held(), 0);
}

/// A byte here is 20 KB with 20,000 clients. The figures are those of 64 bits; whoever needs more for good reason raises them, and measures
/// with the scenario `idle` of the benches.
#[test]
#[cfg(target_pointer_width = "64")]
fn what_every_idle_client_holds_stays_small() {
    // With what the runtime adds, its task is 128 bytes.
    assert!(size_of::<listener::Life>() <= 24, "task: {}", size_of::<listener::Life>());
    assert!(size_of::<connection::Connection>() <= 552, "connection: {}", size_of::<connection::Connection>());
    assert!(size_of::<hub::Link>() <= 136, "link: {}", size_of::<hub::Link>());
}
