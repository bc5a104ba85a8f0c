//! Bytes as hexadecimal digits: how payloads travel between the tests and their Python scripts.

/// Two digits for each byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Back to bytes.
///
/// # Panics
/// If `text` is something else.
#[must_use]
#[track_caller]
pub fn unhex(text: &str) -> Vec<u8> {
    let digits = |at: usize| text.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    (0..text.len()).step_by(2).map(|at| digits(at).unwrap_or_else(|| panic!("not hexadecimal: {text:?}"))).collect()
}
