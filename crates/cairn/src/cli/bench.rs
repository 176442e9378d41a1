//! `bench`.

use std::path::PathBuf;

use cairn_bench::plan::Row;
use cairn_types::Profile;
use clap::Args;

use crate::size::Size;

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn bench /workspace                                  every row, a table at the end
  cairn bench /workspace --against /tmp --html report.html
  cairn bench /workspace --rows create,walk,read --count 20000 --rounds 3
  cairn bench /mnt --unmount 'umount $DIR' --mount 'mount $DIR'    with a cold client (needs an entry in fstab)
  cairn bench --profile moosefs --against native          what packing small files would save on such a volume
  cairn bench --from report.json --html report.html       the page of an earlier --json

Rows: seq-write, seq-read-client, seq-read, seq-read-warm, mmap-read, random-1, random-16, create, create-synced, walk, read,
read-random, read-8, read-warm, rewrite, delete, create-fsync, archive.
Cold: the kernel's caches are dropped (needs root), and the client is remounted if --unmount and --mount are given. Synced:
unmounted, or every file synced where that is not possible. Everything is created in a temporary folder and removed.")]
pub(crate) struct Bench {
    /// Directory to measure in.
    #[arg(env = "CAIRN_DIRECTORY", required_unless_present_any = ["from", "profile"])]
    pub(crate) directory: Option<PathBuf>,
    /// Directory to compare with (repeatable). With --profile: another profile.
    #[arg(long, env = "CAIRN_AGAINST", value_name = "DIR", value_delimiter = ',')]
    pub(crate) against: Vec<PathBuf>,
    /// Measure a new volume with this emulation profile, and show what an archive would save on it. The volumes are
    /// temporary; they are placed in the directory if one is named, otherwise in the system's temporary folder.
    #[arg(long, env = "CAIRN_BENCH_PROFILE", value_name = "PROFILE", conflicts_with_all = ["from", "unmount", "mount", "store"])]
    pub(crate) profile: Option<Profile>,
    /// What to measure, separated by commas. Default: everything.
    #[arg(long, env = "CAIRN_ROWS", value_name = "ROWS", value_delimiter = ',')]
    pub(crate) rows: Vec<Row>,
    /// Number of rounds; medians are shown.
    #[arg(long, env = "CAIRN_ROUNDS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Size of the large file.
    #[arg(long, env = "CAIRN_SIZE", default_value = "1GiB", value_name = "SIZE")]
    pub(crate) size: Size,
    /// Number of random reads.
    #[arg(long, env = "CAIRN_RANDOM_READS", default_value_t = 4000, value_name = "COUNT")]
    pub(crate) random_reads: u64,
    /// Number of small files.
    #[arg(long, env = "CAIRN_COUNT", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// Size of a small file.
    #[arg(long, env = "CAIRN_SMALL", default_value = "4KiB", value_name = "SIZE")]
    pub(crate) small: Size,
    /// Number of files that are created and synced one by one.
    #[arg(long, env = "CAIRN_FSYNCS", default_value_t = 500, value_name = "COUNT")]
    pub(crate) fsyncs: u64,
    /// File sizes for the comparison with an archive, in ascending order.
    #[arg(
        long,
        env = "CAIRN_ARCHIVE_SIZES",
        value_name = "SIZES",
        value_delimiter = ',',
        default_value = "1KiB,4KiB,32KiB,256KiB,2MiB"
    )]
    pub(crate) archive_sizes: Vec<Size>,
    /// Maximum number of files of each of these sizes (and at most 128 MiB in total).
    #[arg(long, env = "CAIRN_ARCHIVE_COUNT", default_value_t = 2000, value_name = "COUNT")]
    pub(crate) archive_count: u64,
    /// Shell command that unmounts the directory, given as $DIR; with --mount, cold measurements have a cold client, too.
    #[arg(long, env = "CAIRN_UNMOUNT", value_name = "COMMAND", requires = "mount")]
    pub(crate) unmount: Option<String>,
    /// Shell command that mounts it again.
    #[arg(long, env = "CAIRN_MOUNT", value_name = "COMMAND", requires = "unmount")]
    pub(crate) mount: Option<String>,
    /// Folder on this machine in which the first directory's file system stores its data, to measure the space overhead of small files.
    #[arg(long, env = "CAIRN_STORE", value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Do not drop the kernel's caches; cold measurements may then be warm.
    #[arg(long, env = "CAIRN_KEEP_CACHES")]
    pub(crate) keep_caches: bool,
    /// Measure nothing: show the --json output of an earlier run (repeatable; reports of one directory are combined as rounds).
    #[arg(long, env = "CAIRN_FROM", value_name = "FILE", value_delimiter = ',', conflicts_with_all = ["directory", "against"])]
    pub(crate) from: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long, env = "CAIRN_JSON")]
    pub(crate) json: bool,
    /// Write a self-contained HTML page with the table and plots.
    #[arg(long, env = "CAIRN_HTML", value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write every plot as an SVG file into this folder.
    #[arg(long, env = "CAIRN_PLOTS", value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
}
