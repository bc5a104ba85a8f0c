//! What the hub's user must be allowed: just the permissions that the README lists are enough, and a missing one is named.

use headwater_tests::copy::settle;
use headwater_tests::gateway::Gateway;
use headwater_tests::hub::Hub;
use headwater_tests::publisher::Publisher;
use headwater_tests::wait::{PATIENCE, until};

/// The list in the README, for gateway `gw-1` that mirrors stream `s` into `CENTRE`.
const PUBLISH: [&str; 3] = ["edge.gw-1.s.>", "$JS.API.STREAM.MSG.GET.CENTRE", "$JS.API.STREAM.INFO.CENTRE"];
/// Only with `create`.
const PUBLISH_TO_CREATE: &str = "$JS.API.STREAM.CREATE.CENTRE";
const SUBSCRIBE: &str = "_INBOX.gw-1.>";

fn user(publish: &[&str], subscribe: &[&str]) -> String {
    format!(
        "{{ user: gw, password: secret, permissions: {{ publish: {{ allow: {publish:?} }}, subscribe: {{ allow: {subscribe:?} }} }} }}"
    )
}

fn gateway(hub: &Hub, mirror: &str) -> Gateway {
    Gateway::new("gw-1").stream("s", &["plant/#"]).with(&format!(
        "[[uplink]]\nname = \"hub\"\nkind = \"jetstream\"\nservers = {:?}\nuser = \"gw\"\npassword = \"secret\"\n\
         ack_timeout = \"2s\"\nmax_backoff = \"500ms\"\n\
         [[uplink.mirror]]\nstream = \"s\"\ninto = \"CENTRE\"\n{mirror}",
        hub.urls()
    ))
}

/// Waits until the uplinks' page contains each of `words`.
async fn named(gateway: &Gateway, words: &[&str]) {
    let broker = gateway.start().await;
    Publisher::new("d").publish(broker.mqtt(), 1, 50).await;
    until(PATIENCE, &format!("{words:?} in the uplinks' page"), || async {
        let page = broker.page("/api/v1/uplinks").await.json().to_string();
        if words.iter().all(|word| page.contains(word)) { Ok(()) } else { Err(page) }
    })
    .await;
    // And in the command that people use.
    let shown = gateway.command(&["uplink", "ls", "--json"]).success();
    assert!(words.iter().all(|word| shown.contains(word)), "{shown}");
}

#[tokio::test]
async fn the_permissions_of_the_readme_are_enough() {
    let hub = Hub::with_users(&user(&PUBLISH, &[SUBSCRIBE])).await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    let gateway = gateway(&hub, "");
    let broker = gateway.start().await;
    Publisher::new("d").publish(broker.mqtt(), 1, 300).await;
    settle(&gateway, &broker, "s", &hub, "CENTRE").await;
    broker.kill();
    // A resume needs no more than a beginning.
    let broker = gateway.start().await;
    Publisher::new("d").publish(broker.mqtt(), 301, 300).await;
    settle(&gateway, &broker, "s", &hub, "CENTRE").await;
}

#[tokio::test]
async fn the_permissions_of_the_readme_are_enough_to_make_the_stream() {
    let publish = [&PUBLISH[..], &[PUBLISH_TO_CREATE]].concat();
    let hub = Hub::with_users(&user(&publish, &[SUBSCRIBE])).await;
    let gateway = gateway(&hub, "create = { replicas = 1 }\n");
    let broker = gateway.start().await;
    Publisher::new("d").publish(broker.mqtt(), 1, 300).await;
    settle(&gateway, &broker, "s", &hub, "CENTRE").await;
}

#[tokio::test]
async fn the_readme_lists_just_these_permissions() {
    let readme = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("there is a README");
    // There for a gateway and streams of other names: compared by what does not depend on them.
    for subject in PUBLISH.iter().chain([&PUBLISH_TO_CREATE, &SUBSCRIBE]) {
        let fixed =
            subject.trim_end_matches(['>', '.']).replace("CENTRE", "").replace("gw-1.s", "").replace("gw-1", "");
        let fixed = fixed.trim_end_matches('.');
        assert!(readme.contains(fixed), "{fixed} is not in the README");
    }
    for line in readme.lines().filter(|line| line.contains("$JS.API.")) {
        for found in line.split("$JS.API.").skip(1) {
            let known = ["STREAM.MSG.GET.", "STREAM.INFO.", "STREAM.CREATE."];
            assert!(known.iter().any(|known| found.starts_with(known)), "one permission more: {line}");
        }
    }
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    for missing in PUBLISH {
        let rest: Vec<&str> = PUBLISH.into_iter().filter(|subject| *subject != missing).collect();
        let hub = Hub::with_users(&user(&rest, &[SUBSCRIBE])).await;
        hub.create_stream("CENTRE", &["edge.>"]).await;
        named(&gateway(&hub, ""), &["ermission", missing.trim_end_matches(".>")]).await;
    }
    let hub = Hub::with_users(&user(&PUBLISH, &["nothing"])).await;
    hub.create_stream("CENTRE", &["edge.>"]).await;
    named(&gateway(&hub, ""), &["ermission", "_INBOX.gw-1"]).await;
    let hub = Hub::with_users(&user(&PUBLISH, &[SUBSCRIBE])).await;
    named(&gateway(&hub, "create = { replicas = 1 }\n"), &["ermission", PUBLISH_TO_CREATE]).await;
}

#[tokio::test]
async fn a_wrong_password_is_told_apart_from_a_hub_that_is_down() {
    let mut hub = Hub::with_users(&user(&PUBLISH, &[SUBSCRIBE]).replace("secret", "another")).await;
    let gateway = gateway(&hub, "");
    named(&gateway, &["auth-refused", "credentials"]).await;
    let address = hub.address(0).to_string();
    hub.stop(0);
    let broker = gateway.start().await;
    until(PATIENCE, "a refused connection to be shown", || async {
        let uplinks = broker.page("/api/v1/uplinks").await.json();
        let error = &uplinks[0]["last_error"];
        let named = error["text"].as_str().is_some_and(|text| text.contains(&address));
        if error["kind"] == "not-reached" && named { Ok(()) } else { Err(uplinks.to_string()) }
    })
    .await;
}
