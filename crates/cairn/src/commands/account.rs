//! `cairn account …`: the client of the control plane's own API.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cli::{Account, ApiKey, ApiRole, ControlClient};
use crate::exit_code::{Exit, WithExit};
use crate::{output, paths, runtime};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(120);
const ANSWER_MAX: usize = 64 * 1024 * 1024;

pub(crate) fn run(command: Account) -> Result<ExitCode> {
    match command {
        Account::Create { name, email, prepaid, api } => {
            let body = json!({ "name": name, "email": email, "prepaid": prepaid });
            let made = ask(&api, Method::POST, "/cairn/v1/accounts", Some(body))?;
            if api.json {
                return output_json(&made);
            }
            println!("{}", text(&made["key"]));
            eprintln!("keep it safe: it cannot be shown again (owner's key of account {})", text(&made["id"]));
        }
        Account::List { api } => {
            let answer = ask(&api, Method::GET, "/cairn/v1/accounts", None)?;
            if api.json {
                return output_json(&answer["accounts"]);
            }
            let accounts = answer["accounts"].as_array().cloned().unwrap_or_default();
            let rows: Vec<Vec<String>> = accounts
                .iter()
                .map(|account| {
                    vec![text(&account["id"]), text(&account["name"]), kind(account), dollars(&account["balance"])]
                })
                .collect();
            output::table(&["ID", "NAME", "KIND", "BALANCE"], &rows);
        }
        Account::Show { api } => return show(&api, &ask(&api, Method::GET, "/cairn/v1/account", None)?),
        Account::Credit { account, dollars, api } => {
            let path = format!("/cairn/v1/accounts/{account}/credit");
            return show(&api, &ask(&api, Method::POST, &path, Some(json!({ "dollars": dollars })))?);
        }
        Account::Key(command) => return keys(command),
        Account::Clock { advance, api } => {
            let answer = match advance {
                None => ask(&api, Method::GET, "/cairn/v1/clock", None)?,
                Some(time) => ask(&api, Method::POST, "/cairn/v1/clock", Some(json!({ "seconds": time.as_secs() })))?,
            };
            if api.json {
                return output_json(&answer);
            }
            println!("{}", text(&answer["now"]));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn keys(command: ApiKey) -> Result<ExitCode> {
    match command {
        ApiKey::Create { role, label, account, api } => {
            let role = match role {
                ApiRole::Reader => "reader",
                ApiRole::Editor => "editor",
                ApiRole::Owner => "owner",
                ApiRole::Operator => "operator",
            };
            let body = json!({ "role": role, "label": label, "account": account });
            let made = ask(&api, Method::POST, "/cairn/v1/keys", Some(body))?;
            if api.json {
                return output_json(&made);
            }
            println!("{}", text(&made["key"]));
            eprintln!(
                "keep it safe: it cannot be shown again (id {}, {role} of {})",
                text(&made["id"]),
                text(&made["account"])
            );
        }
        ApiKey::List { api } => {
            let answer = ask(&api, Method::GET, "/cairn/v1/keys", None)?;
            if api.json {
                return output_json(&answer["keys"]);
            }
            let keys = answer["keys"].as_array().cloned().unwrap_or_default();
            let columns = ["id", "label", "role", "account"];
            let rows: Vec<Vec<String>> =
                keys.iter().map(|key| columns.iter().map(|column| text(&key[*column])).collect()).collect();
            output::table(&["ID", "LABEL", "ROLE", "ACCOUNT"], &rows);
        }
        ApiKey::Revoke { id, api } => {
            ask(&api, Method::DELETE, &format!("/cairn/v1/keys/{id}"), None)?;
            if api.json {
                return output_json(&json!({ "revoked": id }));
            }
            println!("revoked {id}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn output_json(value: &Value) -> Result<ExitCode> {
    output::json(value)?;
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(String::new, str::to_owned)
}

fn dollars(value: &Value) -> String {
    format!("${:.4}", value.as_f64().unwrap_or_default())
}

fn kind(account: &Value) -> String {
    if account["prepaid"] == true { "prepaid" } else { "metered" }.to_owned()
}

fn show(api: &ControlClient, account: &Value) -> Result<ExitCode> {
    if api.json {
        return output_json(account);
    }
    let mut facts = vec![
        ("id", text(&account["id"])),
        ("name", text(&account["name"])),
        ("kind", kind(account)),
        ("balance", dollars(&account["balance"])),
        ("spends an hour", dollars(&account["spend_per_hour"])),
    ];
    for (label, field) in [("balance ends", "balance_ends"), ("volumes terminated", "volumes_terminated")] {
        if let Some(moment) = account[field].as_str() {
            facts.push((label, moment.to_owned()));
        }
    }
    output::facts(&facts);
    for warning in account["warnings"].as_array().into_iter().flatten() {
        println!("{}", text(warning));
    }
    Ok(ExitCode::SUCCESS)
}

fn key(api: &ControlClient) -> Result<String> {
    if let Some(key) = &api.api_key {
        return Ok(key.clone());
    }
    let file = api.api_key_file.clone().unwrap_or_else(|| paths::data_directory().join("control-key"));
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("no API key: {} cannot be read; name another with --api-key-file", file.display()))?;
    Ok(text.trim().to_owned())
}

fn ask(api: &ControlClient, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
    let key = key(api)?;
    runtime::block_on(async {
        match timeout(PATIENCE, request(&api.api, &key, method, path, body)).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("no answer from {} within {} s", api.api, PATIENCE.as_secs()),
        }
    })
}

async fn request(base: &str, key: &str, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
    let address: Uri = base.parse().with_context(|| format!("{base:?} is not an address: write http://HOST:PORT"))?;
    if address.scheme_str() != Some("http") {
        bail!("{base:?} is not supported: write http://HOST:PORT (https is not supported)");
    }
    let host = address.host().with_context(|| format!("{base:?} names no host"))?;
    let port = address.port_u16().unwrap_or(80);
    let unreachable = |error: std::io::Error| {
        WithExit(
            Exit::Unreachable,
            format!("no control plane answers at {base} ({error}): is `cairn serve --http` running?"),
        )
    };
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(unreachable)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let running = tokio::spawn(connection);
    let content = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", format!("{host}:{port}"))
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(Full::new(content))
        .context("the request cannot be built: check the id and the key")?;
    let response = sender.send_request(request).await.context("the connection to the control plane was lost")?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    running.abort();
    let body = body.map_err(|error| anyhow::anyhow!("the response was cut short: {error}"))?.to_bytes();
    if status == StatusCode::NO_CONTENT {
        return Ok(Value::Null);
    }
    let answer: Value =
        serde_json::from_slice(&body).with_context(|| format!("{base} does not respond like a control plane"))?;
    if !status.is_success() {
        let sentence = answer["error"].as_str().unwrap_or("refused").to_owned();
        return Err(WithExit(Exit::Refused, sentence).into());
    }
    Ok(answer)
}
