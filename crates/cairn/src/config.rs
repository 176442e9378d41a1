//! The optional configuration file: its keys become defaults of flags, below the command line and the environment.
//!
//! A table is named after a command (`[mount]`, `[volume.create]`), a key after a long flag without its dashes.
//! Keys at the top level apply to every command that has such a flag.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Command;

/// Reads the files that apply: the one that is named, or the system's and the user's where they exist.
pub(crate) fn load(named: Option<&Path>) -> Result<Vec<toml::Table>> {
    let candidates: Vec<PathBuf> = match named {
        Some(path) => vec![path.to_owned()],
        None => [Some(PathBuf::from("/etc/cairn/cairn.toml")), user_file()]
            .into_iter()
            .flatten()
            .filter(|path| path.exists())
            .collect(),
    };
    candidates.iter().map(|path| read(path)).collect()
}

fn user_file() -> Option<PathBuf> {
    let base = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(base.join("cairn/cairn.toml"))
}

fn read(path: &Path) -> Result<toml::Table> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read configuration {}", path.display()))?;
    text.parse::<toml::Table>().with_context(|| format!("{} is not valid TOML", path.display()))
}

/// Lays the values of `table` under the flags of `command` and its subcommands.
pub(crate) fn apply(command: Command, table: &toml::Table) -> Result<Command> {
    let shared: toml::Table =
        table.iter().filter(|(_, value)| !value.is_table()).map(|(key, value)| (key.clone(), value.clone())).collect();
    for key in shared.keys() {
        if !has_flag_anywhere(&command, key) {
            bail!("unknown key {key:?} in the configuration: keys are flags without their dashes (see `cairn --help`)");
        }
    }
    apply_level(command, table, &shared, "")
}

fn has_flag_anywhere(command: &Command, name: &str) -> bool {
    flag(command, name).is_some() || command.get_subcommands().any(|inner| has_flag_anywhere(inner, name))
}

fn flag(command: &Command, name: &str) -> Option<clap::Id> {
    let matches = |argument: &&clap::Arg| {
        argument.get_long() == Some(name)
            || (argument.is_positional() && argument.get_id().as_str().replace('_', "-") == name)
    };
    command.get_arguments().find(matches).map(|argument| argument.get_id().clone())
}

fn apply_level(mut command: Command, table: &toml::Table, shared: &toml::Table, place: &str) -> Result<Command> {
    for (key, value) in shared {
        command = set_default(command, key, value)?.0;
    }
    let children: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    for (key, value) in table {
        match value {
            toml::Value::Table(_) if children.contains(key) => {}
            toml::Value::Table(_) => bail!("unknown table [{place}{key}] in the configuration: tables are commands"),
            _ if place.is_empty() => {}
            _ => {
                let (changed, known) = set_default(command, key, value)?;
                if !known {
                    bail!("unknown key {key:?} in [{}] of the configuration", place.trim_end_matches('.'));
                }
                command = changed;
            }
        }
    }
    let empty = toml::Table::new();
    for name in children {
        let inner_table = table.get(&name).and_then(toml::Value::as_table).unwrap_or(&empty).clone();
        let mut outcome = Ok(());
        command = command.mut_subcommand(&name, |inner| {
            match apply_level(inner.clone(), &inner_table, shared, &format!("{place}{name}.")) {
                Ok(changed) => changed,
                Err(error) => {
                    outcome = Err(error);
                    inner
                }
            }
        });
        outcome?;
    }
    Ok(command)
}

fn set_default(command: Command, key: &str, value: &toml::Value) -> Result<(Command, bool)> {
    let Some(id) = flag(&command, key) else { return Ok((command, false)) };
    let texts: Vec<String> = match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Integer(number) => vec![number.to_string()],
        toml::Value::Boolean(on) => vec![on.to_string()],
        toml::Value::Array(items) => {
            items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect()
        }
        _ => bail!("the value of {key:?} in the configuration must be a string, a number, a boolean or a list of them"),
    };
    Ok((command.mut_arg(id, |argument| argument.required(false).default_values(texts)), true))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::*;
    use crate::cli::{self, Cli};
    use crate::size::Size;

    fn parse(text: &str, arguments: &[&str]) -> Result<Cli> {
        let command = apply(Cli::command(), &text.parse::<toml::Table>()?)?;
        Ok(Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)?)
    }

    #[test]
    fn the_file_gives_defaults_and_flags_win() {
        let file = "server = \"storage:7420\"\n[mount]\ncache-size = \"2GiB\"\nread-only = true\n";
        let cli = parse(file, &["cairn", "mount", "models", "/workspace"]).expect("parsed");
        let cli::Command::Mount(mount) = cli.command else { panic!("not a mount") };
        assert_eq!(mount.connection.server.as_deref(), Some("storage:7420"));
        assert_eq!(mount.tuning.cache_size, Size(2 << 30));
        assert!(mount.tuning.read_only);
        let cli = parse(file, &["cairn", "mount", "m", "/w", "--cache-size", "1MiB"]).expect("parsed");
        let cli::Command::Mount(mount) = cli.command else { panic!("not a mount") };
        assert_eq!(mount.tuning.cache_size, Size(1 << 20));
    }

    #[test]
    fn nested_tables_reach_nested_commands() {
        let cli = parse("[volume.create]\nsize = \"1TiB\"\n", &["cairn", "volume", "create", "x"]).expect("parsed");
        let cli::Command::Volume(cli::Volume::Create { size, .. }) = cli.command else { panic!("not a create") };
        assert_eq!(size, Size(1 << 40));
    }

    #[test]
    fn unknown_keys_and_tables_are_named() {
        for (file, word) in [("colour = 1", "colour"), ("[mount]\nspeed = 1", "speed"), ("[fly]\nhigh = 1", "fly")] {
            let error = parse(file, &["cairn", "status"]).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
