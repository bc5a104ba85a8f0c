//! What a running gateway shows to whoever looks at the process, and that one hub's trouble stays its own.

use std::process::Command;
use std::time::{Duration, Instant};

use headwater_tests::copy::{Acknowledged, assert_holds, dump_through, settle};
use headwater_tests::gateway::{Gateway, STOP_LIMIT, binary, ready};
use headwater_tests::hub::Hub;
use headwater_tests::process::Process;
use headwater_tests::publisher::{Publisher, record};
use headwater_tests::wait::{PATIENCE, until};

#[tokio::test]
async fn a_hub_that_is_down_holds_up_no_other_hub() {
    let near = Hub::single().await;
    near.create_stream("CENTRE", &["edge.>"]).await;
    let mut far = Hub::single().await;
    far.create_stream("CENTRE", &["edge.>"]).await;
    far.stop(0);
    let second = format!(
        "[[uplink]]\nname = \"far\"\nkind = \"jetstream\"\nservers = {:?}\nmax_backoff = \"500ms\"\n\
         [[uplink.mirror]]\nstream = \"s\"\ninto = \"CENTRE\"\n",
        far.urls()
    );
    let gateway = Gateway::new("gw-1").stream("s", &["plant/#"]).uplink(&near.urls(), &[("s", "CENTRE")]).with(&second);
    let broker = gateway.start().await;
    let mut acknowledged = Acknowledged::new();
    record(&mut acknowledged, &Publisher::new("d").publish(broker.mqtt(), 1, 500).await);
    let copy = dump_through(&near, "CENTRE", "edge.gw-1.s", 500).await;
    assert_eq!(copy.len(), 500);
    far.restart(0).await;
    let log = settle(&gateway, &broker, "s", &far, "CENTRE").await;
    assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
}

#[tokio::test]
async fn json_logs_are_one_object_a_line_from_start_to_stop() {
    let gateway = Gateway::new("gw-1").stream("s", &["plant/#"]);
    let config = gateway.write_config();
    let mut command = Command::new(binary());
    command.current_dir(gateway.dir()).args(["run", "--log-format", "json", "--config"]).arg(config);
    let mut process = Process::start("headwater with JSON logs", &mut command, gateway.dir().join("log"));
    ready(&mut process, gateway.http()).await;
    assert!(process.stop(STOP_LIMIT).success());
    let output = process.output();
    let lines: Vec<serde_json::Value> =
        output.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect();
    let said = |message: &str| lines.iter().any(|line| line["fields"]["message"] == message);
    assert!(said("started") && said("stopped"), "{output}");
    assert!(lines.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()), "{output}");
}

/// What the kernel counted for all threads of a process: how often one of them went to sleep by itself.
fn sleeps(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("our own child can be looked at");
    let of = |thread: std::fs::DirEntry| -> Option<u64> {
        // A thread may end while it is looked at.
        let status = std::fs::read_to_string(thread.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse().ok()
    };
    threads.filter_map(|thread| of(thread.ok()?)).sum()
}

#[tokio::test]
async fn an_idle_gateway_does_not_wake() {
    let gateway = Gateway::new("gw-1").stream("s", &["plant/#"]);
    let mut broker = gateway.start().await;
    let pid = broker.process().pid();
    // Threads of the start go to sleep at their own time, hence the patience: what counts is that it comes to rest.
    const WINDOW: Duration = Duration::from_secs(2);
    let mut since = (Instant::now(), sleeps(pid));
    until(PATIENCE, "two seconds in which it wakes twice at most", || {
        let (begun, before) = since;
        let woken = sleeps(pid).saturating_sub(before);
        let rested = begun.elapsed() >= WINDOW;
        if rested {
            since = (Instant::now(), before + woken);
        }
        async move { if rested && woken <= 2 { Ok(()) } else { Err(format!("{woken} in {:?}", begun.elapsed())) } }
    })
    .await;
    assert!(broker.stop().success());
}
