//! `cairn man`: manual pages from the definition of the command line.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;

pub(crate) fn run(directory: &Path) -> Result<ExitCode> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    clap_mangen::generate_to(crate::cli::Cli::command(), directory)
        .with_context(|| format!("cannot write manual pages into {}", directory.display()))?;
    println!("manual pages written to {}; read one with `man {}/cairn.1`", directory.display(), directory.display());
    Ok(ExitCode::SUCCESS)
}
