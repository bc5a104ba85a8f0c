//! TLS for listeners, by rustls with ring: the only file of the broker that knows either of them and the certificates' format.
//!
//! A session turns bytes of the socket into bytes of the client and back, without waiting: the wire of a connection calls it where it
//! would call the socket. Listeners without TLS hold nothing of it.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::BytesMut;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, Utf8StringRef};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::socket::Socket as Stream;
use crate::config::{ClientCertificates, ListenerTls, NameFrom};

/// Plain bytes that wait to be encrypted, and encrypted ones that wait for the socket: two records each.
const BUFFER_BYTES: usize = 32 * 1024;

/// `id-at-commonName`, X.520.
const COMMON_NAME: &str = "2.5.4.3";

/// Why a listener's TLS files cannot be used: the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError(String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

/// What a listener accepts TLS clients with. Its files can be read again while clients are connected, who keep what they have.
pub(super) struct Acceptor {
    files: ListenerTls,
    config: RwLock<Arc<ServerConfig>>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Reads the files. Blocking.
    ///
    /// # Errors
    /// What is wrong with which of them.
    pub(super) fn load(files: &ListenerTls) -> Result<Acceptor, TlsError> {
        Ok(Acceptor { files: files.clone(), config: RwLock::new(server_config(files)?) })
    }

    /// Reads the files again, and changes nothing yet. Blocking.
    ///
    /// # Errors
    /// As [`Acceptor::load`].
    pub(super) fn prepare(&self) -> Result<Fresh, TlsError> {
        server_config(&self.files).map(Fresh)
    }

    /// Puts what was read in force, for clients who come from now on. Sessions that began before cannot be resumed: nobody whose
    /// certificate is revoked comes in by the back door.
    pub(super) fn put(&self, fresh: Fresh) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = fresh.0;
    }

    /// Begins with a client.
    ///
    /// # Errors
    /// What rustls says; the configuration does not allow any connection.
    pub(super) fn session(&self) -> io::Result<Session> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(BUFFER_BYTES));
        Ok(Session { connection, name_from: self.files.name_from })
    }
}

/// Files that were read and are not in force yet.
pub(super) struct Fresh(Arc<ServerConfig>);

/// What a client's certificate, which was verified, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Certified {
    /// There is none, or names are not taken from there.
    Not,
    /// It holds no name of the kind that is asked for.
    Nameless,
    /// Who the client is.
    Name(String),
}

/// Whether a handshake failed because no list of revoked certificates is valid any more.
pub(super) fn is_expired_list(error: &io::Error) -> bool {
    use rustls::{CertificateError, Error};
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(
        inner,
        Some(Error::InvalidCertificate(
            CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. }
        ))
    )
}

/// Whether the files of a listener can be used, for `check`.
///
/// # Errors
/// What is wrong with which of them.
pub fn check(files: &ListenerTls) -> Result<(), TlsError> {
    server_config(files).map(|_| ())
}

fn server_config(files: &ListenerTls) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |key: &str, path: &Path, what: &dyn fmt::Display| {
        TlsError(format!("listener.tls.{key}: {}: {what}", path.display()))
    };
    let chain = certificates(&files.cert_file).map_err(|e| wrong("cert_file", &files.cert_file, &e))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(|e| wrong("key_file", &files.key_file, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| TlsError(e.to_string()))?;
    let builder = match (&files.ca_file, files.clients) {
        (Some(ca_file), ClientCertificates::Required | ClientCertificates::Optional) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(ca_file).map_err(|e| wrong("ca_file", ca_file, &e))? {
                roots.add(authority).map_err(|e| wrong("ca_file", ca_file, &e))?;
            }
            let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            if let Some(crl_file) = &files.crl_file {
                let lists = CertificateRevocationListDer::pem_file_iter(crl_file).and_then(Iterator::collect);
                let lists: Vec<_> = lists.map_err(|e| wrong("crl_file", crl_file, &e))?;
                // A list is a promise until its next update: what was revoked since is not in it.
                verifier = verifier.with_crls(lists).only_check_end_entity_revocation();
                if !files.crl_may_be_expired {
                    verifier = verifier.enforce_revocation_expiration();
                }
            }
            if files.clients == ClientCertificates::Optional {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build().map_err(|e| wrong("ca_file", ca_file, &e))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let config = builder.with_single_cert(chain, key).map_err(|e| wrong("cert_file", &files.cert_file, &e))?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|e| e.to_string())?;
    if found.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(found) }
}

