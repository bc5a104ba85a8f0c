//! Who may connect, and what they may read and write (G8).
//!
//! * [`users`]: names and password hashes, from a file in Mosquitto's format; [`secret`]: the hashes, and the only file that
//!   knows the libraries for them.
//! * [`jwt`]: signed tokens in place of passwords; pure.
//! * [`acl`]: which topics, from a file in Mosquitto's format; pure.
//!
//! [`Auth`] is both together. It decides nothing about sockets: the server asks it, and does the slow part (a password hash takes
//! tens of milliseconds and some megabytes on purpose) off its threads, one at a time.

pub mod acl;
pub mod jwt;
pub mod secret;
pub mod users;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use acl::{Access, Acl, UnsafeName};
use jwt::{Jwt, JwtConfig};
use users::Users;

/// The files that access control is read from; `[auth]` of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthFiles {
    /// Names and password hashes. `None`: there are no users, every client is anonymous.
    pub password_file: Option<PathBuf>,
    /// Rights. `None`: whoever may connect may read and write everything.
    pub acl_file: Option<PathBuf>,
    /// How tokens are checked. `None`: there are none.
    pub jwt: Option<JwtConfig>,
}

/// Users and their rights. The default knows no user and grants everything to everybody who may connect.
#[derive(Debug, Default)]
pub struct Auth {
    users: Option<Users>,
    acl: Option<Arc<Acl>>,
    jwt: Option<Jwt>,
}

/// What is wrong with a file of access control: the operator's to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 if the file as a whole cannot be read.
    pub line: usize,
    /// What was expected and found.
    pub what: String,
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

impl std::error::Error for AuthError {}

impl Auth {
    /// Reads both files. Blocking.
    ///
    /// # Errors
    /// Everything that is wrong in them; then nothing of them is used.
    pub fn load(files: &AuthFiles) -> Result<Auth, Vec<AuthError>> {
        let users = files.password_file.as_deref().map(|file| parsed(file, Users::parse)).transpose();
        let acl = files.acl_file.as_deref().map(|file| parsed(file, Acl::parse)).transpose();
        let jwt = files.jwt.as_ref().map(|config| {
            let parse = |text: &str| Jwt::new(config.clone(), text).map_err(|what| vec![(0, what)]);
            parsed(&config.key_file, parse)
        });
        match (users, acl, jwt.transpose()) {
            (Ok(users), Ok(acl), Ok(jwt)) => Ok(Auth { users, acl: acl.map(Arc::new), jwt }),
            (users, acl, jwt) => Err([users.err(), acl.err(), jwt.err()].into_iter().flatten().flatten().collect()),
        }
    }

    /// Users and rights as given.
    #[must_use]
    pub fn new(users: Option<Users>, acl: Option<Acl>) -> Auth {
        Auth { users, acl: acl.map(Arc::new), jwt: None }
    }

    /// `None`: there are none to be told apart, names and passwords are not looked at.
    #[must_use]
    pub fn users(&self) -> Option<&Users> {
        self.users.as_ref()
    }

    /// `None`: there are no tokens.
    #[must_use]
    pub fn jwt(&self) -> Option<&Jwt> {
        self.jwt.as_ref()
    }

    /// A user name can be shown by something, so that one that is not shown is refused.
    #[must_use]
    pub fn has_names(&self) -> bool {
        self.users.is_some() || self.jwt.is_some()
    }

    /// What a client may do; `username` is `None` for an anonymous one. The answer `None` means everything.
    ///
    /// # Errors
    /// The name or the client id could be read as a wildcard where a pattern takes it in.
    pub fn access(&self, username: Option<&str>, client_id: &str) -> Result<Option<Arc<Access>>, UnsafeName> {
        match &self.acl {
            None => Ok(None),
            Some(acl) => Ok(Some(Arc::new(acl.access(username, client_id)?))),
        }
    }
}

/// What is wrong in a text: line, from 1, and what was expected.
type Wrong = Vec<(usize, String)>;

fn parsed<T>(file: &Path, parse: impl Fn(&str) -> Result<T, Wrong>) -> Result<T, Vec<AuthError>> {
    let error = |line, what| AuthError { file: file.to_owned(), line, what };
    let text = std::fs::read_to_string(file).map_err(|e| vec![error(0, format!("cannot be read: {e}"))])?;
    parse(&text).map_err(|errors| errors.into_iter().map(|(line, what)| error(line, what)).collect())
}
