//! The binary `headwater`: command line, wiring, signals, HTTP. What it wires lives in the libraries beside it.

use std::process::ExitCode;

use clap::Parser;

mod allocator;
mod api;
mod base64;
mod bench;
mod check;
mod cli;
mod disk;
mod failure;
mod gateway;
mod health;
mod http;
mod init;
mod logging;
mod metrics;
mod notify;
mod out;
mod own;
mod passwd;
mod query;
mod run;
mod settings;
mod show;
mod status;
mod store;
mod summary;

use cli::{BenchCommand, Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    fail_with_the_log();
    let cli = Cli::parse();
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report(&failure);
            failure.exit_code()
        }
    }
}

/// A panic ends what panicked: a connection, not those of all other devices; so the binary is built to unwind. Without one of the
/// threads of the log there is nothing left to run for: then the process ends at once, and whoever watches it starts it again.
fn fail_with_the_log() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if std::thread::current().name().is_some_and(|name| name.starts_with("log-")) {
            std::process::abort();
        }
    }));
}

fn execute(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Check(args)) => check::check(&args),
        Some(Command::Init { file, force }) => init::init(&file, force),
        Some(Command::Passwd(args)) => passwd::passwd(&args),
        Some(Command::Status(args)) => query::status(&args),
        Some(Command::Bench(BenchCommand::Disk(args))) => bench::disk(&args),
        Some(Command::Store(command)) => store::store(&command),
        Some(Command::Stream(command)) => query::stream(&command),
        Some(Command::Uplink(command)) => query::uplink(&command),
        Some(Command::Own { json }) => own::own(json),
    }
}

/// One message on stderr; nobody is left to tell if that fails.
fn report(failure: &Failure) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "headwater: {failure}");
}
