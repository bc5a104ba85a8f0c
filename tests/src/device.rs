//! A device by paho-mqtt, driven step by step: `tests/python/device.py` in a child process.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::hex::{hex, unhex};
use crate::process::provided;
use crate::wait::PATIENCE;

/// A message as a subscriber got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Topic.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// Quality of service of this delivery.
    pub qos: u8,
    /// RETAIN flag.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// Packet id.
    pub mid: u16,
    /// MQTT 5 properties by their names in paho-mqtt.
    pub properties: Value,
}

impl Received {
    /// The payload as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// How to connect. `Connect { clean: false, ..Connect::v5("id") }` and so on.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Client id.
    pub id: String,
    /// 4 (MQTT 3.1.1) or 5.
    pub version: u8,
    /// Clean session or clean start.
    pub clean: bool,
    /// Seconds.
    pub keep_alive: u16,
    /// MQTT 5 properties by their names in paho-mqtt.
    pub properties: Value,
    /// `{"topic", "payload" in hexadecimal digits, "qos", "retain", "properties"}`; see [`will`].
    pub will: Value,
    /// User name and password.
    pub user: Option<(String, String)>,
    /// The test acknowledges messages itself, by [`Device::acknowledge`].
    pub manual_ack: bool,
    /// Not plain TCP: `transport` ("websockets" with its `path`, or "unix" with the socket's file as `host`), `ca` for TLS.
    pub over: Value,
}

impl Connect {
    /// MQTT 3.1.1, clean.
    #[must_use]
    pub fn v4(id: &str) -> Connect {
        Connect { version: 4, ..Connect::v5(id) }
    }

    /// MQTT 5, clean.
    #[must_use]
    pub fn v5(id: &str) -> Connect {
        Connect {
            id: id.to_owned(),
            version: 5,
            clean: true,
            keep_alive: 60,
            properties: Value::Null,
            will: Value::Null,
            user: None,
            manual_ack: false,
            over: Value::Null,
        }
    }

    /// As this user.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str) -> Connect {
        self.user = Some((name.to_owned(), password.to_owned()));
        self
    }

    /// A session that outlives the connection (by an hour on MQTT 5).
    #[must_use]
    pub fn persistent(mut self) -> Connect {
        self.clean = false;
        if self.version == 5 {
            self.properties = json!({ "SessionExpiryInterval": 3600 });
        }
        self
    }
}

/// A last will.
#[must_use]
pub fn will(topic: &str, payload: &[u8], qos: u8, retain: bool) -> Value {
    json!({ "topic": topic, "payload": hex(payload), "qos": qos, "retain": retain })
}

/// A running client. Dropping it kills the process, which the broker sees as a lost connection.
#[derive(Debug)]
pub struct Device {
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    messages: VecDeque<Received>,
    events: VecDeque<Value>,
    id: String,
    child: Child,
}

impl Device {
    /// Starts the client and demands that the broker takes it. Yields the device and the CONNACK
    /// (`code`, `session_present`, `properties`).
    ///
    /// # Panics
    /// If there is no CONNACK or its code is not 0.
    pub async fn connect(broker: SocketAddr, how: Connect) -> (Device, Value) {
        let mut device = Device::launch(broker, how).await;
        let answer = device.event("connected").await;
        assert_eq!(answer["code"], 0, "{answer}");
        (device, answer)
    }

