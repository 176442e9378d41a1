//! The command line: what can be asked, with which flags. What the commands do is in [`crate::commands`].

use std::path::PathBuf;
use std::time::Duration;

use cairn_bench::plan::Row;
use cairn_types::Profile;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::size::Size;

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

/// A chunked network volume for AI workloads: mount it, share it, and treat small files like an archive.
#[derive(Debug, Parser)]
#[command(name = "cairn", version, after_help = EXAMPLES, max_term_width = 120)]
pub(crate) struct Cli {
    /// Configuration file (TOML). Default: /etc/cairn/cairn.toml and ~/.config/cairn/cairn.toml, if they exist.
    #[arg(long, global = true, env = "CAIRN_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or a filter such as `cairn_client=debug`.
    #[arg(long, global = true, env = "CAIRN_LOG", default_value = "info", value_name = "FILTER")]
    pub(crate) log: String,
    /// How to log: lines for people, or one JSON object a line.
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
    /// Server, volume and mount in one process: the quickest way to a working volume.
    Dev(Dev),
    /// Run a server for any number of volumes and mounts.
    Serve(Serve),
    /// Mount a volume at a directory.
    Mount(Mount),
    /// Unmount a directory and wait until everything is written.
    Umount(Umount),
    /// Make, list, change and delete volumes.
    #[command(subcommand)]
    Volume(Volume),
    /// Show the server, its volumes, mounts and health.
    Status(Status),
    /// Show the live counters of a mount.
    Stats(Stats),
    /// Bring files of a mount into its caches before they are needed.
    Warm(Warm),
    /// Look at a mount's disk cache, or empty it.
    #[command(subcommand)]
    Cache(Cache),
    /// Check every invariant of a volume.
    Fsck(Fsck),
    /// Copy a tree into a volume, or unpack an archive there, without mounting it.
    Import(Import),
    /// Copy a tree out of a volume, or pack it into an archive, without mounting it.
    Export(Export),
    /// Measure any directory, and compare it with others.
    Bench(Box<Bench>),
    /// Accounts, credit, API keys and the clock of the control plane (`cairn serve --http`).
    #[command(subcommand)]
    Account(Account),
    /// Make, list and revoke the keys that TCP clients need.
    #[command(subcommand)]
    Key(Key),
    /// Give volumes to containers.
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
    /// Key, as `cairn key create` printed it; needed over TCP. Prefer the variable or --key-file: arguments are visible to others.
    #[arg(long, env = "CAIRN_KEY", hide_env_values = true)]
    pub(crate) key: Option<String>,
    /// File that holds the key.
    #[arg(long, env = "CAIRN_KEY_FILE", value_name = "FILE", conflicts_with = "key")]
    pub(crate) key_file: Option<PathBuf>,
    /// Certificate authority (PEM) that the server's TLS certificate must descend from.
    #[arg(long, env = "CAIRN_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
}

/// See [`cairn_fuse::Transport`].
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Transport {
    /// FUSE over io_uring where the kernel offers it, else classic. `cairn stats` says which and why. As root, switches it on in
    /// the kernel (/sys/module/fuse/parameters/enable_uring), which concerns no other program.
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

/// The control plane; shared by `serve` and `dev`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlPlane {
    /// Address for the APIs of clouds (Runpod GraphQL, REST v1 and v2), such as 127.0.0.1:7430. Without it there is none.
    #[arg(long, env = "CAIRN_HTTP", value_name = "ADDRESS")]
    pub(crate) http: Option<String>,
    /// From the end of a prepaid account's balance to the end of its volumes.
    #[arg(long, env = "CAIRN_GRACE", default_value = "7d", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) grace: Duration,
    /// Let REST v1 shrink volumes, as the emulated cloud was seen to do; never below what is used.
    #[arg(long, env = "CAIRN_V1_SHRINK")]
    pub(crate) v1_shrink: bool,
    /// What runs containers for pods.
    #[arg(long, env = "CAIRN_ENGINE", value_enum, default_value_t, value_name = "ENGINE")]
    pub(crate) engine: Engine,
    /// Argument of every call of the engine, ahead of its command, such as --engine-arg=--runtime=runc (repeat for more).
    #[arg(
        long = "engine-arg",
        env = "CAIRN_ENGINE_ARGS",
        value_name = "ARGUMENT",
        value_delimiter = ' ',
        allow_hyphen_values = true
    )]
    pub(crate) engine_arguments: Vec<String>,
    /// Argument for each pod's container, such as --pod-arg=--network=none (repeat for more).
    #[arg(
        long = "pod-arg",
        env = "CAIRN_POD_ARGS",
        value_name = "ARGUMENT",
        value_delimiter = ' ',
        allow_hyphen_values = true
    )]
    pub(crate) pod_arguments: Vec<String>,
}