/// One client's TLS.
pub(super) struct Session {
    connection: ServerConnection,
    name_from: Option<NameFrom>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// Reads some of what is there into the free room of `into`, of which there must be some; 0 when the client has ended its side.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has nothing more; what broke the connection otherwise. An alert may wait to be written then.
    pub(super) fn read(&mut self, socket: &Stream, into: &mut BytesMut) -> io::Result<usize> {
        let mut buffer = [0; 8192];
        // Bounded by the caller's room, so that no more is decrypted than is asked for.
        let size = buffer.len().min(into.capacity() - into.len());
        loop {
            match self.connection.reader().read(&mut buffer[..size]) {
                Ok(0) => return Ok(0),
                Ok(count) => {
                    into.extend_from_slice(&buffer[..count]);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.connection.read_tls(&mut Socket(socket))? == 0 {
                // Without a goodbye: what MQTT does at a lost connection is right here, too.
                return Ok(0);
            }
            self.connection.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        }
    }

    /// Takes plain bytes and writes what the socket takes of the encrypted ones. Returns how many plain bytes were taken; fewer than given,
    /// or none, while earlier ones wait.
    ///
    /// # Errors
    /// What broke the connection.
    pub(super) fn write(&mut self, socket: &Stream, plain: &[u8]) -> io::Result<usize> {
        let taken = self.connection.writer().write(plain)?;
        self.flush(socket)?;
        Ok(taken)
    }

    fn flush(&mut self, socket: &Stream) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Socket(socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Keys are not agreed on yet.
    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Encrypted bytes wait for the socket.
    pub(super) fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Says goodbye, so that the client can tell the end from a cut line; it leaves with the next [`Session::write`].
    pub(super) fn end(&mut self) {
        self.connection.send_close_notify();
    }

    /// Who the client's certificate says it is.
    pub(super) fn certified(&self) -> Certified {
        let (Some(from), Some([certificate, ..])) = (self.name_from, self.connection.peer_certificates()) else {
            return Certified::Not;
        };
        name_in(certificate, from).map_or(Certified::Nameless, Certified::Name)
    }
}

fn name_in(certificate: &[u8], from: NameFrom) -> Option<String> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    let certificate = certificate.tbs_certificate();
    let name = match from {
        NameFrom::CommonName => certificate.subject().iter().find_map(|attribute| {
            if attribute.oid.to_string() != COMMON_NAME {
                return None;
            }
            let value = &attribute.value;
            let utf8 = value.decode_as::<Utf8StringRef<'_>>().map(|text| text.as_str().to_owned());
            utf8.or_else(|_| value.decode_as::<PrintableStringRef<'_>>().map(|text| text.as_str().to_owned())).ok()
        }),
        NameFrom::AlternativeName => {
            let (_, names) = certificate.get_extension::<SubjectAltName>().ok()??;
            names.0.iter().find_map(|name| match name {
                GeneralName::DnsName(text) | GeneralName::Rfc822Name(text) => Some(text.as_str().to_owned()),
                GeneralName::UniformResourceIdentifier(text) => Some(text.as_str().to_owned()),
                _ => None,
            })
        }
    };
    name.filter(|name| !name.is_empty())
}

/// The socket as rustls wants it: calls that never wait.
struct Socket<'a>(&'a Stream);

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
