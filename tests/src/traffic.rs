//! Devices that keep publishing in the background while a test disturbs something else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::copy::Acknowledged;
use crate::publisher::{Publisher, record};
use crate::wait::{PATIENCE, until};

/// Messages per connection of a background device.
const BURST: u64 = 20;

/// Background devices; each connects, publishes a few messages, disconnects, and begins again.
#[derive(Debug)]
pub struct Traffic {
    over: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    devices: Vec<JoinHandle<Acknowledged>>,
}

impl Traffic {
    /// Starts devices of these names; they never lose their connection, or the test fails.
    #[must_use]
    pub fn start(broker: SocketAddr, names: &[&str]) -> Traffic {
        let over = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let devices = names.iter().map(|name| {
            let (over, acknowledged) = (Arc::clone(&over), Arc::clone(&acknowledged));
            let publisher = Publisher::new(name);
            tokio::spawn(async move {
                let mut all = Acknowledged::new();
                let mut next = 1;
                while !over.load(Ordering::Relaxed) {
                    let published = publisher.publish(broker, next, BURST).await;
                    next = published.next;
                    acknowledged.fetch_add(BURST, Ordering::Relaxed);
                    record(&mut all, &published);
                    // The pace of a device, so that the hub is disturbed by the test and not by the load.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                all
            })
        });
        Traffic { devices: devices.collect(), over, acknowledged }
    }

    /// Waits until `count` further messages have been acknowledged.
    pub async fn flow(&self, count: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        until(PATIENCE, "the devices to publish", || async {
            assert!(self.devices.iter().all(|device| !device.is_finished()), "a device failed");
            let now = self.acknowledged.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        })
        .await;
    }

    /// Ends the devices; what was acknowledged.
    ///
    /// # Panics
    /// If one of them failed.
    pub async fn stop(self) -> Acknowledged {
        self.over.store(true, Ordering::Relaxed);
        let mut all = Acknowledged::new();
        for device in self.devices {
            match device.await {
                Ok(acknowledged) => all.extend(acknowledged),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        all
    }
}
