//! Spans of time as people write them: `"20ms"`, `"7d"`.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Milliseconds per unit, largest first.
const UNITS: [(&str, u64); 6] =
    [("w", 7 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

const EXPECTED: &str = "a time such as \"20ms\" or \"7d\" (units ms, s, m, h, d, w)";

/// Ten years: longer than any deadline that makes sense, and far from where adding to a clock could overflow.
const LONGEST_MS: u64 = 3_653 * 86_400_000;

impl Span {
    /// `ms` milliseconds.
    #[must_use]
    pub const fn ms(ms: u64) -> Span {
        Span(Duration::from_millis(ms))
    }

    /// Reads a time: a whole number and a unit. Only `0` needs no unit.
    ///
    /// # Errors
    /// If the text is not that, or longer than ten years.
    pub fn parse(text: &str) -> Result<Span, String> {
        let wrong = || format!("expected {EXPECTED}, found \"{text}\"");
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        let number: u64 = number.replace('_', "").parse().map_err(|_| wrong())?;
        let unit = unit.trim_start();
        let factor = match unit {
            "" if number == 0 => 1,
            _ => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(wrong)?,
        };
        match number.checked_mul(factor) {
            Some(ms) if ms <= LONGEST_MS => Ok(Span::ms(ms)),
            _ => Err(format!("\"{text}\" is longer than ten years")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (name, factor) =
            UNITS.iter().skip(1).find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor)).unwrap_or(&("ms", 1));
        write!(f, "{}{name}", ms / factor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        struct SpanVisitor;
        impl Visitor<'_> for SpanVisitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Span, E> {
                match value {
                    0 => Ok(Span::ms(0)),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Span, E> {
                Span::parse(value).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(SpanVisitor)
    }
}

#[cfg(test)]
impl serde::Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_understood() {
        for (text, ms) in [
            ("0", 0),
            ("0ms", 0),
            ("20ms", 20),
            ("5s", 5_000),
            ("5 m", 300_000),
            ("2h", 7_200_000),
            ("7d", 604_800_000),
            ("1w", 604_800_000),
        ] {
            assert_eq!(Span::parse(text), Ok(Span::ms(ms)), "{text}");
        }
    }

    #[test]
    fn a_number_without_a_unit_is_refused() {
        for text in ["", "5", "s", "-1s", "1.5s", "5min", "1h30m", "11y", "3654d", "99999999999999999999w"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(ms in 0..LONGEST_MS) {
            prop_assert_eq!(Span::parse(&Span::ms(ms).to_string()), Ok(Span::ms(ms)));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ignored = Span::parse(&text);
        }
    }
}
