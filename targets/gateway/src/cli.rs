//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Low-footprint MQTT broker that stores streams durably and mirrors them to a NATS JetStream cluster.
///
/// Without a command it runs the broker; without a file it listens on 127.0.0.1:1883, stores every topic in
/// ./headwater-data and shows its status on 127.0.0.1:8222.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Exit codes: 0 clean, 1 failed while running, 2 wrong configuration or usage.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the broker (this is the default).
    Run(RunArgs),
    /// Say whether a configuration is good and what it would do; changes nothing.
    Check(SettingsArgs),
    /// Write a commented configuration file.
    Init {
        /// The file to write.
        #[arg(default_value = "headwater.toml")]
        file: PathBuf,
        /// Replace the file if there is one.
        #[arg(long)]
        force: bool,
    },
    /// Set or delete the password of a user in a password file.
    Passwd(PasswdArgs),
    /// Show clients, streams, uplinks and disk of the running broker.
    Status(QueryArgs),
    /// Look into a data directory that no broker has open.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Measure what the gateway runs on.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Look into the streams of the running broker.
    #[command(subcommand)]
    Stream(StreamCommand),
    /// Look at the uplinks of the running broker.
    #[command(subcommand)]
    Uplink(UplinkCommand),
    /// Say what this binary is: version, commit, target and how it was built.
    #[command(name = "self")]
    Own {
        /// Write JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StreamCommand {
    /// List the streams.
    Ls(QueryArgs),
    /// Show one stream.
    Info {
        /// Its name.
        name: String,
        #[command(flatten)]
        query: QueryArgs,
    },
    /// List what retention discarded before an uplink had confirmed it.
    Losses {
        /// Only of this stream.
        stream: Option<String>,
        #[command(flatten)]
        query: QueryArgs,
    },
    /// Show one message.
    Get {
        /// The stream.
        stream: String,
        /// The message's sequence.
        seq: u64,
        #[command(flatten)]
        query: QueryArgs,
    },
    /// Show the last messages.
    Tail {
        /// The stream.
        stream: String,
        /// How many messages to show at first [default: 10; with --since, all]
        #[arg(short = 'n', value_name = "COUNT")]
        count: Option<u64>,
        #[command(flatten)]
        select: SelectArgs,
        /// Go on with new messages as they are stored.
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        query: QueryArgs,
    },
}

/// Which messages of a stream.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SelectArgs {
    /// Only messages whose topic this MQTT filter takes, such as "plant/+/alarm" or "plant/#".
    #[arg(long, value_name = "FILTER")]
    pub(crate) topic: Option<String>,
    /// The same with a subject as the hub knows it, such as "plant.*.alarm" or "plant.>".
    #[arg(long, value_name = "FILTER", conflicts_with = "topic")]
    pub(crate) subject: Option<String>,
    /// Only messages stored since then: a time such as 2026-05-01T12:00:00Z, or how long ago, such as 10m.
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// How long the disk of the data directory takes for a sync, and which max_delay suits it. No broker may run meanwhile.
    Disk(StoreArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Read everything and say what is damaged; changes nothing. Exit code 1 if anything is. Needs room for a copy of the staging
    /// files, some megabytes, in the system's temporary directory (TMPDIR).
    Verify(StoreArgs),
    /// Do what starting would do about damage, and stop.
    Repair(StoreArgs),
}

/// Which data directory.
#[derive(Args, Clone, Debug)]
pub(crate) struct StoreArgs {
    /// The configuration file that names it.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The directory itself [default: that of the configuration, ./headwater-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl StoreArgs {
    pub(crate) fn settings(&self) -> SettingsArgs {
        SettingsArgs { config: self.config.clone(), data_dir: self.data_dir.clone(), ..SettingsArgs::default() }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum UplinkCommand {
    /// List the uplinks and how far each came.
    Ls(QueryArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct PasswdArgs {
    /// The password file; made if it is not there.
    pub(crate) file: PathBuf,
    /// The user. The password is asked for, or read from stdin.
    pub(crate) user: String,
    /// Delete the user.
    #[arg(long, short = 'D')]
    pub(crate) delete: bool,
}

/// Where settings come from. A flag overrides the environment, which overrides the file.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SettingsArgs {
    /// The configuration file; `headwater init` writes one.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where to store everything [default: ./headwater-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<String>,
    /// Listen for MQTT clients here, and nowhere else [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtt: Option<String>,
    /// Let in everyone who reaches the address given with --mqtt; needed if that is not loopback.
    #[arg(long, requires = "mqtt")]
    pub(crate) anonymous: bool,
    /// Serve status and metrics here, or "off" [default: 127.0.0.1:8222]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<String>,
    /// Mirror every stream to this NATS server, into the JetStream stream HEADWATER.
    #[arg(long, value_name = "URL")]
    pub(crate) uplink: Option<String>,
}

#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// How log lines are written to stderr.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,
    /// error, warn, info, debug or trace; also per module: "info,headwater_sync=debug".
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub(crate) log_level: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Whom to ask.
#[derive(Args, Clone, Debug)]
pub(crate) struct QueryArgs {
    /// The broker's HTTP address [default: that of the configuration, 127.0.0.1:8222]
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// Take the broker's HTTP address from this configuration file.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Write JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_work_with_and_without_the_word_run() {
        let bare = Cli::try_parse_from(["headwater", "--uplink", "nats://h"]).expect("valid");
        assert!(bare.command.is_none());
        assert_eq!(bare.run.settings.uplink.as_deref(), Some("nats://h"));
        let run = Cli::try_parse_from(["headwater", "run", "--uplink", "nats://h"]).expect("valid");
        assert!(matches!(run.command, Some(Command::Run(args)) if args.settings.uplink.as_deref() == Some("nats://h")));
    }
}
