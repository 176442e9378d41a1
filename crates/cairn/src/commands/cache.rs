//! `cairn cache show` and `cairn cache evict`: a cache directory without its mount.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::cli::Cache;
use crate::output;
use crate::size::Size;

pub(crate) fn run(command: &Cache) -> Result<ExitCode> {
    match command {
        Cache::Show { directory, json } => show(directory, *json)?,
        Cache::Evict { directory, keep } => {
            let gone = cairn_client::evict(directory, keep.0)?;
            println!("{} removed", Size(gone));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(directory: &Path, as_json: bool) -> Result<()> {
    let report = cairn_client::inspect(directory)?;
    if as_json {
        let volumes: Vec<_> = report
            .volumes
            .iter()
            .map(|cached| {
                json!({
                    "volume": cached.volume,
                    "blocks": cached.blocks,
                    "content_bytes": cached.content_bytes,
                    "stored_bytes": cached.stored_bytes,
                })
            })
            .collect();
        return output::json(&json!({ "used_by": report.used_by, "volumes": volumes }));
    }
    println!("used by {}", report.used_by.as_deref().unwrap_or("nobody"));
    let rows: Vec<Vec<String>> = report
        .volumes
        .iter()
        .map(|cached| {
            let sizes = [Size(cached.content_bytes).to_string(), Size(cached.stored_bytes).to_string()];
            [vec![cached.volume.clone(), cached.blocks.to_string()], sizes.to_vec()].concat()
        })
        .collect();
    output::table(&["volume", "blocks", "content", "on disk"], &rows);
    Ok(())
}
