//! `cairn stats DIR`: the counters of a live mount, read through the mount itself.
//!
//! A mount answers the extended attribute [`cairn_client::STATS_ATTRIBUTE`] of its root with JSON, so no socket has
//! to be found and whoever may enter the mount may ask.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value};

use crate::cli::Stats;
use crate::output;

pub(crate) fn run(options: &Stats) -> Result<ExitCode> {
    loop {
        let stats = read(&options.directory)?;
        if options.json {
            output::json(&stats)?;
        } else {
            print(&stats);
        }
        match options.interval {
            Some(interval) => std::thread::sleep(interval),
            None => return Ok(ExitCode::SUCCESS),
        }
    }
}

fn print(stats: &Map<String, Value>) {
    let pairs: Vec<(&str, String)> = stats
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
        .collect();
    output::facts(&pairs);
}

/// Asks the mount that `directory` is the root of.
pub(crate) fn read(directory: &Path) -> Result<Map<String, Value>> {
    let text = get_attribute(directory, OsStr::new(cairn_client::STATS_ATTRIBUTE)).map_err(|error| {
        let place = directory.display();
        match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            Some(libc::ENODATA | libc::EOPNOTSUPP) => {
                anyhow!("{place} is not the root of a Cairn mount; `cairn status` lists the mounts")
            }
            _ => error.context(format!("the mount at {place} does not answer")),
        }
    })?;
    match serde_json::from_slice(&text)? {
        Value::Object(map) => Ok(map),
        _ => bail!("the counters of the mount at {} cannot be parsed", directory.display()),
    }
}

pub(crate) fn get_attribute(path: &Path, name: &OsStr) -> Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let name = CString::new(name.as_bytes())?;
    // The kernel's own limit for a value (XATTR_SIZE_MAX).
    let mut buffer = vec![0u8; 65_536];
    // SAFETY: both names end in NUL and the buffer is as long as is said.
    let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    if length < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    buffer.truncate(length as usize);
    Ok(buffer)
}
