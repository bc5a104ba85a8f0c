//! Starts that must fail: a clear message, exit code 2 (what was asked for is wrong) or 1 (it cannot be done), and
//! nothing touched.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use headwater_tests::copy::{assert_holds, log_of};
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Gateway, headwater};
use headwater_tests::publisher::{Publisher, record};
use headwater_tests::snapshot;

fn gateway() -> Gateway {
    Gateway::new("gw-1").stream("s", &["plant/#"])
}

/// Runs the gateway with its configuration, which must fail with `code` and say each of `words`.
#[track_caller]
fn refused(gateway: &Gateway, code: i32, words: &[&str]) {
    let finished = gateway.command(&["run"]);
    assert_eq!(finished.code, Some(code), "stdout:\n{}\nstderr:\n{}", finished.stdout, finished.stderr);
    for word in words {
        assert!(finished.stderr.contains(word), "{word:?} is not in:\n{}", finished.stderr);
    }
    assert!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
}

/// A data directory with something in it, left by an orderly end. Yields what is acknowledged there.
async fn used(gateway: &Gateway) -> headwater_tests::copy::Acknowledged {
    let mut broker = gateway.start().await;
    let mut acknowledged = headwater_tests::copy::Acknowledged::new();
    record(&mut acknowledged, &Publisher::new("d").publish(broker.mqtt(), 1, 200).await);
    assert!(broker.stop().success());
    acknowledged
}

/// Everything below a data directory except the content of its lock file, which names the last process that looked.
fn content(dir: &Path) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    let mut content = snapshot::of(dir);
    if let Some(lock) = content.get_mut(&dir.join("LOCK")) {
        "lock".clone_into(lock);
    }
    content
}

#[tokio::test]
async fn a_damaged_configuration_is_refused_with_its_place_and_nothing_is_touched() {
    for (damage, words) in [
        ("[disk\nmax_bytes = 1\n", &["headwater.toml:"][..]),
        ("[mqtt]\nreceive_maximun = 10\n", &["headwater.toml:", "receive_maximun", "receive_maximum"]),
        ("[mqtt]\nreceive_maximum = \"many\"\n", &["headwater.toml:", "receive_maximum", "many"]),
        ("[durability]\nack = \"never\"\n", &["headwater.toml:", "ack", "synced"]),
        ("[[stream]]\nname = \"a\"\ntopics = [\"plant/+/x\"]\n", &["\"s\"", "\"a\"", "plant/"]),
        ("[[stream]]\nname = \"a\"\ntopics = [\"a/#/b\"]\n", &["headwater.toml:", "a/#/b"]),
        (
            "[[uplink]]\nname = \"u\"\nkind = \"jetstream\"\nservers = [\"nats://h\"]\n[[uplink.mirror]]\nstream = \"nope\"\ninto = \"X\"\n",
            &["headwater.toml:", "nope"],
        ),
    ] {
        let gateway = gateway().with(damage);
        gateway.write_config();
        let before = snapshot::of(gateway.dir());
        refused(&gateway, 2, words);
        assert_eq!(snapshot::of(gateway.dir()), before);
        // `check` says the same.
        let checked = gateway.command(&["check"]);
        assert_eq!(checked.code, Some(2), "{}", checked.stdout);
        assert!(words.iter().all(|word| checked.stderr.contains(word)), "{}", checked.stderr);
    }
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let finished = headwater(&["run", "--config", "/nonexistent/headwater.toml"]);
    assert_eq!(finished.code, Some(2), "{}", finished.stderr);
    assert!(finished.stderr.contains("/nonexistent/headwater.toml"), "{}", finished.stderr);
}

#[test]
fn a_wrong_command_line_is_refused() {
    for arguments in [&["run", "--no-such-flag"][..], &["no-such-command"], &["run", "--mqtt", "nowhere"]] {
        let finished = headwater(arguments);
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stderr);
        assert!(!finished.stderr.is_empty());
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    // Also root cannot make a directory below a file.
    let mut gateway = gateway();
    std::fs::write(gateway.dir().join("file"), "not a directory").expect("a file can be written");
    let impossible = gateway.dir().join("file/data");
    gateway.clear_sections();
    let text = gateway.config().replace(&gateway.data_dir().display().to_string(), &impossible.display().to_string());
    let config = gateway.dir().join("impossible.toml");
    std::fs::write(&config, text).expect("a file can be written");
    let before = snapshot::of(gateway.dir());
    let finished = headwater(&["run", "--config", &config.display().to_string()]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains(&impossible.display().to_string()), "{}", finished.stderr);
    assert_eq!(snapshot::of(gateway.dir()), before);
}

