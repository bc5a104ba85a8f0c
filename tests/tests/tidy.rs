//! Rules of the house that a compiler does not hold: what is pure stays pure, an outside library is named in one file,
//! crates depend one way, and nothing of the machine it was written on gets into the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules (a file, or a folder with all below it) that hold decisions only: no I/O, clock, randomness or async.
const PURE: &[&str] = &[
    "benches/src/brokers/config",
    "benches/src/histogram",
    "benches/src/payload",
    "benches/src/plot",
    "benches/src/tally",
    "broker/src/auth/acl",
    "broker/src/auth/jwt",
    "broker/src/log/boots",
    "broker/src/log/filter",
    "broker/src/log/query",
    "broker/src/log/signature",
    "broker/src/mqtt",
    "broker/src/router/trie",
    "broker/src/server/admission",
    "broker/src/server/episode",
    "broker/src/server/proxy",
    "broker/src/server/rate",
    "broker/src/server/turns",
    "broker/src/server/websocket",
    "broker/src/subject",
    "sync/src/backoff",
    "sync/src/batch",
    "sync/src/encode",
    "sync/src/forwarder",
    "sync/src/resume",
];

/// What would make them impure. Words, as they stand in code.
const IMPURE: &[&str] = &[
    "async fn",
    "async move",
    ".await",
    "tokio",
    "std::fs",
    "std::net",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "File::",
    "TcpStream",
    "Instant::",
    "SystemTime",
    "SystemClock",
    "getrandom",
    "RandomState",
    "println!",
    "eprintln!",
];

/// Outside libraries that one file translates for the rest, and the crates that belong to each.
const NAMED_ONCE: &[&[&str]] = &[
    &["fjall", "lsm_tree", "sfa"],
    &["fuser"],
    &["argon2"],
    &["x509_cert"],
    &["async_nats"],
    &["rumqttc"],
    &["rustls", "tokio_rustls"],
    &["hyper", "hyper_util"],
    &["httparse"],
];

/// Lines of code in a file: past this, look for the data structure hiding in it.
const MAX_LINES: usize = 650;

/// What may stand at the top, beside hidden tool files.
const TOP: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "benches",
    "broker",
    "clippy.toml",
    "configs",
    "deny.toml",
    "rustfmt.toml",
    "sync",
    "targets",
    "tests",
];

/// Which of our crates a crate may use.
const DEPENDENCIES: &[(&str, &[&str])] =
    &[("broker", &[]), ("sync", &["headwater-broker"]), ("targets/gateway", &["headwater-broker", "headwater-sync"])];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// Every file that git knows, or would with the next `git add`; relative to the root.
fn files() -> Vec<String> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"]);
    let output = git.output().unwrap_or_else(|e| panic!("cannot run git: {e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).expect("the names of our files are UTF-8");
    let files: Vec<String> = listed.lines().filter(|file| root().join(file).is_file()).map(str::to_owned).collect();
    assert!(files.len() > 20, "{files:?}");
    files
}

fn read(file: &str) -> String {
    let bytes = std::fs::read(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn sources() -> Vec<(String, String)> {
    files().into_iter().filter(|file| file.ends_with(".rs")).map(|file| (file.clone(), read(&file))).collect()
}

/// The lines that are code: no comment lines, nothing behind `//`, nothing empty.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split(" //").next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
}

/// The code in front of the tests, which may do what they like.
fn code_without_tests(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = code(text).collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    lines[..tests.unwrap_or(lines.len())].to_vec()
}

/// Whether a whole file is tests or measurements, which may use what they like.
fn is_test(file: &str) -> bool {
    file.starts_with("benches/") || file.split('/').any(|part| part == "tests" || part == "tests.rs")
}

fn names(line: &str, library: &str) -> bool {
    line.match_indices(library).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + library.len()..];
        let starts = before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        starts && (after.starts_with("::") || (line.starts_with("use ") && after.starts_with([';', ' '])))
    })
}

#[test]
fn every_source_file_says_what_it_is() {
    let silent: Vec<String> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(file, _)| file).collect();
    assert!(silent.is_empty(), "these do not begin with `//!`: {silent:#?}");
}

