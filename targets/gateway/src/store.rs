//! `headwater store`: looks into a data directory that no broker has open.

use headwater_broker::log::{Log, Verified, holds_log, verify};
use serde::Serialize;

use crate::cli::{StoreArgs, StoreCommand};
use crate::failure::Failure;
use crate::out::say;
use crate::{disk, run, settings};

pub(crate) fn store(command: &StoreCommand) -> Result<(), Failure> {
    match command {
        StoreCommand::Verify(args) => verify_store(args),
        StoreCommand::Repair(args) => repair(args),
    }
}

/// What `--json` shows.
#[derive(Serialize)]
struct Findings {
    sound: bool,
    epochs: u64,
    damaged_epochs: u64,
    frames_lost: u64,
    unfinished_bytes: u64,
    store_readable: bool,
    format_readable: bool,
    table_values: u64,
    damaged_tables: Vec<String>,
    streams: Vec<StreamFindings>,
}

#[derive(Serialize)]
struct StreamFindings {
    name: String,
    msgs: u64,
    damaged: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    first: u64,
    last: u64,
}

impl Findings {
    fn of(found: &Verified) -> Findings {
        let streams = found.streams.iter().map(|stream| StreamFindings {
            name: stream.name.clone(),
            msgs: stream.msgs,
            damaged: stream.damaged.iter().map(|(first, last)| Range { first: first.0, last: last.0 }).collect(),
        });
        Findings {
            sound: found.is_sound(),
            epochs: found.opened.epochs,
            damaged_epochs: found.opened.damaged_epochs,
            frames_lost: found.opened.frames_lost,
            unfinished_bytes: found.opened.bytes_cut,
            store_readable: found.opened.quarantined.is_none(),
            format_readable: !found.opened.format_damaged,
            table_values: found.values,
            damaged_tables: found.damaged_tables.clone(),
            streams: streams.collect(),
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for stream in &self.streams {
            text += &format!("stream {}: {} messages readable\n", stream.name, stream.msgs);
            for Range { first, last } in &stream.damaged {
                text += &format!("  DAMAGED: sequences {first} to {last}\n");
            }
        }
        text += &format!("sessions and retained messages: {} values readable\n", self.table_values);
        for table in &self.damaged_tables {
            text += &format!("  DAMAGED: {table}\n");
        }
        if !self.store_readable {
            text += "DAMAGED: the epochs cannot be opened as they are; a start keeps what is whole and moves the rest aside\n";
        }
        if !self.format_readable {
            text += "DAMAGED: FORMAT or its copy; a start takes the one that is whole\n";
        }
        if self.damaged_epochs > 0 || self.frames_lost > 0 {
            text += &format!("DAMAGED: {} epochs, {} frames\n", self.damaged_epochs, self.frames_lost);
        }
        if self.unfinished_bytes > 0 {
            let bytes = self.unfinished_bytes;
            text += &format!(
                "an unfinished write of {bytes} bytes at the end: not acknowledged, unless the disk damaged it later\n"
            );
        }
        text += if self.sound { "sound\n" } else { "" };
        text
    }
}

fn verify_store(args: &StoreArgs) -> Result<(), Failure> {
    let config = settings::load(&args.settings())?.config;
    let dir = &config.gateway.data_dir;
    let found = Findings::of(&verify(dir).map_err(Failure::runtime)?);
    if args.json {
        let json = serde_json::to_string_pretty(&found).map_err(Failure::runtime)?;
        say(format_args!("{json}\n"))?;
    } else {
        say(format_args!("{}", found.text()))?;
    }
    match found.sound {
        true => Ok(()),
        false => Err(Failure::runtime(format!("{} is damaged; nothing was changed", dir.display()))),
    }
}

/// Opens the log as a start would, which cuts, moves aside and remembers what is damaged, and closes it.
fn repair(args: &StoreArgs) -> Result<(), Failure> {
    let config = settings::load(&args.settings())?.config;
    let dir = &config.gateway.data_dir;
    if !holds_log(dir) {
        return Err(Failure::runtime(format!("{} holds no log", dir.display())));
    }
    let budget = disk::budget(&config.disk, dir)?;
    let (log, report) = Log::open(run::log_config(&config, budget.max_bytes)).map_err(Failure::runtime)?;
    log.close();
    let mut text = format!("{} epochs, {} messages behind them\n", report.epochs, report.messages_replayed);
    if report.bytes_cut > 0 {
        text += &format!("cut {} bytes of an unfinished write\n", report.bytes_cut);
    }
    for place in &report.damaged {
        text += &format!("lost: stream {}, sequences {} to {}\n", place.stream, place.first, place.last);
    }
    if let Some(place) = &report.quarantined {
        text += &format!("kept what is whole of the epochs, moved the rest aside to {}\n", place.display());
    }
    if report.format_damaged {
        text += "wrote FORMAT and its copy again\n";
    }
    say(format_args!("{text}repaired\n"))
}
