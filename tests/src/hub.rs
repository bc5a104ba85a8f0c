//! The centre: one real nats-server, or three of them in a cluster, with JetStream on disk.
//!
//! Nodes can be killed, stopped and started one by one. The servers do not tell clients of each other's addresses, so
//! that a client behind the test's proxy stays there.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, stream};
use tempfile::TempDir;

use crate::http;
use crate::port::Port;
use crate::process::{Process, provided};
use crate::wait::{PATIENCE, until};

/// Elections, catching up and file systems on a busy machine take their time.
const CLUSTER_PATIENCE: Duration = Duration::from_secs(60);

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    nodes: Vec<Node>,
    admin: Option<(String, String)>,
    client: Client,
    _dir: TempDir,
}

#[derive(Debug)]
struct Node {
    name: String,
    client: Port,
    monitor: Port,
    dir: std::path::PathBuf,
    process: Option<Process>,
}

impl Node {
    fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let mut command = Command::new(provided("HEADWATER_NATS_SERVER"));
        command.arg("--config").arg(self.dir.join("nats.conf"));
        self.process = Some(Process::start(format!("nats-server {}", self.name), &mut command, self.dir.join("log")));
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    async fn healthy(&mut self) {
        let monitor = self.monitor.address();
        let what = format!("{} to be healthy", self.name);
        let process = self.process();
        until(CLUSTER_PATIENCE, &what, || {
            let ended = process.ended();
            async move {
                assert!(ended.is_none(), "nats-server ended: {ended:?}");
                let answer = http::get(monitor, "/healthz").await?;
                if answer.code == 200 { Ok(()) } else { Err(answer.text()) }
            }
        })
        .await;
    }
}

impl Hub {
    /// One server.
    pub async fn single() -> Hub {
        Hub::start(1, "", None).await
    }

    /// Three servers in a cluster.
    pub async fn cluster() -> Hub {
        Hub::start(3, "", None).await
    }

    /// One server with these users; `admin` with password `admin`, who may do everything, is added.
    /// `users` are entries of nats-server's `users` list.
    pub async fn with_users(users: &str) -> Hub {
        let admin = "{ user: admin, password: admin }";
        let authorization = format!("authorization {{ users: [ {admin}, {users} ] }}\n");
        Hub::start(1, &authorization, Some(("admin".to_owned(), "admin".to_owned()))).await
    }

    async fn start(size: usize, extra: &str, admin: Option<(String, String)>) -> Hub {
        let dir =
            tempfile::Builder::new().prefix("headwater-hub-").tempdir().expect("a temporary directory can be made");
        let routes: Vec<Port> = (0..size).map(|_| Port::lease()).collect();
        let mut nodes: Vec<Node> = (0..size)
            .map(|i| {
                let name = format!("n{}", i + 1);
                let dir = dir.path().join(&name);
                Node { name, client: Port::lease(), monitor: Port::lease(), dir, process: None }
            })
            .collect();
        for (i, node) in nodes.iter().enumerate() {
            std::fs::create_dir(&node.dir).expect("a directory in our own can be made");
            let mut config = format!(
                "server_name: {}\nlisten: \"{}\"\nhttp: \"{}\"\njetstream {{ store_dir: {:?}, max_mem: 64MB, max_file: 4GB }}\n{extra}",
                node.name,
                node.client.address(),
                node.monitor.address(),
                node.dir.display().to_string(),
            );
            if size > 1 {
                let others = routes.iter().map(|port| format!("nats-route://{}", port.address()));
                let others: Vec<String> = others.collect();
                let listen = routes[i].address();
                config +=
                    &format!("cluster {{ name: hub, listen: \"{listen}\", no_advertise: true, routes: {others:?} }}\n");
            }
            std::fs::write(node.dir.join("nats.conf"), config).expect("a file in our own directory can be written");
        }
        for node in &mut nodes {
            node.start();
        }
        for node in &mut nodes {
            node.healthy().await;
        }
        let addresses: Vec<SocketAddr> = nodes.iter().map(|node| node.client.address()).collect();
        let client = connect(&addresses, admin.as_ref()).await;
        Hub { nodes, admin, client, _dir: dir }
    }

