//! `/v2/account/ssh-keys`.

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, unprocessable};
use crate::http::routes::Caller;
use crate::runpod::rest::{self, ok};
use crate::service::AccountView;

fn as_json(view: &AccountView) -> Value {
    let keys = view.account.public_keys.lines().map(str::trim).filter(|line| !line.is_empty());
    json!({ "keys": keys.collect::<Vec<_>>() })
}

pub(super) async fn ssh_keys(Caller { service, who }: Caller) -> Answer {
    Ok(ok(as_json(&service.me(&who)?)))
}

#[derive(Deserialize)]
struct Update {
    keys: Vec<String>,
}

pub(super) async fn set_ssh_keys(Caller { service, who }: Caller, body: Bytes) -> Answer {
    let keys = rest::body::<Update>(&body)?.keys;
    let fits = |key: &String| {
        let kind = key.split(' ').next().unwrap_or_default();
        let known = ["ssh-", "ecdsa-", "sk-"].iter().any(|prefix| kind.starts_with(prefix));
        known && key.split_whitespace().count() >= 2 && !key.contains(['\n', '\r'])
    };
    if !keys.iter().all(fits) {
        return Err(unprocessable("keys must be SSH public keys, one in each text"));
    }
    Ok(ok(as_json(&service.set_public_keys(&who, keys.join("\n")).await?)))
}
