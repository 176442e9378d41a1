//! `import` and `export`.

use std::path::PathBuf;

use clap::Args;

use super::Connection;

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
