//! Payloads that say who sent them and which one they are, and that cannot be damaged unnoticed.

/// A message that a publisher of these tests sent: everything about its payload follows from this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The publisher, unique within a test; no `:`.
    pub publisher: String,
    /// Its counter, from 1.
    pub number: u64,
}

impl Mark {
    /// The payload: `publisher:number:checksum:filler`. The filler differs from message to message, in content and in
    /// length (up to about 200 bytes), so that mixed up or cut payloads do not look right by chance.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let mut state = fnv1a(format!("{}:{}", self.publisher, self.number).as_bytes());
        let length = 20 + usize::try_from(state % 180).expect("a number below 180 fits");
        let mut filler = String::with_capacity(length);
        while filler.len() < length {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            filler += &format!("{:x}", state >> 32);
        }
        let checksum = fnv1a(filler.as_bytes());
        format!("{}:{}:{checksum:016x}:{filler}", self.publisher, self.number).into_bytes()
    }

    /// Who sent a payload.
    ///
    /// # Errors
    /// If it is not, byte for byte, what that publisher sent under that number.
    pub fn of(payload: &[u8]) -> Result<Mark, String> {
        let damaged = || format!("a payload that nobody sent: {:?}", String::from_utf8_lossy(payload));
        let text = std::str::from_utf8(payload).map_err(|_| damaged())?;
        let mut parts = text.splitn(3, ':');
        let publisher = parts.next().ok_or_else(damaged)?.to_owned();
        let number = parts.next().and_then(|number| number.parse().ok()).ok_or_else(damaged)?;
        let mark = Mark { publisher, number };
        if mark.payload() == payload { Ok(mark) } else { Err(damaged()) }
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_who_sent_it_and_any_flipped_byte_is_noticed() {
        let mark = Mark { publisher: "p-1".into(), number: 42 };
        let payload = mark.payload();
        assert_eq!(Mark::of(&payload), Ok(mark));
        for at in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[at] ^= 1;
            assert!(Mark::of(&damaged).is_err(), "byte {at}");
        }
        assert!(Mark::of(&payload[..payload.len() - 1]).is_err());
    }
}
