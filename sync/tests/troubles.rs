//! What a hub or a link refuses: told apart, said clearly, and over as soon as the cause is.

mod common;

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use common::proxy::{Link, Proxy};
use common::{Hub, MemorySource, contents, run, seqs, stream_config, until, uplink_to};
use headwater_broker::config::{UplinkAuth, UplinkTls};
use headwater_sync::hub::Trouble;
use headwater_sync::jetstream::{Connection, Destination, Target};

#[tokio::test]
async fn lost_acknowledgements_after_the_dedupe_window_give_no_duplicates() {
    let hub = Hub::start().await;
    let js = hub.make(Config { duplicate_window: Duration::from_millis(200), ..stream_config("S") }).await;
    let proxy = Proxy::to(hub.port).await;
    let source = MemorySource::new(1);
    let mut config = uplink_to(&[proxy.url()]);
    config.ack_timeout = Duration::from_millis(500);
    config.batch_msgs = 25;
    let running = run(&config, &source);
    let mut sent = 0;
    for _ in 0..4 {
        source.append_numbered(sent + 1..=sent + 100);
        sent += 100;
        running.caught_up().await;
        proxy.set(Link::DropsAnswers);
        source.append_numbered(sent + 1..=sent + 20);
        sent += 20;
        let at_hub = || async { js.get_stream("S").await.ok()?.info().await.ok().map(|i| i.state.messages) };
        until("the hub has what it could not acknowledge", async || at_hub().await.filter(|n| *n == sent).map(drop))
            .await;
        until("the half-open link was given up", async || (running.mirror().state == "offline").then_some(())).await;
        // The dedupe window is what is waited for here, and it can only be waited for.
        tokio::time::sleep(Duration::from_millis(400)).await;
        proxy.set(Link::Up);
    }
    running.caught_up().await;
    assert_eq!(seqs(&contents(&js, "S").await), (1..=sent).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_link_cut_again_and_again_during_backfill_costs_nothing() {
    let hub = Hub::start().await;
    let js = hub.make(Config { duplicate_window: Duration::from_millis(100), ..stream_config("S") }).await;
    let proxy = Proxy::to(hub.port).await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=20_000);
    let mut config = uplink_to(&[proxy.url()]);
    config.batch_msgs = 100;
    let running = run(&config, &source);
    for n in 1..=15u64 {
        until("some more arrived", async || (running.mirror().confirmed_seq >= n * 500).then_some(())).await;
        proxy.set(Link::Cut);
        until("the cut was noticed", async || (running.mirror().state == "offline").then_some(())).await;
        proxy.set(Link::Up);
    }
    running.caught_up().await;
    assert_eq!(seqs(&contents(&js, "S").await), (1..=20_000).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_lost_connection_is_never_revived() {
    let hub = Hub::start().await;
    hub.make_stream("S").await;
    let proxy = Proxy::to(hub.port).await;
    let target = Target {
        auth: UplinkAuth::Anonymous,
        tls: UplinkTls::default(),
        gateway: "gw".into(),
        timeout: Duration::from_secs(2),
    };
    let to = Destination { stream: "S".into(), filter: "edge.gw.s.>".into(), create: None };
    let connection = Connection::open(&proxy.url(), &target).await.expect("the hub is there");
    connection.ask(&to).await.expect("the hub answers");
    proxy.set(Link::Cut);
    assert_eq!(connection.lost().await.kind(), "lost");
    proxy.set(Link::Up);
    // A client that reconnects would deliver this now; ours has ended and says so.
    let asked = tokio::time::timeout(common::PATIENCE, connection.ask(&to)).await.expect("an answer, not silence");
    assert!(matches!(asked, Err(Trouble::Other(_))), "{asked:?}");
    assert_eq!(proxy.accepted(), 1);
}

#[tokio::test]
async fn a_missing_stream_is_named_and_found_once_it_is_there() {
    let hub = Hub::start().await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=5);
    let running = run(&uplink_to(&[hub.url()]), &source);
    let text = running.troubled("stream-missing").await;
    assert!(text.contains("\"S\"") && text.contains("create"), "{text}");
    let js = hub.make_stream("S").await;
    running.caught_up().await;
    assert_eq!(seqs(&contents(&js, "S").await), [1, 2, 3, 4, 5]);
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_stream_that_does_not_take_our_subjects_is_named() {
    let hub = Hub::start().await;
    hub.make(Config { subjects: vec!["other.>".into()], ..stream_config("S") }).await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=5);
    let running = run(&uplink_to(&[hub.url()]), &source);
    let text = running.troubled("other").await;
    assert!(text.contains("edge.gw.s.>"), "{text}");
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_hub_without_jetstream_is_told_apart() {
    let hub = Hub::start_with("accounts { A { users: [{user: a, password: a}] } }\nno_auth_user: a").await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=5);
    let running = run(&uplink_to(&[hub.url()]), &source);
    until("the reason is shown", async || {
        let text = running.mirror().last_error?.text;
        (text.contains("JetStream")).then_some(())
    })
    .await;
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_full_stream_is_waited_for_and_filled_to_the_brim() {
    let hub = Hub::start().await;
    let full = Config { max_messages: 130, discard: DiscardPolicy::New, ..stream_config("S") };
    let js = hub.make(full.clone()).await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=300);
    let running = run(&uplink_to(&[hub.url()]), &source);
    let text = running.troubled("stream-full").await;
    assert!(text.contains("maximum messages exceeded"), "{text}");
    until("smaller batches fill what room there is", async || (running.mirror().confirmed_seq == 130).then_some(()))
        .await;
    js.update_stream(Config { max_messages: 1000, ..full }).await.expect("the stream can be changed");
    running.caught_up().await;
    assert_eq!(seqs(&contents(&js, "S").await), (1..=300).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn messages_too_large_for_the_server_are_set_aside_and_the_stream_goes_on() {
    let hub = Hub::start_with("max_payload: 10000").await;
    let js = hub.make_stream("S").await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=10);
    source.append(vec![b'x'; 10_000]);
    source.append(vec![b'x'; 20_000]);
    source.append_numbered(13..=20);
    let running = run(&uplink_to(&[hub.url()]), &source);
    let status = running.caught_up().await;
    assert_eq!((status.counters.set_aside, status.counters.last_set_aside), (2, 12));
    let copies = contents(&js, "S").await;
    assert_eq!(seqs(&copies), (1..=10).chain(12..=20).collect::<Vec<_>>());
    assert_eq!(copies[10].gap, Some((11, 12, "too-large".into())));
    assert_eq!(status.counters.retries, 0, "{status:?}");
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn messages_too_large_for_the_stream_are_found_also_when_its_limit_changes() {
    let hub = Hub::start().await;
    let limit = Config { max_message_size: 2000, ..stream_config("S") };
    let js = hub.make(limit.clone()).await;
    let source = MemorySource::new(1);
    let running = run(&uplink_to(&[hub.url()]), &source);
    source.append(vec![b'x'; 3000]);
    running.caught_up().await;
    js.update_stream(Config { max_message_size: 1000, ..limit }).await.expect("the stream can be changed");
    for n in 2..=21u64 {
        source.append(vec![b'x'; if n == 12 { 1500 } else { 10 }]);
    }
    let status = running.caught_up().await;
    assert_eq!((status.counters.set_aside, status.counters.last_set_aside), (2, 12));
    let copies = contents(&js, "S").await;
    assert_eq!(seqs(&copies), (1..=21).collect::<Vec<_>>());
    assert_eq!(copies.iter().filter(|c| c.gap.is_some()).map(|c| c.seq).collect::<Vec<_>>(), [1, 12]);
    running.uplinks.shutdown().await;
}

/// The permissions that the documentation lists, less what a test takes away.
fn user_with(publish: &[&str], subscribe: &str) -> String {
    format!(
        "authorization {{ users: [ {{user: admin, password: admin}}, \
         {{user: gw, password: gw, permissions: {{ publish: {publish:?}, subscribe: [\"{subscribe}\"] }} }} ] }}"
    )
}

const PERMITTED: [&str; 4] =
    ["edge.gw.s.>", "$JS.API.STREAM.MSG.GET.S", "$JS.API.STREAM.INFO.S", "$JS.API.STREAM.CREATE.S"];

fn as_gateway(hub: &Hub) -> headwater_broker::config::Uplink {
    let mut config = uplink_to(&[hub.url()]);
    config.auth = UplinkAuth::UserPassword { user: "gw".into(), password: "gw".into() };
    config
}

fn admin() -> async_nats::ConnectOptions {
    async_nats::ConnectOptions::new().user_and_password("admin".into(), "admin".into())
}

#[tokio::test]
async fn the_listed_permissions_are_enough() {
    let hub = Hub::start_with(&user_with(&PERMITTED, "_INBOX.gw.>")).await;
    let source = MemorySource::new(1);
    source.append_numbered(1..=2000);
    let mut config = as_gateway(&hub);
    config.mirrors[0].create = Some(headwater_broker::config::CreateStream {
        replicas: 1,
        max_bytes: None,
        max_age: None,
        subjects: Vec::new(),
    });
    let running = run(&config, &source);
    running.caught_up().await;
    source.append_numbered(2001..=2001);
    let status = running.caught_up().await;
    assert_eq!(status.counters.retries, 0, "{status:?}");
    let js = hub.client_with(admin()).await;
    assert_eq!(seqs(&contents(&js, "S").await), (1..=2001).collect::<Vec<_>>());
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn a_permission_that_is_missing_is_named() {
    for missing in PERMITTED {
        let publish: Vec<_> = PERMITTED.into_iter().filter(|subject| *subject != missing).collect();
        let hub = Hub::start_with(&user_with(&publish, "_INBOX.gw.>")).await;
        if !missing.contains("CREATE") {
            hub.client_with(admin()).await.create_stream(stream_config("S")).await.expect("the stream is made");
        }
        let source = MemorySource::new(1);
        source.append_numbered(1..=5);
        let mut config = as_gateway(&hub);
        config.mirrors[0].create = Some(headwater_broker::config::CreateStream {
            replicas: 1,
            max_bytes: None,
            max_age: None,
            subjects: Vec::new(),
        });
        let running = run(&config, &source);
        let text = running.troubled("no-permission").await;
        assert!(text.contains(missing.trim_end_matches('>')), "{missing}: {text}");
        running.uplinks.shutdown().await;
    }
}

#[tokio::test]
async fn an_inbox_that_is_not_permitted_is_named() {
    let hub = Hub::start_with(&user_with(&PERMITTED, "nothing")).await;
    hub.client_with(admin()).await.create_stream(stream_config("S")).await.expect("the stream is made");
    let source = MemorySource::new(1);
    source.append_numbered(1..=5);
    let running = run(&as_gateway(&hub), &source);
    let text = running.troubled("no-permission").await;
    assert!(text.contains("_INBOX.gw"), "{text}");
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn wrong_credentials_are_told_apart() {
    let hub = Hub::start_with(&user_with(&PERMITTED, "_INBOX.gw.>")).await;
    let mut config = uplink_to(&[hub.url()]);
    config.auth = UplinkAuth::UserPassword { user: "gw".into(), password: "wrong".into() };
    let running = run(&config, &MemorySource::new(1));
    let text = running.link_troubled("auth-refused").await;
    assert!(text.contains("credentials") && !text.contains("wrong"), "{text}");
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn nobody_listening_and_unknown_names_are_told_apart() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let running = run(&uplink_to(&[format!("nats://127.0.0.1:{free}")]), &MemorySource::new(1));
    running.link_troubled("not-reached").await;
    running.uplinks.shutdown().await;
    let running = run(&uplink_to(&["nats://no-such-host.invalid:4222".into()]), &MemorySource::new(1));
    running.link_troubled("not-resolved").await;
    running.uplinks.shutdown().await;
    let running = run(&uplink_to(&["http://127.0.0.1".into()]), &MemorySource::new(1));
    running.link_troubled("bad-address").await;
    running.uplinks.shutdown().await;
}

#[tokio::test]
async fn the_next_server_is_tried_when_one_is_down() {
    let hub = Hub::start().await;
    let js = hub.make_stream("S").await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let source = MemorySource::new(1);
    source.append_numbered(1..=3);
    let running = run(&uplink_to(&[format!("nats://127.0.0.1:{free}"), hub.url()]), &source);
    running.caught_up().await;
    assert_eq!(running.uplinks.status()[0].server, Some(format!("127.0.0.1:{}", hub.port)));
    assert_eq!(seqs(&contents(&js, "S").await), [1, 2, 3]);
    running.uplinks.shutdown().await;
}
