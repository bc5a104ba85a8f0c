//! Holds the configuration files that are shipped to the code: each loads, and `configs/headwater.toml` lists every key
//! with the default that the code has.

use std::path::{Path, PathBuf};

use serde::Serialize;
use toml::{Table, Value};

use super::raw::{self, RawCreate, RawFile, RawListener, RawMirror, RawStream, RawTls, RawUplink};

const REFERENCE: &str = include_str!("../../../configs/headwater.toml");

/// The file with every commented-out key and section put in force.
fn in_force(text: &str) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()) => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The section at that path in the file; of a list, its first element.
fn section<'a>(file: &'a Table, path: &str) -> &'a Table {
    let mut table = file;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        table = match &table[step] {
            Value::Table(table) => table,
            Value::Array(list) => list[0].as_table().unwrap_or_else(|| panic!("`{path}` is no list of sections")),
            other => panic!("`{path}` is a {}", other.type_str()),
        };
    }
    table
}

/// Whether the comment above `key` in the section that begins with `header` says that it has no default.
fn says_no_default(header: &str, key: &str) -> bool {
    let (_, rest) = REFERENCE.split_once(&format!("{header}\n")).unwrap_or_else(|| panic!("no section {header}"));
    let lines: Vec<&str> = rest.lines().collect();
    let at = lines.iter().position(|line| line.starts_with(&format!("#{key} ="))).unwrap_or_else(|| panic!("no {key}"));
    let comment = lines[..at].iter().rev().take_while(|line| line.starts_with("# "));
    comment.into_iter().any(|line| line.contains("No default"))
}

#[track_caller]
fn holds<T: Serialize + Default>(path: &str, header: &str) {
    let file: Table = in_force(REFERENCE).parse().expect("the reference file is TOML");
    let documented = section(&file, path);
    let defaults = Table::try_from(T::default()).expect("the section is a table");
    for key in raw::keys_at(path) {
        let shown = documented.get(*key).unwrap_or_else(|| panic!("{header} {key} is not in the reference file"));
        match defaults.get(*key) {
            // A list or section of its own, looked at by itself.
            _ if matches!(*key, "mirror" | "tls" | "create" | "jwt") => {}
            // No default in the code, or an empty one that a user must replace.
            None => {
                assert!(says_no_default(header, key), "{header} {key} has no default, and the file does not say so")
            }
            Some(default) if default == shown => {
                assert!(!says_no_default(header, key), "{header} {key} has a default, and the file denies it");
            }
            Some(Value::Array(list)) if list.is_empty() && says_no_default(header, key) => {}
            Some(default) => panic!("{header} {key}: the default is {default}, the file says {shown}"),
        }
    }
}

#[test]
fn every_key_is_documented_with_its_default() {
    holds::<raw::RawGateway>("gateway", "[gateway]");
    holds::<raw::RawDisk>("disk", "[disk]");
    holds::<raw::RawDurability>("durability", "[durability]");
    holds::<raw::RawClock>("clock", "[clock]");
    holds::<raw::RawHttp>("http", "[http]");
    holds::<raw::RawMqtt>("mqtt", "[mqtt]");
    holds::<raw::RawAuth>("auth", "[auth]");
    holds::<raw::RawJwt>("auth.jwt", "#[auth.jwt]");
    holds::<RawListener>("listener", "#[[listener]]");
    holds::<raw::RawListenerTls>("listener.tls", "#[listener.tls]");
    holds::<RawStream>("stream", "#[[stream]]");
    holds::<RawUplink>("uplink", "#[[uplink]]");
    holds::<RawTls>("uplink.tls", "#[uplink.tls]");
    holds::<RawMirror>("uplink.mirror", "#[[uplink.mirror]]");
    holds::<RawCreate>("uplink.mirror.create", "#[uplink.mirror.create]");
}

#[test]
fn every_section_is_documented() {
    let file: Table = in_force(REFERENCE).parse().expect("the reference file is TOML");
    for section in raw::keys_at("") {
        assert!(file.contains_key(*section), "[{section}] is not in the reference file");
    }
}

#[test]
fn the_reference_file_as_shipped_is_the_default_configuration() {
    let load =
        |text| super::load("headwater.toml", text, &[], "box").unwrap_or_else(|errors| panic!("{errors}")).config;
    assert_eq!(format!("{:?}", load(REFERENCE)), format!("{:?}", load("")));
    let defaults: RawFile = toml::from_str(REFERENCE).expect("it was just loaded");
    assert_eq!(Table::try_from(&defaults), Table::try_from(RawFile::default()));
}

fn shipped(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())) {
        let path = entry.expect("a directory can be listed").path();
        match path.is_dir() {
            true => shipped(&path, found),
            false if path.extension().is_some_and(|extension| extension == "toml") => found.push(path),
            false => {}
        }
    }
}

#[test]
fn every_shipped_configuration_loads() {
    let mut files = Vec::new();
    shipped(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs"), &mut files);
    assert!(files.len() >= 3, "only {files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let name = file.display().to_string();
        super::load(&name, &text, &[], "box").unwrap_or_else(|errors| panic!("{errors}"));
    }
}

#[test]
fn the_reference_file_loads_with_every_key_in_force() {
    // Several kinds of credentials at once are the one thing that cannot be.
    let text: Vec<_> = in_force(REFERENCE)
        .lines()
        .filter(|line| !["user =", "password =", "token =", "nkey ="].iter().any(|key| line.starts_with(key)))
        // TLS keys are for listeners that speak it, and some of them for those that ask for certificates.
        .map(|line| match line {
            "kind = \"mqtt\"" => "kind = \"mqtts\"",
            "client_certificates = \"none\"" => "client_certificates = \"required\"",
            other => other,
        })
        .map(str::to_owned)
        .collect();
    super::load("headwater.toml", &text.join("\n"), &[], "box").unwrap_or_else(|errors| panic!("{errors}"));
}
