//! `cairn status`.

use std::process::ExitCode;

use anyhow::Result;
use cairn_wire::admin::{AdminReply, AdminRequest, ServerStatus, SessionStatus};
use serde_json::json;

use crate::cli::Status;
use crate::size::Size;
use crate::{connect, output};

pub(crate) fn run(options: &Status) -> Result<ExitCode> {
    let AdminReply::Status(status) = connect::ask(&options.output.connection, AdminRequest::Status)? else {
        return connect::unexpected();
    };
    if options.output.json {
        print_json(&status)?;
    } else {
        print_text(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn health(status: &ServerStatus) -> String {
    let troubles: Vec<String> = status
        .volumes
        .iter()
        .filter(|volume| !volume.trouble.is_empty())
        .map(|volume| format!("{}: {}", volume.info.name, volume.trouble))
        .collect();
    if troubles.is_empty() { "good".into() } else { troubles.join("; ") }
}

fn session_state(session: &SessionStatus) -> String {
    if session.connected { "connected".into() } else { format!("silent for {} s", session.silent_ms / 1000) }
}

fn print_text(status: &ServerStatus) {
    output::facts(&[
        ("server", status.software.clone()),
        ("up for", format!("{} s", status.uptime_ms / 1000)),
        ("listening on", status.listening.join(", ")),
        ("data", status.data_directory.clone()),
        ("memory", Size(status.memory_bytes).to_string()),
        ("health", health(status)),
    ]);
    if !status.volumes.is_empty() {
        println!();
        let rows: Vec<Vec<String>> = status
            .volumes
            .iter()
            .map(|volume| {
                let mounts = status.sessions.iter().filter(|session| session.volume == volume.info.id).count();
                vec![
                    volume.info.id.to_string(),
                    volume.info.name.clone(),
                    Size(volume.usage.bytes_used).to_string(),
                    Size(volume.usage.bytes_limit).to_string(),
                    Size(volume.usage.bytes_stored).to_string(),
                    mounts.to_string(),
                ]
            })
            .collect();
        output::table(&["VOLUME", "NAME", "USED", "SIZE", "STORED", "MOUNTS"], &rows);
    }
    if !status.sessions.is_empty() {
        println!();
        let rows: Vec<Vec<String>> = status
            .sessions
            .iter()
            .map(|session| {
                vec![
                    session.session.to_string(),
                    session.volume.to_string(),
                    format!("{}:{}", session.info.host, session.info.directory),
                    session.info.pid.to_string(),
                    session_state(session),
                    session.leases.to_string(),
                    session.open_files.to_string(),
                    session.locks.to_string(),
                ]
            })
            .collect();
        output::table(&["SESSION", "VOLUME", "MOUNT", "PID", "STATE", "LEASES", "OPEN", "LOCKS"], &rows);
    }
}

fn print_json(status: &ServerStatus) -> Result<()> {
    let sessions: Vec<_> = status
        .sessions
        .iter()
        .map(|session| {
            json!({
                "session": session.session.0, "volume": session.volume.as_str(), "host": session.info.host,
                "pid": session.info.pid, "directory": session.info.directory, "read_only": session.info.read_only,
                "peer": session.peer, "connected": session.connected, "silent_ms": session.silent_ms,
                "leases": session.leases, "open_files": session.open_files, "locks": session.locks,
            })
        })
        .collect();
    let counters: serde_json::Map<String, serde_json::Value> =
        status.counters.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
    output::json(&json!({
        "software": status.software, "uptime_ms": status.uptime_ms, "listening": status.listening,
        "data_directory": status.data_directory, "memory_bytes": status.memory_bytes, "health": health(status),
        "volumes": status.volumes.iter().map(super::volume::as_json).collect::<Vec<_>>(),
        "sessions": sessions, "counters": counters,
    }))
}
