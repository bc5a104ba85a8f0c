//! Mosquitto's command line tools as devices, and its broker as the reference that the tests of clients are held to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Finished, Process, run};
use crate::wait::{PATIENCE, until_now};

/// Runs `mosquitto_pub` towards `broker` with these further arguments, to its end.
#[track_caller]
pub fn publish(broker: SocketAddr, arguments: &[&str]) -> Finished {
    run("mosquitto_pub", target(broker).iter().map(String::as_str).chain(arguments.iter().copied()), PATIENCE)
}

/// Publishes every line of `lines` as a message with QoS 1, over one connection, and waits until all are acknowledged.
///
/// # Panics
/// If the tool reports a failure.
#[track_caller]
pub fn publish_lines(broker: SocketAddr, topic: &str, lines: &[String]) {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("lines");
    std::fs::write(&file, lines.iter().map(|line| format!("{line}\n")).collect::<String>())
        .expect("a file can be written");
    let port = broker.port().to_string();
    let host = broker.ip().to_string();
    let file = file.to_string_lossy();
    // The tool reads lines from its standard input only.
    let script = "exec mosquitto_pub -h \"$1\" -p \"$2\" -t \"$3\" -q 1 -l <\"$4\"";
    let _ = run("sh", ["-c", script, "sh", &host, &port, topic, &file], PATIENCE).success();
}

/// A running `mosquitto_sub`.
#[derive(Debug)]
pub struct Subscriber {
    process: Process,
    _dir: TempDir,
}

impl Subscriber {
    /// Starts it with these further arguments and waits until the broker has taken its subscriptions.
    ///
    /// # Panics
    /// If that does not happen.
    #[track_caller]
    #[must_use]
    pub fn start(broker: SocketAddr, arguments: &[&str]) -> Subscriber {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let mut command = Command::new("stdbuf");
        // Line by line even into a file; `-d` tells of the SUBACK.
        command.args(["-oL", "mosquitto_sub", "-d"]).args(["-F", "message %t %q %r %p"]);
        command.args(target(broker)).args(arguments);
        let mut process = Process::start("mosquitto_sub", &mut command, dir.path().join("out"));
        until_now(PATIENCE, "a SUBACK for mosquitto_sub", || {
            let output = process.output();
            assert!(process.ended().is_none(), "mosquitto_sub ended: {output}");
            if output.contains("SUBACK") { Ok(()) } else { Err(output) }
        });
        Subscriber { process, _dir: dir }
    }

    /// Waits for `count` messages: `topic qos retain payload` each.
    ///
    /// # Panics
    /// If they do not come.
    #[track_caller]
    pub fn messages(&mut self, count: usize) -> Vec<String> {
        until_now(PATIENCE, &format!("{count} messages at mosquitto_sub"), || {
            let output = self.process.output();
            let messages: Vec<String> =
                output.lines().filter_map(|line| line.strip_prefix("message ")).map(str::to_owned).collect();
            if messages.len() >= count { Ok(messages) } else { Err(output) }
        })
    }
}

fn target(broker: SocketAddr) -> Vec<String> {
    ["-h", &broker.ip().to_string(), "-p", &broker.port().to_string()].map(str::to_owned).to_vec()
}

/// A running Mosquitto broker.
#[derive(Debug)]
pub struct Mosquitto {
    port: Port,
    _process: Process,
    _dir: TempDir,
}

impl Mosquitto {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// If it ends or takes too long.
    #[must_use]
    pub fn start() -> Mosquitto {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let port = Port::lease();
        let config = dir.path().join("mosquitto.conf");
        let text = format!("listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n", port.number());
        std::fs::write(&config, text).expect("a file in our own directory can be written");
        let mut command = Command::new(find());
        command.arg("-c").arg(&config);
        let mut process = Process::start("mosquitto", &mut command, dir.path().join("log"));
        let address = port.address();
        until_now(PATIENCE, "mosquitto to listen", || {
            assert!(process.ended().is_none(), "mosquitto ended: {}", process.output());
            std::net::TcpStream::connect(address).map(|_| ()).map_err(|e| e.to_string())
        });
        Mosquitto { port, _process: process, _dir: dir }
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}

/// Debian keeps the broker where ordinary users have no path to.
fn find() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mosquitto");
    if debian.exists() { debian } else { PathBuf::from("mosquitto") }
}
