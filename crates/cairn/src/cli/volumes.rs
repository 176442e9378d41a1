//! Volumes: `volume`, `fsck`.

use cairn_types::Profile;
use clap::{Args, Subcommand};

use super::{Connection, Output};
use crate::size::Size;

#[derive(Debug, Subcommand)]
pub(crate) enum Volume {
    /// Create a volume.
    #[command(after_help = "Example:\n  cairn volume create models --size 500GiB --data-center EU-RO-1")]
    Create {
        name: String,
        /// Size limit: how many bytes the files may use.
        #[arg(long, env = "CAIRN_SIZE", value_name = "SIZE")]
        size: Size,
        /// Inode limit: files, directories and links. Default: one per 4 KiB of the size, at least a million.
        #[arg(long, env = "CAIRN_INODES", value_name = "COUNT")]
        inodes: Option<u64>,
        /// Chunk size: a power of two from 64KiB to 64MiB.
        #[arg(long, env = "CAIRN_CHUNK_SIZE", default_value = "4MiB", value_name = "SIZE")]
        chunk_size: Size,
        /// Data center, as the emulated cloud names it.
        #[arg(long, env = "CAIRN_DATA_CENTER", default_value = "US-TX-2", value_name = "ID")]
        data_center: String,
        /// Emulation profile: native, runpod-standard, runpod-high-performance or moosefs, optionally with overrides
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
    /// Change the emulation profile of a volume.
    #[command(after_help = "\
Examples:
  cairn volume set models --profile runpod-standard
  cairn volume set models --profile runpod-standard,chown=native,metadata-latency=5ms

Running mounts keep their profile until they are mounted again. If the new profile counts the quota differently, the
volume must not be mounted.")]
    Set {
        /// Name or id.
        volume: String,
        /// Emulation profile: native, runpod-standard, runpod-high-performance or moosefs, optionally with overrides
        /// (runpod-standard,chown=native). `cairn profiles` shows the parameters.
        #[arg(long, env = "CAIRN_PROFILE", value_name = "PROFILE")]
        profile: Profile,
        #[command(flatten)]
        output: Output,
    },
    /// Rename a volume.
    Rename {
        /// Name or id.
        volume: String,
        new_name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a volume and everything in it.
    #[command(visible_alias = "rm")]
    Delete {
        /// Name or id.
        volume: String,
        /// Do not ask for confirmation.
        #[arg(long, short, env = "CAIRN_YES")]
        yes: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Show the space a volume uses: logical bytes, as `du` and the quota count them, and bytes stored.
    Usage {
        /// Name or id.
        volume: String,
        #[command(flatten)]
        output: Output,
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
