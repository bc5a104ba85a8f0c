//! The broker under test.

use std::cell::RefCell;
use std::net::SocketAddr;

use headwater_tests::gateway::{Broker, Gateway};
use headwater_tests::wait::{PATIENCE, until};

/// A broker of our own, or the one that the environment names.
pub(crate) struct Target {
    own: Option<(Gateway, RefCell<Option<Broker>>)>,
    address: SocketAddr,
}

impl Target {
    /// Starts a broker with an empty disk.
    pub(crate) async fn start() -> Target {
        if let Ok(elsewhere) = std::env::var("HEADWATER_CONFORMANCE_AT") {
            let address = elsewhere.parse().unwrap_or_else(|e| panic!("HEADWATER_CONFORMANCE_AT={elsewhere}: {e}"));
            return Target { own: None, address };
        }
        Target::start_with("").await
    }

    /// Starts a broker of our own, with an empty disk and these lines of configuration.
    pub(crate) async fn start_with(configuration: &str) -> Target {
        let gateway = Gateway::new("conformance").with(configuration).stream("stored", &["stored/#"]);
        let broker = gateway.start().await;
        Target { address: broker.mqtt(), own: Some((gateway, RefCell::new(Some(broker)))) }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes of memory that the broker has resident.
    pub(crate) fn resident_bytes(&mut self) -> u64 {
        let (_, broker) = self.own.as_mut().expect("only a broker of our own can be measured");
        let pid = broker.get_mut().as_mut().expect("is running").process().pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the broker is running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("has a resident size");
        line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
    }

    fn running(&mut self) -> &mut Broker {
        let (_, broker) = self.own.as_mut().expect("only a broker of our own can be asked");
        broker.get_mut().as_mut().expect("is running")
    }

    /// A figure of the broker's, without labels.
    pub(crate) async fn metric(&mut self, name: &str) -> f64 {
        self.running().metrics().await.value(name, &[])
    }

    /// How often the broker's log says this.
    pub(crate) fn logged(&mut self, text: &str) -> usize {
        self.running().process().output().matches(text).count()
    }

    /// The broker has noticed that all but `count` clients are gone.
    pub(crate) async fn connected(&mut self, count: u64) {
        let (_, broker) = self.own.as_mut().expect("only a broker of our own can be asked");
        let broker = broker.get_mut().as_ref().expect("is running");
        until(PATIENCE, "clients that are gone", || async {
            let clients = &broker.status().await["clients"];
            if clients["connected"] == count { Ok(()) } else { Err(clients.to_string()) }
        })
        .await;
    }

    /// Ends the broker in order and starts it on the same disk.
    pub(crate) async fn stop_and_restart(&mut self) {
        let (gateway, broker) = self.own.as_mut().expect("only a broker of our own can be restarted");
        let status = broker.get_mut().as_mut().expect("is running").stop();
        assert!(status.success(), "{status}");
        *broker.get_mut() = Some(gateway.start().await);
    }

    /// Kills the broker and starts it on the same disk.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.kill();
        self.restart().await;
    }

    /// Kills the broker, also while clients are at work.
    pub(crate) fn kill(&self) {
        let (_, broker) = self.own.as_ref().expect("only a broker of our own can be killed");
        broker.take().expect("is running").kill();
    }

    /// Starts a broker that was killed, on the same disk.
    pub(crate) async fn restart(&mut self) {
        let (gateway, broker) = self.own.as_mut().expect("only a broker of our own can be restarted");
        *broker.get_mut() = Some(gateway.start().await);
    }
}
