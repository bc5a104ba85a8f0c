//! What a service manager is told, by the real binary over a real socket: ready, alive only while the commit loop turns, stopping.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use headwater_tests::gateway::{Broker, Gateway, headwater};
use headwater_tests::process::Process;
use headwater_tests::publisher::Publisher;
use headwater_tests::wait::{PATIENCE, until, until_now};
use tokio::net::UnixDatagram;

/// The watchdog's limit as the unit would set it, only shorter.
const LIMIT_MICROS: &str = "600000";
/// How long the hanging sync takes. Several times the limit.
const HANG: Duration = Duration::from_secs(4);

/// A service manager's end of the socket.
struct Manager(UnixDatagram);

impl Manager {
    fn at(gateway: &Gateway) -> (Manager, String) {
        let path = gateway.dir().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket in our own directory can be made");
        (Manager(socket), path.display().to_string())
    }

    /// The next thing that was said.
    async fn heard(&self) -> String {
        let mut buffer = [0; 256];
        let received = tokio::time::timeout(PATIENCE, self.0.recv(&mut buffer)).await;
        let length = received.expect("something is said in time").expect("the socket works");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// Everything that was said and not heard yet.
    fn unheard(&self) -> usize {
        let mut buffer = [0; 256];
        std::iter::from_fn(|| self.0.try_recv(&mut buffer).ok()).count()
    }
}

async fn started(gateway: &Gateway, manager: &Manager, environment: &[(&str, &str)]) -> Broker {
    let mut broker = gateway.launch_in(environment);
    assert_eq!(manager.heard().await, "READY=1");
    // Not before devices can connect.
    assert_eq!(broker.page("/readyz").await.code, 200);
    broker.ready().await;
    broker
}

#[tokio::test]
async fn a_service_manager_is_told_of_start_life_and_end() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let (manager, socket) = Manager::at(&gateway);
    let environment = [("NOTIFY_SOCKET", socket.as_str()), ("WATCHDOG_USEC", LIMIT_MICROS)];
    let mut broker = started(&gateway, &manager, &environment).await;
    for _ in 0..3 {
        assert_eq!(manager.heard().await, "WATCHDOG=1");
    }
    let before = broker.metrics().await.value("headwater_log_commits_total", &[]);
    assert_eq!(manager.heard().await, "WATCHDOG=1");
    assert_eq!(
        broker.metrics().await.value("headwater_log_commits_total", &[]),
        before,
        "a sign of life costs no commit"
    );
    assert!(broker.stop().success());
    let mut last = manager.heard().await;
    while last == "WATCHDOG=1" {
        last = manager.heard().await;
    }
    assert_eq!(last, "STOPPING=1");
    assert_eq!(manager.unheard(), 0);
}

#[tokio::test]
async fn without_a_watchdog_only_start_and_end_are_told() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let name = format!("headwater-test-{}", gateway.mqtt().port());
    let address = SocketAddr::from_abstract_name(&name).expect("a valid name");
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).expect("nobody else has this name");
    socket.set_nonblocking(true).expect("sockets can be made so");
    let manager = Manager(UnixDatagram::from_std(socket).expect("a socket"));
    let asked_another = [("NOTIFY_SOCKET", format!("@{name}")), ("WATCHDOG_USEC", LIMIT_MICROS.to_owned())];
    let [socket, limit] = asked_another.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut broker = started(&gateway, &manager, &[socket, limit, ("WATCHDOG_PID", "1")]).await;
    assert!(broker.stop().success());
    assert_eq!(manager.heard().await, "STOPPING=1");
    assert_eq!(manager.unheard(), 0);
}

#[tokio::test]
async fn a_disk_that_hangs_silences_the_watchdog_and_nothing_else() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let (manager, socket) = Manager::at(&gateway);
    let environment = [("NOTIFY_SOCKET", socket.as_str()), ("WATCHDOG_USEC", LIMIT_MICROS)];
    let mut broker = started(&gateway, &manager, &environment).await;
    assert_eq!(manager.heard().await, "WATCHDOG=1");

    // The next sync of every thread hangs for a while in the kernel, as far as the process can tell.
    let mut command = Command::new("strace");
    let inject = format!("inject=fdatasync:delay_enter={}:when=1", HANG.as_micros());
    command.args(["-f", "-qq", "-e", "trace=fdatasync", "-e", &inject, "-o"]).arg(gateway.dir().join("syncs"));
    command.args(["-p", &broker.process().pid().to_string()]);
    let log = gateway.dir().join("strace");
    let tracer = Process::start("strace", &mut command, &log);
    let tracing = format!("/proc/{}/status", broker.process().pid());
    until_now(PATIENCE, "strace to have taken hold of it", || {
        let status = std::fs::read_to_string(&tracing).map_err(|e| e.to_string())?;
        if status.contains(&format!("TracerPid:\t{}", tracer.pid())) { Ok(()) } else { Err(tracer.output()) }
    });

    let address = broker.mqtt();
    let publishing = tokio::spawn(async move { Publisher::new("d").publish(address, 1, 1).await });
    let waiting = |least: u64| {
        let broker = &broker;
        until(PATIENCE, "a message that waits for its sync", move || async move {
            let waiting = broker.status().await["durability"]["oldest_unsynced_ms"].as_u64();
            if waiting >= Some(least) { Ok(()) } else { Err(format!("{waiting:?}")) }
        })
    };
    // One sign may have been on its way when the sync began to hang; a whole limit later there must have been no other.
    waiting(500).await;
    manager.unheard();
    waiting(2_500).await;
    assert_eq!(manager.unheard(), 0, "the commit loop stands still, and a sign of life was given");
    publishing.await.expect("the message is acknowledged in the end");
    assert_eq!(manager.heard().await, "WATCHDOG=1");
}

#[tokio::test]
async fn the_journal_gets_levels_as_priorities_and_no_second_time() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    // The file that the harness lets it write to stands for the journal's stream.
    let log = std::fs::File::create(gateway.dir().join("log")).expect("a file in our own directory can be made");
    let file = log.metadata().expect("it is there");
    let stream = format!("{}:{}", file.dev(), file.ino());
    for (journal, starts) in [(stream, "<6>headwater"), ("1:1".to_owned(), "20")] {
        log.set_len(0).expect("it is ours");
        let mut broker = gateway.launch_in(&[("JOURNAL_STREAM", &journal)]);
        broker.ready().await;
        assert!(broker.stop().success());
        let output = broker.process().output();
        let opened = output.lines().find(|line| line.contains("log opened")).unwrap_or_else(|| panic!("{output}"));
        assert!(opened.starts_with(starts), "{opened}");
    }
}

#[test]
fn the_binary_says_what_it_is() {
    let text = headwater(&["self"]).success();
    for name in ["version", "commit", "target", "features", "panic", "opt-level", "rustc"] {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}:\n{text}"));
        assert!(line.split_whitespace().count() >= 2, "{line}");
    }
    let json: serde_json::Value = serde_json::from_str(&headwater(&["self", "--json"]).success()).expect("JSON");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert!(json["target"].as_str().is_some_and(|target| target.contains("linux")), "{json}");
}