    /// How many nodes there are, running or not.
    #[must_use]
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// The URL of every node.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("nats://{}", node.client.address())).collect()
    }

    /// Where a node takes clients.
    #[must_use]
    pub fn address(&self, node: usize) -> SocketAddr {
        self.nodes[node].client.address()
    }

    /// A connection that may do everything and finds its way to whatever node runs.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The same, for JetStream.
    #[must_use]
    pub fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client.clone())
    }

    /// Another connection, for a test that must not share one.
    pub async fn connect(&self) -> Client {
        let addresses: Vec<SocketAddr> = self.nodes.iter().map(|node| node.client.address()).collect();
        connect(&addresses, self.admin.as_ref()).await
    }

    /// SIGKILL to a node.
    pub fn kill(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().unwrap_or_else(|| panic!("node {node} does not run"));
        process.kill();
    }

    /// Orderly end of a node (SIGTERM: it stops at once but writes everything).
    pub fn stop(&mut self, node: usize) {
        let mut process = self.nodes[node].process.take().unwrap_or_else(|| panic!("node {node} does not run"));
        process.stop(PATIENCE);
    }

    /// SIGKILL to every node.
    pub fn kill_all(&mut self) {
        for node in 0..self.size() {
            self.kill(node);
        }
    }

    /// Starts a node again, on the same ports and data, and waits until it serves JetStream.
    pub async fn restart(&mut self, node: usize) {
        self.nodes[node].start();
        self.nodes[node].healthy().await;
    }

    /// Starts every node again and waits for all of them.
    pub async fn restart_all(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
        for node in &mut self.nodes {
            node.healthy().await;
        }
    }

    /// Makes a stream for `subjects`: on disk, as many replicas as nodes, atomic batches, a dedupe window of 1 s.
    pub async fn create_stream(&self, name: &str, subjects: &[&str]) {
        self.create(mirror_stream(name, subjects, self.size())).await;
    }

    /// Makes a stream; waits for the cluster to be able to.
    pub async fn create(&self, config: stream::Config) {
        let jetstream = self.jetstream();
        let what = format!("the hub to make the stream {}", config.name);
        until(CLUSTER_PATIENCE, &what, || async {
            jetstream.create_stream(config.clone()).await.map(|_| ()).map_err(|e| e.to_string())
        })
        .await;
        self.current(&config.name).await;
    }

    /// Deletes a stream and everything in it.
    pub async fn delete_stream(&self, name: &str) {
        let jetstream = self.jetstream();
        until(CLUSTER_PATIENCE, &format!("the hub to delete the stream {name}"), || async {
            jetstream.delete_stream(name).await.map(|_| ()).map_err(|e| e.to_string())
        })
        .await;
    }

    /// What the hub says of a stream; waits out elections.
    pub async fn info(&self, name: &str) -> stream::Info {
        let jetstream = self.jetstream();
        until(CLUSTER_PATIENCE, &format!("information on the stream {name}"), || async {
            let stream = jetstream.get_stream(name).await.map_err(|e| e.to_string())?;
            Ok(stream.cached_info().clone())
        })
        .await
    }

    /// The node that leads a stream.
    pub async fn leader(&self, name: &str) -> usize {
        let jetstream = self.jetstream();
        let leader = until(CLUSTER_PATIENCE, &format!("a leader of the stream {name}"), || async {
            let stream = jetstream.get_stream(name).await.map_err(|e| e.to_string())?;
            let cluster = stream.cached_info().cluster.clone();
            cluster.and_then(|cluster| cluster.leader).ok_or_else(|| "no leader".to_owned())
        })
        .await;
        let index = self.nodes.iter().position(|node| node.name == leader);
        index.unwrap_or_else(|| panic!("the leader {leader} is none of our nodes"))
    }

    /// Waits until the hub has forgotten the message ids of everything that its stream holds now.
    ///
    /// The hub itself says so: it is given a message of our own with an id, and again, until it no longer calls the
    /// second one a duplicate.
    pub async fn forget_ids(&self, subject: &str) {
        let jetstream = self.jetstream();
        let probe = async || {
            let message = PublishMessage::build().message_id("probe");
            let ack = jetstream.send_publish(subject.to_owned(), message).await.map_err(|e| e.to_string())?;
            ack.await.map_err(|e| e.to_string())
        };
        until(PATIENCE, "the hub to store a probe", &probe).await;
        until(PATIENCE, "the hub to forget message ids", || async {
            if probe().await?.duplicate { Err("still known".to_owned()) } else { Ok(()) }
        })
        .await;
    }

    /// Waits until every replica of a stream has everything.
    pub async fn current(&self, name: &str) {
        let jetstream = self.jetstream();
        let others = self.size() - 1;
        until(CLUSTER_PATIENCE, &format!("every replica of {name} to have caught up"), || async {
            let stream = jetstream.get_stream(name).await.map_err(|e| e.to_string())?;
            let replicas = stream.cached_info().cluster.as_ref().map(|c| c.replicas.clone()).unwrap_or_default();
            let current = replicas.iter().filter(|r| r.current && !r.offline).count();
            if current == others { Ok(()) } else { Err(format!("{replicas:?}")) }
        })
        .await;
    }
}

/// The configuration of a stream that receives mirrors.
#[must_use]
pub fn mirror_stream(name: &str, subjects: &[&str], replicas: usize) -> stream::Config {
    stream::Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
        storage: stream::StorageType::File,
        num_replicas: replicas,
        duplicate_window: Duration::from_secs(1),
        allow_atomic_publish: true,
        allow_direct: true,
        ..stream::Config::default()
    }
}

async fn connect(addresses: &[SocketAddr], admin: Option<&(String, String)>) -> Client {
    let urls: Vec<async_nats::ServerAddr> =
        addresses.iter().map(|a| format!("nats://{a}").parse().expect("an address makes a URL")).collect();
    until(PATIENCE, "a connection to the hub", || async {
        let mut options = async_nats::ConnectOptions::new()
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connection_timeout(Duration::from_secs(2))
            .request_timeout(Some(Duration::from_secs(5)));
        if let Some((user, password)) = admin {
            options = options.user_and_password(user.clone(), password.clone());
        }
        options.connect(urls.clone()).await.map_err(|e| e.to_string())
    })
    .await
}
