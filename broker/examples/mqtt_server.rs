//! The MQTT server alone, for trying it out: `cargo run --example mqtt_server -- DATA_DIR ADDR`. Ends with its standard input.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use headwater_broker::clock::SystemClock;
use headwater_broker::config;
use headwater_broker::log::{AckPolicy, BlockCodec, Log, LogConfig, Storage, StreamConfig, StreamLimits};
use headwater_broker::mqtt::topic::TopicFilter;
use headwater_broker::router::internal_streams;
use headwater_broker::server::Broker;

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("a data directory is wanted")?;
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:1883".to_owned()).parse()?;
    let clock = Arc::new(SystemClock);
    let config = config::Config {
        gateway: config::Gateway { id: "example".to_owned(), data_dir: dir.clone().into() },
        disk: config::Disk { max_bytes: 256 << 20, min_free: 16 << 20 },
        durability: config::Durability { ack: AckPolicy::Synced, max_delay: Duration::ZERO },
        http: config::Http { bind: None },
        mqtt: config::Mqtt {
            max_connections: 1000,
            max_packet_bytes: 1 << 20,
            receive_maximum: 100,
            connect_timeout: Duration::from_secs(10),
            max_session_expiry: Duration::from_secs(7 * 86_400),
            max_sessions: 1000,
            max_subscriptions: 100,
            max_queued_msgs: 1000,
            max_queued_bytes: 1 << 20,
            max_retained_msgs: 10_000,
            max_retained_bytes: 4 << 20,
            max_keep_alive: 0,
        },
        listeners: vec![config::Listener { kind: config::ListenerKind::Mqtt, bind: addr }],
        streams: vec![config::Stream {
            name: "default".to_owned(),
            topics: vec!["#".parse::<TopicFilter>().map_err(|e| e.to_string())?],
            exclude: vec!["unstored/#".parse::<TopicFilter>().map_err(|e| e.to_string())?],
            limits: StreamLimits::default(),
            storage: Storage::File,
        }],
        uplinks: Vec::new(),
    };
    let mut streams: Vec<StreamConfig> = config
        .streams
        .iter()
        .map(|s| StreamConfig { name: s.name.clone(), limits: s.limits.clone(), storage: s.storage })
        .collect();
    streams.extend(internal_streams());
    let (log, report) = Log::open(LogConfig {
        dir: dir.into(),
        max_bytes: config.disk.max_bytes,
        min_free: config.disk.min_free,
        ack: config.durability.ack,
        max_delay: config.durability.max_delay,
        codec: BlockCodec::Lz4,
        streams,
        clock: clock.clone(),
    })
    .map_err(|e| format!("{e:?}"))?;
    eprintln!("{report:?}");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let broker = Broker::start(&config, log.clone(), clock).await.map_err(|e| e.to_string())?;
        eprintln!("listening on {:?}, restored {:?}", broker.local_addrs(), broker.restored());
        tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 16])).await.map_err(|e| e.to_string())?.ok();
        eprintln!("{:#?}", broker.stats());
        broker.shutdown(Duration::from_secs(5)).await;
        Ok::<(), String>(())
    })?;
    log.close();
    Ok(())
}
