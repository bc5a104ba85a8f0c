//! Where the configuration comes from: a file if one is named, the environment over it, flags over both.

use std::path::Path;

use headwater_broker::config::{self, Given, Loaded, Override};

use crate::cli::SettingsArgs;
use crate::failure::Failure;

/// Reads the configuration that these flags ask for.
pub(crate) fn load(args: &SettingsArgs) -> Result<Loaded, Failure> {
    let (name, text) = match &args.config {
        Some(path) => (path.display().to_string(), read(path)?),
        None => (String::from("(no file)"), String::new()),
    };
    let mut overrides = config::env::overrides(variables()?);
    overrides.extend(flags(args));
    config::load(&name, &text, &overrides, &host_name()).map_err(|errors| match errors.0.len() {
        1 => Failure::usage(errors),
        many => Failure::usage(format!("{many} errors in the configuration\n{errors}")),
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path).map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
    String::from_utf8(bytes).map_err(|_| Failure::usage(format!("{}: is not UTF-8 text", path.display())))
}

/// Our variables. Others may hold what is not UTF-8; ours may not.
fn variables() -> Result<Vec<(String, String)>, Failure> {
    let ours = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(config::env::PREFIX));
    ours.map(|(name, value)| {
        let name = name.to_string_lossy().into_owned();
        match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(Failure::usage(format!("{name}: is not UTF-8 text"))),
        }
    })
    .collect()
}

fn flags(args: &SettingsArgs) -> Vec<Override> {
    let quoted = |text: &str| Given::Toml(toml::Value::String(text.to_owned()).to_string());
    let flag = |origin: &str, path: &[&str], value| Override {
        origin: origin.to_owned(),
        path: path.iter().map(|step| (*step).to_owned()).collect(),
        value,
    };
    let mut flags = Vec::new();
    if let Some(dir) = &args.data_dir {
        flags.push(flag("--data-dir", &["gateway", "data_dir"], quoted(dir)));
    }
    if let Some(address) = &args.mqtt {
        flags.push(flag("--mqtt", &["listener"], Given::Toml("[{}]".to_owned())));
        flags.push(flag("--mqtt", &["listener", "0", "bind"], quoted(address)));
    }
    if args.anonymous {
        flags.push(flag("--anonymous", &["listener", "0", "anonymous"], Given::Toml("true".to_owned())));
    }
    if let Some(address) = &args.http {
        flags.push(flag("--http", &["http", "bind"], quoted(address)));
    }
    if let Some(url) = &args.uplink {
        // Any gateway that is started like this finds the hub's stream ready for its subjects, hence `edge.>`.
        // One replica works on a single server as on a cluster.
        let server = toml::Value::String(url.clone());
        let mirror = "{stream = \"*\", into = \"HEADWATER\", create = {replicas = 1, subjects = [\"edge.>\"]}}";
        let uplink = format!("{{name = \"hub\", servers = [{server}], mirror = [{mirror}]}}");
        flags.push(flag("--uplink", &["uplink", "+"], Given::Toml(uplink)));
    }
    flags
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uplink_flag_mirrors_every_stream_with_no_further_step() {
        let args = SettingsArgs { uplink: Some("nats://127.0.0.1:4222".to_owned()), ..SettingsArgs::default() };
        let loaded = config::load("(no file)", "", &flags(&args), "box").expect("valid");
        let uplink = &loaded.config.uplinks[0];
        assert_eq!(uplink.servers, ["nats://127.0.0.1:4222"]);
        assert_eq!((uplink.mirrors[0].stream.as_str(), uplink.mirrors[0].into.as_str()), ("default", "HEADWATER"));
        assert_eq!(
            uplink.mirrors[0].create.as_ref().map(|create| create.subjects.clone()),
            Some(vec!["edge.>".to_owned()])
        );
    }

    #[test]
    fn the_mqtt_flag_replaces_every_listener_of_the_file() {
        let args = SettingsArgs { mqtt: Some("127.0.0.1:9".to_owned()), ..SettingsArgs::default() };
        let file = "[[listener]]\nbind = \"127.0.0.1:1\"\n[[listener]]\nbind = \"127.0.0.1:2\"\n";
        let loaded = config::load("f", file, &flags(&args), "box").expect("valid");
        let binds: Vec<_> = loaded.config.listeners.iter().map(|listener| listener.bind.to_string()).collect();
        assert_eq!(binds, ["127.0.0.1:9"]);
    }

    #[test]
    fn an_open_address_on_the_command_line_needs_the_word_too() {
        let open = SettingsArgs { mqtt: Some("0.0.0.0:1883".to_owned()), ..SettingsArgs::default() };
        assert!(config::load("f", "", &flags(&open), "box").is_err());
        let meant = SettingsArgs { anonymous: true, ..open };
        assert!(config::load("f", "", &flags(&meant), "box").is_ok());
    }
}
