//! G5 where the system sets the limit: the profile for the smallest boards within 32 MiB.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater_tests::chance::Chance;
use headwater_tests::copy::{HubMessage, dump, whole};
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::Gateway;
use headwater_tests::hub::Hub;
use headwater_tests::proxy::{Direction, Flow, Proxy};
use headwater_tests::wait::until;

const LIMIT: u64 = 32 << 20;
/// Three devices, eleven times forty messages each.
const MESSAGES: u64 = 3 * 11 * 40;
/// Most of what the profile lets clients retain: 1,000 messages, 1 MiB.
const RETAINED: usize = 800;

/// A control group of ours with a limit of memory, made below that of the tests; gone with the guard.
struct Group {
    dir: PathBuf,
    second: bool,
}

impl Group {
    /// `None` where this user may not make one.
    fn new(name: &str) -> Option<Group> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let place =
            |line: &str, root: &str| Some(Path::new(root).join(line.rsplit(':').next()?.trim_start_matches('/')));
        let first = own.lines().find(|line| line.split(':').nth(1) == Some("memory"));
        let (parent, second) = match first {
            Some(line) => (place(line, "/sys/fs/cgroup/memory")?, false),
            None => (place(own.lines().find(|line| line.starts_with("0::"))?, "/sys/fs/cgroup")?, true),
        };
        let dir = parent.join(name);
        std::fs::create_dir(&dir).ok()?;
        let group = Group { dir, second };
        let limit = if second { "memory.max" } else { "memory.limit_in_bytes" };
        std::fs::write(group.dir.join(limit), LIMIT.to_string()).ok()?;
        // Nothing may be hidden in swap either; a kernel that does not account for it has no such file.
        let (file, value) = if second { ("memory.swap.max", 0) } else { ("memory.memsw.limit_in_bytes", LIMIT) };
        let _ = std::fs::write(group.dir.join(file), value.to_string());
        Some(group)
    }

    /// Processes that the kernel killed for want of memory.
    fn killed(&self) -> u64 {
        let file = if self.second { "memory.events" } else { "memory.oom_control" };
        let text = std::fs::read_to_string(self.dir.join(file)).expect("a group counts");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no oom_kill in {text}"))
    }
}

impl Group {
    /// The most that was taken at once, what the kernel held for it included.
    fn peak(&self) -> u64 {
        let file = self.dir.join(if self.second { "memory.peak" } else { "memory.max_usage_in_bytes" });
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        text.trim().parse().unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Fails only if it is gone.
        let _ = std::fs::remove_dir(&self.dir);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tiny_profile_ingests_retains_discards_and_backfills_within_32_mib() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let link = Proxy::start(hub.address(0)).await;
    // From the beginning, so that no batch is underway.
    link.set(Direction::Up, Flow::Hold);
    let gateway = Gateway::new("gw-1").profile("tiny.toml").with(&format!(
        "[[uplink]]\nname = \"hub\"\nservers = [\"{}\"]\nbatch_msgs = 200\nbatch_bytes = \"256KiB\"\nmax_backoff = \"500ms\"\n\
         [[uplink.mirror]]\nstream = \"default\"\ninto = \"CENTRE\"\n",
        link.url()
    ));
    let group = Group::new(&format!("headwater-{}", gateway.mqtt().port()));
    if group.is_none() {
        eprintln!("PARTLY SKIPPED: no control group can be made here; the limit is that of setrlimit alone");
    }
    // Memory of its own is limited everywhere; the group, where there is one, also counts what the kernel holds for it.
    let enter = group.as_ref().map(|group| format!("echo $$ >'{}/cgroup.procs' && ", group.dir.display()));
    let mut broker =
        gateway.launch_under(&format!("{}ulimit -d {} && exec \"$@\"", enter.unwrap_or_default(), LIMIT / 1024));
    broker.ready().await;

    let mut keeper = Device::connect(broker.mqtt(), Connect::v5("keeper")).await.0;
    for n in 0..RETAINED {
        keeper.publish(&format!("state/{n}"), vec![b'a'; 1_000], u8::from(n + 1 == RETAINED), true).await;
    }
    // More than its disk holds, of what cannot be compressed.
    let mut chance = Chance::new();
    let payloads: Vec<Vec<u8>> =
        (0..40).map(|_| (0..7_500).flat_map(|_| chance.number().to_le_bytes()).collect()).collect();
    let mut devices = Vec::new();
    for name in ["a", "b", "c"] {
        devices.push(Device::connect(broker.mqtt(), Connect::v5(name)).await.0);
    }
    for _ in 0..11 {
        let all = devices.iter_mut().map(|device| device.publish_all("plant/x", &payloads, 1));
        futures_util::future::join_all(all).await;
    }
    let status = broker.status().await;
    let stream = &status["streams"][0];
    assert_eq!(stream["last_seq"], RETAINED as u64 + MESSAGES, "{status}");
    assert!(stream["first_seq"].as_u64() > Some(RETAINED as u64 + 50), "nothing was discarded: {status}");
    // What is retained is kept beside what the stream has discarded.
    keeper.subscribe(&["state/#"], 1).await;
    let received = keeper.collect(RETAINED).await;
    let mut retained: Vec<String> = received.into_iter().map(|message| message.topic).collect();
    retained.sort();
    retained.dedup();
    assert_eq!(retained.len(), RETAINED);

    link.set(Direction::Up, Flow::Forward);
    until(Duration::from_secs(120), "the backlog to be gone", || async {
        let uplink = broker.status().await["uplinks"][0].clone();
        if uplink["mirrors"][0]["confirmed_seq"] == RETAINED as u64 + MESSAGES {
            Ok(())
        } else {
            Err(uplink.to_string())
        }
    })
    .await;
    let held = whole(&broker, "default", 1).await;
    let copy = dump(&hub, "CENTRE").await;
    // What the hub has may have been discarded since: the last slot is sealed by and by.
    let copied: Vec<u64> = copy.iter().filter(|message| !message.is_gap()).map(HubMessage::seq).collect();
    let held: Vec<u64> = held.messages.iter().map(|message| message.seq).collect();
    assert!(!held.is_empty() && copied.ends_with(&held), "{copied:?} of {held:?}");
    assert!(copy.iter().any(|message| message.is_gap()));
    if let Some(group) = &group {
        assert_eq!(group.killed(), 0);
        let peak = group.peak();
        eprintln!("peak of the control group: {peak} of {LIMIT} bytes");
        assert!(peak <= LIMIT, "{peak}");
    }
    // It is still the process that was started, and ends as asked.
    assert!(broker.stop().success());
}
