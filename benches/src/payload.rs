//! The messages of every scenario: telemetry as machines send it, deterministic, with numbers that change.

/// Bytes of every payload of this module.
pub const PAYLOAD_BYTES: usize = 200;

/// A small deterministic generator (splitmix64): the same seed gives the same messages on every machine.
#[derive(Clone, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// Starts the series of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// Topic number `number` of publisher `publisher`.
#[must_use]
pub fn topic(publisher: usize, number: usize) -> String {
    match number {
        0 => format!("plant/line-{publisher:02}/press/telemetry"),
        more => format!("plant/line-{publisher:02}/press-{more}/telemetry"),
    }
}

/// Message number `count` of publisher `publisher`: a JSON object of exactly [`PAYLOAD_BYTES`], the readings random within
/// their digits, the rest as repetitive as telemetry is.
#[must_use]
pub fn telemetry(numbers: &mut Numbers, publisher: usize, count: u64) -> Vec<u8> {
    let mut text = format!(
        r#"{{"device":"press-{publisher:02}","n":{count},"time":"2026-11-23T12:{:02}:{:02}.{:03}Z","temperature":{:.2},"pressure":{:.3},"vibration":{:.4},"rpm":{},"power":{:.1},"state":"{}","alarm":false}}"#,
        count / 60_000 % 60,
        count / 1_000 % 60,
        count % 1_000,
        20.0 + (numbers.draw() % 2_000) as f64 / 100.0,
        1.0 + (numbers.draw() % 5_000) as f64 / 1_000.0,
        (numbers.draw() % 100_000) as f64 / 10_000.0,
        1_200 + numbers.draw() % 400,
        300.0 + (numbers.draw() % 1_000) as f64 / 10.0,
        ["running", "idle", "cleaning"][(numbers.draw() % 3) as usize],
    );
    assert!(text.len() <= PAYLOAD_BYTES, "the fields are chosen to fit");
    // JSON may end in white space.
    text.extend(std::iter::repeat_n(' ', PAYLOAD_BYTES - text.len()));
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_has_the_promised_size() {
        let mut numbers = Numbers::new(1);
        for count in [0, 9, 1_000_000_000] {
            assert_eq!(telemetry(&mut numbers, 19, count).len(), PAYLOAD_BYTES);
        }
    }
}