/// See [`cairn_control::engine::EngineChoice`].
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Engine {
    /// Podman or else Docker, whichever works; if neither does, pods are records.
    #[default]
    Auto,
    Podman,
    Docker,
    /// Pods are records.
    None,
}

impl From<Engine> for cairn_control::engine::EngineChoice {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Auto => cairn_control::engine::EngineChoice::Auto,
            Engine::Podman => cairn_control::engine::EngineChoice::Podman,
            Engine::Docker => cairn_control::engine::EngineChoice::Docker,
            Engine::None => cairn_control::engine::EngineChoice::None,
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
  cairn dev                                  mounted at /workspace, data in ~/.local/share/cairn (root: /var/lib/cairn)
  cairn dev /runpod-volume --size 200GiB --profile runpod-standard
  cairn dev ./work --data ./work.data
  cairn dev --http 127.0.0.1:7430            and Runpod's APIs for it; the key is in the data directory: control-key

Ctrl-C writes everything, unmounts and exits. The same command brings the volume back.")]
pub(crate) struct Dev {
    /// Where to mount.
    #[arg(default_value = "/workspace", env = "CAIRN_DIRECTORY")]
    pub(crate) directory: PathBuf,
    /// Where the data are kept.
    #[arg(long, env = "CAIRN_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Size of the volume when it is first made.
    #[arg(long, env = "CAIRN_SIZE", default_value = "100GiB", value_name = "SIZE")]
    pub(crate) size: Size,
    /// Chunk size of the volume when it is first made: a power of two from 64KiB to 64MiB.
    #[arg(long, env = "CAIRN_CHUNK_SIZE", default_value = "4MiB", value_name = "SIZE")]
    pub(crate) chunk_size: Size,
    /// Volume to make and mount.
    #[arg(long, env = "CAIRN_VOLUME", default_value = "default", value_name = "NAME")]
    pub(crate) volume: String,
    #[command(flatten)]
    pub(crate) http: ControlPlane,
    #[command(flatten)]
    pub(crate) tuning: MountTuning,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn serve                                          Unix socket and 127.0.0.1:7420
  cairn serve --data /srv/cairn --listen 0.0.0.0:7420 --tls-cert cert.pem --tls-key key.pem
  cairn serve --http 127.0.0.1:7430                    and the APIs of clouds; the operator's key is in DATA/control-key
  cairn key create --label laptop                      a key for clients on TCP")]
pub(crate) struct Serve {
    /// Where the data are kept.
    #[arg(long, env = "CAIRN_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// TCP addresses to listen on, comma-separated; `none` for the Unix socket alone.
    #[arg(long, env = "CAIRN_LISTEN", value_delimiter = ',', default_value = "127.0.0.1:7420", value_name = "ADDRESS")]
    pub(crate) listen: Vec<String>,
    /// Unix socket. Default: cairn.sock in the data directory.
    #[arg(long, env = "CAIRN_SOCKET", value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Certificate chain (PEM): makes TCP speak TLS.
    #[arg(long, env = "CAIRN_TLS_CERT", requires = "tls_key", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate.
    #[arg(long, env = "CAIRN_TLS_KEY", requires = "tls_cert", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// A mount that is silent for longer loses its leases when somebody else needs them.
    #[arg(long, env = "CAIRN_LEASE_TTL", default_value = "15s", value_parser = parse_duration, value_name = "TIME")]
    pub(crate) lease_ttl: Duration,
    /// Address for Prometheus metrics.
    #[arg(long, env = "CAIRN_METRICS", value_name = "ADDRESS")]
    pub(crate) metrics: Option<std::net::SocketAddr>,
    #[command(flatten)]
    pub(crate) http: ControlPlane,
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
    /// Further options for the kernel, as `mount -o` takes them.
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

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// Make a volume.
    #[command(after_help = "Example:\n  cairn volume create models --size 500GiB --data-center EU-RO-1")]
    Create {
        name: String,
        /// Most bytes its files may take.
        #[arg(long, env = "CAIRN_SIZE", value_name = "SIZE")]
        size: Size,
        /// Most files, directories and links. Default: one for each 4 KiB of the size, at least a million.
        #[arg(long, env = "CAIRN_INODES", value_name = "COUNT")]
        inodes: Option<u64>,
        /// Chunk size: a power of two from 64KiB to 64MiB.
        #[arg(long, env = "CAIRN_CHUNK_SIZE", default_value = "4MiB", value_name = "SIZE")]
        chunk_size: Size,
        /// Data centre, as the emulated clouds name it.
        #[arg(long, env = "CAIRN_DATA_CENTER", default_value = "US-TX-2", value_name = "ID")]
        data_center: String,
        /// What the volume emulates: native, runpod-standard, runpod-high-performance or moosefs, and what differs from it
        /// (runpod-standard,chown=native). `cairn profiles` shows the parameters.
        #[arg(long, env = "CAIRN_PROFILE", default_value = "native", value_name = "PROFILE")]
        profile: Profile,
        #[command(flatten)]
        output: Output,
    },
    /// List the volumes.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Show one volume.
    Show {
        /// Name or id.
        volume: String,
        #[command(flatten)]
        output: Output,
    },
    /// Change the limits of a volume.
    #[command(after_help = "Example:\n  cairn volume resize models --size 1TiB")]
    Resize {
        /// Name or id.
        volume: String,
        #[arg(long, env = "CAIRN_SIZE", value_name = "SIZE", required_unless_present = "inodes")]
        size: Option<Size>,
        #[arg(long, env = "CAIRN_INODES", value_name = "COUNT")]
        inodes: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
    /// Change what a volume emulates.
    #[command(after_help = "\
Examples:
  cairn volume set models --profile runpod-standard
  cairn volume set models --profile runpod-standard,chown=native,metadata-latency=5ms

Mounts follow from their next start on. The volume must not be mounted if its quota would count otherwise.")]
    Set {
        /// Name or id.
        volume: String,
        /// What the volume emulates: native, runpod-standard, runpod-high-performance or moosefs, and what differs from it
        /// (runpod-standard,chown=native). `cairn profiles` shows the parameters.
        #[arg(long, env = "CAIRN_PROFILE", value_name = "PROFILE")]
        profile: Profile,
        #[command(flatten)]
        output: Output,
    },
    /// Give a volume another name.
    Rename {
        /// Name or id.
        volume: String,
        new_name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a volume and all that is in it.
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id.
        volume: String,
        /// Do not ask.
        #[arg(long, short, env = "CAIRN_YES")]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show what a volume uses: logical bytes as `du` and quota count them, and what is stored.
    Usage {
        /// Name or id.
        volume: String,
        #[command(flatten)]
        output: Output,
    },
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

#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) output: Output,
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

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn fsck models                 metadata: every invariant, every counter
  cairn fsck models --data          and every stored byte
  cairn fsck models --repair")]
pub(crate) struct Fsck {
    /// Name or id of the volume.
    pub(crate) volume: String,
    /// Repair what can be repaired.
    #[arg(long, env = "CAIRN_REPAIR")]
    pub(crate) repair: bool,
    /// Read and verify every stored byte as well.
    #[arg(long = "data", env = "CAIRN_CHECK_DATA")]
    pub(crate) check_data: bool,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// What `import` and `export` have in common.
#[derive(Args, Clone, Debug)]
pub(crate) struct TransferTuning {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Files that are copied at the same time.
    #[arg(long, env = "CAIRN_JOBS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "COUNT")]
    pub(crate) jobs: u16,
    /// Print JSON: what was copied, and the counters of the session.
    #[arg(long, env = "CAIRN_JSON")]
    pub(crate) json: bool,
    /// Do not read the copy again to compare it with what was read.
    #[arg(long, env = "CAIRN_NO_VERIFY")]
    pub(crate) no_verify: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn import ./dataset models:/data            what is in ./dataset is then in /data
  cairn import imagenet.tar.zst models:/imagenet unpacked there
  cairn import weights.tar models:/ --as-file    the archive itself

Archives: .tar, .tar.gz, .tgz, .tar.zst, .tzst, .zip. Modes, owners, times, links, holes and extended attributes are kept.
If it is interrupted, the same command goes on: files of the right size and time are not copied again.")]
pub(crate) struct Import {
    /// Folder, file or archive on this machine.
    pub(crate) source: PathBuf,
    /// Where to: the volume's name or id, a colon, and a folder in it, which is made if need be.
    #[arg(value_name = "VOLUME:/PATH")]
    pub(crate) target: String,
    /// Copy an archive as the file that it is.
    #[arg(long, env = "CAIRN_AS_FILE")]
    pub(crate) as_file: bool,
    #[command(flatten)]
    pub(crate) tuning: TransferTuning,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn export models:/data ./dataset
  cairn export models:/ models.tar.zst           everything, as an archive
  cairn export models:/weights/a.bin /tmp        one file

Archives: .tar, .tar.gz, .tgz, .tar.zst, .tzst, .zip. If it is interrupted, the same command goes on with a folder, and
makes an archive anew.")]
pub(crate) struct Export {
    /// What: the volume's name or id, a colon, and a folder or file in it.
    #[arg(value_name = "VOLUME:/PATH")]
    pub(crate) source: String,
    /// Folder, which is made if need be, or archive to make.
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) tuning: TransferTuning,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn bench /workspace                                  every row, a table at the end
  cairn bench /workspace --against /tmp --html report.html
  cairn bench /workspace --rows create,walk,read --count 20000 --rounds 3
  cairn bench /mnt --unmount 'umount $DIR' --mount 'mount $DIR'    with the client cold (needs an entry in fstab)
  cairn bench --profile moosefs --against native          what packing small files would save on such a volume
  cairn bench --from report.json --html report.html       the page of an earlier --json

Rows: seq-write, seq-read-client, seq-read, seq-read-warm, mmap-read, random-1, random-16, create, create-synced, walk, read,
read-random, read-8, read-warm, rewrite, delete, create-fsync, archive.
Cold: the kernel's caches dropped (takes root), and the client mounted anew if --unmount and --mount say how. Synced:
unmounted, or every file synced where that is not possible. Everything is made in a folder of its own and removed.")]
pub(crate) struct Bench {
    /// Directory to measure in.
    #[arg(env = "CAIRN_DIRECTORY", required_unless_present_any = ["from", "profile"])]
    pub(crate) directory: Option<PathBuf>,
    /// Directory to compare it with (repeat for more). With --profile: another profile.
    #[arg(long, env = "CAIRN_AGAINST", value_name = "DIR", value_delimiter = ',')]
    pub(crate) against: Vec<PathBuf>,
    /// Measure a new volume with this emulation profile instead, and say what an archive would save on it. The volumes are
    /// temporary; they lie in the directory, if one is named, and else in the system's folder for such.
    #[arg(long, env = "CAIRN_BENCH_PROFILE", value_name = "PROFILE", conflicts_with_all = ["from", "unmount", "mount", "store"])]
    pub(crate) profile: Option<Profile>,
    /// What to measure, separated by commas. Default: everything.
    #[arg(long, env = "CAIRN_ROWS", value_name = "ROWS", value_delimiter = ',')]
    pub(crate) rows: Vec<Row>,
    /// How often; the medians are shown.
    #[arg(long, env = "CAIRN_ROUNDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Size of the large file.
    #[arg(long, env = "CAIRN_SIZE", default_value = "1GiB", value_name = "SIZE")]
    pub(crate) size: Size,
    /// How many random reads.
    #[arg(long, env = "CAIRN_RANDOM_READS", default_value_t = 4000, value_name = "COUNT")]
    pub(crate) random_reads: u64,
    /// How many small files.
    #[arg(long, env = "CAIRN_COUNT", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// Size of a small file.
    #[arg(long, env = "CAIRN_SMALL", default_value = "4KiB", value_name = "SIZE")]
    pub(crate) small: Size,
    /// How many files are created and synced one by one.
    #[arg(long, env = "CAIRN_FSYNCS", default_value_t = 500, value_name = "COUNT")]
    pub(crate) fsyncs: u64,
    /// Sizes of files that are compared with an archive of them, in growing order.
    #[arg(
        long,
        env = "CAIRN_ARCHIVE_SIZES",
        value_name = "SIZES",
        value_delimiter = ',',
        default_value = "1KiB,4KiB,32KiB,256KiB,2MiB"
    )]
    pub(crate) archive_sizes: Vec<Size>,
    /// Most files of each of these sizes (and at most 128 MiB).
    #[arg(long, env = "CAIRN_ARCHIVE_COUNT", default_value_t = 2000, value_name = "COUNT")]
    pub(crate) archive_count: u64,
    /// Shell command that unmounts a directory, which it sees as $DIR; with --mount, what is cold is cold in the client too.
    #[arg(long, env = "CAIRN_UNMOUNT", value_name = "COMMAND", requires = "mount")]
    pub(crate) unmount: Option<String>,
    /// Shell command that mounts it again.
    #[arg(long, env = "CAIRN_MOUNT", value_name = "COMMAND", requires = "unmount")]
    pub(crate) mount: Option<String>,
    /// Folder on this machine in which the first directory's file system keeps what it stores, to see what small files cost.
    #[arg(long, env = "CAIRN_STORE", value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Leave the kernel's caches alone; what should be cold may then be warm.
    #[arg(long, env = "CAIRN_KEEP_CACHES")]
    pub(crate) keep_caches: bool,
    /// Measure nothing: show what an earlier run printed with --json (repeat for more: reports of one directory become rounds).
    #[arg(long, env = "CAIRN_FROM", value_name = "FILE", value_delimiter = ',', conflicts_with_all = ["directory", "against"])]
    pub(crate) from: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long, env = "CAIRN_JSON")]
    pub(crate) json: bool,
    /// Write one page with the table and plots, which needs no other file.
    #[arg(long, env = "CAIRN_HTML", value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write every plot as an SVG file into this folder.
    #[arg(long, env = "CAIRN_PLOTS", value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
}

/// How to reach the control plane and how to answer.
#[derive(Args, Clone, Debug)]
pub(crate) struct ControlClient {
    /// Where it is: the address of `cairn serve --http`.
    #[arg(long, env = "CAIRN_API", default_value = "http://127.0.0.1:7430", value_name = "URL")]
    pub(crate) api: String,
    /// API key. Prefer the variable or --api-key-file: arguments are visible to others.
    #[arg(long, env = "CAIRN_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// File that holds the key. Default: control-key in the default data directory.
    #[arg(long, env = "CAIRN_API_KEY_FILE", value_name = "FILE", conflicts_with = "api_key")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, env = "CAIRN_JSON")]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    /// Make an account and print its owner's key, this once.
    #[command(after_help = "\
Examples:
  cairn account create team                  charges are counted, and nothing follows from them
  cairn account create student --prepaid 25  at a balance of 0 pods stop, and later volumes are deleted for good")]
    Create {
        name: String,
        #[arg(long, env = "CAIRN_ACCOUNT_EMAIL", default_value = "")]
        email: String,
        /// Credit in dollars that it begins with, and that it must not use up.
        #[arg(long, env = "CAIRN_ACCOUNT_PREPAID", value_name = "DOLLARS")]
        prepaid: Option<f64>,
        #[command(flatten)]
        api: ControlClient,
    },
    /// List the accounts with their balances.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        api: ControlClient,
    },
    /// Show the account of the key that is used.
    Show {
        #[command(flatten)]
        api: ControlClient,
    },
    /// Give an account credit.
    Credit {
        /// Id of the account.
        account: String,
        dollars: f64,
        #[command(flatten)]
        api: ControlClient,
    },
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Key(ApiKey),
    /// Show the time that charges follow, or advance it.
    Clock {
        /// Let so much time pass at once, such as 30d.
        #[arg(long, env = "CAIRN_CLOCK_ADVANCE", value_parser = parse_duration, value_name = "TIME")]
        advance: Option<Duration>,
        #[command(flatten)]
        api: ControlClient,
    },
}

/// What an API key may do.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ApiRole {
    /// Look at everything of the account.
    Reader,
    /// And make, change and delete volumes, pods, endpoints and templates.
    Editor,
    /// And the account's settings and keys.
    Owner,
    /// And everything of the server.
    Operator,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKey {
    /// Make a key and print it, this once.
    Create {
        /// What it may do.
        #[arg(long, env = "CAIRN_API_KEY_ROLE", value_enum, value_name = "ROLE")]
        role: ApiRole,
        /// What it is for.
        #[arg(long, env = "CAIRN_API_KEY_LABEL", default_value = "")]
        label: String,
        /// Id of the account that it opens. Default: that of the key that is used.
        #[arg(long, env = "CAIRN_ACCOUNT", value_name = "ID")]
        account: Option<String>,
        #[command(flatten)]
        api: ControlClient,
    },
    /// List the keys (never their text).
    List {
        #[command(flatten)]
        api: ControlClient,
    },
    /// Revoke a key.
    Revoke {
        /// Id, as `cairn account key list` shows it.
        id: String,
        #[command(flatten)]
        api: ControlClient,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key and print it, this once.
    #[command(after_help = "\
Examples:
  cairn key create --label ci --volume models
  cairn key create --label operator --admin")]
    Create {
        /// What it is for.
        #[arg(long, env = "CAIRN_KEY_LABEL", default_value = "")]
        label: String,
        /// Volume that it opens (repeat for more).
        #[arg(long, env = "CAIRN_KEY_VOLUMES", value_delimiter = ',', value_name = "VOLUME")]
        volume: Vec<String>,
        /// Opens everything.
        #[arg(long, env = "CAIRN_KEY_ADMIN", conflicts_with = "volume")]
        admin: bool,
        #[command(flatten)]
        output: Output,
    },
    /// List the keys (never their text).
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Revoke a key; connections that use it end.
    Revoke {
        /// Id, as `cairn key list` shows it.
        id: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// Serve the volume plug-in that Docker and Podman ask for volumes.
    Docker(DockerPlugin),
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn plugin docker
  docker volume create -d cairn -o size=50GiB models
  docker run -v models:/workspace IMAGE

Podman finds the plug-in by a line in containers.conf: [engine.volume_plugins] cairn = \"/run/docker/plugins/cairn.sock\"
Options of a volume: size, inodes, chunk-size, data-center, read-only, noatime, cache-size, server-timeout.
A volume that exists at the server is used as it is, and stays when the engine removes it.
Mounts are processes of their own: they go on while the plug-in is restarted. They take the variables and the
configuration of `cairn mount`.")]
pub(crate) struct DockerPlugin {
    /// Unix socket to listen on. Docker looks for plug-ins in /run/docker/plugins; the file's name is the plug-in's.
    #[arg(long, env = "CAIRN_PLUGIN_SOCKET", default_value = "/run/docker/plugins/cairn.sock", value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// Folder for mounts and for what must survive a restart.
    #[arg(long, env = "CAIRN_PLUGIN_STATE", default_value = "/var/lib/cairn-plugin", value_name = "DIR")]
    pub(crate) state: PathBuf,
    /// Size of a volume that is made without one.
    #[arg(long, env = "CAIRN_DEFAULT_SIZE", default_value = "100GiB", value_name = "SIZE")]
    pub(crate) default_size: Size,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Reads `15s`, `500ms`, `2m`, `1h` or a bare number of seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let explain = || format!("{text:?} is not a time: write a number and a unit, such as 500ms, 15s, 2m or 7d");
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
