//! The broker under test.

use std::net::SocketAddr;

use headwater_tests::gateway::{Broker, Gateway};

/// A broker of our own, or the one that the environment names.
pub(crate) struct Target {
    own: Option<(Gateway, Option<Broker>)>,
    address: SocketAddr,
}

impl Target {
    /// Starts a broker with an empty disk.
    pub(crate) async fn start() -> Target {
        if let Ok(elsewhere) = std::env::var("HEADWATER_CONFORMANCE_AT") {
            let address = elsewhere.parse().unwrap_or_else(|e| panic!("HEADWATER_CONFORMANCE_AT={elsewhere}: {e}"));
            return Target { own: None, address };
        }
        let gateway = Gateway::new("conformance").stream("stored", &["stored/#"]);
        let broker = gateway.start().await;
        Target { address: broker.mqtt(), own: Some((gateway, Some(broker))) }
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills the broker and starts it on the same disk.
    pub(crate) async fn kill_and_restart(&mut self) {
        let (gateway, broker) = self.own.as_mut().expect("only a broker of our own can be restarted");
        broker.take().expect("is running").kill();
        *broker = Some(gateway.start().await);
    }
}
