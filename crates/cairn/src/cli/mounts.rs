//! Mounts: `mount`, `umount`, `warm`, `cache`, and what they share.

use std::path::PathBuf;
use std::time::Duration;

use cairn_types::Profile;
use clap::{Args, Subcommand, ValueEnum};

use super::{Connection, parse_duration};
use crate::size::Size;

/// See [`cairn_fuse::Transport`].
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Transport {
    /// FUSE over io_uring where the kernel offers it, else classic. `cairn stats` says which and why. As root, switches it on in
    /// the kernel (/sys/module/fuse/parameters/enable_uring) from Linux 6.18 on, which concerns no other program.
    #[default]
    Auto,
    /// FUSE over io_uring or no mount.
    Uring,
    /// Reads and writes of /dev/fuse.
    Classic,
}

impl From<Transport> for cairn_fuse::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Auto => cairn_fuse::Transport::Auto,
            Transport::Uring => cairn_fuse::Transport::Uring,
            Transport::Classic => cairn_fuse::Transport::Classic,
        }
    }
}

/// How a mount behaves; shared by `mount` and `dev`.
#[derive(Args, Clone, Debug)]
pub(crate) struct MountTuning {
    /// Memory for cached file content.
    #[arg(long, env = "CAIRN_CACHE_SIZE", default_value = "256MiB", value_name = "SIZE")]
    pub(crate) cache_size: Size,
    /// Directory on a local disk for a second cache of file content, which survives remounts. One for each mount.
    #[arg(long, env = "CAIRN_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Most bytes in that directory. Some of its file system's space is left free in any case.
    #[arg(long, env = "CAIRN_DISK_CACHE_SIZE", default_value = "20GiB", value_name = "SIZE")]
    pub(crate) disk_cache_size: Size,
    /// Emulate another volume: native, runpod-standard, runpod-high-performance or moosefs, and what differs from it
    /// (runpod-standard,chown=native). `cairn profiles` shows the parameters. Default: the volume's own profile.
    #[arg(long, env = "CAIRN_PROFILE", value_name = "PROFILE")]
    pub(crate) profile: Option<Profile>,
    /// Let the server send all file content, even where it is on this host and its files could be read from here.
    #[arg(long, env = "CAIRN_NO_SHORT_CIRCUIT")]
    pub(crate) no_short_circuit: bool,
    /// Refuse every change.
    #[arg(long, env = "CAIRN_READ_ONLY")]
    pub(crate) read_only: bool,
    /// Let other users in (on by default for root).
    #[arg(long, env = "CAIRN_ALLOW_OTHER")]
    pub(crate) allow_other: bool,
    /// Never update access times.
    #[arg(long, env = "CAIRN_NOATIME")]
    pub(crate) noatime: bool,
    /// Mount over a directory that is not empty.
    #[arg(long, env = "CAIRN_NONEMPTY")]
    pub(crate) nonempty: bool,
    /// How requests come from the kernel.
    #[arg(long, env = "CAIRN_TRANSPORT", value_enum, default_value_t, value_name = "WAY")]
    pub(crate) transport: Transport,
    /// Threads that take requests from the kernel on the classic transport. Default: one for each CPU, at least two.
    #[arg(long, env = "CAIRN_THREADS", value_name = "COUNT")]
    pub(crate) threads: Option<usize>,
    /// After how long without the server a program gets an error instead of waiting on.
    #[arg(long, env = "CAIRN_SERVER_TIMEOUT", default_value = "60s", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) server_timeout: Duration,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn mount models /workspace
  cairn mount models /workspace --server storage:7420 --key-file /etc/cairn/key
  mount -t fuse.cairn models /workspace -o server=storage:7420,key_file=/etc/cairn/key

For the last one and for /etc/fstab, link the program once: ln -s $(command -v cairn) /sbin/mount.fuse.cairn
In fstab: models /workspace fuse.cairn server=storage:7420,key_file=/etc/cairn/key,_netdev 0 0")]
pub(crate) struct Mount {
    /// Name or id of the volume.
    #[arg(env = "CAIRN_VOLUME")]
    pub(crate) volume: String,
    /// Where to mount it.
    #[arg(env = "CAIRN_DIRECTORY")]
    pub(crate) directory: PathBuf,
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(flatten)]
    pub(crate) tuning: MountTuning,
    /// Stay in the foreground and log to the terminal.
    #[arg(long, short, env = "CAIRN_FOREGROUND")]
    pub(crate) foreground: bool,
    /// Where a mount in the background logs to. Default: ~/.local/state/cairn/mount.log (root: /var/log/cairn-mount.log).
    #[arg(long, env = "CAIRN_LOG_FILE", value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Further options for the kernel, as `mount -o` takes them. Mounts are nosuid and nodev unless root asks for `suid` or `dev`.
    #[arg(short = 'o', value_delimiter = ',', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Umount {
    pub(crate) directory: PathBuf,
    /// Detach at once even if programs still use it; it ends when they are done.
    #[arg(long, short, env = "CAIRN_LAZY")]
    pub(crate) lazy: bool,
    /// How long to wait for everything to be written.
    #[arg(long, env = "CAIRN_UMOUNT_TIMEOUT", default_value = "120s", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Stats {
    /// A mounted directory.
    pub(crate) directory: PathBuf,
    /// Print JSON.
    #[arg(long, env = "CAIRN_JSON")]
    pub(crate) json: bool,
    /// Print again every so often.
    #[arg(long, env = "CAIRN_INTERVAL", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) interval: Option<Duration>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn warm /workspace/models/llama
  cairn warm /workspace/env /workspace/data/train.bin --jobs 8

With a disk cache (`cairn mount --cache-dir`) the content goes there; without one it is read into the kernel's cache.")]
pub(crate) struct Warm {
    /// Files and directories of a mount.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Requests at the same time.
    #[arg(long, env = "CAIRN_JOBS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "COUNT")]
    pub(crate) jobs: u16,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Show what a cache directory holds and which mount uses it.
    Show {
        directory: PathBuf,
        /// Print JSON.
        #[arg(long, env = "CAIRN_JSON")]
        json: bool,
    },
    /// Remove cached content, the least recently used first. No mount may use the directory.
    #[command(after_help = "\
Examples:
  cairn cache evict /var/cache/cairn                 everything
  cairn cache evict /var/cache/cairn --keep 10GiB")]
    Evict {
        directory: PathBuf,
        /// Bytes that may stay.
        #[arg(long, env = "CAIRN_CACHE_KEEP", default_value = "0", value_name = "SIZE")]
        keep: Size,
    },
}
