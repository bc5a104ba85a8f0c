//! A child process that cannot outlive its guard, and whose output is shown when the test fails.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until_now;

/// Lines of a process' output shown when the test that owns it fails.
const LINES_SHOWN: usize = 60;

/// A running process. Dropping the guard kills and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output appended to the file `log`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(name: impl Into<String>, command: &mut Command, log: impl Into<PathBuf>) -> Process {
        let (name, log) = (name.into(), log.into());
        let file = OpenOptions::new().create(true).append(true).open(&log);
        let file = file.unwrap_or_else(|e| panic!("cannot open the log {} of {name}: {e}", log.display()));
        let copy = file.try_clone().unwrap_or_else(|e| panic!("cannot clone the log of {name}: {e}"));
        command.stdin(Stdio::null()).stdout(copy).stderr(file);
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        Process { name, child, log, ended: None }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If the kernel does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.name));
        }
        self.ended
    }

    /// SIGKILL: the process does not get to do anything more.
    pub fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10))
    }

    /// SIGTERM, then up to `limit` for an orderly end.
    ///
    /// # Panics
    /// If it takes longer.
    pub fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    /// Sends a signal; a process that has ended already gets none.
    ///
    /// # Panics
    /// If the signal cannot be sent.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).unwrap_or_else(|e| panic!("cannot signal {}: {e}", self.name));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it has not ended within `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until_now(limit, &what, || self.ended().ok_or_else(|| "still running".to_owned()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
            eprintln!("--- last {} of {} lines of {}:\n{}", shown.len(), lines.len(), self.name, shown.join("\n"));
        }
    }
}

/// What a program that ran to its end left behind.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Demands exit code 0 and yields standard output.
    ///
    /// # Panics
    /// With everything that was written, if the code is another one.
    #[track_caller]
    #[must_use]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a program to its end, at most for `limit`.
///
/// # Panics
/// If it cannot be started or takes longer.
#[track_caller]
pub fn run<I, S>(program: impl AsRef<OsStr>, arguments: I, limit: Duration) -> Finished
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let program = program.as_ref();
    let scratch = tempfile::tempdir().expect("a temporary directory can be made");
    let (out, err) = (scratch.path().join("out"), scratch.path().join("err"));
    let file = |path: &Path| std::fs::File::create(path).expect("a file in our own directory can be made");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
    let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
    let mut process = Process { name, child, log: err.clone(), ended: None };
    let code = process.wait(limit).code();
    let text = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    Finished { code, stdout: text(&out), stderr: text(&err) }
}

/// The value of an environment variable that `tests/run` sets.
///
/// # Panics
/// If it is missing: the tests cannot run without what it names, and say so rather than pass.
#[must_use]
pub fn provided(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(value) if !value.is_empty() => value.into(),
        _ => panic!("{variable} is not set: run these tests by `tests/run`, which installs and names what they need"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_guard_leaves_no_process_behind() {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let process = Process::start("sleep", Command::new("sleep").arg("1000"), dir.path().join("log"));
        let proc = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
    }

    #[test]
    fn a_finished_program_hands_over_both_outputs_and_its_code() {
        let finished = run("sh", ["-c", "echo out; echo err >&2; exit 3"], Duration::from_secs(10));
        assert_eq!((finished.code, finished.stdout.as_str(), finished.stderr.as_str()), (Some(3), "out\n", "err\n"));
    }
}
