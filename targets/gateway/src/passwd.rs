//! `headwater passwd`: sets, changes and deletes users in a password file. A running broker reads it again on SIGHUP.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use headwater_broker::auth::secret::Secret;
use headwater_broker::auth::users::Users;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::cli::PasswdArgs;
use crate::failure::Failure;
use crate::out::say;

/// More is no password but a file given by mistake.
const MAX_PASSWORD_BYTES: usize = 1024;

pub(crate) fn passwd(args: &PasswdArgs) -> Result<(), Failure> {
    let (file, user) = (&args.file, args.user.as_str());
    if user.is_empty() || user.starts_with('#') || user.contains([':', '\n', '\r']) {
        return Err(Failure::usage(format!(
            "user: expected a name without `:` that does not begin with `#`, found \"{user}\""
        )));
    }
    let old = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound && !args.delete => String::new(),
        Err(e) => return Err(Failure::runtime(format!("cannot read {}: {e}", file.display()))),
    };
    // IMPORTANT: a file that is not understood is not written, or what somebody else keeps in it would be lost.
    Users::parse(&old).map_err(|errors| {
        let lines = errors.into_iter().map(|(line, what)| format!("{}:{line}: {what}", file.display()));
        Failure::usage(lines.collect::<Vec<_>>().join("\n"))
    })?;
    let line = if args.delete {
        None
    } else {
        let secret = Secret::hash(&password(user)?).map_err(Failure::runtime)?;
        Some(format!("{user}:{secret}"))
    };
    let (new, known) = replaced(&old, user, line.as_deref());
    if args.delete && !known {
        return Err(Failure::runtime(format!("{} has no user \"{user}\"", file.display())));
    }
    write(file, &new).map_err(|e| Failure::runtime(format!("cannot write {}: {e}", file.display())))?;
    let did = match (args.delete, known) {
        (true, _) => "deleted",
        (false, true) => "changed",
        (false, false) => "added",
    };
    say(format_args!("user \"{user}\" {did}; a running broker takes it over on SIGHUP\n"))
}

/// The text with the user's line replaced, added or left out, and whether there was one.
fn replaced(old: &str, user: &str, line: Option<&str>) -> (String, bool) {
    let is_users = |text: &str| text.split_once(':').is_some_and(|(name, _)| name == user);
    let mut line = line;
    let mut known = false;
    let mut new = String::new();
    for text in old.lines() {
        let text = if is_users(text) {
            known = true;
            match line.take() {
                Some(line) => line,
                None => continue,
            }
        } else {
            text
        };
        new += text;
        new.push('\n');
    }
    if let Some(line) = line {
        new += line;
        new.push('\n');
    }
    (new, known)
}

/// Replaces the file in one step, with the owner and the rights that it had; a new one is the owner's only.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    match std::fs::metadata(file) {
        Ok(old) => {
            out.set_permissions(Permissions::from_mode(old.mode() & 0o777))?;
            fchown(&out, Some(old.uid()), Some(old.gid()))?;
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&fresh, file)?;
    let directory = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// From the terminal, twice and unseen; otherwise the first line of stdin.
fn password(user: &str) -> Result<Vec<u8>, Failure> {
    let text = if io::stdin().is_terminal() {
        let first = unseen(&format!("password of {user}: "))?;
        if unseen("again: ")? != first {
            return Err(Failure::usage("the two passwords are not the same"));
        }
        first
    } else {
        line()?
    };
    if text.is_empty() || text.len() > MAX_PASSWORD_BYTES {
        return Err(Failure::usage(format!("expected a password of 1 to {MAX_PASSWORD_BYTES} bytes on stdin")));
    }
    Ok(text.into_bytes())
}

fn unseen(prompt: &str) -> Result<String, Failure> {
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(Failure::runtime)?;
    let mut hidden = before.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    eprint(prompt);
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(Failure::runtime)?;
    let read = line();
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(Failure::runtime)?;
    eprint("\n");
    read
}

fn eprint(text: &str) {
    // Nobody is left to tell if that fails.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn line() -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin().lock().read_line(&mut text).map_err(|e| Failure::runtime(format!("cannot read the password: {e}")))?;
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_changes_and_the_others_stay_as_they_are() {
        let old = "# people\nann:1\n\nbob:2\n";
        assert_eq!(replaced(old, "ann", Some("ann:3")), ("# people\nann:3\n\nbob:2\n".to_owned(), true));
        assert_eq!(replaced(old, "carl", Some("carl:3")), (format!("{old}carl:3\n"), false));
        assert_eq!(replaced(old, "bob", None), ("# people\nann:1\n\n".to_owned(), true));
        assert_eq!(replaced(old, "an", None), (old.to_owned(), false));
    }

    #[test]
    fn a_file_keeps_its_rights_and_a_new_one_is_its_owners() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("passwd");
        write(&file, "a\n").expect("it can be written");
        let mode = || std::fs::metadata(&file).expect("it is there").mode() & 0o777;
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("ours");
        write(&file, "b\n").expect("it can be written");
        assert_eq!((mode(), std::fs::read_to_string(&file).expect("readable").as_str()), (0o640, "b\n"));
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 1, "nothing is left beside it");
    }
}
