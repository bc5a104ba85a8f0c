//! Another implementation as a judge: what we write, rumqttc reads; what it then writes, we read as what we meant.
//!
//! rumqttc is a client library, so some of what a server may send or receive it does not take. That is counted, and a
//! kind of packet that it never took fails the test: then nothing was compared.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::BytesMut;
use headwater_broker::mqtt::codec::{decode, encode};
use headwater_broker::mqtt::packet::{Packet, Version};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use crate::generate;

const MAX: u32 = 1 << 20;

/// Through rumqttc and back; `None` if it does not take the packet.
fn through_rumqttc(version: Version, bytes: &BytesMut) -> Option<BytesMut> {
    let mut stream = bytes.clone();
    let mut out = BytesMut::new();
    match version {
        Version::V31 | Version::V311 => {
            let packet = v4::Packet::read(&mut stream, MAX as usize).ok()?;
            packet.write(&mut out, MAX as usize).ok()?;
        }
        Version::V5 => {
            let packet = v5::Packet::read(&mut stream, Some(MAX)).ok()?;
            packet.write(&mut out, Some(MAX)).ok()?;
        }
    }
    Some(out)
}

fn compare(version: Version, never_taken: &[&str]) {
    let taken = RefCell::new(BTreeMap::<String, (u32, u32)>::new());
    TestRunner::new(Config { cases: 8_000, source_file: Some(file!()), ..Config::default() })
        .run(&generate::packet_of(version).prop_map(within_rumqttc), |packet| {
            let mut ours = BytesMut::new();
            encode(&packet, version, &mut ours).expect("a valid packet");
            let mut taken = taken.borrow_mut();
            let count = taken.entry(kind(&packet)).or_default();
            count.1 += 1;
            if let Some(mut theirs) = through_rumqttc(version, &ours) {
                count.0 += 1;
                let back = decode(&mut theirs, Some(version), MAX);
                prop_assert_eq!(back, Ok(Some(packet)));
                prop_assert!(theirs.is_empty());
            }
            Ok(())
        })
        .expect("both read the same");
    for (kind, (taken, made)) in taken.into_inner() {
        assert_eq!(taken == 0, never_taken.contains(&kind.as_str()), "{kind}: {taken} of {made} taken");
    }
}

/// What rumqttc cannot say is taken out of `packet`, so that the rest is compared.
fn within_rumqttc(mut packet: Packet) -> Packet {
    match &mut packet {
        // It has a login or none, and takes an empty name and password for none.
        Packet::Connect(p)
            if p.username.as_deref().is_none_or(str::is_empty)
                || p.password.as_deref().is_none_or(<[u8]>::is_empty) =>
        {
            p.username = None;
            p.password = None;
        }
        // It counts a byte too many for each identifier it reads, and so loses the third.
        Packet::Publish(p) => p.subscription_ids.truncate(2),
        _ => {}
    }
    packet
}

fn kind(packet: &Packet) -> String {
    let text = format!("{packet:?}");
    text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_owned()
}

#[test]
fn rumqttc_reads_what_we_write_in_3_1_1() {
    compare(Version::V311, &[]);
}

#[test]
fn rumqttc_reads_what_we_write_in_5_0() {
    compare(Version::V5, &["Auth"]);
}
