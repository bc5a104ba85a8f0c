//! The connection to a hub: the only file that knows async-nats.
//!
//! # What the hub's user must be allowed
//! For gateway `gw-1` that mirrors stream `telemetry` into `TELEMETRY`, with the default subject template:
//!
//! | | subject | for |
//! |---|---|---|
//! | publish | `edge.gw-1.telemetry.>` | the messages and gap notices |
//! | publish | `$JS.API.STREAM.MSG.GET.TELEMETRY` | where did we stop? |
//! | publish | `$JS.API.STREAM.INFO.TELEMETRY` | what can the stream do, is it the one we knew? |
//! | publish | `$JS.API.STREAM.CREATE.TELEMETRY` | only with `create` |
//! | subscribe | `_INBOX.gw-1.>` | answers |
//!
//! # One connection, one life
//! A connection that was lost is never revived: async-nats would send what still waits in its queues over the new link,
//! long after it was given up. Right after connecting, its list of servers is replaced by an address where nothing can
//! listen, so its own attempt to reconnect fails at once and ends it. The fences would refuse such late batches; hubs
//! without fences could not.

use std::collections::hash_map::RandomState;
use std::error::Error as _;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::{
    AuthError, Client, ConnectErrorKind, ConnectOptions, Event, HeaderMap, Message, Request, RequestErrorKind,
    ServerAddr, ServerError,
};
use bytes::Bytes;
use futures_util::StreamExt;
use headwater_broker::config::{CreateStream, UplinkAuth, UplinkTls};
use tokio::sync::{broadcast, watch};

use crate::api;
use crate::credentials::Credentials;
use crate::encode::{MESSAGE_ID, Outgoing};
use crate::forwarder::Batch;
use crate::hub::{Committed, Delivery, HubAnswer, HubSeq, Trouble};

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";
const FENCE: &str = "Nats-Expected-Last-Subject-Sequence";
const FENCE_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// Messages that async-nats holds in its own queue between us and the socket.
const CLIENT_QUEUE: usize = 256;
/// Port 0 can be neither listened on nor connected to.
const NOWHERE: &str = "nats://127.0.0.1:0";

/// How to reach a hub.
#[derive(Clone, Debug)]
pub struct Target {
    /// Credentials.
    pub auth: UplinkAuth,
    /// TLS files.
    pub tls: UplinkTls,
    /// Our name towards the hub, and the last token of our inbox.
    pub gateway: String,
    /// For connecting; also sets how often a quiet link is checked.
    pub timeout: Duration,
}

/// Why there is no link. Sorted by who can help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkTrouble {
    /// The configured address is not one. Trying again does not help.
    BadAddress(String),
    /// A file named in the configuration cannot be used.
    BadFile(String),
    /// The hub does not accept our credentials.
    AuthRefused(String),
    /// TLS did not come about: certificates, names, versions.
    Tls(String),
    /// The name has no address (DNS).
    NotResolved(String),
    /// Nobody listens, or no route.
    NotReached(String),
    /// No answer in time.
    TimedOut(String),
    /// The link was there and ended.
    Lost(String),
}

impl LinkTrouble {
    /// Short name for status and counters.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            LinkTrouble::BadAddress(_) => "bad-address",
            LinkTrouble::BadFile(_) => "bad-file",
            LinkTrouble::AuthRefused(_) => "auth-refused",
            LinkTrouble::Tls(_) => "tls",
            LinkTrouble::NotResolved(_) => "not-resolved",
            LinkTrouble::NotReached(_) => "not-reached",
            LinkTrouble::TimedOut(_) => "timed-out",
            LinkTrouble::Lost(_) => "lost",
        }
    }
}

impl fmt::Display for LinkTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkTrouble::BadAddress(text) => write!(f, "not a server address: {text}"),
            LinkTrouble::BadFile(text) => write!(f, "{text}"),
            LinkTrouble::AuthRefused(server) => {
                write!(
                    f,
                    "{server} does not accept our credentials: check the uplink's credentials and the hub's users"
                )
            }
            LinkTrouble::Tls(text) => {
                write!(
                    f,
                    "no TLS connection: {text}: check tls.ca_file, tls.cert_file, tls.key_file and the server's name"
                )
            }
            LinkTrouble::NotResolved(text) => write!(f, "name not resolved: {text}"),
            LinkTrouble::NotReached(text) => write!(f, "not reached: {text}"),
            LinkTrouble::TimedOut(server) => write!(f, "{server} did not answer in time"),
            LinkTrouble::Lost(text) => write!(f, "link lost: {text}"),
        }
    }
}