    /// Starts the client; what the broker answers is the first event.
    ///
    /// # Panics
    /// If Python cannot be started.
    pub async fn launch(broker: SocketAddr, how: Connect) -> Device {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/device.py");
        let mut command = Command::new(provided("HEADWATER_PYTHON"));
        command.arg("-B").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let stdin = child.stdin.take().expect("stdin is a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
        let (messages, events) = (VecDeque::new(), VecDeque::new());
        let mut device = Device { stdin, stdout, messages, events, id: how.id.clone(), child };
        let mut connect = json!({
            "do": "connect", "host": broker.ip().to_string(), "port": broker.port(),
            "id": how.id, "version": how.version, "clean": how.clean, "keep_alive": how.keep_alive,
            "properties": how.properties, "will": how.will, "manual_ack": how.manual_ack,
            "username": how.user.as_ref().map(|(name, _)| name), "password": how.user.as_ref().map(|(_, password)| password),
        });
        for (key, value) in how.over.as_object().into_iter().flatten() {
            connect[key] = value.clone();
        }
        device.command(connect).await;
        device
    }

    /// Subscribes to filters; the granted QoS or error codes.
    pub async fn subscribe(&mut self, filters: &[&str], qos: u8) -> Vec<u64> {
        self.subscribe_with(json!({ "filters": filters, "qos": qos })).await
    }

    /// Subscribes with options: `filters`, `qos`, and on MQTT 5 `no_local`, `retain_as_published`, `retain_handling`,
    /// `properties`.
    pub async fn subscribe_with(&mut self, mut options: Value) -> Vec<u64> {
        options["do"] = "subscribe".into();
        self.command(options).await;
        codes(&self.event("subscribed").await)
    }

    /// Unsubscribes.
    pub async fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u64> {
        self.command(json!({ "do": "unsubscribe", "filters": filters })).await;
        codes(&self.event("unsubscribed").await)
    }

    /// Publishes and waits until that is finished (sent, PUBACK, PUBCOMP); the reason code.
    pub async fn publish(&mut self, topic: &str, payload: impl AsRef<[u8]>, qos: u8, retain: bool) -> u64 {
        self.publish_with(topic, payload, qos, retain, Value::Null).await
    }

    /// Publishes with MQTT 5 properties by their names in paho-mqtt.
    pub async fn publish_with(
        &mut self,
        topic: &str,
        payload: impl AsRef<[u8]>,
        qos: u8,
        retain: bool,
        properties: Value,
    ) -> u64 {
        let payload = hex(payload.as_ref());
        self.command(json!({
            "do": "publish", "topic": topic, "payload": payload, "qos": qos, "retain": retain, "properties": properties,
        }))
        .await;
        self.event("queued").await;
        let published = self.event("published").await;
        published["code"].as_u64().unwrap_or_else(|| panic!("no code: {published}"))
    }

    /// Hands messages to the client without waiting between them, then waits until all are finished.
    pub async fn publish_all(&mut self, topic: &str, payloads: &[Vec<u8>], qos: u8) {
        for payload in payloads {
            self.command(json!({
                "do": "publish", "topic": topic, "payload": hex(payload), "qos": qos, "retain": false,
            }))
            .await;
        }
        for _ in payloads {
            let published = self.event("published").await;
            assert_eq!(published["code"], 0, "{published}");
        }
        self.events.retain(|event| event["event"] != "queued");
    }

    /// Acknowledges a message, with [`Connect::manual_ack`].
    pub async fn acknowledge(&mut self, message: &Received) {
        self.command(json!({ "do": "ack", "mid": message.mid, "qos": message.qos })).await;
    }

    /// The next message.
    ///
    /// # Panics
    /// If none comes.
    pub async fn message(&mut self) -> Received {
        loop {
            if let Some(message) = self.messages.pop_front() {
                return message;
            }
            let event = self.read("a message").await;
            self.sort(event);
        }
    }

    /// The next `count` messages.
    pub async fn collect(&mut self, count: usize) -> Vec<Received> {
        let mut messages = Vec::with_capacity(count);
        for _ in 0..count {
            messages.push(self.message().await);
        }
        messages
    }

    /// DISCONNECT, and the end of the connection.
    pub async fn disconnect(&mut self) {
        self.disconnect_with(json!({})).await;
    }

    /// DISCONNECT with a reason `code` and `properties`.
    pub async fn disconnect_with(&mut self, mut options: Value) {
        options["do"] = "disconnect".into();
        self.command(options).await;
        self.event("disconnected").await;
    }

    /// Closes the socket without a DISCONNECT.
    pub async fn vanish(&mut self) {
        self.command(json!({ "do": "vanish" })).await;
        self.event("vanished").await;
    }

    /// Stops the process where it stands (SIGSTOP): its connection stays open and nothing is sent any more.
    ///
    /// # Panics
    /// If the process is gone.
    pub fn freeze(&self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        kill_process(pid.expect("the process runs"), Signal::STOP).expect("our own child can be stopped");
    }

    /// The next event of that name that is not a message; others stay for later.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|event| event["event"] == name) {
                return self.events.remove(at).expect("the position was just found");
            }
            let event = self.read(name).await;
            self.sort(event);
        }
    }

    fn sort(&mut self, event: Value) {
        if event["event"] == "message" {
            let number = |name: &str| event[name].as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or_default();
            self.messages.push_back(Received {
                topic: event["topic"].as_str().unwrap_or_default().to_owned(),
                payload: unhex(event["payload"].as_str().unwrap_or_default()),
                qos: u8::try_from(number("qos")).unwrap_or(u8::MAX),
                retain: event["retain"] == true,
                dup: event["dup"] == true,
                mid: number("mid"),
                properties: event["properties"].clone(),
            });
        } else {
            self.events.push_back(event);
        }
    }

    async fn read(&mut self, wanted: &str) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.stdout.next_line()).await;
        let line = line.unwrap_or_else(|_| {
            panic!("device {}: no {wanted} within {PATIENCE:?}; other events: {:?}", self.id, self.events)
        });
        let line = line.ok().flatten().unwrap_or_else(|| panic!("device {}: ended while {wanted} was due", self.id));
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("device {}: {e}: {line}", self.id));
        assert!(event["event"] != "error", "device {}: {event}", self.id);
        event
    }

    async fn command(&mut self, command: Value) {
        let line = format!("{command}\n");
        let sent = tokio::time::timeout(Duration::from_secs(20), self.stdin.write_all(line.as_bytes())).await;
        sent.unwrap_or_else(|_| panic!("device {}: takes no command", self.id))
            .unwrap_or_else(|e| panic!("device {}: {e}", self.id));
    }
}

fn codes(event: &Value) -> Vec<u64> {
    event["codes"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}
