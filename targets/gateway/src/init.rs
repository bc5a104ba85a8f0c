//! `headwater init`: writes the reference configuration.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::failure::Failure;
use crate::out::say;

/// The reference configuration: every key, its default, unit and reason.
const REFERENCE: &str = include_str!("../../../configs/headwater.toml");

pub(crate) fn init(file: &Path, force: bool) -> Result<(), Failure> {
    let shown = file.display();
    let mut options = OpenOptions::new();
    options.write(true);
    match force {
        true => options.create(true).truncate(true),
        false => options.create_new(true),
    };
    let written = options.open(file).and_then(|mut file| file.write_all(REFERENCE.as_bytes()));
    match written {
        Ok(()) => {
            say(format_args!("wrote {shown}: every key with its default. Start with: headwater run --config {shown}\n"))
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            Err(Failure::runtime(format!("{shown} exists: choose another name, or replace it with --force")))
        }
        Err(e) => Err(Failure::runtime(format!("cannot write {shown}: {e}"))),
    }
}