#[derive(Clone, Debug)]
enum Violation {
    Publish(String),
    Subscribe(String),
}

/// What the connection's events told.
#[derive(Debug)]
struct Events {
    lost: watch::Sender<Option<String>>,
    violations: broadcast::Sender<Violation>,
    /// Our inbox was refused: no answer will ever come.
    inbox_refused: Mutex<Option<String>>,
    last_error: Mutex<Option<String>>,
}

/// A live connection; see the module's text for what is special about it.
#[derive(Clone, Debug)]
pub struct Connection {
    client: Client,
    events: Arc<Events>,
    batches: Arc<AtomicU64>,
    nonce: u64,
    server: String,
    max_payload: usize,
}

/// What a mirror needs to know of its hub stream.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The hub's stream.
    pub stream: String,
    /// Everything of ours in it.
    pub filter: String,
    /// Make it if missing, for these subjects.
    pub create: Option<(CreateStream, Vec<String>)>,
}

impl Connection {
    /// Connects to one server.
    ///
    /// # Errors
    /// Any [`LinkTrouble`]; all but [`LinkTrouble::BadAddress`] may go away by themselves.
    pub async fn open(server: &str, target: &Target) -> Result<Connection, LinkTrouble> {
        let address: ServerAddr = server.parse().map_err(|_| LinkTrouble::BadAddress(server.to_owned()))?;
        let shown = format!("{}:{}", address.host(), address.port());
        let events = Arc::new(Events {
            lost: watch::Sender::new(None),
            violations: broadcast::Sender::new(64),
            inbox_refused: Mutex::new(None),
            last_error: Mutex::new(None),
        });
        let options = options(&address, target, &events).await?;
        let client = options.connect(address).await.map_err(|e| connect_trouble(&e, &shown))?;
        let nowhere: ServerAddr = NOWHERE.parse().map_err(|_| LinkTrouble::BadAddress(NOWHERE.to_owned()))?;
        client.set_server_pool(nowhere).await.map_err(|e| LinkTrouble::Lost(e.to_string()))?;
        // Random enough: only the batches that one stream holds unfinished at the same time must differ.
        let nonce = RandomState::new().build_hasher().finish();
        let max_payload = client.server_info().max_payload;
        Ok(Connection { client, events, batches: Arc::new(AtomicU64::new(0)), nonce, server: shown, max_payload })
    }

    /// Host and port.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Largest message that the server takes, headers included.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Bytes received so far: grows while the link lives, if only by answers to pings.
    #[must_use]
    pub fn heard_bytes(&self) -> u64 {
        self.client.statistics().in_bytes.load(Ordering::Relaxed)
    }

    /// Resolves once the connection is lost, with the reason.
    pub async fn lost(&self) -> LinkTrouble {
        let mut lost = self.events.lost.subscribe();
        let reason = lost.wait_for(Option::is_some).await.map(|reason| reason.clone());
        LinkTrouble::Lost(reason.ok().flatten().unwrap_or_else(|| "connection closed".to_owned()))
    }

    /// Where did we stop, and what can the stream do? Makes the stream if it is missing and that is wanted.
    ///
    /// # Errors
    /// The hub's refusal, or no permission to ask.
    pub async fn ask(&self, to: &Destination) -> Result<HubAnswer, Trouble> {
        // IMPORTANT: the message before the stream. If the stream is made again in between, "no message" then belongs to
        // a stream at most as new as the one described, and cannot pass for "expired" in the old one.
        let last = match self.last_message(to).await {
            Err(Trouble::StreamMissing(_)) if to.create.is_some() => {
                self.create(to).await?;
                self.last_message(to).await?
            }
            other => other?,
        };
        let subject = format!("$JS.API.STREAM.INFO.{}", to.stream);
        let answer = self.request(subject, Request::new()).await?;
        Ok(HubAnswer { last, stream: api::stream(&answer.payload, &to.stream, &to.filter)? })
    }

    async fn last_message(&self, to: &Destination) -> Result<Option<crate::hub::LastMessage>, Trouble> {
        let subject = format!("$JS.API.STREAM.MSG.GET.{}", to.stream);
        let request = Request::new().payload(api::last_message_request(&to.filter).into());
        api::last_message(&self.request(subject, request).await?.payload, &to.stream)
    }

