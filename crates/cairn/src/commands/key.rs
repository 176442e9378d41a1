//! `cairn key …`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use cairn_types::VolumeId;
use cairn_wire::admin::{AdminReply, AdminRequest, KeyInfo, KeyScope, KeyScopeRequest};
use serde_json::{Value, json};

use crate::cli::{Key, Output};
use crate::{connect, output};

pub(crate) fn run(command: Key) -> Result<ExitCode> {
    match command {
        Key::Create { label, volume, admin, output } => create(label, volume, admin, &output),
        Key::List { output } => list(&output),
        Key::Revoke { id, output } => {
            connect::ask(&output.connection, AdminRequest::KeyRevoke { id: id.clone() })?;
            if output.json {
                output::json(&json!({ "revoked": id }))?;
            } else {
                println!("revoked {id}");
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn create(label: String, volumes: Vec<String>, admin: bool, output: &Output) -> Result<ExitCode> {
    let scope = match (admin, volumes.is_empty()) {
        (true, _) => KeyScopeRequest::Admin,
        (false, false) => KeyScopeRequest::Volumes(volumes),
        (false, true) => bail!("say what the key gives access to: --volume NAME (repeatable) or --admin"),
    };
    let reply = connect::ask(&output.connection, AdminRequest::KeyCreate { label, scope })?;
    let AdminReply::KeyCreated { key, info } = reply else { return connect::unexpected() };
    if output.json {
        let mut value = as_json(&info);
        value["key"] = Value::String(key);
        output::json(&value)?;
    } else {
        println!("{key}");
        eprintln!("keep it safe: it cannot be shown again (id {}, access to {})", info.id, scope_text(&info.scope));
    }
    Ok(ExitCode::SUCCESS)
}

fn scope_text(scope: &KeyScope) -> String {
    match scope {
        KeyScope::Admin => "everything".into(),
        KeyScope::Volumes(ids) => ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn as_json(info: &KeyInfo) -> Value {
    let volumes = match &info.scope {
        KeyScope::Admin => Value::Null,
        KeyScope::Volumes(ids) => ids.iter().map(VolumeId::as_str).collect(),
    };
    let admin = info.scope == KeyScope::Admin;
    json!({ "id": info.id, "label": info.label, "admin": admin, "volumes": volumes, "created": info.created })
}

fn list(output: &Output) -> Result<ExitCode> {
    let AdminReply::Keys(keys) = connect::ask(&output.connection, AdminRequest::KeyList)? else {
        return connect::unexpected();
    };
    if output.json {
        output::json(&keys.iter().map(as_json).collect::<Vec<_>>())?;
    } else if keys.is_empty() {
        println!("no keys; create one with `cairn key create --volume NAME` (the Unix socket needs none)");
    } else {
        let rows: Vec<Vec<String>> =
            keys.iter().map(|key| vec![key.id.clone(), key.label.clone(), scope_text(&key.scope)]).collect();
        output::table(&["ID", "LABEL", "OPENS"], &rows);
    }
    Ok(ExitCode::SUCCESS)
}
