//! The one program. It reads the command line and the configuration, wires the parts together and maps errors to
//! exit codes; every mechanism lives in a crate of its own.

mod cli;
mod commands;
mod config;
mod connect;
mod exit_code;
mod lock_order;
mod logging;
mod output;
mod paths;
mod runtime;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use anyhow::Result;
use cairn_types::size;
use clap::{CommandFactory, FromArgMatches};

use crate::cli::{Cli, Command};
use crate::exit_code::{Exit, WithExit};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            if let Some(usage) = error.downcast_ref::<clap::Error>() {
                // Help and version are "errors" of clap that succeed.
                let _ = usage.print();
                return ExitCode::from(usage.exit_code().clamp(0, 255) as u8);
            }
            eprintln!("cairn: {}", output::sentence(&error));
            error.downcast_ref::<WithExit>().map_or(Exit::Failure, |with| with.0).into()
        }
    }
}

fn run() -> Result<ExitCode> {
    let arguments = arguments()?;
    let mut command = Cli::command();
    for table in config::load(named_config(&arguments).as_deref())? {
        command = config::apply(command, &table)?;
    }
    let cli = Cli::from_arg_matches(&command.try_get_matches_from(&arguments)?)?;
    logging::start(&cli.log, cli.log_format);
    match cli.command {
        Command::Dev(options) => commands::dev::run(&options),
        Command::Serve(options) => commands::serve::run(&options),
        Command::Mount(options) => commands::mount::run(&options),
        Command::Umount(options) => commands::umount::run(&options),
        Command::Volume(command) => commands::volume::run(command),
        Command::Status(options) => commands::status::run(&options),
        Command::Stats(options) => commands::stats::run(&options),
        Command::Warm(options) => commands::warm::run(&options),
        Command::Cache(command) => commands::cache::run(&command),
        Command::Fsck(options) => commands::fsck::run(&options),
        Command::Import(options) => commands::transfer::import(&options),
        Command::Export(options) => commands::transfer::export(&options),
        Command::Bench(options) => commands::bench::run(&options),
        Command::Account(command) => commands::account::run(command),
        Command::Key(command) => commands::key::run(command),
        Command::Plugin(command) => commands::plugin::run(&command),
        Command::Profiles { json } => commands::profiles::run(json),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "cairn", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { directory } => commands::man::run(&directory),
    }
}

/// The command line, with a call as `mount.fuse.cairn` (by mount(8)) turned into `cairn mount`.
fn arguments() -> Result<Vec<OsString>> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let called_as = arguments.first().and_then(|path| std::path::Path::new(path).file_name().map(OsStr::to_owned));
    match called_as {
        Some(name) if name.as_encoded_bytes().starts_with(b"mount.") => commands::mount::from_mount_helper(&arguments),
        _ => Ok(arguments),
    }
}

/// The value of `--config` or its variable, needed before the rest can be parsed.
fn named_config(arguments: &[OsString]) -> Option<std::path::PathBuf> {
    let mut rest = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    while let Some(argument) = rest.next() {
        if argument == "--config" {
            return rest.next().map(Into::into);
        }
        if let Some(value) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(value.into());
        }
    }
    std::env::var_os("CAIRN_CONFIG").map(Into::into)
}