    async fn create(&self, to: &Destination) -> Result<(), Trouble> {
        let Some((create, subjects)) = &to.create else { return Ok(()) };
        let request = Request::new().payload(api::create_request(&to.stream, subjects, create).into());
        let answer = self.request(format!("$JS.API.STREAM.CREATE.{}", to.stream), request).await?;
        api::created(&answer.payload)
    }

    /// Hands a batch over and waits for the hub's word, however long that takes.
    ///
    /// # Errors
    /// The hub's refusal, or no permission. After any error the batch may be stored all the same.
    pub async fn send(&self, to: &Destination, batch: Batch) -> Result<Committed, Trouble> {
        match batch.delivery {
            Delivery::Window => self.send_window(to, batch).await,
            Delivery::Atomic | Delivery::Single if batch.messages.len() == 1 => self.send_single(to, batch).await,
            Delivery::Atomic => self.send_atomic(to, batch).await,
            Delivery::Single => Err(Trouble::Other("several messages cannot be fenced one by one".to_owned())),
        }
    }

    async fn send_single(&self, to: &Destination, batch: Batch) -> Result<Committed, Trouble> {
        let mut committed = Err(Trouble::Other("an empty batch".to_owned()));
        for message in batch.messages {
            let mut headers = headers(&message, true);
            fence(&mut headers, batch.fence, &to.filter);
            let request = Request::new().headers(headers).payload(message.payload);
            let answer = self.request(message.subject, request).await?;
            committed = api::publish_ack(&answer.payload, &to.stream, None);
        }
        committed
    }

    async fn send_atomic(&self, to: &Destination, batch: Batch) -> Result<Committed, Trouble> {
        let id = format!("{:016x}{:x}", self.nonce, self.batches.fetch_add(1, Ordering::Relaxed));
        let count = batch.messages.len();
        for (index, message) in batch.messages.into_iter().enumerate() {
            let mut headers = headers(&message, batch.with_ids);
            headers.insert(BATCH_ID, id.as_str());
            headers.insert(BATCH_SEQUENCE, (index + 1).to_string());
            if index == 0 {
                fence(&mut headers, batch.fence, &to.filter);
            }
            if index + 1 < count {
                self.publish(message.subject, None, headers, message.payload).await?;
                continue;
            }
            headers.insert(BATCH_COMMIT, "1");
            // The hub answers the last message for the whole batch, also when an earlier one spoiled it.
            let request = Request::new().headers(headers).payload(message.payload);
            let answer = self.request(message.subject, request).await?;
            return api::publish_ack(&answer.payload, &to.stream, Some(count));
        }
        Err(Trouble::Other("an empty batch".to_owned()))
    }

    /// Publishes all, then waits until every one is acknowledged: a window that is settled completely.
    async fn send_window(&self, to: &Destination, batch: Batch) -> Result<Committed, Trouble> {
        let inbox = self.client.new_inbox();
        let mut violations = self.events.violations.subscribe();
        let mut answers =
            self.client.subscribe(inbox.clone()).await.map_err(|e| Trouble::Other(format!("no inbox: {e}")))?;
        let count = batch.messages.len();
        for message in batch.messages {
            let headers = headers(&message, true);
            self.publish(message.subject, Some(inbox.clone()), headers, message.payload).await?;
        }
        let mut last = HubSeq(0);
        for _ in 0..count {
            let answer = tokio::select! {
                answer = answers.next() => answer.ok_or_else(|| Trouble::Other("the connection ended".to_owned()))?,
                subject = refused(&mut violations, |subject| covered(subject, &to.filter)) => {
                    return Err(Trouble::NoPermission(subject));
                }
            };
            if answer.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
                return Err(Trouble::NoResponders(to.filter.clone()));
            }
            last = last.max(api::publish_ack(&answer.payload, &to.stream, None)?.last);
        }
        Ok(Committed { last, duplicate: false })
    }

    async fn publish(
        &self,
        subject: String,
        reply: Option<String>,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), Trouble> {
        let sent = match reply {
            Some(reply) => self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
            None => self.client.publish_with_headers(subject, headers, payload).await,
        };
        sent.map_err(|e| match e.kind() {
            async_nats::PublishErrorKind::MaxPayloadExceeded => Trouble::TooLarge,
            async_nats::PublishErrorKind::InvalidSubject | async_nats::PublishErrorKind::Send => {
                Trouble::Other(e.to_string())
            }
        })
    }

    /// A request without a time limit of its own: the forwarder knows when an answer is overdue.
    async fn request(&self, subject: String, request: Request) -> Result<Message, Trouble> {
        // A server does not answer what it does not permit; it only says so beside the conversation.
        let mut violations = self.events.violations.subscribe();
        if let Some(inbox) = self.events.inbox_refused.lock().expect("no holder of this lock panics").clone() {
            return Err(Trouble::NoPermission(inbox));
        }
        tokio::select! {
            answer = self.client.send_request(subject.clone(), request.timeout(None)) => answer.map_err(|e| match e.kind() {
                RequestErrorKind::NoResponders => Trouble::NoResponders(subject),
                RequestErrorKind::MaxPayloadExceeded => Trouble::TooLarge,
                RequestErrorKind::TimedOut | RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                    Trouble::Other(e.to_string())
                }
            }),
            subject = refused(&mut violations, |refused| refused == subject) => Err(Trouble::NoPermission(subject)),
        }
    }
}