#[test]
fn no_source_file_is_too_long_to_be_one_idea() {
    let long: Vec<(String, usize)> = sources()
        .into_iter()
        .map(|(file, text)| (file, code(&text).count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert!(long.is_empty(), "more than {MAX_LINES} lines of code: {long:#?}");
}

#[test]
fn pure_files_hold_no_io_clock_randomness_or_async() {
    let sources = sources();
    let mut found = Vec::new();
    for pure in PURE {
        let mut any = false;
        for (file, text) in &sources {
            if file.strip_prefix(pure).is_some_and(|rest| rest == ".rs" || rest.starts_with('/')) {
                any = true;
                // What is listed in the measurements is no test: it is held like the rest.
                if is_test(file) && !pure.starts_with("benches/") {
                    continue;
                }
                for line in code_without_tests(text) {
                    found.extend(IMPURE.iter().filter(|word| line.contains(*word)).map(|word| (file, *word, line)));
                }
            }
        }
        assert!(any, "there is no {pure}: it was renamed, and this list was not");
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn an_outside_library_is_named_in_one_file() {
    for group in NAMED_ONCE {
        let named: BTreeSet<String> = sources()
            .into_iter()
            .filter(|(file, _)| !is_test(file))
            .filter(|(_, text)| {
                code_without_tests(text).iter().any(|line| group.iter().any(|library| names(line, library)))
            })
            .map(|(file, _)| file)
            .collect();
        assert!(named.len() <= 1, "{group:?} are named in {named:#?}");
    }
}

#[test]
fn the_wire_and_the_log_do_not_know_each_other() {
    let mut found = Vec::new();
    for (file, text) in sources() {
        for (part, other) in [("broker/src/mqtt/", "crate::log"), ("broker/src/log/", "crate::mqtt")] {
            if file.starts_with(part) && code(&text).any(|line| line.contains(other)) {
                found.push((file.clone(), other));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn crates_depend_one_way() {
    for (folder, allowed) in DEPENDENCIES {
        let manifest = read(&format!("{folder}/Cargo.toml"));
        let used: BTreeSet<&str> = manifest
            .lines()
            .filter_map(|line| line.split(['.', ' ', '=']).next())
            .filter(|name| name.starts_with("headwater-"))
            .collect();
        let extra: Vec<_> = used.iter().filter(|name| !allowed.contains(name)).collect();
        assert!(extra.is_empty(), "{folder} must not depend on {extra:?}");
    }
}

#[test]
fn nothing_unexpected_stands_at_the_top() {
    let top: BTreeSet<String> = files().iter().filter_map(|file| file.split('/').next()).map(str::to_owned).collect();
    let extra: Vec<_> = top.iter().filter(|name| !name.starts_with('.') && !TOP.contains(&name.as_str())).collect();
    assert!(extra.is_empty(), "{extra:?}");
}

#[test]
fn nothing_of_this_machine_is_in_the_repository() {
    let root = root();
    // Put together here, so that this file does not hold what it looks for.
    let mut unwanted: Vec<String> =
        [("crates", "io"), ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("golang", "org")]
            .map(|(name, end)| format!("{name}.{end}"))
            .to_vec();
    let homes = ["HOME", "CARGO_HOME", "RUSTUP_HOME"].map(|variable| std::env::var_os(variable).map(PathBuf::from));
    for path in homes.into_iter().flatten().chain([root.clone()]).chain(root.parent().map(Path::to_owned)) {
        if path.components().count() > 1 {
            unwanted.push(format!("{}/", path.display()));
        }
    }
    let mut found = BTreeMap::new();
    // The lock file names the public index by the address that every such file has.
    for file in files().into_iter().filter(|file| file != "Cargo.lock") {
        for (number, line) in read(&file).lines().enumerate() {
            if unwanted.iter().any(|unwanted| line.contains(unwanted)) {
                found.insert(format!("{file}:{}", number + 1), line.to_owned());
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_dependency_comes_from_the_public_index() {
    let sources: BTreeSet<String> =
        read("Cargo.lock").lines().filter(|line| line.starts_with("source = ")).map(str::to_owned).collect();
    assert_eq!(sources.len(), 1, "{sources:#?}");
    let index = sources.first().map(String::as_str).unwrap_or_default();
    assert!(index.starts_with("source = \"registry+https://github.com/rust-lang/"), "{index}");
}

#[test]
fn no_test_is_switched_off() {
    let word = format!("#[{}", "ignore");
    let found: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| code(text).any(|line| line.starts_with(&word)))
        .map(|(file, _)| file)
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}
