//! The figures below `$SYS/broker/`, by Mosquitto's names: the task that publishes them while somebody subscribes.
//!
//! Not offered of Mosquitto's: heap, store, and bytes of PUBLISH packets alone, which are not counted here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Shutdown;
use super::hub::Hub;
use super::stats::BrokerStats;
use crate::clock::Monotonic;
use crate::mqtt::topic::TopicName;

/// Publishes every `interval` what has changed; sleeps while nobody subscribes.
pub(super) async fn serve(hub: Arc<Hub>, interval: Duration, mut shutdown: Shutdown) {
    let started = hub.now();
    let mut loads = Loads::new(started);
    let mut sent: Vec<(TopicName, String)> = Vec::new();
    let mut next: Option<Instant> = None;
    loop {
        tokio::select! {
            () = hub.sys.notified() => {}
            () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            () = shutdown.requested() => return,
        }
        if !hub.with(|router, _| router.sys_wanted()) {
            sent = Vec::new();
            next = None;
            continue;
        }
        let now = hub.now();
        let stats = hub.stats();
        let due = next.is_none_or(|at| at <= Instant::now());
        if due {
            loads.update(now, &stats);
            next = Some(Instant::now() + interval);
        }
        let figures = figures(&stats, &loads, now.since(started));
        hub.with(|router, _| {
            if due {
                // Both lists have the same topics in the same order.
                for (index, (topic, text)) in figures.iter().enumerate() {
                    if sent.get(index).is_some_and(|(_, before)| before != text) {
                        router.publish_sys(now, topic, text);
                    }
                }
            }
            router.send_sys(now, &figures);
        });
        if due || sent.is_empty() {
            sent = figures;
        }
    }
}

type Count = fn(&BrokerStats) -> u64;

/// What a rate is made of, by the name of its topic.
const RATES: [(&str, Count); 9] = [
    ("messages/received", |s| s.packets_in),
    ("messages/sent", |s| s.packets_out),
    ("publish/received", |s| s.router.messages_in.iter().sum()),
    ("publish/sent", |s| s.messages_out.iter().sum()),
    ("publish/dropped", dropped),
    ("bytes/received", |s| s.bytes_in),
    ("bytes/sent", |s| s.bytes_out),
    ("sockets", |s| s.accepted),
    ("connections", |s| s.accepted.saturating_sub(s.refused.iter().sum())),
];

const MINUTES: [u32; 3] = [1, 5, 15];

fn dropped(stats: &BrokerStats) -> u64 {
    let router = &stats.router;
    router.dropped_queue_full + router.dropped_unstored + router.dropped_expired + router.dropped_disconnected
}

/// Moving averages per minute, as the load of a Unix system.
#[derive(Debug)]
struct Loads {
    at: Monotonic,
    counts: [u64; RATES.len()],
    averages: [[f64; MINUTES.len()]; RATES.len()],
}

impl Loads {
    fn new(at: Monotonic) -> Loads {
        Loads { at, counts: [0; RATES.len()], averages: [[0.0; MINUTES.len()]; RATES.len()] }
    }

    /// However long ago the last update was: what came meanwhile counts as if it had come evenly.
    fn update(&mut self, now: Monotonic, stats: &BrokerStats) {
        let seconds = now.since(self.at).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        self.at = now;
        for (index, (_, count)) in RATES.iter().enumerate() {
            let count = count(stats);
            let came = u32::try_from(count.saturating_sub(self.counts[index])).unwrap_or(u32::MAX);
            let per_minute = f64::from(came) * 60.0 / seconds;
            self.counts[index] = count;
            for (average, minutes) in self.averages[index].iter_mut().zip(MINUTES) {
                let kept = (-seconds / (60.0 * f64::from(minutes))).exp();
                *average = per_minute + kept * (*average - per_minute);
            }
        }
    }
}

fn figures(stats: &BrokerStats, loads: &Loads, uptime: Duration) -> Vec<(TopicName, String)> {
    let mut figures = Vec::new();
    let mut add = |name: &str, text: String| {
        let topic = TopicName::new(Bytes::from(format!("$SYS/broker/{name}")));
        figures.push((topic.expect("the names in this file are topic names"), text));
    };
    add("version", format!("headwater {}", env!("CARGO_PKG_VERSION")));
    add("uptime", format!("{} seconds", uptime.as_secs()));
    let away = stats.sessions.saturating_sub(stats.clients);
    for (name, count) in [
        ("clients/total", stats.sessions),
        ("clients/connected", stats.clients),
        ("clients/active", stats.clients),
        ("clients/disconnected", away),
        ("clients/inactive", away),
        ("clients/maximum", stats.max_clients),
        ("clients/expired", stats.router.sessions_expired),
        ("messages/received", stats.packets_in),
        ("messages/sent", stats.packets_out),
        ("bytes/received", stats.bytes_in),
        ("bytes/sent", stats.bytes_out),
        ("publish/messages/received", stats.router.messages_in.iter().sum()),
        ("publish/messages/sent", stats.messages_out.iter().sum()),
        ("publish/messages/dropped", dropped(stats)),
        ("retained messages/count", stats.retained_msgs),
        ("subscriptions/count", stats.subscriptions),
        ("shared_subscriptions/count", stats.share_groups),
    ] {
        add(name, count.to_string());
    }
    for ((name, _), averages) in RATES.iter().zip(&loads.averages) {
        for (minutes, average) in MINUTES.iter().zip(averages) {
            add(&format!("load/{name}/{minutes}min"), format!("{average:.2}"));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(figures: &[(TopicName, String)], name: &str) -> String {
        let topic = format!("$SYS/broker/{name}");
        figures.iter().find(|(t, _)| t.as_str() == topic).map_or_else(String::new, |(_, text)| text.clone())
    }

    #[test]
    fn loads_follow_the_rate_and_forget_it_in_their_time() {
        let mut loads = Loads::new(Monotonic(0));
        let mut stats = BrokerStats::default();
        let mut now = Monotonic(0);
        for _ in 0..60 {
            now = now + Duration::from_secs(10);
            stats.packets_in += 100;
            loads.update(now, &stats);
        }
        // 600 per minute for 10 minutes.
        let busy = figures(&stats, &loads, Duration::from_secs(600));
        assert_eq!(of(&busy, "load/messages/received/1min"), "599.97");
        assert_eq!(of(&busy, "load/messages/received/5min"), "518.80");
        assert_eq!(of(&busy, "load/messages/sent/1min"), "0.00");
        assert_eq!(of(&busy, "uptime"), "600 seconds");
        assert_eq!(of(&busy, "messages/received"), "6000");
        // Nobody looks for an hour: one update says what 360 would have said.
        loads.update(now + Duration::from_secs(3_600), &stats);
        assert_eq!(of(&figures(&stats, &loads, Duration::ZERO), "load/messages/received/1min"), "0.00");
    }
}