/// Resolves with the refused subject once a violation concerns `ours` or our inbox; never if none comes.
async fn refused(violations: &mut broadcast::Receiver<Violation>, ours: impl Fn(&str) -> bool) -> String {
    loop {
        match violations.recv().await {
            Ok(Violation::Publish(subject)) if ours(&subject) => return subject,
            Ok(Violation::Subscribe(inbox)) => return inbox,
            // A violation that was missed shows as silence, and again when the request is repeated.
            Ok(Violation::Publish(_)) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
        }
    }
}

fn covered(subject: &str, filter: &str) -> bool {
    filter.strip_suffix('>').is_some_and(|prefix| subject.starts_with(prefix))
}

fn headers(message: &Outgoing, with_id: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in &message.headers {
        if with_id || name != MESSAGE_ID {
            headers.append(name.as_ref(), value.as_str());
        }
    }
    headers
}

fn fence(headers: &mut HeaderMap, fence: HubSeq, filter: &str) {
    headers.insert(FENCE, fence.to_string());
    headers.insert(FENCE_SUBJECT, filter);
}

async fn options(address: &ServerAddr, target: &Target, events: &Arc<Events>) -> Result<ConnectOptions, LinkTrouble> {
    let listener = Arc::clone(events);
    let mut options = ConnectOptions::new()
        .name(format!("headwater {}", target.gateway))
        .custom_inbox_prefix(format!("_INBOX.{}", target.gateway))
        .connection_timeout(target.timeout)
        .ping_interval((target.timeout / 2).max(Duration::from_millis(500)))
        .client_capacity(CLIENT_QUEUE)
        .ignore_discovered_servers()
        .max_reconnects(1)
        .event_callback(move |event| {
            listener.take(event);
            std::future::ready(())
        });
    options = match &target.auth {
        UplinkAuth::Anonymous => match (address.username(), address.password()) {
            (Some(user), Some(password)) => options.user_and_password(user.to_owned(), password.to_owned()),
            (Some(token), None) => options.token(token.to_owned()),
            (None, _) => options,
        },
        UplinkAuth::CredentialsFile(path) => {
            let bad =
                |e: &dyn std::fmt::Display| LinkTrouble::BadFile(format!("credentials file {}: {e}", path.display()));
            let text = tokio::task::spawn_blocking({
                let path = path.clone();
                move || std::fs::read_to_string(path)
            });
            let text = text.await.map_err(|e| bad(&e))?.map_err(|e| bad(&e))?;
            let credentials = Credentials::parse(&text).map_err(|e| bad(&e))?;
            options.jwt(credentials.jwt().to_owned(), move |nonce| {
                std::future::ready(credentials.sign(&nonce).map_err(AuthError::new))
            })
        }
        UplinkAuth::UserPassword { user, password } => options.user_and_password(user.clone(), password.clone()),
        UplinkAuth::Token(token) => options.token(token.clone()),
        UplinkAuth::Nkey(seed) => options.nkey(seed.clone()),
    };
    let tls = &target.tls;
    for file in [&tls.ca_file, &tls.cert_file, &tls.key_file].into_iter().flatten() {
        readable(file).await?;
    }
    if let Some(file) = &tls.ca_file {
        options = options.add_root_certificates(file.clone());
    }
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => options = options.add_client_certificate(cert.clone(), key.clone()),
        (None, None) => {}
        (Some(_), None) | (None, Some(_)) => {
            return Err(LinkTrouble::BadFile("tls.cert_file and tls.key_file belong together".to_owned()));
        }
    }
    Ok(options.require_tls(tls.required))
}

