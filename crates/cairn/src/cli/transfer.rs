//! `import` and `export`.

use std::path::PathBuf;

use clap::Args;

use super::Connection;

/// What `import` and `export` have in common.
#[derive(Args, Clone, Debug)]
pub(crate) struct TransferTuning {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Number of files copied at the same time.
    #[arg(long, env = "CAIRN_JOBS", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256), value_name = "COUNT")]
    pub(crate) jobs: u16,
    /// Print JSON: a summary of the copy, and the session's counters.
    #[arg(long, env = "CAIRN_JSON")]
    pub(crate) json: bool,
    /// Do not read the copy back to compare it with the source.
    #[arg(long, env = "CAIRN_NO_VERIFY")]
    pub(crate) no_verify: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cairn import ./dataset models:/data            copies the contents of ./dataset into /data
  cairn import imagenet.tar.zst models:/imagenet unpacks the archive there
  cairn import weights.tar models:/ --as-file    the archive itself

Archives: .tar, .tar.gz, .tgz, .tar.zst, .tzst, .zip. Modes, owners, times, links, holes and extended attributes are kept.
If it is interrupted, run the same command to resume: files whose size and modification time match are not copied again.")]
pub(crate) struct Import {
    /// Folder, file or archive on this machine.
    pub(crate) source: PathBuf,
    /// Destination: the volume's name or id, a colon, and a folder in it, which is created if needed.
    #[arg(value_name = "VOLUME:/PATH")]
    pub(crate) target: String,
    /// Copy an archive as a plain file, without unpacking it.
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

Archives: .tar, .tar.gz, .tgz, .tar.zst, .tzst, .zip. If it is interrupted, run the same command again: it resumes for a folder, and
starts over for an archive.")]
pub(crate) struct Export {
    /// Source: the volume's name or id, a colon, and a folder or file in it.
    #[arg(value_name = "VOLUME:/PATH")]
    pub(crate) source: String,
    /// Destination: a folder, which is created if needed, or an archive to create.
    pub(crate) target: PathBuf,
    #[command(flatten)]
    pub(crate) tuning: TransferTuning,
}
