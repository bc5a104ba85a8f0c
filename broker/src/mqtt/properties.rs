//! The properties of a message as the log keeps them in its `headers`: a version byte, then the properties in their wire
//! form (2.2.2). No bytes at all stand for no properties, so a plain message costs nothing.
//!
//! | byte | meaning |
//! |---|---|
//! | 0 | version of this form: 1 |
//! | 1.. | properties, one after the other, without a length: payload format, message expiry, content type, response topic, correlation data, user properties |
//!
//! Numbers of versions are never reused. The expiry is kept as the publisher gave it; who reads it subtracts the age.

use bytes::Bytes;

use super::codec::{Counter, EncodeError, Properties, Reader, malformed};
use super::packet::{DecodeError, PublishProperties};

const VERSION: u8 = 1;

/// Appends the stored form of `properties` to `out`; nothing if there are none.
///
/// # Errors
/// A field is longer than 65,535 bytes, which none is that came off the wire. `out` is unchanged.
pub fn encode_stored(properties: &PublishProperties, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if *properties == PublishProperties::default() {
        return Ok(());
    }
    let mut counter = Counter::default();
    properties.emit(properties.message_expiry, &mut |property| property.write(&mut counter));
    let len = counter.remaining_length()?;
    out.reserve(1 + len);
    out.push(VERSION);
    properties.emit(properties.message_expiry, &mut |property| property.write(out));
    Ok(())
}

/// Reads what [`encode_stored`] wrote.
///
/// # Errors
/// The bytes are damaged, or of a version from the future.
pub fn decode_stored(stored: &Bytes) -> Result<PublishProperties, DecodeError> {
    match stored.first() {
        None => return Ok(PublishProperties::default()),
        Some(&VERSION) => {}
        Some(_) => return Err(malformed("stored properties are of an unknown version")),
    }
    let body = stored.slice(1..);
    let mut into = None;
    let mut properties = Properties::all(Reader::new(&body));
    while let Some(property) = properties.next()? {
        PublishProperties::take(&mut into, property)?;
    }
    Ok(into.map_or_else(PublishProperties::default, |properties| *properties))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all() -> PublishProperties {
        PublishProperties {
            payload_format: Some(1),
            message_expiry: Some(60),
            content_type: Some("a/b".to_owned()),
            response_topic: Some("r".parse().expect("valid")),
            correlation_data: Some(Bytes::from_static(&[0, 255])),
            user: vec![("k".to_owned(), "v".to_owned()), ("k".to_owned(), String::new())],
        }
    }

    #[test]
    fn no_properties_are_no_bytes() {
        let mut out = Vec::new();
        encode_stored(&PublishProperties::default(), &mut out).expect("short");
        assert!(out.is_empty());
        assert_eq!(decode_stored(&Bytes::new()), Ok(PublishProperties::default()));
    }

    /// Version 1 as it is on disks: these bytes must be read for ever.
    #[test]
    fn version_1_stays_readable() {
        let stored = b"\x01\x01\x01\x02\x00\x00\x00\x3c\x03\x00\x03a/b\x08\x00\x01r\x09\x00\x02\x00\xff\
            \x26\x00\x01k\x00\x01v\x26\x00\x01k\x00\x00";
        let mut out = Vec::new();
        encode_stored(&all(), &mut out).expect("short");
        assert_eq!(out, stored);
        assert_eq!(decode_stored(&Bytes::from_static(stored)), Ok(all()));
    }

    #[test]
    fn a_future_version_is_refused() {
        assert!(decode_stored(&Bytes::from_static(&[2, 1, 1])).is_err());
    }

    #[test]
    fn a_property_that_does_not_travel_is_refused() {
        // Topic alias.
        assert!(decode_stored(&Bytes::from_static(&[1, 0x23, 0, 1])).is_err());
    }

    #[test]
    fn a_field_that_is_too_long_is_refused_and_nothing_is_written() {
        let properties = PublishProperties { content_type: Some("x".repeat(65_536)), ..PublishProperties::default() };
        let mut out = vec![7];
        assert_eq!(encode_stored(&properties, &mut out), Err(EncodeError::FieldTooLong));
        assert_eq!(out, [7]);
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_refused_or_read_as_something(bytes in proptest::collection::vec(any::<u8>(), 0..32)) {
            if let Ok(properties) = decode_stored(&Bytes::from([&[VERSION], &bytes[..]].concat())) {
                let mut out = Vec::new();
                encode_stored(&properties, &mut out).expect("came from stored bytes");
                prop_assert_eq!(decode_stored(&Bytes::from(out)), Ok(properties));
            }
        }
    }
}