#[tokio::test]
async fn a_data_directory_that_is_not_writable_is_named_and_nothing_is_touched() {
    let gateway = gateway();
    let acknowledged = used(&gateway).await;
    let data = gateway.data_dir().display().to_string();
    let config = gateway.write_config();
    let binary = gateway.dir().join("headwater");
    std::fs::copy(headwater_tests::gateway::binary(), &binary).expect("the binary can be copied");
    chmod(&gateway.dir().display().to_string(), "a+rX");
    chmod(&data, "a-w");
    let before = content(&gateway.data_dir());
    // Root writes whatever the mode says, so root becomes somebody else for this.
    let mut command = if rustix::process::geteuid().is_root() {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary);
        setpriv
    } else {
        Command::new(binary)
    };
    let output = command.arg("run").arg("--config").arg(config).output().expect("the command can be run");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&data), "{stderr}");
    assert_eq!(content(&gateway.data_dir()), before);
    chmod(&data, "u+w");
    let broker = gateway.start().await;
    assert_holds(&acknowledged, log_of(&broker, "s").await.iter().map(|message| &message.payload));
}

#[track_caller]
fn chmod(path: &str, mode: &str) {
    let status = Command::new("chmod").args(["-R", mode, path]).status().expect("chmod can be run");
    assert!(status.success());
}

#[tokio::test]
async fn a_data_directory_of_a_newer_version_is_refused_and_nothing_is_touched() {
    let gateway = gateway();
    used(&gateway).await;
    let format = gateway.data_dir().join("FORMAT");
    let text = std::fs::read_to_string(&format).expect("the data directory says its format");
    let newer: String = text
        .lines()
        // A checksum that is not right would make it a damaged file, which the copy replaces.
        .filter(|line| !line.starts_with("check"))
        .map(|line| if line.starts_with("version") { "version = 999\n".to_owned() } else { format!("{line}\n") })
        .collect();
    assert_ne!(text, newer);
    std::fs::write(&format, newer).expect("a file can be written");
    let before = content(&gateway.data_dir());
    refused(&gateway, 1, &["999", "version"]);
    assert_eq!(content(&gateway.data_dir()), before);
}

#[test]
fn a_directory_that_holds_something_else_is_not_taken_for_a_data_directory() {
    let gateway = gateway();
    std::fs::create_dir(gateway.data_dir()).expect("a directory can be made");
    std::fs::write(gateway.data_dir().join("FORMAT"), "the layout of my garden\n").expect("a file can be written");
    let before = content(&gateway.data_dir());
    refused(&gateway, 1, &[&gateway.data_dir().display().to_string()]);
    let mut after = content(&gateway.data_dir());
    after.remove(&gateway.data_dir().join("LOCK"));
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused_and_its_owner_is_not_disturbed() {
    let first = gateway();
    let broker = first.start().await;
    let device = Publisher::new("d");
    let mut acknowledged = headwater_tests::copy::Acknowledged::new();
    record(&mut acknowledged, &device.publish(broker.mqtt(), 1, 100).await);
    let second = gateway();
    let text =
        second.config().replace(&second.data_dir().display().to_string(), &first.data_dir().display().to_string());
    let config = second.dir().join("same-data.toml");
    std::fs::write(&config, text).expect("a file can be written");
    let finished = headwater(&["run", "--config", &config.display().to_string()]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains(&first.data_dir().display().to_string()), "{}", finished.stderr);
    assert!(finished.stderr.contains("another process") || finished.stderr.contains("in use"), "{}", finished.stderr);
    record(&mut acknowledged, &device.publish(broker.mqtt(), 101, 100).await);
    let log = log_of(&broker, "s").await;
    assert_eq!(log.len(), 200);
    assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
}

#[tokio::test]
async fn a_port_in_use_is_named_and_nothing_is_touched() {
    let gateway = gateway();
    for address in [gateway.mqtt(), gateway.http()] {
        let taken = TcpListener::bind(address).expect("our own port can be bound");
        // Without data, and with.
        refused(&gateway, 1, &[&address.to_string()]);
        drop(taken);
    }
    assert!(!gateway.data_dir().exists(), "{:#?}", snapshot::of(&gateway.data_dir()));
    used(&gateway).await;
    for address in [gateway.mqtt(), gateway.http()] {
        let taken = TcpListener::bind(address).expect("our own port can be bound");
        let before = content(&gateway.data_dir());
        refused(&gateway, 1, &[&address.to_string()]);
        assert_eq!(content(&gateway.data_dir()), before);
        drop(taken);
    }
    let broker = gateway.start().await;
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v4("d")).await;
    assert_eq!(device.publish("plant/x", "x", 1, false).await, 0);
}

#[tokio::test]
async fn a_data_directory_in_use_is_not_verified_and_one_that_is_none_is_said_to_be_none() {
    let gateway = gateway();
    let broker = gateway.start().await;
    for command in ["verify", "repair"] {
        let finished = gateway.command(&["store", command]);
        assert_eq!(finished.code, Some(1), "{}", finished.stdout);
        assert!(finished.stderr.contains("is in use by process"), "{}", finished.stderr);
    }
    assert!(broker.status().await["gateway"].is_string(), "and its owner is not disturbed");
    let empty = tempfile::tempdir().expect("a temporary directory");
    let name = empty.path().to_string_lossy().into_owned();
    for command in ["verify", "repair"] {
        let finished = headwater(&["store", command, "--data-dir", &name]);
        assert_eq!(finished.code, Some(1), "{}", finished.stdout);
        assert!(finished.stderr.contains("no log"), "{}", finished.stderr);
        assert_eq!(std::fs::read_dir(empty.path()).expect("readable").count(), 0, "nothing is made there");
    }
}
