//! Environment variables that override the file: `HEADWATER__SECTION__KEY=value`.
//!
//! A list element is picked by its number, counted from 0: `HEADWATER__LISTENER__0__BIND`. A whole list or section can
//! be given as TOML: `HEADWATER__STREAM='[{name = "all", topics = ["#"]}]'`.

use super::tree::{Given, Override};

/// What the names of our variables begin with.
pub const PREFIX: &str = "HEADWATER__";

/// The overrides among `variables`, ordered by name so that the result does not depend on their order.
pub fn overrides(variables: impl IntoIterator<Item = (String, String)>) -> Vec<Override> {
    let mut ours: Vec<_> = variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    ours.sort();
    let parse = |(name, value): (String, String)| Override {
        path: name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect(),
        origin: name,
        value: Given::Text(value),
    };
    ours.into_iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_variables_count_and_their_parts_are_the_path() {
        let given = [("PATH", "/bin"), ("HEADWATER_BIN", "x"), ("HEADWATER__DISK__MAX_BYTES", "1GiB")];
        let found = overrides(given.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, ["disk", "max_bytes"]);
        assert_eq!(found[0].origin, "HEADWATER__DISK__MAX_BYTES");
    }
}