async fn readable(file: &std::path::Path) -> Result<(), LinkTrouble> {
    let path: PathBuf = file.to_owned();
    let opened = tokio::task::spawn_blocking(move || std::fs::File::open(path).map(drop)).await;
    match opened {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(LinkTrouble::BadFile(format!("{}: {e}", file.display()))),
        Err(e) => Err(LinkTrouble::BadFile(format!("{}: {e}", file.display()))),
    }
}

impl Events {
    fn take(&self, event: Event) {
        match event {
            Event::Disconnected | Event::Closed | Event::Draining => {
                let error = self.last_error.lock().expect("no holder of this lock panics").take();
                self.lost.send_if_modified(|lost| {
                    let first = lost.is_none();
                    lost.get_or_insert(error.unwrap_or_else(|| "closed by the other side".to_owned()));
                    first
                });
            }
            Event::ServerError(ServerError::Other(text)) => {
                match violation(&text) {
                    Some(violation) => {
                        if let Violation::Subscribe(inbox) = &violation {
                            let mut refused = self.inbox_refused.lock().expect("no holder of this lock panics");
                            *refused = Some(inbox.clone());
                        }
                        // Nobody listens while nothing is underway.
                        let _ = self.violations.send(violation);
                    }
                    None => *self.last_error.lock().expect("no holder of this lock panics") = Some(text),
                }
            }
            Event::ServerError(error) => {
                *self.last_error.lock().expect("no holder of this lock panics") = Some(error.to_string());
            }
            // The server ends the connection itself when its time has come.
            Event::LameDuckMode | Event::Connected | Event::SlowConsumer(_) | Event::ClientError(_) => {}
        }
    }
}

/// Reads `Permissions Violation for Publish to "subject"`, the only form in which a server names what it refused.
fn violation(text: &str) -> Option<Violation> {
    let (head, rest) = text.split_once('"')?;
    let subject = rest.split('"').next()?.to_owned();
    let head = head.to_ascii_lowercase();
    if head.contains("permissions violation for publish") {
        Some(Violation::Publish(subject))
    } else if head.contains("permissions violation for subscription") {
        Some(Violation::Subscribe(subject))
    } else {
        None
    }
}

fn io_kind(error: &async_nats::ConnectError) -> Option<std::io::ErrorKind> {
    error.source()?.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
}

fn connect_trouble(error: &async_nats::ConnectError, server: &str) -> LinkTrouble {
    let text = match error.source() {
        Some(source) => format!("{server}: {source}"),
        None => format!("{server}: {error}"),
    };
    match error.kind() {
        ConnectErrorKind::ServerParse => LinkTrouble::BadAddress(text),
        ConnectErrorKind::Dns => LinkTrouble::NotResolved(text),
        ConnectErrorKind::Authentication => {
            LinkTrouble::BadFile(format!("{text}: the nkey or credentials are not valid"))
        }
        ConnectErrorKind::AuthorizationViolation => LinkTrouble::AuthRefused(server.to_owned()),
        ConnectErrorKind::TimedOut => LinkTrouble::TimedOut(server.to_owned()),
        ConnectErrorKind::Tls => LinkTrouble::Tls(text),
        // TLS speaks through I/O errors of this kind, and nothing else here does.
        ConnectErrorKind::Io if io_kind(error) == Some(std::io::ErrorKind::InvalidData) => LinkTrouble::Tls(text),
        ConnectErrorKind::Io | ConnectErrorKind::MaxReconnects => LinkTrouble::NotReached(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_name_their_subject() {
        let text = "Permissions Violation for Publish to \"$JS.API.STREAM.INFO.S\"";
        assert!(matches!(violation(text), Some(Violation::Publish(s)) if s == "$JS.API.STREAM.INFO.S"));
        let text = "Permissions Violation for Subscription to \"_INBOX.gw.x.*\"";
        assert!(matches!(violation(text), Some(Violation::Subscribe(s)) if s == "_INBOX.gw.x.*"));
        assert!(violation("Unknown Protocol Operation").is_none());
        assert!(violation("odd \"").is_none());
    }
}
