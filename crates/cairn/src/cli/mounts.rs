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
    /// FUSE over io_uring if the kernel supports it, otherwise classic; `cairn stats` shows which and why. As root, enables it in
    /// the kernel (/sys/module/fuse/parameters/enable_uring) from Linux 6.18 on; other programs are not affected.
    #[default]
    Auto,
    /// FUSE over io_uring; fail if it is not available.
    Uring,
    /// Reads from and writes to /dev/fuse.
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
    /// Directory on a local disk for a second-level cache of file content, which survives remounts. Each mount needs its own.
    #[arg(long, env = "CAIRN_CACHE_DIR", value_name = "DIR")]
    pub(crate) cache_dir: Option<PathBuf>,
    /// Maximum size of the disk cache. Some space on its file system is always left free.
    #[arg(long, env = "CAIRN_DISK_CACHE_SIZE", default_value = "20GiB", value_name = "SIZE")]
    pub(crate) disk_cache_size: Size,
    /// Emulation profile: native, runpod-standard, runpod-high-performance or moosefs, optionally with overrides
    /// (runpod-standard,chown=native). `cairn profiles` shows the parameters. Default: the volume's own profile.
    #[arg(long, env = "CAIRN_PROFILE", value_name = "PROFILE")]
    pub(crate) profile: Option<Profile>,
    /// Always get file content from the server, even if it runs on this host and its files could be read directly.
    #[arg(long, env = "CAIRN_NO_SHORT_CIRCUIT")]
    pub(crate) no_short_circuit: bool,
    /// Mount read-only.
    #[arg(long, env = "CAIRN_READ_ONLY")]
    pub(crate) read_only: bool,
    /// Allow other users to access the mount (the default for root).
    #[arg(long, env = "CAIRN_ALLOW_OTHER")]
    pub(crate) allow_other: bool,
    /// Never update access times.
    #[arg(long, env = "CAIRN_NOATIME")]
    pub(crate) noatime: bool,
    /// Mount over a directory that is not empty.
    #[arg(long, env = "CAIRN_NONEMPTY")]
    pub(crate) nonempty: bool,
    /// How the mount receives requests from the kernel.
    #[arg(long, env = "CAIRN_TRANSPORT", value_enum, default_value_t, value_name = "TRANSPORT")]
    pub(crate) transport: Transport,
    /// Number of threads that serve requests on the classic transport. Default: one per CPU, at least two.
    #[arg(long, env = "CAIRN_THREADS", value_name = "COUNT")]
    pub(crate) threads: Option<usize>,
    /// How long programs wait for an unreachable server before their calls fail.
    #[arg(long, env = "CAIRN_SERVER_TIMEOUT", default_value = "60s", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) server_timeout: Duration,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn mount models /workspace
  cairn mount models /workspace --server storage:7420 --key-file /etc/cairn/key
  mount -t fuse.cairn models /workspace -o server=storage:7420,key_file=/etc/cairn/key

The last form and /etc/fstab need a link to the program: ln -s $(command -v cairn) /sbin/mount.fuse.cairn
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
    /// Log file of a background mount. Default: ~/.local/state/cairn/mount.log (root: /var/log/cairn-mount.log).
    #[arg(long, env = "CAIRN_LOG_FILE", value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// Further mount options, as for `mount -o`. Mounts are nosuid and nodev unless root asks for `suid` or `dev`.
    #[arg(short = 'o', value_delimiter = ',', value_name = "OPTIONS")]
    pub(crate) options: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Umount {
    pub(crate) directory: PathBuf,
    /// Detach at once even if the mount is in use; it ends when its last user is done.
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
    /// Print again at this interval.
    #[arg(long, env = "CAIRN_INTERVAL", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) interval: Option<Duration>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn warm /workspace/models/llama
  cairn warm /workspace/env /workspace/data/train.bin --jobs 8

With a disk cache (`cairn mount --cache-dir`) the content goes there; otherwise it is read into the kernel's page cache.")]
pub(crate) struct Warm {
    /// Files and directories of a mount.
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Number of concurrent requests.
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
        /// How much may remain in the cache.
        #[arg(long, env = "CAIRN_CACHE_KEEP", default_value = "0", value_name = "SIZE")]
        keep: Size,
    },
}
