//! The command line: what can be asked, with which flags. What the commands do is in [`crate::commands`].

mod accounts;
mod bench;
mod mounts;
mod plugin;
mod servers;
mod transfer;
mod volumes;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::accounts::{Account, ApiKey, ApiRole, ControlClient};
pub(crate) use self::bench::Bench;
pub(crate) use self::mounts::{Cache, Mount, MountTuning, Stats, Umount, Warm};
pub(crate) use self::plugin::{DockerPlugin, Plugin};
pub(crate) use self::servers::{ControlPlane, Dev, Key, Serve, Status};
pub(crate) use self::transfer::{Export, Import, TransferTuning};
pub(crate) use self::volumes::{Fsck, Volume};

const EXAMPLES: &str = "\
Examples:
  cairn dev                              a volume at /workspace, nothing else needed
  cairn serve --data /srv/cairn          a server for several volumes and mounts
  cairn volume create models --size 500GiB
  cairn mount models /workspace
  cairn umount /workspace

Every flag can also be given as the environment variable shown beside it, or as a key of the configuration file:
the flag's name in a table named after the command ([mount] cache-size = \"2GiB\"; [volume.create] size = \"1TiB\").
The flag wins over the variable, the variable over the file.

Exit codes: 0 success, 1 failure, 2 wrong usage, 4 damage found, 5 server unreachable, 6 refused by the server, 7 cannot mount.";

/// A chunked network volume for AI workloads: mount it, share it, and work with many small files as fast as with an archive.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, after_help = EXAMPLES, max_term_width = 120)]
pub(crate) struct Cli {
    /// Configuration file (TOML). Default: /etc/cairn/cairn.toml and ~/.config/cairn/cairn.toml, if they exist.
    #[arg(long, global = true, env = "CAIRN_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter such as `cairn_client=debug`.
    #[arg(long, global = true, env = "CAIRN_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// Log format: readable text, or one JSON object per line.
    #[arg(long, global = true, env = "CAIRN_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run server, volume and mount in one process: the quickest way to a working volume.
    Dev(Dev),
    /// Run a server for any number of volumes and mounts.
    Serve(Serve),
    /// Mount a volume at a directory.
    Mount(Mount),
    /// Unmount a directory and wait until all data is written.
    Umount(Umount),
    /// Create, list, change and delete volumes.
    #[command(subcommand)]
    Volume(Volume),
    /// Show the server, its volumes, mounts and health.
    Status(Status),
    /// Show the live counters of a mount.
    Stats(Stats),
    /// Load files of a mount into its cache before they are needed.
    Warm(Warm),
    /// Show or empty a mount's disk cache.
    #[command(subcommand)]
    Cache(Cache),
    /// Check the consistency of a volume.
    Fsck(Fsck),
    /// Copy a tree into a volume, or unpack an archive there, without mounting it.
    Import(Import),
    /// Copy a tree out of a volume, or pack it into an archive, without mounting it.
    Export(Export),
    /// Measure any directory, and compare it with others.
    Bench(Box<Bench>),
    /// Manage accounts, credit, API keys and the clock of the control plane (`cairn serve --http`).
    #[command(subcommand)]
    Account(Account),
    /// Create, list and revoke the keys that TCP clients need.
    #[command(subcommand)]
    Key(Key),
    /// Provide volumes to containers.
    #[command(subcommand)]
    Plugin(Plugin),
    /// Show the emulation profiles and their parameters.
    Profiles {
        /// Print JSON.
        #[arg(long, env = "CAIRN_JSON")]
        json: bool,
    },
    /// Print a completion script for a shell.
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages into a directory.
    Man { directory: PathBuf },
}

/// How to reach a server.
#[derive(Args, Clone, Debug)]
pub(crate) struct Connection {
    /// Server: unix:PATH, HOST:PORT or tls://HOST:PORT. Default: the Unix socket in the default data directory.
    #[arg(long, env = "CAIRN_SERVER", value_name = "ADDRESS")]
    pub(crate) server: Option<String>,
    /// Key, as printed by `cairn key create`; required over TCP. Prefer the environment variable or --key-file: other users can see arguments.
    #[arg(long, env = "CAIRN_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    /// File that holds the key.
    #[arg(long, env = "CAIRN_KEY_FILE", value_name = "FILE", conflicts_with = "key")]
    pub(crate) key_file: Option<PathBuf>,
    /// Certificate authority (PEM) that must have issued the server's TLS certificate.
    #[arg(long, env = "CAIRN_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
}

/// Where to ask and how to answer.
#[derive(Args, Clone, Debug)]
pub(crate) struct Output {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Print JSON.
    #[arg(long, env = "CAIRN_JSON")]
    pub(crate) json: bool,
}

/// Reads `15s`, `500ms`, `2m`, `1h` or a bare number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let explain = || format!("{text:?} is not a duration: write a number and a unit, such as 500ms, 15s, 2m or 7d");
    let trimmed = text.trim();
    let digits = trimmed.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| explain())?;
    let milliseconds = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(explain()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(explain)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("15"), Ok(Duration::from_secs(15)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("soon").is_err());
    }
}
