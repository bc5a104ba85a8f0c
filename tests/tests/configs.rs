//! The configurations that are shipped: the real programs accept them, and they agree with the README.

use std::path::{Path, PathBuf};

use headwater_tests::gateway::headwater;
use headwater_tests::process::{provided, run};
use headwater_tests::wait::PATIENCE;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

#[test]
fn nats_server_accepts_every_node_of_the_local_hub() {
    for node in ["n1", "n2", "n3"] {
        let file = configs().join(format!("hub/{node}.conf")).display().to_string();
        let finished = run(provided("HEADWATER_NATS_SERVER"), ["-t", "-c", &file], PATIENCE);
        assert_eq!(finished.code, Some(0), "{}{}", finished.stdout, finished.stderr);
    }
}

/// Every configuration of Headwater in the repository.
fn ours() -> Vec<PathBuf> {
    let mut left = ["../configs", "../targets"].map(|dir| Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).to_vec();
    let mut found = Vec::new();
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.unwrap_or_else(|e| panic!("{}: {e}", dir.display())).path();
            match path.extension() {
                _ if path.is_dir() => left.push(path),
                Some(extension) if extension == "toml" && !path.ends_with("Cargo.toml") => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn check_accepts_every_shipped_configuration_that_needs_no_credentials_of_yours() {
    let (uplink, files): (Vec<_>, Vec<_>) = ours().into_iter().partition(|file| file.ends_with("with-uplink.toml"));
    assert!(files.len() >= 9, "{files:?}");
    for file in files {
        let file = file.display().to_string();
        // The budget may be larger than this machine's disk; then it is lowered, and said.
        assert!(headwater(&["check", "--config", &file]).success().starts_with("ok\n"), "{file}");
    }
    let file = uplink[0].display().to_string();
    let finished = headwater(&["check", "--config", &file]);
    assert_eq!(finished.code, Some(2), "{}", finished.stdout);
    assert!(finished.stderr.contains("credentials_file"), "{}", finished.stderr);
}

#[test]
fn the_local_hub_grants_what_the_readme_lists_and_no_more() {
    let quoted = |text: &str, quote: char| -> Vec<String> {
        let mut found: Vec<String> = text.split(quote).skip(1).step_by(2).map(str::to_owned).collect();
        found.retain(|subject| ["edge.gw-1", "$JS.API", "_INBOX"].iter().any(|start| subject.starts_with(start)));
        found.sort();
        found
    };
    let hub = std::fs::read_to_string(configs().join("hub/common.conf")).expect("there is a hub configuration");
    let (_, user) = hub.split_once("user: gw-1").expect("it has a user for a gateway");
    let (user, _) = user.split_once("SYS").expect("and an account behind it");
    let readme = std::fs::read_to_string(configs().join("../README.md")).expect("there is a README");
    let (_, table) = readme.split_once("| permission |").expect("it lists permissions");
    let (table, _) = table.split_once("\n\n").expect("the table ends");
    let granted = quoted(user, '"');
    assert_eq!(granted.len(), 5, "{granted:?}");
    assert_eq!(granted, quoted(table, '`'));
}
