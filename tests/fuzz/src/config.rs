//! Configuration files, with overrides: refused with a place, or resolved to something that holds together.

use headwater_broker::config::env::overrides;
use headwater_broker::config::{Location, load};

const NAME: &str = "headwater.toml";

/// The file, then `HEADWATER__SECTION__KEY=VALUE` as often as wanted, with NUL between them.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let given = overrides(parts.filter_map(|part| part.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())));
    match load(NAME, file, &given, "host") {
        Ok(loaded) => {
            let config = &loaded.config;
            assert!(config.sections_that_differ(config).is_empty());
            assert!(config.disk.max_bytes >= 32 << 20);
            assert!(config.mqtt.receive_maximum > 0 && !config.listeners.is_empty());
            for (index, stream) in config.streams.iter().enumerate() {
                for other in &config.streams[..index] {
                    assert_ne!(stream.name, other.name);
                }
            }
            for uplink in &config.uplinks {
                assert!(uplink.mirrors.iter().all(|m| config.streams.iter().any(|s| s.name == m.stream)));
                assert!((1..=1000).contains(&uplink.batch_msgs));
            }
            let again = load(NAME, file, &given, "host").expect("it was taken before");
            assert_eq!(again.config, loaded.config);
        }
        Err(errors) => {
            assert!(!errors.0.is_empty() && !errors.to_string().is_empty());
            for error in &errors.0 {
                assert!(!error.message.is_empty(), "{error:?}");
                match &error.location {
                    Location::File { name, line, column } => {
                        assert_eq!(name, NAME);
                        // An error may stand behind the last line, or behind the end of its line.
                        let (lines, end) = (file.split('\n').count(), file.split('\n').nth(line - 1));
                        assert!((1..=lines).contains(line), "line {line} of {lines}");
                        assert!((1..=end.map_or(0, |l| l.chars().count()) + 1).contains(column), "{error:?}");
                    }
                    Location::Outside(name) => assert!(given.iter().any(|o| o.origin == *name), "{error:?}"),
                    Location::Nowhere => {}
                }
            }
        }
    }
}
