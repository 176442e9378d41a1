//! `cairn status`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Result;
use cairn_wire::admin::{AdminReply, AdminRequest, ServerStatus, SessionStatus};
use serde_json::json;

use crate::cli::Status;
use crate::commands::mounted;
use crate::commands::report::{PROFILE, SHORT_CIRCUIT, TRANSPORT};
use crate::size::Size;
use crate::{connect, output};

/// How long a mount of this host may take to say how it is served.
const MOUNT_LIMIT: Duration = Duration::from_secs(2);

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

/// What a mount on this host says of itself.
struct Told {
    /// Which way its requests come from the kernel.
    transport: String,
    profile: String,
    /// Whether it reads the server's files.
    short_circuit: String,
}

/// Asks a mount; `None` for one elsewhere, or one that does not answer.
fn told_by_mount(session: &SessionStatus) -> Option<Told> {
    if !session.connected || session.info.host != mounted::host_name() {
        return None;
    }
    let directory = PathBuf::from(session.info.kind.directory()?);
    let (sender, answer) = mpsc::channel();
    // On a thread, because a mount can take its time; one that never answers must not keep the command.
    let ask = move || drop(sender.send(super::stats::read(&directory)));
    std::thread::Builder::new().name("ask-mount".into()).spawn(ask).ok()?;
    let report = answer.recv_timeout(MOUNT_LIMIT).ok()?.ok()?;
    // Another mount may lie over this one.
    let same = report.get("session").and_then(serde_json::Value::as_u64) == Some(session.session.0);
    let text = |key| report.get(key).filter(|_| same)?.as_str().map(str::to_owned);
    Some(Told {
        transport: text(TRANSPORT)?,
        profile: text(PROFILE).unwrap_or_default(),
        short_circuit: text(SHORT_CIRCUIT).unwrap_or_default(),
    })
}

fn print_text(status: &ServerStatus) {
    output::facts(&[
        ("server", status.software.clone()),
        ("uptime", format!("{} s", status.uptime_ms / 1000)),
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
                    volume.info.profile.clone(),
                ]
            })
            .collect();
        output::table(&["VOLUME", "NAME", "USED", "SIZE", "STORED", "MOUNTS", "PROFILE"], &rows);
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
                    session.info.to_string(),
                    session.info.pid.to_string(),
                    session_state(session),
                    session.leases.to_string(),
                    session.open_files.to_string(),
                    session.locks.to_string(),
                ]
            })
            .collect();
        output::table(&["SESSION", "VOLUME", "CLIENT", "PID", "STATE", "LEASES", "OPEN", "LOCKS"], &rows);
        let mounts: Vec<Vec<String>> = status
            .sessions
            .iter()
            .filter_map(|session| {
                let Told { transport, profile, short_circuit } = told_by_mount(session)?;
                Some(vec![session.info.kind.directory()?.to_owned(), profile, transport, short_circuit])
            })
            .collect();
        if !mounts.is_empty() {
            println!();
            let header = ["LOCAL MOUNT", "PROFILE", "TRANSPORT", "SHORT CIRCUIT"];
            output::table(&header, &mounts);
        }
    }
}

fn print_json(status: &ServerStatus) -> Result<()> {
    let sessions: Vec<_> = status
        .sessions
        .iter()
        .map(|session| {
            let told = told_by_mount(session);
            json!({
                "session": session.session.0, "volume": session.volume.as_str(), "host": session.info.host,
                "pid": session.info.pid, "kind": session.info.kind.word(), "directory": session.info.kind.directory(),
                "read_only": session.info.read_only,
                "peer": session.peer, "connected": session.connected, "silent_ms": session.silent_ms,
                "transport": told.as_ref().map(|told| &told.transport),
                "short_circuit": told.as_ref().map(|told| &told.short_circuit),
                "profile": told.as_ref().map(|told| &told.profile), "leases": session.leases, "open_files": session.open_files, "locks": session.locks,
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
