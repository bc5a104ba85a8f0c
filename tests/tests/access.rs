//! Users and rights: password files of `headwater passwd` and of mosquitto_passwd, access control lists, and what changes with SIGHUP.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use headwater_tests::device::{Connect, Device, will};
use headwater_tests::gateway::{Broker, Gateway, binary, headwater};
use headwater_tests::process::run;
use headwater_tests::wait::{PATIENCE, until};
use headwater_tests::{http, mosquitto};
use rustix::process::Signal;

const ACL: &str = "\
topic read weather/#

user pump
topic write plant/pump/#
topic read plant/orders/#
topic deny plant/orders/secret

user boss
topic readwrite #

pattern readwrite own/%u/%c/#
";

/// A gateway with the users `pump` (password `p`) and `boss` (`b`), the list above, and a stream of everything.
fn gateway() -> Gateway {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let (users, acl) = (users(&gateway), gateway.dir().join("acl"));
    set_password(&users, "pump", "p");
    set_password(&users, "boss", "b");
    std::fs::write(&acl, ACL).expect("a file can be written");
    let auth = format!("[auth]\npassword_file = {:?}\nacl_file = {:?}\n", text(&users), text(&acl));
    gateway.with(&auth)
}

fn users(gateway: &Gateway) -> PathBuf {
    gateway.dir().join("passwd")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn set_password(file: &Path, user: &str, password: &str) {
    let mut command = Command::new(binary());
    command.arg("passwd").arg(file).arg(user).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    writeln!(stdin, "{password}").expect("it reads its stdin");
    drop(stdin);
    assert!(child.wait().expect("it ends").success());
}

/// The code of the CONNACK.
async fn answer(broker: &Broker, how: Connect) -> u64 {
    let mut device = Device::launch(broker.mqtt(), how).await;
    device.event("connected").await["code"].as_u64().expect("a code")
}

async fn hangup(broker: &mut Broker, said: &str) {
    broker.process().signal(Signal::HUP);
    until(PATIENCE, said, || {
        let output = broker.process().output();
        async move { if output.contains(said) { Ok(()) } else { Err(output) } }
    })
    .await;
}

#[tokio::test]
async fn only_who_has_a_password_gets_in_and_it_is_said_in_the_words_of_the_version() {
    let gateway = gateway();
    let broker = gateway.start().await;
    assert_eq!(answer(&broker, Connect::v5("a").user("pump", "p")).await, 0);
    assert_eq!(answer(&broker, Connect::v5("a").user("pump", "p")).await, 0, "and again, from what is remembered");
    assert_eq!(answer(&broker, Connect::v5("a").user("pump", "wrong")).await, 0x86);
    assert_eq!(answer(&broker, Connect::v5("a").user("nobody", "p")).await, 0x86);
    assert_eq!(answer(&broker, Connect::v5("a")).await, 0x87);
    // paho shows the return codes of 3.1.1 as the reason codes that mean the same.
    assert_eq!(answer(&broker, Connect::v4("a").user("pump", "wrong")).await, 0x86);
    assert_eq!(answer(&broker, Connect::v4("a")).await, 0x87);
    // A refusal is counted once its CONNACK is out.
    until(PATIENCE, "the refusals to be counted", || async {
        let metrics = broker.metrics().await;
        let refused = |reason| metrics.value("headwater_connections_refused_total", &[("reason", reason)]);
        let counted = (refused("wrong_password"), refused("not_authorized"));
        if counted == (3.0, 2.0) { Ok(()) } else { Err(format!("{counted:?}")) }
    })
    .await;
}

#[tokio::test]
async fn rights_govern_publishing_subscribing_retained_messages_and_wills() {
    let gateway = gateway();
    let broker = gateway.start().await;
    let (mut boss, _) = Device::connect(broker.mqtt(), Connect::v5("boss").user("boss", "b")).await;
    assert_eq!(boss.publish("plant/orders/1", "go", 1, true).await, 0);
    assert_eq!(boss.publish("plant/orders/secret", "hush", 1, true).await, 0);
    assert_eq!(boss.subscribe(&["plant/pump/#"], 1).await, [1]);

    // The test acknowledges, so that what was got is settled before the device leaves.
    let how = Connect { manual_ack: true, ..Connect::v5("p1").user("pump", "p").persistent() };
    let (mut pump, _) = Device::connect(broker.mqtt(), how).await;
    assert_eq!(
        pump.subscribe(&["plant/orders/#", "weather/#", "plant/orders/secret", "own/pump/p1/x"], 1).await,
        [1, 0x87, 0x87, 1]
    );
    assert_eq!(pump.publish("plant/pump/speed", "7", 1, false).await, 0x00);
    assert_eq!(pump.publish("plant/orders/1", "mine", 1, false).await, 0x87);
    // paho goes on with PUBREL after a PUBREC that refuses, and reports the PUBCOMP.
    assert!(pump.publish("plant/orders/1", "mine", 2, false).await >= 0x80);
    assert_eq!(pump.publish("own/pump/p2/x", "not mine", 1, false).await, 0x87);
    assert_eq!(boss.publish("plant/orders/secret", "hush again", 1, false).await, 0);
    assert_eq!(boss.publish("plant/orders/2", "stop", 1, false).await, 0);
    for text in ["go", "stop"] {
        // The first is retained; nothing of what is denied comes between them.
        let message = pump.message().await;
        assert_eq!(message.text(), text);
        pump.acknowledge(&message).await;
    }
    assert_eq!(boss.message().await.topic, "plant/pump/speed");

    // Away, and read from the log when it is back.
    pump.disconnect().await;
    assert_eq!(boss.publish("plant/orders/secret", "while away", 1, false).await, 0);
    assert_eq!(boss.publish("plant/orders/3", "while away", 1, false).await, 0);
    let (mut pump, ack) = Device::connect(broker.mqtt(), Connect::v5("p1").user("pump", "p").persistent()).await;
    assert_eq!(ack["session_present"], true);
    assert_eq!(pump.message().await.topic, "plant/orders/3");

    let testament = will("plant/orders/1", b"gone", 1, false);
    let how = Connect { will: testament, ..Connect::v5("p3").user("pump", "p") };
    assert_eq!(answer(&broker, how).await, 0x87, "a will that it could not publish itself");
    let metrics = broker.metrics().await;
    assert!(metrics.value("headwater_messages_refused_total", &[("reason", "not_authorized")]) >= 3.0);
    assert!(metrics.value("headwater_subscriptions_refused_total", &[]) >= 2.0);
    // Nothing of what was refused is in the stream.
    let stored = broker.messages("s", 1, 100).await.messages;
    assert!(stored.iter().all(|message| message.payload != b"mine" && message.payload != b"not mine"), "{stored:?}");
}

#[tokio::test]
async fn password_files_of_mosquitto_work_with_its_own_tools() {
    let gateway = Gateway::new("gw-1").stream("s", &["#"]);
    let file = text(&users(&gateway));
    let _ = run("mosquitto_passwd", ["-b", "-c", &file, "ann", "secret"], PATIENCE).success();
    let gateway = gateway.with(&format!("[auth]\npassword_file = {file:?}\n"));
    let broker = gateway.start().await;
    let publish = ["-i", "x", "-t", "a", "-m", "1", "-q", "1", "-u", "ann"];
    let mut subscriber = mosquitto::Subscriber::start(broker.mqtt(), &["-t", "a", "-u", "ann", "-P", "secret"]);
    let _ = mosquitto::publish(broker.mqtt(), &[&publish[..], &["-P", "secret"]].concat()).success();
    assert_eq!(subscriber.messages(1), ["a 0 0 1"]);
    let refused = mosquitto::publish(broker.mqtt(), &[&publish[..], &["-P", "wrong"]].concat());
    assert!(refused.code != Some(0) && refused.stderr.contains("bad user name or password"), "{refused:?}");
}

#[tokio::test]
async fn sighup_puts_changed_users_and_rights_in_force_for_connected_clients_too() {
    let gateway = gateway();
    let mut broker = gateway.start().await;
    let (mut pump, _) = Device::connect(broker.mqtt(), Connect::v5("p").user("pump", "p")).await;
    let (mut boss, _) = Device::connect(broker.mqtt(), Connect::v5("b").user("boss", "b")).await;
    assert_eq!(pump.publish("weather/now", "rain", 1, false).await, 0x87);
    let acl = gateway.dir().join("acl");
    std::fs::write(&acl, format!("{ACL}\nuser pump\ntopic write weather/#\n")).expect("a file can be written");
    set_password(&users(&gateway), "boss", "changed");
    hangup(&mut broker, "users and rights were read again").await;
    assert_eq!(pump.publish("weather/now", "rain", 1, false).await, 0, "the session goes on with its new rights");
    assert_eq!(boss.event("disconnected").await["code"], 0x87);
    assert_eq!(answer(&broker, Connect::v5("b").user("boss", "b")).await, 0x86);
    assert_eq!(answer(&broker, Connect::v5("b").user("boss", "changed")).await, 0);

    // What is not understood changes nothing.
    std::fs::write(&acl, "topick read #\n").expect("a file can be written");
    hangup(&mut broker, "stay as they were").await;
    assert!(broker.process().output().contains("acl:1: expected `user`, `topic` or `pattern`, found"));
    assert_eq!(pump.publish("weather/now", "rain", 1, false).await, 0);
    assert!(http::get(broker.http(), "/readyz").await.is_ok_and(|answer| answer.code == 200));
}

#[test]
fn a_file_that_is_not_understood_is_refused_with_its_line_and_nothing_is_touched() {
    let gateway = gateway();
    std::fs::write(gateway.dir().join("acl"), "user a\ntopic reed a\n\ntopic read a/#/b\n").expect("it can be written");
    for command in ["check", "run"] {
        let finished = gateway.command(&[command]);
        assert_eq!(finished.code, Some(2), "{}", finished.stdout);
        assert!(finished.stderr.contains("acl:4: \"a/#/b\" is no topic filter"), "{}", finished.stderr);
    }
    assert!(!gateway.data_dir().exists());
}

#[test]
fn passwd_adds_changes_and_deletes_and_spoils_no_file_that_it_does_not_understand() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("passwd");
    let name = text(&file);
    set_password(&file, "ann", "1");
    set_password(&file, "bob", "2");
    let before = std::fs::read_to_string(&file).expect("it is there");
    set_password(&file, "ann", "3");
    let after = std::fs::read_to_string(&file).expect("it is there");
    assert_eq!(after.lines().count(), 2);
    assert_eq!(before.lines().nth(1), after.lines().nth(1), "another user's line stays");
    assert_ne!(before.lines().next(), after.lines().next());
    assert!(headwater(&["passwd", "--delete", &name, "ann"]).success().contains("deleted"));
    let again = headwater(&["passwd", "--delete", &name, "ann"]);
    assert!(again.code == Some(1) && again.stderr.contains("no user \"ann\""), "{again:?}");
    std::fs::write(&file, "not a password file\n").expect("it can be written");
    let refused = headwater(&["passwd", "--delete", &name, "ann"]);
    assert!(refused.code == Some(2) && refused.stderr.contains(":1: expected NAME:HASH"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "not a password file\n");
}

/// A session is its user's: another one with the same client id takes the connection, and gets neither messages nor subscriptions.
#[tokio::test]
async fn a_kept_session_is_not_given_to_another_user() {
    let gateway = gateway();
    let mut broker = gateway.start().await;
    let pump = || Connect::v5("shared-id").user("pump", "p").persistent();
    let boss = || Connect::v5("shared-id").user("boss", "b").persistent();
    let (mut device, _) = Device::connect(broker.mqtt(), pump()).await;
    device.subscribe(&["plant/orders/#"], 1).await;
    device.disconnect().await;
    let (mut publisher, _) = Device::connect(broker.mqtt(), Connect::v5("p").user("boss", "b")).await;
    publisher.publish("plant/orders/1", "for pump", 1, false).await;
    // Also after a restart.
    assert!(broker.stop().success());
    let broker = gateway.start().await;
    let (mut device, connack) = Device::connect(broker.mqtt(), pump()).await;
    assert_eq!(connack["session_present"], true, "{connack}");
    assert_eq!(device.message().await.text(), "for pump");
    device.disconnect().await;
    let (mut device, connack) = Device::connect(broker.mqtt(), boss()).await;
    assert_eq!(connack["session_present"], false, "{connack}");
    device.disconnect().await;
    let (_device, connack) = Device::connect(broker.mqtt(), boss()).await;
    assert_eq!(connack["session_present"], true, "{connack}");
    let count = broker.metrics().await.value("headwater_sessions_of_others_total", &[]);
    assert_eq!(count.to_bits(), 1.0_f64.to_bits());
}
