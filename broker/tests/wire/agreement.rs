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

use crate::generate;
use crate::judge::{MAX, through_rumqttc, within_rumqttc};

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
