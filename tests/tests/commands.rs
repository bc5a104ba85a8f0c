//! The commands that people use, against the running broker: `init`, `check`, `status`, `stream`, `uplink`, and how the
//! broker itself starts and stops.

use std::process::Command;
use std::time::Instant;

use headwater_tests::copy::{dump_through, log_of};
use headwater_tests::device::{Connect, Device};
use headwater_tests::gateway::{Gateway, STOP_LIMIT, binary, headwater, ready};
use headwater_tests::hub::Hub;
use headwater_tests::port::Port;
use headwater_tests::process::Process;
use headwater_tests::proxy::Proxy;
use headwater_tests::publisher::Publisher;
use headwater_tests::wait::{PATIENCE, until, until_now};
use headwater_tests::{http, snapshot};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("not JSON: {e}: {text}"))
}

#[test]
fn a_configuration_that_init_wrote_passes_check_and_is_not_overwritten() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let file = dir.path().join("headwater.toml").display().to_string();
    let said = headwater(&["init", &file]).success();
    assert!(said.contains(&file), "{said}");
    let text = std::fs::read_to_string(&file).expect("the file was written");
    assert!(text.lines().filter(|line| line.trim_start().starts_with('#')).count() > 20, "no comments: {text}");
    let before = snapshot::of(dir.path());
    let checked = headwater(&["check", "--config", &file]).success();
    assert!(checked.starts_with("ok\n"), "{checked}");
    // `check` says what it would do, and does none of it.
    for part in ["listens", "stores", "acks"] {
        assert!(checked.contains(part), "{part} is not in:\n{checked}");
    }
    let again = headwater(&["init", &file]);
    assert_eq!(again.code, Some(1), "{}", again.stderr);
    assert!(again.stderr.contains(&file) && again.stderr.contains("--force"), "{}", again.stderr);
    assert_eq!(snapshot::of(dir.path()), before);
}

#[test]
fn the_environment_overrides_the_file_and_a_flag_overrides_both() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let config = gateway.write_config();
    let mut command = Command::new(binary());
    command.arg("check").arg("--config").arg(config).args(["--http", "127.0.0.1:7777"]);
    command.env("HEADWATER__GATEWAY__ID", "gw-from-outside").env("HEADWATER__HTTP__BIND", "127.0.0.1:6666");
    let output = command.output().expect("the binary can be run");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("gw-from-outside") && said.contains("127.0.0.1:7777"), "{said}");
    assert!(!said.contains("gw-1") && !said.contains("127.0.0.1:6666"), "{said}");
}

