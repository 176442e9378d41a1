//! `cairn volume …`.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Result, bail};
use cairn_wire::admin::{AdminReply, AdminRequest, VolumeStatus};
use serde_json::{Value, json};

use crate::cli::{Output, Volume};
use crate::size::Size;
use crate::{connect, output};

pub(crate) fn run(command: Volume) -> Result<ExitCode> {
    match command {
        Volume::Create { name, size, inodes, chunk_size, data_center, profile, output } => {
            let Ok(chunk_size) = u32::try_from(chunk_size.0) else {
                bail!("chunk size {chunk_size} is too large: it must be a power of two from 64KiB to 64MiB");
            };
            let request = AdminRequest::VolumeCreate {
                name,
                bytes_limit: size.0,
                inodes_limit: inodes,
                data_center,
                chunk_size,
                profile: profile.to_string(),
            };
            show(&output, request)
        }
        Volume::List { output } => list(&output),
        Volume::Show { volume, output } => show(&output, AdminRequest::VolumeShow { volume }),
        Volume::Resize { volume, size, inodes, output } => {
            let request =
                AdminRequest::VolumeResize { volume, bytes_limit: size.map(|size| size.0), inodes_limit: inodes };
            show(&output, request)
        }
        Volume::Set { volume, profile, output } => {
            show(&output, AdminRequest::VolumeProfile { volume, profile: profile.to_string() })
        }
        Volume::Rename { volume, new_name, output } => {
            show(&output, AdminRequest::VolumeRename { volume, name: new_name })
        }
        Volume::Delete { volume, yes, output } => delete(volume, yes, &output),
        Volume::Usage { volume, output } => usage(volume, &output),
    }
}

fn ask_for_volume(output: &Output, request: AdminRequest) -> Result<VolumeStatus> {
    match connect::ask(&output.connection, request)? {
        AdminReply::Volume(status) => Ok(status),
        _ => connect::unexpected(),
    }
}

/// A volume as JSON, with the figures that every command shares.
pub(crate) fn as_json(status: &VolumeStatus) -> Value {
    let (info, usage) = (&status.info, &status.usage);
    json!({
        "id": info.id.as_str(), "name": info.name, "data_center": info.data_center, "chunk_size": info.chunk_size,
        "created": info.created, "profile": info.profile, "bytes_limit": usage.bytes_limit, "bytes_used": usage.bytes_used,
        "inodes_limit": usage.inodes_limit, "inodes_used": usage.inodes_used, "bytes_stored": usage.bytes_stored,
        "bytes_metadata": usage.bytes_metadata, "disk_free": usage.disk_free, "trouble": status.trouble,
    })
}

fn show(output: &Output, request: AdminRequest) -> Result<ExitCode> {
    let status = ask_for_volume(output, request)?;
    if output.json {
        output::json(&as_json(&status))?;
    } else {
        let (info, usage) = (&status.info, &status.usage);
        let mut facts = vec![
            ("id", info.id.to_string()),
            ("name", info.name.clone()),
            ("data center", info.data_center.clone()),
            ("size", Size(usage.bytes_limit).to_string()),
            ("used", Size(usage.bytes_used).to_string()),
            ("files", format!("{} of {}", usage.inodes_used, usage.inodes_limit)),
            ("chunk size", Size(u64::from(info.chunk_size)).to_string()),
            ("profile", info.profile.clone()),
        ];
        if !status.trouble.is_empty() {
            facts.push(("trouble", status.trouble.clone()));
        }
        output::facts(&facts);
    }
    Ok(ExitCode::SUCCESS)
}

fn list(output: &Output) -> Result<ExitCode> {
    let AdminReply::Volumes(volumes) = connect::ask(&output.connection, AdminRequest::VolumeList)? else {
        return connect::unexpected();
    };
    if output.json {
        output::json(&volumes.iter().map(as_json).collect::<Vec<_>>())?;
    } else if volumes.is_empty() {
        println!("no volumes yet; create one with `cairn volume create NAME --size 100GiB`");
    } else {
        let rows: Vec<Vec<String>> = volumes
            .iter()
            .map(|status| {
                vec![
                    status.info.id.to_string(),
                    status.info.name.clone(),
                    Size(status.usage.bytes_used).to_string(),
                    Size(status.usage.bytes_limit).to_string(),
                    status.usage.inodes_used.to_string(),
                    status.info.data_center.clone(),
                ]
            })
            .collect();
        output::table(&["ID", "NAME", "USED", "SIZE", "FILES", "DATA CENTER"], &rows);
        for VolumeStatus { info, trouble, .. } in volumes.iter().filter(|status| !status.trouble.is_empty()) {
            println!("problem with {} ({}): {trouble}", info.name, info.id);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn usage(volume: String, output: &Output) -> Result<ExitCode> {
    let status = ask_for_volume(output, AdminRequest::VolumeShow { volume })?;
    if output.json {
        output::json(&as_json(&status))?;
    } else {
        let usage = &status.usage;
        let with_bytes = |bytes: u64| format!("{} ({bytes} bytes)", Size(bytes));
        output::facts(&[
            ("used", with_bytes(usage.bytes_used)),
            ("size", with_bytes(usage.bytes_limit)),
            ("files", format!("{} of {}", usage.inodes_used, usage.inodes_limit)),
            ("stored in packs", with_bytes(usage.bytes_stored)),
            ("stored as metadata", with_bytes(usage.bytes_metadata)),
            ("free on the server's disk", with_bytes(usage.disk_free)),
        ]);
    }
    Ok(ExitCode::SUCCESS)
}

fn delete(volume: String, yes: bool, output: &Output) -> Result<ExitCode> {
    if !yes {
        let status = ask_for_volume(output, AdminRequest::VolumeShow { volume: volume.clone() })?;
        if !std::io::stdin().is_terminal() {
            bail!("deleting a volume needs confirmation, and there is no terminal to ask on: add --yes");
        }
        print!(
            "Delete volume {} ({}) with {} files, {}? This cannot be undone. Type its name to continue: ",
            status.info.name,
            status.info.id,
            status.usage.inodes_used,
            Size(status.usage.bytes_used)
        );
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() != status.info.name {
            bail!("not deleted");
        }
    }
    connect::ask(&output.connection, AdminRequest::VolumeDelete { volume: volume.clone() })?;
    if output.json {
        output::json(&json!({ "deleted": volume }))?;
    } else {
        println!("deleted {volume}");
    }
    Ok(ExitCode::SUCCESS)
}