#[tokio::test]
async fn it_starts_without_a_file_and_says_what_it_does() {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (mqtt, status) = (Port::lease(), Port::lease());
    let mut command = Command::new(binary());
    // Only the addresses are given, so that tests do not meet on the usual ones.
    command.current_dir(dir.path()).args(["--mqtt", &mqtt.address().to_string()]);
    command.args(["--http", &status.address().to_string()]);
    let mut broker = Process::start("headwater", &mut command, dir.path().join("log"));
    ready(&mut broker, status.address()).await;
    let said = broker.output();
    for part in [&mqtt.address().to_string(), &status.address().to_string(), "headwater-data", "1 GiB", "--uplink"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    let (mut device, _) = Device::connect(mqtt.address(), Connect::v4("d")).await;
    assert_eq!(device.publish("any/topic", "x", 1, false).await, 0);
    let streams = http::get(status.address(), "/api/v1/streams").await.expect("an answer").json();
    assert_eq!((&streams[0]["name"], &streams[0]["msgs"]), (&"default".into(), &1.into()));
    assert!(dir.path().join("headwater-data").is_dir());
    assert!(broker.stop(STOP_LIMIT).success());
}

#[tokio::test]
async fn it_mirrors_with_nothing_but_the_flag_uplink() {
    let hub = Hub::single().await;
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let (mqtt, status) = (Port::lease(), Port::lease());
    let mut command = Command::new(binary());
    command.current_dir(dir.path()).args(["--mqtt", &mqtt.address().to_string()]);
    command.args(["--http", &status.address().to_string(), "--uplink", &hub.urls()[0]]);
    let mut broker = Process::start("headwater", &mut command, dir.path().join("log"));
    ready(&mut broker, status.address()).await;
    Publisher::new("d").publish(mqtt.address(), 1, 100).await;
    let uplinks = http::get(status.address(), "/api/v1/uplinks").await.expect("an answer").json();
    let into = uplinks[0]["mirrors"][0]["into"].as_str().unwrap_or_else(|| panic!("{uplinks}")).to_owned();
    let gateway = http::get(status.address(), "/api/v1/status").await.expect("an answer").json();
    let gateway = gateway["gateway"].as_str().expect("a gateway has an id").to_owned();
    assert_eq!(dump_through(&hub, &into, &format!("edge.{gateway}.default"), 100).await.len(), 100);
}

#[tokio::test]
async fn status_shows_clients_streams_and_uplinks() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let proxy = Proxy::start(hub.address(0)).await;
    let gateway = Gateway::new("gw-1")
        .stream("telemetry", &["plant/#"])
        .stream("other", &["other/#"])
        .uplink(&[proxy.url()], &[("telemetry", "CENTRE")]);
    let broker = gateway.start().await;
    let device = Publisher::new("d");
    device.publish(broker.mqtt(), 1, 120).await;
    dump_through(&hub, "CENTRE", "edge.gw-1.telemetry", 120).await;
    proxy.cut();
    device.publish(broker.mqtt(), 121, 30).await;
    let (_quiet, _) = Device::connect(broker.mqtt(), Connect::v5("quiet")).await;

    let status = until(PATIENCE, "the broken link to be shown", || async {
        let status = json(&gateway.command(&["status", "--json"]).success());
        let uplink = &status["uplinks"][0];
        let shown = uplink["last_error"]["text"].is_string() && uplink["oldest_unsent_age_seconds"].is_number();
        if shown { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!(status["streams"], broker.status().await["streams"]);
    assert_eq!(status["gateway"], "gw-1");
    assert_eq!(status["clients"]["connected"], 1);
    let stream =
        &status["streams"].as_array().expect("streams").iter().find(|s| s["name"] == "telemetry").expect("ours");
    assert_eq!((&stream["msgs"], &stream["first_seq"], &stream["last_seq"]), (&150.into(), &1.into(), &150.into()));
    assert!(stream["bytes"].as_u64().is_some_and(|bytes| bytes > 150 * 20), "{stream}");
    let uplink = &status["uplinks"][0];
    assert_ne!(uplink["state"], "up", "{uplink}");
    assert_eq!(uplink["backlog_msgs"], 30, "{uplink}");
    assert!(uplink["backlog_bytes"].as_u64().is_some_and(|bytes| bytes > 30 * 20), "{uplink}");

    let text = gateway.command(&["status"]).success();
    for part in ["gw-1", "telemetry", "150", "hub", "30"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    let uplinks = json(&gateway.command(&["uplink", "ls", "--json"]).success());
    assert_eq!(uplinks[0]["mirrors"][0]["backlog_msgs"], 30);
    assert!(gateway.command(&["uplink", "ls"]).success().contains("telemetry -> CENTRE"));
    proxy.heal();
    until(PATIENCE, "the backlog to be gone", || async {
        let uplinks = broker.page("/api/v1/uplinks").await.json();
        if uplinks[0]["state"] == "up" && uplinks[0]["backlog_msgs"] == 0 { Ok(()) } else { Err(uplinks.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn streams_are_listed_shown_and_read() {
    let gateway = Gateway::new("gw-1").stream("s", &["plant/#"]);
    let broker = gateway.start().await;
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v4("d")).await;
    for number in 1..=30 {
        device.publish("plant/a", format!("message {number}"), 1, false).await;
    }
    let binary: Vec<u8> = (0..=255).collect();
    device.publish("plant/b", &binary, 0, false).await;
    device.publish("plant/c", "retained", 2, true).await;
    let run = |arguments: &[&str]| gateway.command(&[&["stream"], arguments].concat());
    let listed = json(&run(&["ls", "--json"]).success());
    assert_eq!((&listed[0]["name"], &listed[0]["msgs"]), (&"s".into(), &32.into()));
    assert!(run(&["ls"]).success().contains("plant/#"));
    let info = json(&run(&["info", "s", "--json"]).success());
    assert_eq!((&info["first_seq"], &info["last_seq"]), (&1.into(), &32.into()));
    assert!(run(&["info", "s"]).success().contains("plant/#"));

    let seventh = json(&run(&["get", "s", "7", "--json"]).success());
    assert_eq!(
        (&seventh["seq"], &seventh["topic"], &seventh["payload"]),
        (&7.into(), &"plant/a".into(), &"message 7".into())
    );
    assert!(run(&["get", "s", "7"]).success().contains("message 7"));
    assert_eq!(log_of(&broker, "s").await[30].payload, binary);
    let last = json(&run(&["get", "s", "32", "--json"]).success());
    assert_eq!((&last["qos"], &last["retain"]), (&2.into(), &true.into()));
    for (arguments, word) in [(["get", "s", "33"], "33"), (["get", "nope", "1"], "nope")] {
        let finished = run(&arguments);
        assert_eq!(finished.code, Some(1), "{}", finished.stdout);
        assert!(finished.stderr.contains(word), "{}", finished.stderr);
    }
    let tail: Vec<Value> = run(&["tail", "s", "-n", "5", "--json"]).success().lines().map(json).collect();
    assert_eq!(tail.iter().map(|m| m["seq"].as_u64().unwrap_or(0)).collect::<Vec<_>>(), [28, 29, 30, 31, 32]);

    let config = gateway.config_file();
    let mut command = Command::new(headwater_tests::gateway::binary());
    command.args(["stream", "tail", "s", "-n", "1", "--follow", "--json", "--config"]).arg(config);
    let follow = Process::start("headwater stream tail", &mut command, gateway.dir().join("tail"));
    device.publish("plant/d", "followed", 1, false).await;
    until_now(PATIENCE, "a followed message", || {
        let output = follow.output();
        if output.contains("followed") { Ok(()) } else { Err(output) }
    });
}

#[tokio::test]
async fn streams_are_searched_by_topic_by_subject_and_by_time() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let broker = gateway.start().await;
    let (mut device, _) = Device::connect(broker.mqtt(), Connect::v4("d")).await;
    for number in 1..=60 {
        let topic = if number % 20 == 0 { "plant/press-1/alarm" } else { "plant/press-1/data" };
        device.publish(topic, format!("message {number}"), 1, false).await;
    }
    let found = |page: &Value| {
        let messages = page["messages"].as_array().unwrap_or_else(|| panic!("no messages: {page}"));
        messages.iter().map(|message| message["seq"].as_u64().unwrap_or(0)).collect::<Vec<_>>()
    };
    let page = |query: String| {
        let broker = &broker;
        async move { broker.page(&format!("/api/v1/streams/s/messages?{query}")).await.json() }
    };
    for filter in ["topic=plant/%2B/alarm", "subject=plant.*.alarm", "subject=plant.press-1.alarm"] {
        assert_eq!(found(&page(filter.to_owned()).await), [20, 40, 60], "{filter}");
        assert_eq!(found(&page(format!("{filter}&order=desc&limit=2")).await), [60, 40], "{filter}");
        let first = page(format!("{filter}&limit=1")).await;
        assert_eq!((found(&first), &first["more"]), (vec![20], &true.into()));
        let second = page(format!("{filter}&from={}", first["next"])).await;
        assert_eq!((found(&second), &second["more"], &second["next"]), (vec![40, 60], &false.into(), &61.into()));
    }
    let forty = page("from=40&limit=1".to_owned()).await;
    let time = forty["messages"][0]["time"].as_str().expect("a time").to_owned();
    assert_eq!(found(&page(format!("since={time}")).await), (40..=60).collect::<Vec<_>>());
    assert_eq!(found(&page(format!("since={time}&topic=%2B/%2B/alarm&order=desc")).await), [60, 40]);
    assert_eq!(found(&page("since=1h&topic=plant/%23&limit=3".to_owned()).await), [1, 2, 3]);
    let later = page("since=2200-01-01T00:00:00Z".to_owned()).await;
    assert_eq!((found(&later), &later["next"], &later["more"]), (vec![], &61.into(), &false.into()));
    for (query, part) in [
        ("topic=a%23", "topic"),
        ("topic=a&topic=b", "only one"),
        ("subject=a..b", "subject"),
        ("since=soon", "since"),
        ("order=up", "order"),
        ("limit=x", "limit"),
        ("top=1", "top"),
    ] {
        let refused = broker.page(&format!("/api/v1/streams/s/messages?{query}")).await;
        assert!(refused.code == 400 && refused.text().contains(part), "{query}: {} {}", refused.code, refused.text());
    }

    let tail = |arguments: &[&str]| {
        let finished = gateway.command(&[&["stream", "tail", "s", "--json"], arguments].concat());
        finished.success().lines().map(|line| json(line)["seq"].as_u64().unwrap_or(0)).collect::<Vec<_>>()
    };
    assert_eq!(tail(&["--topic", "plant/+/alarm"]), [20, 40, 60]);
    assert_eq!(tail(&["--subject", "plant.*.alarm", "-n", "2"]), [40, 60]);
    assert_eq!(tail(&["--since", &time]), (40..=60).collect::<Vec<_>>());
    assert_eq!(tail(&["--since", "1h", "-n", "2"]), [59, 60]);
    assert_eq!(tail(&["--since", &time, "--topic", "+/+/alarm"]), [40, 60]);
    assert!(tail(&["--topic", "nothing/#"]).is_empty());
    let wrong = gateway.command(&["stream", "tail", "s", "--since", "soon"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("since: expected a time"), "{wrong:?}");
    let both = gateway.command(&["stream", "tail", "s", "--topic", "a", "--subject", "a"]);
    assert_eq!(both.code, Some(2), "{both:?}");

    let mut command = Command::new(headwater_tests::gateway::binary());
    command.args(["stream", "tail", "s", "--topic", "+/+/alarm", "--follow", "--json", "--config"]);
    let follow =
        Process::start("headwater stream tail", command.arg(gateway.config_file()), gateway.dir().join("tail"));
    device.publish("plant/press-2/data", "not followed", 1, false).await;
    device.publish("plant/press-2/alarm", "followed", 1, false).await;
    until_now(PATIENCE, "a followed message", || {
        let output = follow.output();
        if output.contains("\"followed\"") { Ok(()) } else { Err(output) }
    });
    assert!(!follow.output().contains("not followed"));
}

#[test]
fn a_command_without_a_running_broker_says_so() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    for arguments in [&["status"][..], &["stream", "ls"], &["uplink", "ls", "--json"]] {
        let finished = gateway.command(arguments);
        assert_eq!(finished.code, Some(1), "{}", finished.stdout);
        assert!(finished.stderr.contains(&gateway.http().to_string()), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn sigterm_ends_it_in_order_while_devices_publish() {
    let gateway = Gateway::new("gw-1").stream("s", &["plant/#"]);
    let mut broker = gateway.start().await;
    let device = Publisher::new("d");
    let address = broker.mqtt();
    let publishing = tokio::spawn(async move { device.publish_until_cut(address, 1, 1 << 40).await });
    until(PATIENCE, "messages to arrive", || async {
        let held = broker.messages("s", 1, 200).await.messages.len();
        if held == 200 { Ok(()) } else { Err(format!("{held}")) }
    })
    .await;
    let begun = Instant::now();
    let status = broker.stop();
    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < STOP_LIMIT);
    let published = publishing.await.expect("the device is done");
    let broker = gateway.start().await;
    let mut acknowledged = headwater_tests::copy::Acknowledged::new();
    headwater_tests::publisher::record(&mut acknowledged, &published);
    let log = log_of(&broker, "s").await;
    headwater_tests::copy::assert_holds(&acknowledged, log.iter().map(|message| &message.payload));
}

#[tokio::test]
async fn sigterm_ends_it_in_time_while_the_hub_does_not_answer() {
    let hub = Hub::single().await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let proxy = Proxy::start(hub.address(0)).await;
    let gateway = Gateway::new("gw-1").stream("s", &["plant/#"]).uplink(&[proxy.url()], &[("s", "CENTRE")]);
    let mut broker = gateway.start().await;
    let device = Publisher::new("d");
    device.publish(broker.mqtt(), 1, 100).await;
    dump_through(&hub, "CENTRE", "edge.gw-1.s", 100).await;
    proxy.set(headwater_tests::proxy::Direction::Down, headwater_tests::proxy::Flow::Hold);
    proxy.set(headwater_tests::proxy::Direction::Up, headwater_tests::proxy::Flow::Hold);
    device.publish(broker.mqtt(), 101, 100).await;
    let (_device, _) = Device::connect(broker.mqtt(), Connect::v5("idle").persistent()).await;
    assert!(broker.stop().success());
}

#[tokio::test]
async fn nothing_connects_anywhere_without_an_uplink() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let mut broker = gateway.start().await;
    Publisher::new("d").publish(broker.mqtt(), 1, 50).await;
    // What the kernel knows of the process: its sockets all belong to connections that others made to it.
    let pid = broker.process().pid();
    let own: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("our own child can be looked at")
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    assert!(own.len() >= 2, "{own:?}");
    let ports = [gateway.mqtt().port(), gateway.http().port()];
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local = fields[1].rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
            if own.iter().any(|inode| inode == fields[9]) {
                assert!(local.is_some_and(|local| ports.contains(&local)), "{table}: {line}");
            }
        }
    }
    assert!(broker.status().await["uplinks"].as_array().is_some_and(Vec::is_empty));
    assert!(gateway.command(&["uplink", "ls"]).success().contains("no uplinks"));
    assert!(broker.stop().success());
}

#[tokio::test]
async fn bench_disk_measures_and_proposes_and_leaves_nothing() {
    let gateway = Gateway::new("gw-1");
    let measured = json(&gateway.command(&["bench", "disk", "--json"]).success());
    let latencies = measured["latencies"].as_array().expect("a list");
    assert_eq!(latencies.len(), 3);
    assert!(
        latencies.iter().all(|one| one["syncs"].as_u64() > Some(0) && one["p50_ms"].as_f64() > Some(0.0)),
        "{measured}"
    );
    assert!(measured["proposed_max_delay_ms"].is_u64());
    let text = gateway.command(&["bench", "disk"]).success();
    assert!(text.contains("proposed: max_delay = \""), "{text}");
    let left = std::fs::read_dir(gateway.dir()).expect("our own directory").flatten().map(|entry| entry.file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["headwater.toml"]);
    // What lies beside the data of a running broker is the broker's to count.
    let broker = gateway.start().await;
    let refused = gateway.command(&["bench", "disk"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("is in use by process"), "{refused:?}");
    drop(broker);
}
